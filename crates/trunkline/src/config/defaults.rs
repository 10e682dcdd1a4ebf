//! The binary's own defaults, each with its reason. Defaults of the libraries are the libraries' constants.

use std::time::Duration;

/// Devices of one user: a phone, a tablet, a laptop, a desktop, a television and a watch, and four of them renewed.
pub(crate) const DEVICES: usize = 10;

/// The seed's number of zones, which its hash and its vectors assume.
pub(crate) const ZONES: u32 = 6;

/// New connections per second from one address: a carrier's address translation serves thousands of phones, which
/// come back within a minute after a cut.
pub(crate) const CONNECTIONS_PER_ADDRESS: u32 = 200;

/// Twice a slow call's usual end, and within the 90 s that service managers wait before they kill.
pub(crate) const DRAIN: Duration = Duration::from_secs(30);

/// Of the memory that the machine or the container gives, the share from which on a node takes on nothing new: the rest
/// is for what is under way, for the kernel's socket buffers, and for what comes between two looks.
pub(crate) const MEMORY_PERCENT: u64 = 90;

/// A namespace with history keeps as many bytes as an implicit channel does.
pub(crate) const HISTORY_BYTES: u32 = 1 << 20;

/// A namespace with history keeps it as long as an implicit channel does.
pub(crate) const HISTORY_TTL: Duration = Duration::from_secs(300);

/// The session engine's own default; its constant is a `usize` for the engine's arithmetic.
pub(crate) const REPLY_CACHE: u32 = 256 * 1024;

/// As GateSvr rotated: 3 MB and five older ones, 18 MB in all.
pub(crate) const LOG_FILE_SIZE: u32 = 3 * 1024 * 1024;

/// See [`LOG_FILE_SIZE`].
pub(crate) const LOG_FILES_KEPT: usize = 5;

/// The same for all sessions of a node: 1,024 of them with a full cache.
pub(crate) const REPLY_CACHE_PER_NODE: u32 = 1024 * REPLY_CACHE;
