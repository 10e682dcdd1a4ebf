//! The trait that every engine implements, with the values its operations take and give.
//!
//! The hot path is not here: an engine hands out the [`Log`] of a channel once per node, appends to it, and
//! subscribers read that log without the trait. So the trait can be plain async. An engine never consents with
//! others by itself: whoever takes a thing over does so by a compare-and-set that succeeded.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::item::{Entry, Item};
use crate::lease::Lease;
use crate::limits::HistoryLimits;
use crate::log::{AttachVerdict, Cursor, Log};
use crate::names::{ChannelName, Fence, Incarnation, LeaseId, NodeId, Position, Revision};
use crate::watching::Watch;

/// Channels, history, presence, keyed values, leases, and questions between nodes.
///
/// Every operation may answer [`BrokerError::Unavailable`]; then nothing was promised, and an operation that
/// changes something may or may not have done so. All futures may be dropped at any point: what was begun is
/// then either done whole or not at all.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// The node that this handle speaks for.
    fn node(&self) -> NodeId;

    /// Whether the engine is there, and in which incarnation. Never changes without telling.
    fn engine(&self) -> watch::Receiver<EngineState>;

    /// What it holds on this node now.
    fn figures(&self) -> Figures;

    /// Appends an item to a channel, or finds that its idempotency key was there before.
    async fn publish(
        &self,
        channel: &ChannelName,
        item: Item,
        options: PublishOptions,
    ) -> Result<Published, BrokerError>;

    /// Begins to receive a channel on this node. Every call for the same channel shares one log; the last
    /// dropped [`Attachment`] ends it. `from` is checked, and answered by the verdict.
    async fn attach(
        &self,
        channel: &ChannelName,
        from: Option<Position>,
        limits: HistoryLimits,
    ) -> Result<Attached, BrokerError>;

    /// The head of a channel; (now, 0) where nothing was ever published or it is forgotten.
    async fn position(&self, channel: &ChannelName) -> Result<Position, BrokerError>;

    /// Up to `limit` publications of a channel's history; `since` as [`Direction`] says.
    async fn history(
        &self,
        channel: &ChannelName,
        since: Option<Position>,
        limit: usize,
        direction: Direction,
    ) -> Result<Page, BrokerError>;

    /// Shows a session on a channel until it leaves or the lease ends. Again for the same session: replaced.
    async fn join(&self, channel: &ChannelName, member: Member, lease: LeaseId) -> Result<(), BrokerError>;

    /// Takes a session off a channel; nothing happens if it is not there.
    async fn leave(&self, channel: &ChannelName, session: &str) -> Result<(), BrokerError>;

    /// Who is on a channel: the number of all, and up to `limit` of them.
    async fn members(&self, channel: &ChannelName, limit: usize) -> Result<Members, BrokerError>;

    /// A keyed value, or `None`.
    async fn get(&self, key: &str) -> Result<Option<Versioned>, BrokerError>;

    /// Writes a keyed value if the condition holds. The value is durable, as far as the engine's medium is, when
    /// this returns.
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        condition: Condition,
        life: Life,
    ) -> Result<Written, BrokerError>;

    /// Removes a keyed value if the condition holds.
    async fn delete(&self, key: &str, condition: Condition) -> Result<Deleted, BrokerError>;

    /// Follows all keys that begin with `prefix`. The first change is the whole state, and nothing between that
    /// and the changes after it is lost.
    async fn watch(&self, prefix: &str) -> Result<Watch, BrokerError>;

    /// A number greater than all before it, on every node, for ever.
    async fn next_fence(&self) -> Result<Fence, BrokerError>;

    /// A lease that ends unless renewed within `ttl`. Its keys and presence end with it.
    async fn lease(&self, ttl: Duration) -> Result<Lease, BrokerError>;

    /// Asks another node (or this one) and waits for its answer, at most `deadline`.
    async fn ask(&self, node: NodeId, request: Bytes, deadline: Duration) -> Result<Bytes, BrokerError>;

    /// Sets who answers what other nodes ask this one. The one set last counts. The broker keeps it, so it should
    /// hold whatever itself holds the broker weakly.
    fn answer_with(&self, answer: Arc<dyn Answer>);
}

/// Answers the questions of other nodes.
#[async_trait]
pub trait Answer: Send + Sync + 'static {
    /// The answer to one question. The future is dropped at the asker's deadline.
    async fn answer(&self, from: NodeId, request: Bytes) -> Bytes;
}

/// Whether the engine can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    /// It answers. A changed incarnation means that it has lost data.
    Up {
        /// No epoch of its channels lies below this.
        incarnation: Incarnation,
    },
    /// It does not answer: live sessions go on, publishing fails fast.
    Away,
}

