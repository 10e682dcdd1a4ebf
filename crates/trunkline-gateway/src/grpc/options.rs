//! What the gRPC surface is told, and its limits with their reasons.

use std::time::Duration;

use trunkline_transport::{ServerTls, TlsPolicy};

use crate::upstream::PeerPolicy;

/// The largest request: a push of one frame (1 MiB) with a full batch of targets, and room so that what is too
/// large for a frame is told so in the answer instead of being cut off.
pub(super) const MAX_REQUEST: usize = 4 * 1024 * 1024;
/// The largest answer: 10,000 members of a channel with the longest names.
pub(super) const MAX_RESPONSE: usize = 8 * 1024 * 1024;
/// Targets of one batch. A batch is answered when its last push is; ten batches are as fast as one of ten
/// times the size and hold less memory.
pub(super) const MAX_TARGETS: usize = 1_000;
/// Pushes of one batch that wait for their acks at once.
pub(super) const BATCH_WAITING: usize = 64;
/// The longest that all pushes of a batch together wait for acks: as long as one push does.
pub(super) const BATCH_WAIT: Duration = Duration::from_secs(60);

/// Requests of one connection at once; more wait at the peer. A hundred upstreams' pushes fit, and with the
/// largest requests one connection holds no more than the HTTP/2 windows allow.
pub(super) const MAX_STREAMS: u32 = 256;
/// What a connection may send before it is read: 64 requests of the default stream window.
pub(super) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// From the accepted byte stream to the end of the HTTP/2 preface.
pub(super) const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was allowed nothing but health for so long is told to go: strangers cannot hold places.
pub(super) const STRANGER_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that is silent is asked whether it lives, and has this long to say so: half of what NAT boxes forget.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long it has to answer.
pub(super) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without a request for so long is told to go; its peer connects again when it has one.
pub(super) const IDLE: Duration = Duration::from_secs(600);
/// What a leaving connection has to send its last answers, once nothing runs on it.
pub(super) const FLUSH: Duration = Duration::from_secs(1);
/// The longest that a request runs: the longest wait for an ack (60 s), and the push itself.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(75);

/// How the gRPC surface is served.
#[derive(Debug, Clone)]
pub struct GrpcOptions {
    /// Who may ask.
    pub policy: PeerPolicy,
    /// Whether the port speaks TLS; a plain peer of a port that requires it is closed.
    pub tls_policy: TlsPolicy,
    /// How it does, with `h2` among its ALPNs; needed unless the policy is [`TlsPolicy::Off`].
    pub tls: Option<ServerTls>,
    /// Connections at once; more are closed at once. Upstreams hold one each.
    pub max_connections: usize,
}

impl GrpcOptions {
    /// Plain, for peers on this machine and for those with the token of `keys/upstream.token`.
    pub fn new(token: impl AsRef<str>) -> Self {
        GrpcOptions {
            policy: PeerPolicy::new(token),
            tls_policy: TlsPolicy::Off,
            tls: None,
            max_connections: 1_024,
        }
    }
}
