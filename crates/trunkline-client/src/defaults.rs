//! Every tuned number of the client, with its reason.

use std::time::Duration;

/// How much earlier the first endpoint starts than the others. A QUIC handshake takes one round trip, at most
/// about 150 ms on the ground; where UDP is blocked nothing answers, and 200 ms is all that a user waits for it.
pub(crate) const HEAD_START: Duration = Duration::from_millis(200);

/// The longest first wait after a lost connection. A lift door or a switch of cell takes about that long.
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// The longest wait between attempts: what a user with a phone in hand bears, and a quarter of the gateway's
/// resume window of 120 s, so that several attempts fall within it.
pub(crate) const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// A connection that lived for so long was no failed attempt: the waits begin anew. A gateway that lets clients in and
/// puts them off at once, by a limit or in a crash loop, does so within it.
pub(crate) const LIVED: Duration = Duration::from_secs(1);

/// For a whole connection attempt, over all endpoints.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two packets of an idle QUIC connection. A node that was killed tells nobody, and the next one on its port
/// tells with the first packet that it gets: what is pushed meanwhile waits at most for so long. The gateway's own
/// heartbeat of 25 s alone would make that the wait.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long a call waits for its reply: longer than the gateway's own limit of 30 s, so that its answer wins,
/// and long enough for one reconnection.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(45);

/// Unread events, in bytes: as much as the gateway keeps of one implicit channel.
pub(crate) const EVENT_BYTES: usize = 1 << 20;

/// What an event costs beside its texts and data: the value itself and its place in the queue.
pub(crate) const EVENT_OVERHEAD: usize = 256;

/// States (connected, lost) that wait unread. Beyond it the oldest goes: only the latest states say anything.
pub(crate) const UNREAD_STATES: usize = 32;

/// Requests that wait to be taken up by the client's task. The gateway has 64 calls outstanding at most.
pub(crate) const QUEUED_REQUESTS: usize = 64;

/// Calls and requests that the task has taken up and not answered yet: half of what the session's engine keeps, so
/// that it never refuses one. The others wait with their callers.
pub(crate) const TAKEN_UP: usize = trunkline_session::defaults::CLIENT_QUEUE / 2;

/// Unsent bytes beyond which no further request is taken up: two full socket buffers' worth.
pub(crate) const UNSENT_BYTES: usize = 256 << 10;

/// The largest frame down that is accepted: the gateway says less in START_RESP, but that arrives too late to
/// size the reader. Twice protocol.md's 2 MiB.
pub(crate) const MAX_FRAME_DOWN: usize = 4 << 20;

/// How long STOP may take before the connection is simply cut: the gateway answers within 1 s.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(2);
