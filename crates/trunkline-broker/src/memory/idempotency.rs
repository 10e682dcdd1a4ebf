//! Which idempotency keys a channel has seen lately: bounded in number and in age, oldest forgotten first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::defaults::{IDEMPOTENCY_KEYS, IDEMPOTENCY_TTL};
use crate::names::Position;

/// One channel's keys.
#[derive(Debug, Default)]
pub(super) struct Keys {
    positions: HashMap<Arc<str>, Position>,
    /// In the order of arrival, which is the order of expiry.
    order: VecDeque<(Duration, Arc<str>)>,
}

impl Keys {
    /// Where the key's publication is, if it is remembered.
    pub(super) fn find(&mut self, key: &str, now: Duration) -> Option<Position> {
        self.expire(now);
        self.positions.get(key).copied()
    }

    /// Remembers a key that [`Keys::find`] did not find.
    pub(super) fn remember(&mut self, key: Arc<str>, position: Position, now: Duration) {
        if self.order.len() >= IDEMPOTENCY_KEYS {
            self.forget_oldest();
        }
        self.order.push_back((now, key.clone()));
        self.positions.insert(key, position);
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
            self.positions.remove(&key);
        }
    }
}
