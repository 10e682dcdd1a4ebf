//! The HTTP surface as programs meet it: raw bytes to the built binary, so that no HTTP client smooths anything over.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers panic like the test itself")]

mod encryption;
mod exchange;
mod gatesvr;
mod heads;
mod routes;
mod upgrades;
