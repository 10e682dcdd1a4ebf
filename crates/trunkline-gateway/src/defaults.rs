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

/// Sessions with and without a connection: each connection may have come back from four cuts as somebody else within
/// one resume window.
pub const SESSIONS_PER_CONNECTION: usize = 4;

/// Calls under way on the node, those included that wait for their session's turn: every connection of the reference
/// machine may have one, and as many again are free for who comes next. At about 4 KiB each, 128 MiB.
pub const CALLS_IN_FLIGHT: u32 = 32_768;

/// Bytes of the requests of these calls: 8 KiB each.
pub const CALL_BYTES: u32 = CALLS_IN_FLIGHT * 8 * 1024;

/// Bytes of replies that wait to be written, over all connections: 256 clients that do not read, each with a full
/// [`OUTBOX_BYTES`].
pub const REPLY_QUEUE_BYTES: u32 = 256 * OUTBOX_BYTES as u32;

/// Frames per second of one address: a carrier's address translation stands for thousands of phones, of which 5,000
/// send two frames a second, twice over.
pub const FRAMES_PER_ADDRESS: u32 = 20_000;

/// A limit is near at 80 %, where the seed warned too.
pub const WARN_PERCENT: u32 = 80;

/// A connection may send this many times its session's frames per second before it is read no faster: what is above
/// the session's limit is answered 429, and heartbeats and acks are not counted there.
pub const READ_PACE: u32 = 2;

/// When a client that was refused for load comes back, at the earliest; it is told up to twice as much.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Replies and control frames that wait for a slow reader. Beyond it reading pauses; only what the running calls
/// bring may exceed it.
pub const OUTBOX_BYTES: usize = 1024 * 1024;

/// The same as a count of frames.
pub const OUTBOX_FRAMES: usize = 1_024;

/// What a trace of messages may take. Half of it is places of about 100 bytes: some 40,000 steps, or the last 6,000
/// calls.
pub const TRACE_BYTES: u32 = 8 * 1024 * 1024;
