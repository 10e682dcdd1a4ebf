//! Following keyed values: the whole state first, then every change.
//!
//! A watcher that is too slow for its queue loses no change of state: the overflow policy is *resync*, the
//! queue is emptied and the watcher gets the whole state anew.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::broker::{BrokerError, Versioned};
use crate::names::Revision;

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// All keys under the prefix as they stand; keys that are not in it are gone. Comes first, and again after
    /// an overflow or when the engine was away.
    All(BTreeMap<String, Versioned>),
    /// A key was written.
    Put {
        /// Which.
        key: String,
        /// What it is now.
        versioned: Versioned,
    },
    /// A key is gone: deleted, expired, or its lease has ended.
    Gone {
        /// Which.
        key: String,
        /// The version that it had.
        revision: Revision,
    },
}

/// What an engine does for a watcher.
#[async_trait]
pub trait WatchSource: Send + 'static {
    /// The next change. Must be cancel-safe.
    async fn next(&mut self) -> Result<Change, BrokerError>;
}

/// Follows the keys under one prefix. Dropping it ends the watch.
pub struct Watch {
    source: Box<dyn WatchSource>,
}

impl Watch {
    /// Wraps an engine's watch.
    pub fn new(source: impl WatchSource) -> Self {
        Watch { source: Box::new(source) }
    }

    /// Waits for the next change. Cancel-safe. An error is final: the engine is gone for good.
    pub async fn next(&mut self) -> Result<Change, BrokerError> {
        self.source.next().await
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}
