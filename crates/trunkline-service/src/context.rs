//! What a service may ask of the gateway: the same powers in the process and behind gRPC.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::push::{Push, PushOutcome};

/// Whom a push, a subscription or a disconnection is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// One session.
    Session(String),
    /// All sessions of a user.
    User(String),
    /// All sessions of a group (`gid`).
    Group(String),
    /// All sessions that call themselves this device, whoever their users are. A device's id is its client's own word,
    /// so anybody can claim it: what only one user may see goes to the user or the session.
    Device(String),
}

/// Somebody on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: String,
    /// Which of the user's sessions.
    pub session: String,
    /// What the member says of itself.
    pub info: Bytes,
}

/// How a service publishes to a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// The same key again publishes nothing new and answers the first one's place. Empty: none.
    pub idempotency_key: String,
    /// How long the publication may be delivered, where that is less than the channel's history allows: whoever has
    /// not had it by then is told a gap. In whole milliseconds, at most 49 days. `None`: as long as it is kept.
    pub ttl: Option<Duration>,
}

impl PublishOptions {
    /// With this key.
    pub fn keyed(idempotency_key: impl Into<String>) -> Self {
        PublishOptions { idempotency_key: idempotency_key.into(), ttl: None }
    }
}

/// Why the gateway did not do what a service asked. `code` is a name of the gateway's table of error codes or of
/// a bound push's refusals (`BIND_TOO_LATE`, …).
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ContextError {
    /// A stable name to act on.
    pub code: String,
    /// What happened and what to do next.
    pub message: String,
    /// When to try again, in milliseconds from now; 0 where that would not help, or nobody can say.
    pub retry_after_ms: u32,
}

/// The gateway, as a service sees it. Cloned as an `Arc`; every method may be called from inside a running call.
#[async_trait]
pub trait Context: Send + Sync + 'static {
    /// Pushes to a target and says what became of it.
    async fn push(&self, target: Target, push: Push) -> Result<PushOutcome, ContextError>;
    /// Pushes to everybody, or to one zone; answers the number of live sessions it was handed to.
    async fn broadcast(&self, zone: Option<String>, push: Push) -> Result<u32, ContextError>;
    /// Publishes to a channel; answers its epoch and offset.
    async fn publish(
        &self,
        channel: &str,
        data: Bytes,
        options: PublishOptions,
    ) -> Result<(u64, u64), ContextError>;
    /// Subscribes the target's sessions to a channel; answers how many.
    async fn subscribe(&self, target: Target, channel: &str) -> Result<u32, ContextError>;
    /// Takes the target's sessions off a channel; answers how many.
    async fn unsubscribe(&self, target: Target, channel: &str) -> Result<u32, ContextError>;
    /// Who is on a channel now.
    async fn presence(&self, channel: &str) -> Result<Vec<Member>, ContextError>;
    /// Closes what the target has, with a close code; answers how many sessions.
    async fn disconnect(&self, target: Target, code: u32, reason: &str) -> Result<u32, ContextError>;
}
