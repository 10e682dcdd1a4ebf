//! The Rust client of a Trunkline gateway: connect, resume, call, subscribe, publish.
//!
//! A [`Client`] is one session. Its one task connects to the fastest of several endpoints, answers heartbeats,
//! acknowledges what arrives, and after a lost connection comes back by itself and loses nothing: publications
//! go on where they stopped, calls without a reply are sent again, and what cannot be had any more is told as
//! [`Event::Gap`] or [`CallError::ResultUnknown`].
//!
//! It decides nothing that the protocol decides: that is `trunkline-session`'s client engine. It stores nothing
//! on disk, and it reads no environment.

mod actor;
mod client;
mod defaults;
mod error;
mod event;
mod link;
mod options;
mod outputs;
mod race;
mod unread;

pub use client::{Call, Client, Member, Order, Reply, Subscribed};
pub use error::{CallError, ConnectError};
pub use event::{Closed, Event, Gap, Position, Publication, Push, Started, Verdict};
pub use options::{Backoff, Options};
pub use race::Unreachable;
pub use trunkline_proto::wire::ErrorMessage;
pub use trunkline_proto::{CloseCode, Dialect, ErrorCode};
pub use trunkline_transport::{ClientTls, Endpoint, Protocol};
pub use unread::Pushes;
