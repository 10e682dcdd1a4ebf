//! What a user of Trunkline writes: a [`Service`] that answers calls, in the gateway's process or behind gRPC,
//! with the same powers in both forms.
//!
//! A service is given a [`Context`] when it is mounted and uses it to publish, push, subscribe users, ask
//! presence and disconnect. This crate holds the words of that contract and nothing else: it knows no gateway
//! and no transport. The schema is known to its feature `grpc` alone, which runs a service in its own process.

mod caller;
mod context;
#[cfg(feature = "grpc")]
pub mod grpc;
mod push;
mod service;

pub use caller::{Caller, Role};
pub use context::{Context, ContextError, Member, PublishOptions, Target};
pub use push::{Push, PushOutcome, SyncHint};
pub use service::{Call, Code, Reply, Service, SessionEvent, Status};
