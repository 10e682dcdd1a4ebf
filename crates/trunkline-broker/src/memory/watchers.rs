//! Those who watch keyed values: one bounded queue each, whose overflow policy is *resync*.
//!
//! A queue is fed under the table's lock, so a watcher sees changes in their order; a whole state is taken under the
//! same lock, so nothing falls between it and the changes after it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Engine;
use crate::broker::{BrokerError, Versioned};
use crate::defaults::WATCH_QUEUE;
use crate::names::Revision;
use crate::watching::{Change, WatchSource};

/// All watchers of the table.
#[derive(Default)]
pub(super) struct Watchers {
    queues: Vec<Weak<Queue>>,
}

/// What waits for one watcher.
pub(super) struct Queue {
    prefix: String,
    waiting: Mutex<Waiting>,
    news: Notify,
}

struct Waiting {
    changes: VecDeque<Change>,
    /// The whole state comes next; what waits is void.
    resync: bool,
}

/// A watcher's end of its queue.
pub(super) struct Source {
    pub(super) engine: Arc<Engine>,
    pub(super) queue: Arc<Queue>,
}

impl Watchers {
    /// A new watcher, whose first change will be the whole state.
    pub(super) fn add(&mut self, prefix: &str) -> Arc<Queue> {
        let waiting = Waiting { changes: VecDeque::new(), resync: true };
        let queue =
            Arc::new(Queue { prefix: prefix.to_owned(), waiting: Mutex::new(waiting), news: Notify::new() });
        self.queues.retain(|queue| queue.strong_count() > 0);
        self.queues.push(Arc::downgrade(&queue));
        queue
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queues.len()
    }

    pub(super) fn put(&mut self, key: &str, versioned: &Versioned) {
        self.tell(key, || Change::Put { key: key.to_owned(), versioned: versioned.clone() });
    }

    pub(super) fn gone(&mut self, key: &str, revision: Revision) {
        self.tell(key, || Change::Gone { key: key.to_owned(), revision });
    }

    pub(super) fn resync_all(&mut self) {
        for queue in self.queues.iter().filter_map(Weak::upgrade) {
            queue.resync();
        }
    }

    fn tell(&mut self, key: &str, change: impl Fn() -> Change) {
        for queue in self.queues.iter().filter_map(Weak::upgrade) {
            if key.starts_with(&queue.prefix) {
                queue.push(change());
            }
        }
    }
}

impl Queue {
    fn push(&self, change: Change) {
        let mut waiting = self.waiting.lock();
        if waiting.resync {
            return;
        }
        waiting.changes.push_back(change);
        let full = waiting.changes.len() > WATCH_QUEUE;
        drop(waiting);
        if full {
            self.resync();
        } else {
            self.news.notify_one();
        }
    }

    fn resync(&self) {
        let mut waiting = self.waiting.lock();
        waiting.changes = VecDeque::new();
        waiting.resync = true;
        drop(waiting);
        self.news.notify_one();
    }
}

impl Source {
    fn take(&self) -> Option<Change> {
        {
            let mut waiting = self.queue.waiting.lock();
            if !waiting.resync {
                return waiting.changes.pop_front();
            }
        }
        // The table's lock comes before the queue's, and keeps changes out while the state is copied.
        let table = self.engine.table();
        let mut waiting = self.queue.waiting.lock();
        waiting.resync = false;
        Some(Change::All(table.under(&self.queue.prefix)))
    }
}

#[async_trait]
impl WatchSource for Source {
    async fn next(&mut self) -> Result<Change, BrokerError> {
        loop {
            if let Some(change) = self.take() {
                return Ok(change);
            }
            // A change after the look above has left its permit.
            self.queue.news.notified().await;
        }
    }
}
