//! What a gateway is told at its start: typed values, no environment, no files.

use std::num::NonZeroU32;
use std::time::Duration;
use trunkline_session::position::is_implicit_name;

use trunkline_broker::HistoryLimits;
use trunkline_session::{SessionConfig, TokenKey};

use crate::auth::{ChannelPattern, LoginPolicy, May, Rights};
use crate::defaults;
use crate::trace::TraceOptions;
use crate::zone::ZoneMap;

/// Everything that shapes a gateway beside its broker, authenticator and services.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// The node's name: START_RESP tells it to clients.
    pub node: String,
    /// The session's limits, the cluster's key, and the node's name as clients are told it.
    pub session: SessionConfig,
    /// The deadline of the first frame.
    pub start_timeout: Duration,
    /// What clients without rights of their own may do.
    pub default_rights: Rights,
    /// How many sessions one user may have, unless the authenticator says otherwise.
    pub login_policy: LoginPolicy,
    /// The count of sessions that `device` and `many` allow a user.
    pub max_devices: usize,
    /// History of the implicit channels.
    pub implicit_history: HistoryLimits,
    /// Settings of other channels; the first namespace that covers a channel is its own.
    pub namespaces: Vec<Namespace>,
    /// How users are shared out among zones.
    pub zones: ZoneMap,
    /// A connection without write progress for this long is closed 4001.
    pub write_stall: Duration,
    /// Bytes in reply caches of all sessions together.
    pub reply_cache_bytes: u64,
    /// The most connections at once; more are refused 4005.
    pub max_connections: usize,
    /// The most sessions at once, with and without a connection; a START that would begin another is refused 4005.
    pub max_sessions: usize,
    /// How many calls the node starts per second; more are answered 503. `None`: as many as come.
    pub calls: Option<CallLimit>,
    /// The most calls under way at once; more are answered 503. One user has at most as many as are free.
    pub calls_in_flight: u32,
    /// The most bytes of the requests of these calls.
    pub call_bytes: u64,
    /// Bytes of replies that wait to be written, over all connections; while there are more no call starts.
    pub reply_queue_bytes: u64,
    /// Frames per second of one address, loopback exempt; a surplus pauses reading. 0: no limit.
    pub frames_per_address: u32,
    /// From how much of a limit on it counts as near.
    pub warn_percent: u32,
    /// Whether what becomes of each message is traced from the start, and how much of it is kept.
    pub trace: TraceOptions,
}

/// A rate of calls over all sessions of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimit {
    /// In the long run.
    pub per_second: NonZeroU32,
    /// At once, after a rest.
    pub burst: NonZeroU32,
}

/// Settings of a set of channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Which channels.
    pub pattern: ChannelPattern,
    /// How much history they keep.
    pub history: HistoryLimits,
    /// Whether who subscribes is a member that others can see.
    pub presence: bool,
    /// What everybody may do there.
    pub rights: Rights,
}

impl GatewayOptions {
    /// The defaults for a node of this name with this key.
    pub fn new(node: impl Into<String>, token_key: TokenKey) -> Self {
        let node = node.into();
        GatewayOptions {
            session: SessionConfig { node: node.clone(), token_key, ..SessionConfig::default() },
            node,
            start_timeout: trunkline_session::defaults::START_TIMEOUT,
            default_rights: Rights::default(),
            login_policy: LoginPolicy::default(),
            max_devices: defaults::MAX_DEVICES,
            implicit_history: defaults::IMPLICIT_HISTORY,
            namespaces: Vec::new(),
            zones: ZoneMap::default(),
            write_stall: defaults::WRITE_STALL,
            reply_cache_bytes: trunkline_session::defaults::REPLY_CACHE_PER_NODE,
            max_connections: defaults::MAX_CONNECTIONS,
            max_sessions: defaults::MAX_CONNECTIONS * defaults::SESSIONS_PER_CONNECTION,
            calls: None,
            calls_in_flight: defaults::CALLS_IN_FLIGHT,
            call_bytes: defaults::CALL_BYTES.into(),
            reply_queue_bytes: defaults::REPLY_QUEUE_BYTES.into(),
            frames_per_address: defaults::FRAMES_PER_ADDRESS,
            warn_percent: defaults::WARN_PERCENT,
            trace: TraceOptions::default(),
        }
    }

    /// The namespace of a channel, if one covers it.
    pub(crate) fn namespace(&self, channel: &str) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| namespace.pattern.covers(channel))
    }

    /// May a client whose token has these rights do this to a channel, as far as the node itself decides?
    pub(crate) fn allow(&self, own: Option<&Rights>, channel: &str, what: May) -> bool {
        self.namespace(channel).is_some_and(|namespace| namespace.rights.allow(channel, what))
            || own.unwrap_or(&self.default_rights).allow(channel, what)
    }

    /// These options as far as they can change while a node runs; what sessions, zones and caches were built from
    /// stays as it is in `running`.
    pub(crate) fn changed_from(self, running: &GatewayOptions) -> GatewayOptions {
        GatewayOptions {
            node: running.node.clone(),
            session: running.session.clone(),
            implicit_history: running.implicit_history,
            zones: running.zones.clone(),
            reply_cache_bytes: running.reply_cache_bytes,
            ..self
        }
    }

    /// How much history a channel keeps.
    pub(crate) fn history(&self, channel: &str) -> HistoryLimits {
        if is_implicit_name(channel) {
            self.implicit_history
        } else {
            self.namespace(channel).map_or(HistoryLimits::NONE, |namespace| namespace.history)
        }
    }

    /// Whether subscribers of a channel are members that others can see.
    pub(crate) fn presence(&self, channel: &str) -> bool {
        self.namespace(channel).is_none_or(|namespace| namespace.presence)
    }
}
