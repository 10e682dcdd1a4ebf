//! The broker in this process's memory: the default, and the model for every other engine.
//!
//! A channel's history is its [`Log`](crate::Log). What must survive a restart lies in the data directory: the
//! incarnation, the fence counter, and durable keyed values; histories, presence and leases end with the process.
//! It never answers `Unavailable`, except while an outage is played for the tests of what stands on it.

mod channels;
mod disk;
mod engine;
mod idempotency;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod watchers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use self::engine::Engine;
use self::table::Edit;
use self::watchers::Source;
use crate::broker::{
    Answer, Attached, Broker, BrokerError, Condition, Deleted, Direction, EngineState, Figures, Life, Member,
    Members, Page, PublishOptions, Published, Versioned, Written,
};
use crate::clock::{Clock, SystemClock};
use crate::defaults;
use crate::item::Item;
use crate::lease::{Lease, LeaseControl};
use crate::limits::HistoryLimits;
use crate::names::{ChannelName, Fence, LeaseId, NodeId, Position};
use crate::watching::Watch;

/// How to open a memory broker.
#[derive(Clone)]
pub struct MemoryOptions {
    /// The node that the first handle speaks for.
    pub node: NodeId,
    /// Where durable state lies; `None` keeps nothing over a restart.
    pub data_dir: Option<PathBuf>,
    /// All time.
    pub clock: Arc<dyn Clock>,
    /// Keys with these prefixes are durable whatever their life; those that live for ever always are.
    pub durable_prefixes: Vec<String>,
    /// Channels held at most.
    pub max_channels: usize,
    /// Bytes of all logs at most; a publication that does not fit is refused.
    pub max_log_bytes: usize,
    /// Which channels, by their names, the node's sessions cannot do without. All others may have three quarters of
    /// the channels and of the bytes, so that no client can use up what every START needs.
    pub essential: fn(&str) -> bool,
    /// Bytes of keyed values at most.
    pub max_keyed_bytes: usize,
    /// Bytes of durable keyed values at most.
    pub max_durable_bytes: usize,
    /// Who removes what has expired.
    pub sweeping: Sweeping,
}

/// Who removes what has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweeping {
    /// One task of the broker's own, which needs a tokio runtime.
    Background,
    /// Whoever calls [`MemoryBroker::sweep`]: tests with a clock of their own.
    Manual,
}

impl MemoryOptions {
    /// The defaults for this node, without a data directory.
    pub fn new(node: NodeId) -> Self {
        MemoryOptions {
            node,
            data_dir: None,
            clock: Arc::new(SystemClock::default()),
            durable_prefixes: Vec::new(),
            max_channels: defaults::MAX_CHANNELS,
            max_log_bytes: defaults::MAX_LOG_BYTES,
            essential: |_| false,
            max_keyed_bytes: defaults::MAX_KEYED_BYTES,
            max_durable_bytes: defaults::MAX_DURABLE_BYTES,
            sweeping: Sweeping::Background,
        }
    }
}

/// Why the memory broker does not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// A file of the data directory cannot be read or written.
    #[error("cannot use {path}: {source}")]
    Storage {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what this program writes. Nothing is guessed: a fence that fell would let an old owner win.
    #[error(
        "{path} is damaged: {reason}; restore it from a backup, or remove it if no other node is running"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process has the data directory open.
    #[error("{path} is in use by another process; stop it, or give this node another data directory")]
    InUse {
        /// The broker's folder.
        path: PathBuf,
    },
}

/// What is played by [`MemoryBroker::play`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// The engine goes away: everything answers `Unavailable`.
    Begin,
    /// It comes back as it was.
    End,
    /// It comes back without channels, values, leases and presence, in a new incarnation.
    EndWiped,
}

/// A node's handle to a memory broker. Dropping the last handle ends the engine.
pub struct MemoryBroker {
    node: NodeId,
    engine: Arc<Engine>,
}

impl MemoryBroker {
    /// Opens the broker, and its data directory if there is one. Reads and writes files, so call it at start, and
    /// inside a tokio runtime unless sweeping is manual.
    pub fn open(options: MemoryOptions) -> Result<Self, MemoryError> {
        Ok(MemoryBroker { node: options.node, engine: Engine::open(options)? })
    }

    /// Another node's handle to the same engine: several nodes in one process.
    pub fn peer(&self, node: NodeId) -> Self {
        MemoryBroker { node, engine: self.engine.clone() }
    }

    /// Removes everything that has expired, once, in full.
    pub fn sweep(&self) {
        self.engine.sweep_all();
    }

    /// How many channels are held, remembered ones included.
    pub fn channels(&self) -> usize {
        self.engine.channels().figures().channels
    }

    /// Plays an outage, for tests of what stands on a broker.
    pub fn play(&self, outage: Outage) {
        self.engine.play(outage);
    }
}

impl Drop for MemoryBroker {
    fn drop(&mut self) {
        self.engine.forget_answerer(self.node);
    }
}

