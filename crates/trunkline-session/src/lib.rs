//! The session engines: what a frame means for a session, as pure state machines.
//!
//! [`Engine`] is the gateway's side, one per session, alive also while the session has no connection.
//! [`ClientEngine`] is the other side. Both have one shape: give them inputs with the time they happened at,
//! then take outputs until there is none (`poll_output` returns `None`), and come back at `next_timeout`.
//! Outputs must be carried out in their order.
//!
//! This crate refuses to know of a runtime, a socket, a clock, a source of random values or an environment: all
//! that is an input. It also never sees the publications of a session on their way down; it decides who
//! subscribes, and what acks and gaps mean. [`Ledger`] numbers the frames of seed clients at the connection's edge.

pub mod budget;
mod by_channel;
pub mod client;
pub mod config;
pub mod defaults;
pub mod engine;
pub mod gate;
pub mod ids;
pub mod position;
pub mod protocol0;
pub mod token;

pub use budget::ReplyBudget;
pub use client::ClientEngine;
pub use config::{Protocol, SessionConfig};
pub use engine::Engine;
pub use gate::{CallGate, OpenGate, Place, Places, RequestRefusal, TurnedAway};
pub use ids::{ClientSeq, ConnectionId, Fence, Seq, SessionId};
pub use position::{Channel, Position};
pub use protocol0::Ledger;
pub use token::{ResumeToken, TokenKey};

use std::time::Duration;

/// When an input happened. Engines compare `at` only with itself; `unix_ms` is for what tokens and people say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, from any origin that stays the same for the engine's life.
    pub at: Duration,
    /// The wall clock, in Unix milliseconds. It may jump.
    pub unix_ms: u64,
}
