//! What an operator does to a node and sees of it: the log, reloads, limits of the machine, the service manager.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers panic like the test itself")]

mod common;
mod drain;
mod log;
mod machine;
mod profile;
mod reload;
mod systemd;
