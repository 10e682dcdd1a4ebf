//! What an engine is told about its node: limits, the cluster's key, the node's name. One value per node, shared.

use std::time::Duration;

use crate::defaults;
use crate::token::TokenKey;

/// How a client speaks: `StartRequest.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// 0: a seed client. Frames down are numbered and acked by number.
    Seed,
    /// 1: ours. Publications are acked by position.
    Trunkline,
}

impl Protocol {
    /// The protocol with this number. An unknown one is `None`: the node cannot keep its promises.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Protocol::Seed),
            1 => Some(Protocol::Trunkline),
            _ => None,
        }
    }
}

/// Limits and facts of a node. `Default` has the values of [`crate::defaults`] and an all-zero key: give it a
/// real one.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The cluster's key, which signs resume tokens.
    pub token_key: TokenKey,
    /// `StartResponse.node`.
    pub node: String,
    /// How often clients are told to send a heartbeat; silence is 2.5 times that.
    pub heartbeat: Duration,
    /// How long a session outlives its connection.
    pub resume_window: Duration,
    /// How long an expired token may be refreshed.
    pub expiry_grace: Duration,
    /// The longest a call may take.
    pub call_timeout: Duration,
    /// Calls that run at once.
    pub running_calls: usize,
    /// Calls that run or wait.
    pub outstanding_calls: usize,
    /// Bytes of cached replies.
    pub reply_cache: usize,
    /// Told with 503.
    pub retry_after: Duration,
    /// Frames per second; 0 is no limit.
    pub frames_per_second: u32,
    /// Frames at once.
    pub frame_burst: u32,
    /// Channels of the session, implicit ones included.
    pub channels: usize,
    /// Channel operations that are under way at once.
    pub operations: usize,
    /// The largest frame up, and reply as protobuf.
    pub max_frame_size: u32,
    /// The largest frame down.
    pub max_frame_size_down: u32,
}

impl Default for SessionConfig {
    fn default() -> Self {
        SessionConfig {
            token_key: TokenKey::new([0; 32]),
            node: String::new(),
            heartbeat: defaults::HEARTBEAT,
            resume_window: defaults::RESUME_WINDOW,
            expiry_grace: defaults::EXPIRY_GRACE,
            call_timeout: defaults::CALL_TIMEOUT,
            running_calls: defaults::RUNNING_CALLS,
            outstanding_calls: defaults::OUTSTANDING_CALLS,
            reply_cache: defaults::REPLY_CACHE_PER_SESSION,
            retry_after: defaults::RETRY_AFTER,
            frames_per_second: defaults::FRAMES_PER_SECOND,
            frame_burst: defaults::FRAME_BURST,
            channels: defaults::CHANNELS,
            operations: defaults::OPERATIONS,
            max_frame_size: defaults::MAX_FRAME_SIZE,
            max_frame_size_down: defaults::MAX_FRAME_SIZE_DOWN,
        }
    }
}

impl SessionConfig {
    /// How long a connection may say nothing before 4002.
    pub fn silence(&self) -> Duration {
        self.heartbeat * defaults::SILENCE_HALF_HEARTBEATS / 2
    }
}
