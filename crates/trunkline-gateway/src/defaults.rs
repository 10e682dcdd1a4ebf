//! The gateway's defaults (protocol.md section 10), each with its reason.

use std::time::Duration;

use trunkline_broker::HistoryLimits;

/// Sessions of one user at once.
pub const MAX_DEVICES: usize = 10;

/// Pushes that a client away for the resume window finds again.
pub const IMPLICIT_HISTORY: HistoryLimits =
    HistoryLimits { count: 1_000, bytes: 1024 * 1024, ttl: Duration::from_secs(300) };

/// A peer that takes no byte for so long will not take any.
pub const WRITE_STALL: Duration = Duration::from_secs(30);

/// 90 % of the 20,000 descriptors of the reference machine; the binary passes what its own limit allows.
pub const MAX_CONNECTIONS: usize = 18_000;

/// Replies and control frames that wait for a slow reader. Beyond it reading pauses; only what the running calls
/// bring may exceed it.
pub const OUTBOX_BYTES: usize = 1024 * 1024;

/// The same as a count of frames.
pub const OUTBOX_FRAMES: usize = 1_024;
