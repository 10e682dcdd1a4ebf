//! What tests of every crate share: a server process, a raw protocol client, a checker of delivery histories, and a
//! mutator for fuzzing. Proxies that damage traffic are `trunkline_transport::chaos`.
//!
//! Everything here sees the gateway from outside: the client is written against the schema and third-party
//! transports, not against our own transport or SDK, so that one mistake cannot hide another. Every wait has a
//! deadline ([`DEADLINE`]), so that a failing test fails rather than hangs.

pub mod checker;
mod client;
mod link;
pub mod mutation;
mod server;
mod tls;
mod upstream;

pub use client::{Received, TestClient};
pub use link::{LinkClosed, Transport, Way, half_open_quic, https};
pub use server::{Ready, Resource, ServerBuilder, Signal, TestServer};
pub use upstream::{Handled, TestUpstream, allowed};

/// How long any wait may last. A debug build beside other builds on two cores takes seconds for what takes
/// milliseconds alone; a test that needs longer is stuck.
pub const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);
