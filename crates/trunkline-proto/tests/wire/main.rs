//! What the client protocol looks like on the wire, in both dialects.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic like the test itself")]
#![allow(clippy::too_many_lines, reason = "a table of samples is one list")]

mod bytes_of_messages;
mod codes_table;
mod golden_frames;
mod json_rules;
mod random_frames;
mod samples;
mod start_layouts;
