//! The transport library at full size: what half-open, silent, greedy and many peers cost it and each other, and what its
//! decoders make of mutated bytes.
//!
//! Small and without a clock in `./test`. `./prove` runs the same bodies built for release (A1, A2, A4, A5, A7, A8, A11, A16 to
//! A18, R6): sizes come from the environment, readings go to its output.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers panic like the test itself")]

mod blocked;
mod budget;
mod churn;
mod fuzzed;
mod half_open;
mod idle;
#[path = "../../src/bench/machine.rs"]
mod machine;
mod non_readers;
mod pipelined;
mod rates;
mod rig;
#[path = "../common/sizes.rs"]
mod sizes;
#[path = "../common/steady.rs"]
mod steady;
mod strangers;
