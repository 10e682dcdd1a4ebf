//! What others do wrong while healthy clients work: no healthy client may notice, and the node's memory comes back.
//!
//! The small form, without a clock, is in `./test`. `./prove faults` runs the same test built for
//! release, at full size, and compares times and memory (`figures`): sizes come from the environment.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers panic like the test itself")]

mod acts;
mod crowd;
mod figures;
#[path = "../../src/bench/machine.rs"]
mod machine;
mod rig;
#[path = "../common/steady.rs"]
mod steady;
mod undisturbed;
