//! Every default of protocol.md section 10 that is the session's, each with its arithmetic. The documentation's
//! table is generated from here.

use std::time::Duration;

/// The largest frame up, and the largest publication or reply down as protobuf: the seed's limit, 1 MiB.
pub const MAX_FRAME_SIZE: u32 = 1 << 20;

/// The largest frame down: a group of one full reply and as much again of bound pushes, 2 × 1 MiB.
pub const MAX_FRAME_SIZE_DOWN: u32 = 2 * MAX_FRAME_SIZE;

/// What a client is told to send a heartbeat at. Less than the 30 s at which home routers and QUIC stacks let an
/// idle path go (the seed's 30 s raced with them, its defect c11), so one every 25 s keeps the path open.
pub const HEARTBEAT: Duration = Duration::from_secs(25);

/// Silence is 2.5 heartbeats: two may be lost and half an interval late. In halves, to stay in whole numbers.
pub const SILENCE_HALF_HEARTBEATS: u32 = 5;

/// How long a session outlives its connection: 120 s covers a lift, a tunnel and a router's restart.
pub const RESUME_WINDOW: Duration = Duration::from_secs(120);

/// How long an expired token may be refreshed before 4303.
pub const EXPIRY_GRACE: Duration = Duration::from_secs(60);

/// How long a call may take, where its `x-timeout-ms` does not say less.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Calls of one session that run at once: a browser's six connections per host, and two to spare.
pub const RUNNING_CALLS: usize = 8;

/// Calls of one session that run or wait to run: 8 rounds of [`RUNNING_CALLS`].
pub const OUTSTANDING_CALLS: usize = 64;

/// Call numbers a session remembers. As many as may be outstanding, so that no number that a client may still
/// send has been forgotten.
pub const CALL_WINDOW: u64 = 64;

/// Cached replies of one session: 64 replies of 4 KiB.
pub const REPLY_CACHE_PER_SESSION: usize = 256 * 1024;

/// Cached replies of one node: 1,024 sessions with a full cache, or 256 MiB.
pub const REPLY_CACHE_PER_NODE: u64 = 1024 * REPLY_CACHE_PER_SESSION as u64;

/// What a client waits after 503: two round trips of 50 ms and 20 ms for a call to end.
pub const RETRY_AFTER: Duration = Duration::from_millis(120);

/// Frames a session may send per second, in the long run. Heartbeats, acks and STOP are not counted.
pub const FRAMES_PER_SECOND: u32 = 500;

/// Frames a session may send at once: two seconds' worth.
pub const FRAME_BURST: u32 = 2 * FRAMES_PER_SECOND;

/// Frames in a row that do not decode before 4400.
pub const UNDECODABLE_FRAMES: u32 = 10;

/// Channels a session may be on: at about 250 bytes each, 256 KiB of a node's memory.
pub const CHANNELS: usize = 1024;

/// Publishes, subscriptions and the like of one session that the gateway works on at once: as many as calls.
pub const OPERATIONS: usize = OUTSTANDING_CALLS;

/// Bytes of an operation up to which the node is not asked for room: of as many as may wait in a session they are 64 KiB,
/// and what most sessions ask for (a subscription, a new token) leaves nothing behind that counts it.
pub const SMALL_OPERATION: usize = 1024;

/// Protocol 0: frames begun and not acked before 4001, the seed's heap limit.
pub const UNACKED_FRAMES: usize = 1000;

/// Protocol 0: bytes kept for unacked frames before 4001.
pub const UNACKED_BYTES: usize = 1 << 20;

/// Protocol 0: frames kept beside those when a connection ends with its reply queue full: the queue's 1,024, and as
/// many again, since a reply with its bound pushes is several frames there.
pub const PARKED_FRAMES: usize = 2048;

/// Protocol 0: their bytes: the queue's 1 MiB, and a frame of the largest size of each running call.
pub const PARKED_BYTES: usize = (1 << 20) + RUNNING_CALLS * MAX_FRAME_SIZE as usize;

/// Protocol 0: numbers reserved in the broker at once, so that another node starts above them. About as many as
/// may be unacked: one reservation per window of deliveries.
pub const SEQ_BLOCK: u64 = 1024;

/// A client's acks leave after this many publications …
pub const ACK_EVERY: u32 = 32;

/// … or after this time, whichever comes first: one ack a second is 1/25 of what heartbeats may cost at 25 Hz.
pub const ACK_AFTER: Duration = Duration::from_secs(1);

/// How long a client waits for START_RESP: the seed's 10 s for START, both ways.
pub const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls and requests of a client that wait for a connection or for the window: 16 windows.
pub const CLIENT_QUEUE: usize = 16 * CALL_WINDOW as usize;