/// What a broker holds on one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Channels, remembered ones included.
    pub channels: usize,
    /// Bytes of publications in their logs, and of what is encoded of them.
    pub log_bytes: usize,
}

/// How to publish.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// The channel's history, as its namespace says now.
    pub limits: HistoryLimits,
    /// How long it may be delivered, where that is less than the limits allow: afterwards it is a gap.
    pub ttl: Option<Duration>,
    /// The same key again within [`IDEMPOTENCY_TTL`](crate::defaults::IDEMPOTENCY_TTL) publishes nothing new.
    pub idempotency_key: Option<Arc<str>>,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Where it is; of a duplicate, where the first one is.
    pub position: Position,
    /// The idempotency key was known: nothing was appended.
    pub duplicate: bool,
    /// Subscriptions of the channel's logs at that moment, if the engine knows them.
    pub live: Option<u32>,
}

/// A channel received on this node.
#[derive(Debug)]
pub struct Attached {
    /// The channel's log on this node.
    pub log: Arc<Log>,
    /// Where delivery goes on from.
    pub cursor: Cursor,
    /// What became of `from`.
    pub verdict: AttachVerdict,
    /// Keeps the channel attached.
    pub attachment: Attachment,
}

/// What an engine does when a node needs a channel no longer.
pub trait Detach: Send + Sync {
    /// One of the channel's attachments is being dropped: this is its hold of the log.
    fn detach(&self, log: &Arc<Log>);
}

/// Keeps a channel attached to this node; dropping it detaches. It is one reference: sessions hold several.
pub struct Attachment {
    log: Arc<Log>,
}

impl Attachment {
    /// An attachment that the log's engine has counted; dropping it tells that engine ([`Detach`]).
    pub fn new(log: Arc<Log>) -> Self {
        Attachment { log }
    }

    /// The channel's log on this node.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.log.detach();
    }
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attachment")
    }
}

/// Which way a page of history runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Oldest first: what comes after `since`, or from the oldest kept.
    Forward,
    /// Newest first: what comes before `since`, or from the newest.
    Reverse,
}

/// A part of a channel's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The channel's head.
    pub position: Position,
    /// In the order asked for.
    pub publications: Vec<Entry>,
    /// Nothing is missing between `since` and the page. Without `since` always true.
    pub recovered: bool,
}

/// One session on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The session: the member's key.
    pub session: Arc<str>,
    /// Its user.
    pub user: Arc<str>,
    /// Whatever the client wants to show.
    pub info: Bytes,
}

/// Who is on a channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// How many there are.
    pub total: usize,
    /// Some or all of them, in no promised order.
    pub members: Vec<Member>,
}

/// A keyed value as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Bytes,
    /// Its version.
    pub revision: Revision,
    /// The highest fence it was written under, if any.
    pub fence: Option<Fence>,
}

/// What must hold for a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Any,
    /// The key has no value.
    Absent,
    /// The value has this very version.
    Revision(Revision),
    /// The value was not written under a higher fence than this one. A key without value takes any fence.
    FenceAtLeast(Fence),
}

/// How long a keyed value lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Until deleted, over restarts too.
    Forever,
    /// This long after its last write.
    Ttl(Duration),
    /// As long as the lease.
    Lease(LeaseId),
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// It was done; this is the value's version now.
    Done(Revision),
    /// The condition did not hold; this is what is there.
    Refused(Option<Versioned>),
}

/// What became of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Deleted {
    /// The key has no value now, whether or not it had one before.
    Done,
    /// The condition did not hold; this is what is there.
    Refused(Option<Versioned>),
}

/// Why the broker did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The engine does not answer; try again later.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// A limit of the engine is reached.
    #[error("the broker is full: {what} are limited to {limit}")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: usize,
    },
    /// A key, idempotency key or duration that no engine takes.
    #[error("{0}")]
    Invalid(String),
    /// The lease has ended: what lived by it is gone.
    #[error("lease {} has ended", .0.0)]
    LeaseEnded(LeaseId),
    /// No such node answers questions.
    #[error("node {0} is unknown or answers nothing")]
    NoSuchNode(NodeId),
    /// The node asked did not answer in time.
    #[error("node {node} did not answer within {deadline:?}")]
    AnswerLate {
        /// Who was asked.
        node: NodeId,
        /// How long.
        deadline: Duration,
    },
    /// What must survive a restart could not be written. Nothing that was accepted before is lost.
    #[error("cannot write {path}: {source}")]
    Storage {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Arc<std::io::Error>,
    },
}
