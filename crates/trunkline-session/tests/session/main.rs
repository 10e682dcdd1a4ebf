//! Tests of the engines through their public doors: alone (`rig`), and as a world of clients, links that lose and
//! delay, nodes that die, and a small log, in virtual time (`world`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a harness of tests: a panic is a failed test")]

#[path = "../../../trunkline-testkit/src/checker.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the testkit's checker, included so that these tests build without the rest of it"
)]
mod checker;
mod rig;
mod world;

mod calls;
mod client;
mod gate;
mod hostile;
mod ledger;
mod live;
mod model;
mod start;
mod storms;
