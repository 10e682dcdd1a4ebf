//! Every tuned number of this crate, with its arithmetic.

use std::time::Duration;

use crate::limits::HistoryLimits;

/// History of the implicit channels `user:`, `session:`, `zone:`, `group:` and `all`: what a client on a train
/// can miss within the resume window of 120 s, with room to spare.
pub const IMPLICIT_HISTORY: HistoryLimits =
    HistoryLimits { count: 1_000, bytes: 1024 * 1024, ttl: Duration::from_secs(300) };

/// What a log keeps for its readers where the channel has no history: 256 publications.
pub const LIVE_WINDOW_COUNT: usize = 256;

/// See [`LIVE_WINDOW_COUNT`]: 256 publications of 1 KiB.
pub const LIVE_WINDOW_BYTES: usize = 256 * 1024;

/// How long the live window keeps a publication: the default resume window, after which nobody can come back.
pub const LIVE_WINDOW_TTL: Duration = Duration::from_secs(120);

/// Encoded publications are joined into chunks up to this size. A socket's buffer takes about four of them, and
/// a begun write can pin no more than one.
pub const CHUNK_BYTES: usize = 16 * 1024;

/// Chunks smaller than [`CHUNK_BYTES`] are joined when a reader meets this many in a row. With 4, a byte that
/// ends in a full chunk was copied at most log4(16 KiB / 128 B), that is 4 times.
pub const JOIN_CHUNKS: usize = 4;

/// How long an idempotency key is remembered: five times the longest sensible retry of a publisher.
pub const IDEMPOTENCY_TTL: Duration = Duration::from_secs(300);

/// Keys remembered per channel; the oldest is forgotten first. 4,096 keys of 64 B are 256 KiB, and as much again for
/// finding them; [`MAX_LOG_BYTES`] counts both.
pub const IDEMPOTENCY_KEYS: usize = 4_096;

/// The longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES: usize = 255;

/// How long a channel's (epoch, offset) pair is kept after its last use: five default resume windows, and twice
/// [`IDEMPOTENCY_TTL`], so that no key outlives its channel.
pub const CHANNEL_MEMORY: Duration = Duration::from_secs(600);

/// Channels remembered at most; above it those that nobody is attached to are forgotten early, told as a gap.
pub const MAX_CHANNELS: usize = 1_000_000;

/// Bytes that all logs keep at most, what is encoded of them and idempotency keys included. At the history of implicit
/// channels, 300 s, 5,000 pushes of 128 B in each second to as many users are 1.5 million publications of some 300 B:
/// 450 MB. Channels that clients name themselves may have three quarters of it.
pub const MAX_LOG_BYTES: usize = 1024 * 1024 * 1024;

/// Changes that wait for one watcher; beyond it the watcher gets the whole state anew instead.
pub const WATCH_QUEUE: usize = 1_024;

/// Bytes of keyed values at most, keys included: 64 MiB holds a million session records of 64 B.
pub const MAX_KEYED_BYTES: usize = 64 * 1024 * 1024;

/// Bytes of durable keyed values at most: each durable write rewrites them all, and 1 MiB is 4,000 upstreams.
pub const MAX_DURABLE_BYTES: usize = 1024 * 1024;

/// The longest key of a keyed value, in bytes.
pub const MAX_KEY_BYTES: usize = 512;

/// Fences are reserved on disk in blocks of this size, so that a block lasts a million STARTs.
pub const FENCE_BLOCK: u64 = 1 << 20;

/// How often the memory broker's sweeper looks at one of its shards.
pub const SWEEP_TICK: Duration = Duration::from_millis(250);

/// How often the memory broker writes down how far its clock is: one flush a minute costs nothing, and a clock that
/// is set back by more than that during a restart is noticed.
pub const COUNTERS_INTERVAL: Duration = Duration::from_secs(60);
