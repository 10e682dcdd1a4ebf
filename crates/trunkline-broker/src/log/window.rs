//! What a log keeps of one epoch: the newest publications, as far as history and readers need them.
//!
//! Two suffixes of the same queue decide: the *history*, by the namespace's limits, and the *live window*, which
//! exists while somebody is attached. What lies before both is dropped. No lock, no clock and no bytes here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::LiveWindow;
use crate::defaults::{LIVE_WINDOW_BYTES, LIVE_WINDOW_COUNT, LIVE_WINDOW_TTL};
use crate::item::{Entry, Item};
use crate::limits::HistoryLimits;
use crate::names::{Epoch, Offset, Position};

/// A publication's dense number within its log. Offsets may have holes, these have none, so chunks use them.
pub(super) type Seq = u64;

/// One kept publication. The epoch is the window's.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) offset: Offset,
    pub(super) prev: Offset,
    pub(super) timestamp_ms: i64,
    pub(super) kept_since: Duration,
    pub(super) item: Arc<Item>,
}

/// The slots from `first` on, and their cost.
#[derive(Debug, Clone, Copy)]
struct Suffix {
    first: Seq,
    bytes: usize,
}

/// The kept publications.
#[derive(Debug)]
pub(super) struct Window {
    slots: VecDeque<Slot>,
    base: Seq,
    history: Suffix,
    live: Suffix,
    limits: HistoryLimits,
}

/// The live window's limits, in the same form as a history's.
const LIVE: HistoryLimits =
    HistoryLimits { count: LIVE_WINDOW_COUNT, bytes: LIVE_WINDOW_BYTES, ttl: LIVE_WINDOW_TTL };

impl Window {
    /// An empty window whose first publication will have this number.
    pub(super) fn new(base: Seq, limits: HistoryLimits) -> Self {
        let none = Suffix { first: base, bytes: 0 };
        Window { slots: VecDeque::new(), base, history: none, live: none, limits }
    }

    /// The number of the oldest kept publication.
    pub(super) fn base(&self) -> Seq {
        self.base
    }

    /// The number of the next publication.
    pub(super) fn end(&self) -> Seq {
        self.base + self.slots.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The oldest publication that belongs to the history.
    pub(super) fn history_first(&self) -> Seq {
        self.history.first
    }

    pub(super) fn slot(&self, seq: Seq) -> Option<&Slot> {
        self.slots.get(usize::try_from(seq.checked_sub(self.base)?).ok()?)
    }

    pub(super) fn entry(&self, epoch: Epoch, seq: Seq) -> Option<Entry> {
        self.slot(seq).map(|slot| Entry {
            position: Position { epoch, offset: slot.offset },
            prev: slot.prev,
            timestamp_ms: slot.timestamp_ms,
            item: slot.item.clone(),
        })
    }

    /// The position that the oldest kept publication comes after, if any is kept.
    pub(super) fn floor(&self) -> Option<Offset> {
        self.slots.front().map(|slot| slot.prev)
    }

    /// The first kept publication after `offset`, if any.
    pub(super) fn after(&self, offset: Offset) -> Option<Seq> {
        // Offsets are dense in memory's logs, so the guess is right there and saves the search.
        let front = self.slots.front()?.offset;
        let guess = offset.0.checked_sub(front.0).and_then(|d| usize::try_from(d).ok());
        if let Some(at) = guess
            && self.slots.get(at).is_some_and(|slot| slot.offset == offset)
        {
            return (at + 1 < self.slots.len()).then_some(self.base + at as u64 + 1);
        }
        let at = self.slots.partition_point(|slot| slot.offset <= offset);
        (at < self.slots.len()).then_some(self.base + at as u64)
    }

    /// Whether the publication `seq` directly follows the one before it, so that no gap lies between.
    pub(super) fn follows(&self, seq: Seq) -> bool {
        match (seq.checked_sub(1).and_then(|before| self.slot(before)), self.slot(seq)) {
            (Some(before), Some(slot)) => slot.prev <= before.offset,
            _ => false,
        }
    }

    /// Adds a publication, and drops what the limits then no longer keep.
    pub(super) fn push(&mut self, slot: Slot, live: LiveWindow) {
        let (cost, now) = (slot.item.cost(), slot.kept_since);
        self.slots.push_back(slot);
        self.history.bytes += cost;
        self.live.bytes += cost;
        self.trim(now, live);
    }

    /// Changes the history's limits. They act at the next [`Window::trim`]; what was dropped does not come back.
    pub(super) fn set_limits(&mut self, limits: HistoryLimits) {
        self.limits = limits;
    }

    /// Drops what neither the history nor the live window keeps at this time.
    pub(super) fn trim(&mut self, now: Duration, live: LiveWindow) {
        let end = self.end();
        let mut history = self.history;
        while history.first < end && !self.keeps(&history, self.limits, now) {
            self.advance(&mut history);
        }
        let mut window = self.live;
        while window.first < end {
            // The newest is kept whatever its size: a publication larger than the window must reach its readers.
            let young = self.age(window.first, now) < LIVE.ttl;
            let newest = window.first + 1 == end && young;
            if live == LiveWindow::Kept && (newest || self.keeps(&window, LIVE, now)) {
                break;
            }
            self.advance(&mut window);
        }
        (self.history, self.live) = (history, window);
        while self.base < history.first.min(window.first) {
            self.slots.pop_front();
            self.base += 1;
        }
        if self.slots.is_empty() {
            self.slots.shrink_to_fit();
        }
    }

    fn keeps(&self, suffix: &Suffix, limits: HistoryLimits, now: Duration) -> bool {
        self.end() - suffix.first <= limits.count as u64
            && suffix.bytes <= limits.bytes
            && self.age(suffix.first, now) < limits.ttl
    }

    fn age(&self, seq: Seq, now: Duration) -> Duration {
        self.slot(seq).map_or(Duration::ZERO, |slot| now.saturating_sub(slot.kept_since))
    }

    fn advance(&self, suffix: &mut Suffix) {
        suffix.bytes -= self.slot(suffix.first).map_or(0, |slot| slot.item.cost());
        suffix.first += 1;
    }
}
