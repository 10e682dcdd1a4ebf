//! How fast a connection is read: at a pace of its own, and at one that all connections of its address share.
//!
//! Nothing is refused here. What comes faster waits in the client's socket, since it may be a heartbeat or an ack.

use std::sync::Arc;
use std::time::Duration;

use trunkline_transport::ConnectionInfo;

use crate::defaults;
use crate::gateway::Node;
use crate::limits::{AddressPace, Pace};

/// However fast an address sends, each of its connections is read once in so long: well within the silence after which
/// a client counts as gone.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a connection is read no further for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PauseReason {
    /// It sends faster than a connection is read.
    Connection,
    /// All connections of its address together do.
    Address,
}

impl PauseReason {
    /// Every reason.
    pub(crate) const ALL: [PauseReason; 2] = [PauseReason::Connection, PauseReason::Address];

    /// As metrics name it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            PauseReason::Connection => "connection",
            PauseReason::Address => "address",
        }
    }
}

/// The two paces of one connection.
pub(crate) struct Reading {
    own: Pace,
    address: Option<Arc<AddressPace>>,
}

impl Reading {
    pub(super) fn new(node: &Node, info: &ConnectionInfo) -> Self {
        let address = info.peer.and_then(|peer| node.limits.addresses.pace(peer.ip()));
        Reading { own: Pace::default(), address }
    }

    /// A frame takes its place at both. How long nothing is to be read behind it, if it came too fast.
    pub(super) fn keep_pace(&self, node: &Node) -> Option<Duration> {
        let config = &node.session_config;
        let own = config.frames_per_second.saturating_mul(defaults::READ_PACE);
        if own == 0 && self.address.is_none() {
            return None;
        }
        let now = node.uptime();
        let burst = config.frame_burst.saturating_mul(defaults::READ_PACE);
        let own = self.own.take(now, own, burst);
        let shared = self.address.as_ref().map_or(Duration::ZERO, |address| address.take(now));
        let pause = own.max(shared).min(LONGEST_PAUSE);
        if pause.is_zero() {
            return None;
        }
        let reason = if own > shared { PauseReason::Connection } else { PauseReason::Address };
        node.stats.reads_paused_by.one(&PauseReason::ALL, &reason);
        Some(pause)
    }
}
