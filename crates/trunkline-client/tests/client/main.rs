//! The client against a gateway that follows a script.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers panic like the test itself")]

mod calls;
mod closing;
mod reconnecting;
mod script;
mod unread_events;
