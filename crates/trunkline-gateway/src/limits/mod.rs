//! What the node as a whole takes on, and how it is shared: calls a second, calls under way and their bytes, replies
//! that wait, memory, sessions, and the frames of one address.
//!
//! Whatever is refused here is refused before it has cost anything, with the reason counted and a time to come back.
//! Heartbeats, acks and resumes are never refused: a surplus of frames only pauses the reading of its connection. What
//! one session may do is the session engine's business.

mod address;
mod calls;
mod figures;
mod memory;
mod rate;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub use address::network;
pub(crate) use address::{AddressPace, Pace};
pub(crate) use calls::{CallLimits, UserShare};
pub use figures::{Level, LimitFigures};
pub(crate) use figures::{figures, watch};
pub(crate) use memory::Memory;

use crate::options::GatewayOptions;
use address::Addresses;

/// The limits of one node, and what is used of them.
pub(crate) struct Limits {
    pub(crate) calls: Arc<CallLimits>,
    pub(crate) memory: Memory,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) reply_queue: Arc<ReplyQueue>,
}

/// Bytes of the replies and control frames that wait to be written, over all connections.
#[derive(Debug, Default)]
pub(crate) struct ReplyQueue(AtomicU64);

impl Limits {
    pub(crate) fn new(options: &GatewayOptions) -> Self {
        let limits = Limits {
            calls: Arc::default(),
            memory: Memory::default(),
            addresses: Arc::default(),
            reply_queue: Arc::default(),
        };
        limits.configure(options);
        limits
    }

    /// Takes what has changed. A limit that stays keeps its state: a reload must not hand out another burst.
    pub(crate) fn configure(&self, options: &GatewayOptions) {
        self.calls.configure(options);
        self.addresses.configure(options.frames_per_address);
    }
}

impl ReplyQueue {
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.0.fetch_sub(bytes as u64, Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A time to come back that is not everybody's: at least this, and up to twice as long.
pub(crate) fn jittered(after: Duration) -> Duration {
    after + after.mul_f64(rand::random::<f64>())
}

/// The same in milliseconds, as frames have it.
pub(crate) fn jittered_ms(after: Duration) -> u32 {
    u32::try_from(jittered(after).as_millis()).unwrap_or(u32::MAX).max(1)
}
