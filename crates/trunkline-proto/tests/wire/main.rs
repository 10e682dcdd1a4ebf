//! What the client protocol looks like on the wire, in both dialects.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic like the test itself")]
#![allow(clippy::too_many_lines, reason = "a table of samples is one list")]

mod bytes_of_messages;
mod codes_table;
mod fuzzed;
mod golden_frames;
mod json_rules;
#[path = "../../../trunkline-testkit/src/mutation.rs"]
#[allow(unreachable_pub, reason = "the testkit's mutator, included since the testkit depends on this crate")]
mod mutation;
mod random_frames;
mod samples;
mod start_layouts;