impl std::fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBroker").field("node", &self.node).finish_non_exhaustive()
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    fn node(&self) -> NodeId {
        self.node
    }

    fn engine(&self) -> watch::Receiver<EngineState> {
        self.engine.state()
    }

    fn figures(&self) -> Figures {
        self.engine.channels().figures()
    }

    async fn publish(
        &self,
        channel: &ChannelName,
        item: Item,
        options: PublishOptions,
    ) -> Result<Published, BrokerError> {
        self.engine.up()?;
        self.engine.channels().publish(channel, item, options)
    }

    // The log takes a channel's limits from its publications, which all pass through here.
    async fn attach(
        &self,
        channel: &ChannelName,
        from: Option<Position>,
        _limits: HistoryLimits,
    ) -> Result<Attached, BrokerError> {
        self.engine.up()?;
        self.engine.channels().attach(channel, from)
    }

    async fn position(&self, channel: &ChannelName) -> Result<Position, BrokerError> {
        self.engine.up()?;
        Ok(self.engine.channels().position(channel))
    }

    async fn history(
        &self,
        channel: &ChannelName,
        since: Option<Position>,
        limit: usize,
        direction: Direction,
    ) -> Result<Page, BrokerError> {
        self.engine.up()?;
        Ok(self.engine.channels().history(channel, since, limit, direction))
    }

    async fn join(&self, channel: &ChannelName, member: Member, lease: LeaseId) -> Result<(), BrokerError> {
        self.engine.up()?;
        self.engine.table().join(channel, member, lease)
    }

    async fn leave(&self, channel: &ChannelName, session: &str) -> Result<(), BrokerError> {
        self.engine.up()?;
        self.engine.table().leave(channel, session);
        Ok(())
    }

    async fn members(&self, channel: &ChannelName, limit: usize) -> Result<Members, BrokerError> {
        self.engine.up()?;
        Ok(self.engine.table().members(channel, limit))
    }

    async fn get(&self, key: &str) -> Result<Option<Versioned>, BrokerError> {
        self.engine.up()?;
        Ok(self.engine.table().value(key))
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        condition: Condition,
        life: Life,
    ) -> Result<Written, BrokerError> {
        self.engine.up()?;
        check_key(key)?;
        if life == Life::Ttl(Duration::ZERO) {
            return Err(BrokerError::Invalid("a ttl is longer than zero".to_owned()));
        }
        let edit = Edit { key: key.to_owned(), condition, put: Some((value, life)) };
        Ok(self.engine.edit(edit).await?.written())
    }

    async fn delete(&self, key: &str, condition: Condition) -> Result<Deleted, BrokerError> {
        self.engine.up()?;
        check_key(key)?;
        let edit = Edit { key: key.to_owned(), condition, put: None };
        Ok(self.engine.edit(edit).await?.deleted())
    }

    async fn watch(&self, prefix: &str) -> Result<Watch, BrokerError> {
        self.engine.up()?;
        let queue = self.engine.table().watchers.add(prefix);
        Ok(Watch::new(Source { engine: self.engine.clone(), queue }))
    }

    async fn next_fence(&self) -> Result<Fence, BrokerError> {
        self.engine.up()?;
        let number = self.engine.next_fence().await?;
        Ok(Fence { number, node: self.node })
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, BrokerError> {
        self.engine.up()?;
        if ttl.is_zero() {
            return Err(BrokerError::Invalid("a lease is longer than zero".to_owned()));
        }
        let id = self.engine.lease(ttl);
        Ok(Lease::new(id, ttl, HeldLease { id, engine: self.engine.clone() }))
    }

    async fn ask(&self, node: NodeId, request: Bytes, deadline: Duration) -> Result<Bytes, BrokerError> {
        self.engine.up()?;
        let answerer = self.engine.answerer(node).ok_or(BrokerError::NoSuchNode(node))?;
        let answer = answerer.answer(self.node, request);
        tokio::time::timeout(deadline, answer).await.map_err(|_| BrokerError::AnswerLate { node, deadline })
    }

    fn answer_with(&self, answer: Arc<dyn Answer>) {
        self.engine.set_answerer(self.node, answer);
    }
}

/// The engine's side of a lease.
struct HeldLease {
    id: LeaseId,
    engine: Arc<Engine>,
}

#[async_trait]
impl LeaseControl for HeldLease {
    async fn renew(&self) -> Result<(), BrokerError> {
        self.engine.up()?;
        self.engine.renew(self.id)
    }

    fn release(&self) {
        self.engine.table().end_lease(self.id);
    }
}

fn check_key(key: &str) -> Result<(), BrokerError> {
    if (1..=defaults::MAX_KEY_BYTES).contains(&key.len()) {
        return Ok(());
    }
    let reason = format!("a key has 1 to {} bytes, not {}", defaults::MAX_KEY_BYTES, key.len());
    Err(BrokerError::Invalid(reason))
}
