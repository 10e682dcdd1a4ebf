//! The router against upstreams that behave, and that do not: one module for each behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

mod fake;

mod calls;
mod channels;
mod health;
mod hooks;
mod hostile;
mod registration;
