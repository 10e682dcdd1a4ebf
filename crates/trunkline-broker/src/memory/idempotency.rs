//! Which idempotency keys a channel has seen lately: bounded in number and in age, oldest forgotten first, and counted
//! by the budget of the logs.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::defaults::{IDEMPOTENCY_KEYS, IDEMPOTENCY_TTL};
use crate::log::{LogsFull, Share, Shared};
use crate::names::Position;

/// What a key takes beside its bytes: its counters, its place in both collections, and a half-empty table.
const OVERHEAD: usize = 128;

/// One channel's keys.
#[derive(Debug)]
pub(super) struct Keys {
    positions: HashMap<Arc<str>, Position>,
    /// In the order of arrival, which is the order of expiry.
    order: VecDeque<(Duration, Arc<str>)>,
    shared: Arc<Shared>,
}

/// Room for a key. Dropped unused, it is given back.
pub(super) struct Place {
    key: Option<Arc<str>>,
    shared: Arc<Shared>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.shared.settle(size(key), 0);
        }
    }
}

impl Keys {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Keys { positions: HashMap::new(), order: VecDeque::new(), shared }
    }

    /// Where the key's publication is, if it is remembered.
    pub(super) fn find(&mut self, key: &str, now: Duration) -> Option<Position> {
        self.expire(now);
        self.positions.get(key).copied()
    }

    /// Takes room for a key that [`Keys::find`] did not find.
    pub(super) fn reserve(&self, key: Arc<str>, share: Share) -> Result<Place, LogsFull> {
        self.shared.take(size(&key), share)?;
        Ok(Place { key: Some(key), shared: Arc::clone(&self.shared) })
    }

    /// Remembers it.
    pub(super) fn remember(&mut self, mut place: Place, position: Position, now: Duration) {
        if self.order.len() >= IDEMPOTENCY_KEYS {
            self.forget_oldest();
        }
        if let Some(key) = place.key.take() {
            self.order.push_back((now, key.clone()));
            self.positions.insert(key, position);
        }
    }

    /// Forgets what is too old.
    pub(super) fn expire(&mut self, now: Duration) {
        while self.order.front().is_some_and(|(since, _)| now.saturating_sub(*since) >= IDEMPOTENCY_TTL) {
            self.forget_oldest();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.shared.settle(size(&key), 0);
            self.positions.remove(&key);
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        while !self.is_empty() {
            self.forget_oldest();
        }
    }
}

fn size(key: &str) -> usize {
    key.len() + OVERHEAD
}
