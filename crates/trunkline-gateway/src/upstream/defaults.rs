//! The defaults of [`UpstreamOptions`](super::UpstreamOptions), each with its arithmetic.

use std::time::Duration;

/// A call's deadline; protocol.md section 10 and the seed's `upstream_timeout`.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// `Authenticate`: half of what a client has for START.
pub const AUTHENTICATE_TIMEOUT: Duration = Duration::from_secs(5);
/// `Authorize`: a client waits for it within SUBSCRIBE.
pub const AUTHORIZE_TIMEOUT: Duration = Duration::from_secs(5);
/// `SessionEvents`: nobody waits for it, a retry must not come so early that two run at once.
pub const EVENTS_TIMEOUT: Duration = Duration::from_secs(10);
/// Two SYN retransmissions on Linux come after 1 s and 3 s; an upstream is near, so one must do.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Calls in flight at one instance. At 10 ms a call that is 100,000 calls a second, beyond what one HTTP/2
/// connection carries: the limit is there for calls that hang.
pub const MAX_IN_FLIGHT: u32 = 1_000;
/// HTTP/2 connections to an instance at most: with the hundred streams that RFC 9113 asks of every peer on each, less
/// one for probes, they carry all but [`MAX_IN_FLIGHT`].
pub const CHANNELS: usize = 10;
/// The largest answer that is read: a reply of 1 MiB with its pushes stays below a group frame's 2 MiB.
pub const MAX_RESPONSE: usize = max_response(1024 * 1024, 2 * 1024 * 1024);
/// The largest reply without its pushes: a frame of 1 MiB, less what the frame around it adds.
pub const MAX_REPLY: usize = max_reply(1024 * 1024);
/// Attempts of one idempotent call that an instance broke: with three, two instances may die at once.
pub const MAX_ATTEMPTS: u32 = 3;
/// A registration is forgotten when its instance has not answered for this long: a slow deployment's length.
pub const LEASE: Duration = Duration::from_secs(600);
/// Registrations at most: a quarter of the broker's durable values with 256 bytes each.
pub const MAX_REGISTRATIONS: usize = 1_024;
/// With the time-out: a silent instance is out of service within 1.5 s, below the 2 s of check U2.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// A healthy instance answers `GetStatus` in a millisecond; a second outlasts a collector's pause.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Failures in a row that eject: Envoy's number.
pub const CONSECUTIVE_FAILURES: u32 = 5;
/// Failures per hundred calls of the window that eject: half of the 50 % of check U2 is noise-free at 10 calls.
pub const ERROR_PERCENT: u32 = 30;
/// Calls in the window below which a rate says nothing.
pub const MIN_CALLS: u32 = 10;
/// How far back rates look.
pub const WINDOW: Duration = Duration::from_secs(5);
/// A call of an action that is usually faster is slow after this: with the sweep, ejected within 1.25 s.
pub const SLOW_AFTER: Duration = Duration::from_secs(1);
/// Slow calls that make an outlier. The two choices send nothing more to one that has a call more than the others,
/// so there may never be a second.
pub const MIN_SLOW: u32 = 1;
/// The first ejection's length; each one that follows soon doubles it,
pub const EJECTION_BASE: Duration = Duration::from_secs(1);
/// up to this.
pub const EJECTION_MAX: Duration = Duration::from_secs(30);
/// How often running calls are looked at: together with [`SLOW_AFTER`] well below 2 s.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// How long a call waits for an instance that has just lost its connection: a restart's length.
pub const RECONNECT_GRACE: Duration = Duration::from_secs(1);
/// What a client is told to wait when nothing can take its call: a probe's interval later it may be otherwise.
pub const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Session events kept for one instance that does not take them: 8,192 of about 300 bytes are 2.5 MB.
pub const EVENT_QUEUE: usize = 8_192;
/// The first wait before session events are sent again to an instance that did not take them; it doubles. A restart
/// takes about that long.
pub const EVENT_BACK_OFF: Duration = Duration::from_millis(100);
/// The longest such wait: an instance that is back hears of its sessions within it.
pub const EVENT_BACK_OFF_MOST: Duration = Duration::from_secs(5);
/// Session events in one request.
pub const EVENT_BATCH: usize = 256;
/// Answers of `Authorize` that are remembered: about 200 bytes each, 2 MB.
pub const AUTHORIZE_CACHE: usize = 10_000;
/// An upstream may ask for an answer to be remembered no longer than this.
pub const AUTHORIZE_CACHE_TTL: Duration = Duration::from_secs(300);

/// The largest reply without its pushes where a frame has at most so many bytes: less what the frame around it adds.
pub const fn max_reply(max_frame_size: usize) -> usize {
    max_frame_size.saturating_sub(1024)
}

/// The largest answer with its pushes where a group frame has at most so many bytes: less what the frames in it add, a
/// thirty-second part. What fits a frame without pushes is read in any case.
pub const fn max_response(max_frame_size: usize, max_frame_size_down: usize) -> usize {
    let group = max_frame_size_down - max_frame_size_down / 32;
    if group > max_frame_size { group } else { max_frame_size }
}
