//! The built gateway as a client, an upstream and an operator meet it: a process of its own, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers panic like the test itself")]

mod bound_pushes;
mod calls;
mod certified;
mod churn;
mod common;
mod defects;
mod fan_out;
mod faults;
mod foreign;
mod frames;
mod hostile;
mod killed;
mod lasting;
mod logins;
mod networks;
mod process;
mod reconnects;
mod resume;
mod resume_every_k;
mod scenario;
mod sdk;
mod seed_clients;
#[path = "../common/sizes.rs"]
mod sizes;
mod slow_readers;
mod start;
mod storm;
mod trace;
