//! The codes that a packet-level connection closes, goes away and refuses with: WebSocket's own numbers (RFC 6455
//! §7.4.1), on every protocol. Users' own codes are 4000 to 4999.
//!
//! Which of them ask a client to come back is said here once, for handshakes and for connections.

/// Done; the usual end.
pub const NORMAL: u16 = 1000;
/// The server shuts down, or the connection is being drained.
pub const GOING_AWAY: u16 = 1001;
/// The peer broke the wire.
pub const PROTOCOL: u16 = 1002;
/// The peer is not allowed: refused by authentication or by a rule.
pub const POLICY: u16 = 1008;
/// A packet was over the limit.
pub const TOO_LARGE: u16 = 1009;
/// The handler panicked or failed.
pub const INTERNAL: u16 = 1011;
/// The peer did not take what was sent to it, or sent more than is taken.
pub const OVERLOADED: u16 = 1013;

/// Whether who is told this code may come back: it says something about the server and the moment, not about the client. We
/// never say 1012 (the service restarts) and 1014 (bad gateway), but other servers, and proxies before ours, do.
pub(crate) fn may_pass(code: u16) -> bool {
    matches!(code, GOING_AWAY | INTERNAL | 1012 | OVERLOADED | 1014)
}
