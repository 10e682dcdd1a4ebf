//! Connections over real loopback sockets: one module per behaviour.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod autobahn;
mod certificates;
mod closing;
mod frames;
mod half_open;
mod harness;
mod keys;
mod peers;
mod pressure;
mod records;
mod streams;
