//! The packet level over real loopback sockets: one module per behaviour. Functions are named for the checks (A…) and
//! defects (D…) that they settle.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[cfg(target_os = "linux")]
mod backlog;
mod clients;
mod custom;
#[cfg(feature = "zstd")]
mod dictionary;
mod early;
mod echo;
mod events;
mod examples;
mod faults;
mod harness;
mod identity;
mod lane_streams;
mod lanes;
mod limits;
mod lost;
mod middleware;
mod msgtrans;
mod names;
mod policies;
mod protocols;
mod rates;
mod raw;
mod refusals;
mod requests;
mod sending;
mod shutdown;
mod wire;
mod writable;
