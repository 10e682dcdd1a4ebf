//! Channels with history, presence, keyed values, fences, leases and questions between nodes, behind one trait.
//!
//! [`Broker`] is the trait, [`MemoryBroker`] its first engine; [`Log`] is the one concrete struct that every
//! engine appends to and every subscriber reads. A subscriber is a [`Cursor`] into a log, never a queue. This crate
//! knows no session, connection, dialect or schema: items are opaque, and [`Encode`] is given from outside.

// First, because its macro is seen by what comes after.
#[cfg(any(test, feature = "conformance"))]
#[macro_use]
pub mod conformance;

pub mod broker;
pub mod clock;
pub mod defaults;
pub mod item;
pub mod lease;
pub mod limits;
pub mod log;
pub mod memory;
pub mod names;
pub mod watching;

pub use broker::{
    Answer, Attached, Attachment, Broker, BrokerError, Condition, Deleted, Detach, Direction, EngineState,
    Figures, Life, Member, Members, Page, PublishOptions, Published, Versioned, Written,
};
pub use clock::{Clock, ManualClock, SystemClock};
pub use item::{Encode, Entry, Item, ItemKind, Variant};
pub use lease::Lease;
pub use limits::HistoryLimits;
pub use log::{AttachVerdict, Cursor, LiveWindow, Log, Piece, ReadOutcome, Subscription, Unpark};
pub use memory::{MemoryBroker, MemoryError, MemoryOptions, Outage, Sweeping};
pub use names::{
    BadChannelName, ChannelName, Epoch, Fence, Incarnation, LeaseId, NodeId, Offset, Position, Revision,
};
pub use watching::{Change, Watch};
