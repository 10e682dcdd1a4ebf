//! A push: what a service sends to a user, a group, a device or a session outside any reply.

use std::collections::HashMap;

use bytes::Bytes;

/// When a push leaves, relative to a running call's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncHint {
    /// As soon as it is accepted.
    #[default]
    Immediately,
    /// In one atomic frame with the reply, before it.
    BeforeResponse,
    /// In one atomic frame with the reply, after it.
    AfterResponse,
}

/// What a client receives as a `BusinessResponse` with code 200 and message `[msg_type] title`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Push {
    /// What kind of push it is, for the client's dispatch.
    pub msg_type: String,
    /// A line for people.
    pub title: String,
    /// The text.
    pub content: String,
    /// Whatever the client's program reads.
    pub data: Bytes,
    /// Further names and values.
    pub metadata: HashMap<String, String>,
    /// When it leaves.
    pub hint: SyncHint,
    /// The call it is bound to, unless `hint` is [`SyncHint::Immediately`].
    pub bind_client_seq: u64,
    /// The same key again within the broker's window publishes nothing new; empty for none.
    pub idempotency_key: String,
    /// Wait this long for the client's ack and answer [`PushOutcome::Acked`]; 0 does not wait.
    pub wait_ack_ms: u32,
}

/// What became of a push, honestly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushOutcome {
    /// Handed to at least one live connection of the target.
    Delivered,
    /// Nobody live; kept in history, and a resumable session of the target exists.
    Queued,
    /// Nobody live or resumable; kept only as the channel's history.
    Offline,
    /// No such session, device or group.
    NotFound,
    /// Refused by a limit.
    Dropped,
    /// A client's position has passed it.
    Acked,
    /// Joined to the running call; it shares its reply's fate.
    Bound,
}
