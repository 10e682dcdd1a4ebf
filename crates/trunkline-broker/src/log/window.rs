//! What a log keeps of one epoch: the newest publications, as far as history and readers need them.
//!
//! Two suffixes of the same queue decide: the *history*, by the namespace's limits, and the *live window*, which
//! exists while somebody is attached. What lies before both is dropped. A publication whose own time is over leaves
//! its place behind, which readers are told as a gap. No lock, no clock and no bytes here.

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
    /// When its own time is over, where it has one.
    pub(super) expires: Option<Duration>,
    /// `None`: its time is over, and only its place is left.
    pub(super) item: Option<Arc<Item>>,
}

impl Slot {
    fn cost(&self) -> usize {
        self.item.as_ref().map_or(0, |item| item.cost())
    }

    fn is_expired(&self) -> bool {
        self.item.is_none()
    }
}

/// What a kept publication takes beside its payload and sender.
const OVERHEAD: usize = size_of::<Slot>() + size_of::<Item>() + 2 * size_of::<usize>();

/// What a publication of this cost takes.
pub(super) fn size(cost: usize) -> usize {
    cost + OVERHEAD
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
    /// Of everything kept, see [`size`].
    bytes: usize,
    /// When the next publication's own time is over, if any has one.
    expiry: Option<Duration>,
}

/// The live window's limits, in the same form as a history's.
const LIVE: HistoryLimits =
    HistoryLimits { count: LIVE_WINDOW_COUNT, bytes: LIVE_WINDOW_BYTES, ttl: LIVE_WINDOW_TTL };

impl Window {
    /// An empty window whose first publication will have this number.
    pub(super) fn new(base: Seq, limits: HistoryLimits) -> Self {
        let none = Suffix { first: base, bytes: 0 };
        Window { slots: VecDeque::new(), base, history: none, live: none, limits, bytes: 0, expiry: None }
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

    /// What everything kept takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the next publication's own time is over, if any has one.
    pub(super) fn expiry(&self) -> Option<Duration> {
        self.expiry
    }

    /// The oldest publication that belongs to the history.
    pub(super) fn history_first(&self) -> Seq {
        self.history.first
    }

    pub(super) fn slot(&self, seq: Seq) -> Option<&Slot> {
        self.slots.get(usize::try_from(seq.checked_sub(self.base)?).ok()?)
    }

    pub(super) fn entry(&self, epoch: Epoch, seq: Seq) -> Option<Entry> {
        let slot = self.slot(seq)?;
        Some(Entry {
            position: Position { epoch, offset: slot.offset },
            prev: slot.prev,
            timestamp_ms: slot.timestamp_ms,
            item: slot.item.clone()?,
        })
    }

    /// The position that the oldest kept publication comes after, if any is kept.
    pub(super) fn floor(&self) -> Option<Offset> {
        self.slots.front().map(|slot| slot.prev)
    }

    /// The first publication after `offset` that can be read, if any.
    pub(super) fn after(&self, offset: Offset) -> Option<Seq> {
        // Offsets are dense in memory's logs, so the guess is right there and saves the search.
        let front = self.slots.front()?.offset;
        let guess = offset.0.checked_sub(front.0).and_then(|d| usize::try_from(d).ok());
        let guessed = guess.filter(|at| self.slots.get(*at).is_some_and(|slot| slot.offset == offset));
        let first = match guessed {
            Some(at) => at + 1,
            None => self.slots.partition_point(|slot| slot.offset <= offset),
        };
        let readable = |at: &usize| self.slots.get(*at).is_none_or(|slot| !slot.is_expired());
        let at = (first..=self.slots.len()).find(readable)?;
        (at < self.slots.len()).then_some(self.base + at as u64)
    }

    /// Is the place of a publication that can no longer be read among these?
    pub(super) fn has_expired(&self, mut seqs: std::ops::Range<Seq>) -> bool {
        seqs.any(|seq| self.slot(seq).is_some_and(Slot::is_expired))
    }

    /// Whether the publication `seq` directly follows the one before it, so that no gap lies between.
    pub(super) fn follows(&self, seq: Seq) -> bool {
        match (seq.checked_sub(1).and_then(|before| self.slot(before)), self.slot(seq)) {
            (Some(before), Some(slot)) => {
                slot.prev <= before.offset && !before.is_expired() && !slot.is_expired()
            }
            _ => false,
        }
    }

    /// Adds a publication, and drops what the limits then no longer keep.
    pub(super) fn push(&mut self, slot: Slot, live: LiveWindow) {
        let (cost, now) = (slot.cost(), slot.kept_since);
        self.expiry = self.expiry.into_iter().chain(slot.expires).min();
        self.slots.push_back(slot);
        self.bytes += size(cost);
        self.history.bytes += cost;
        self.live.bytes += cost;
        self.trim(now, live);
    }

    /// Lets go of the publications whose own time is over. Answers which; their places stay until they are trimmed.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<Seq> {
        let mut expired = Vec::new();
        if self.expiry.is_none_or(|next| now < next) {
            return expired;
        }
        self.expiry = None;
        for (seq, slot) in (self.base..).zip(&mut self.slots) {
            match slot.expires.filter(|_| slot.item.is_some()) {
                Some(at) if at <= now => {
                    let cost = slot.cost();
                    slot.item = None;
                    self.bytes -= cost;
                    for suffix in [&mut self.history, &mut self.live] {
                        suffix.bytes -= if seq >= suffix.first { cost } else { 0 };
                    }
                    expired.push(seq);
                }
                later => self.expiry = self.expiry.into_iter().chain(later).min(),
            }
        }
        expired
    }

    /// What would be let go of, if a publication of this cost came now; itself, if it were not kept.
    pub(super) fn displaced(&self, cost: usize, now: Duration, live: LiveWindow) -> usize {
        let (history, window) = self.suffixes(now, live, Some(cost));
        let base = history.first.min(window.first);
        let gone = (self.base..base.min(self.end())).filter_map(|seq| self.slot(seq));
        let itself = if base > self.end() { size(cost) } else { 0 };
        gone.map(|slot| size(slot.cost())).sum::<usize>() + itself
    }

    /// Changes the history's limits. They act at the next [`Window::trim`]; what was dropped does not come back.
    pub(super) fn set_limits(&mut self, limits: HistoryLimits) {
        self.limits = limits;
    }

    /// Drops what neither the history nor the live window keeps at this time.
    pub(super) fn trim(&mut self, now: Duration, live: LiveWindow) {
        (self.history, self.live) = self.suffixes(now, live, None);
        while self.base < self.history.first.min(self.live.first) {
            self.bytes -= self.slots.pop_front().map_or(0, |slot| size(slot.cost()));
            self.base += 1;
        }
        if self.slots.is_empty() {
            self.slots.shrink_to_fit();
        }
    }

    /// The history and the live window as the limits have them at this time, and as if a publication of the cost
    /// `coming` were the newest.
    fn suffixes(&self, now: Duration, live: LiveWindow, coming: Option<usize>) -> (Suffix, Suffix) {
        let end = self.end() + u64::from(coming.is_some());
        let coming = coming.unwrap_or(0);
        let age = |seq| self.slot(seq).map_or(Duration::ZERO, |slot| now.saturating_sub(slot.kept_since));
        // The place of what has expired is of no use at the beginning.
        let is_place = |seq| self.slot(seq).is_some_and(Slot::is_expired);
        let keeps = |suffix: &Suffix, limits: HistoryLimits| {
            end - suffix.first <= limits.count as u64
                && suffix.bytes <= limits.bytes
                && age(suffix.first) < limits.ttl
        };
        let advance = |suffix: &mut Suffix| {
            suffix.bytes -= self.slot(suffix.first).map_or(coming, Slot::cost);
            suffix.first += 1;
        };
        let mut history = Suffix { bytes: self.history.bytes + coming, ..self.history };
        while history.first < end && (is_place(history.first) || !keeps(&history, self.limits)) {
            advance(&mut history);
        }
        let mut window = Suffix { bytes: self.live.bytes + coming, ..self.live };
        while window.first < end {
            // The newest is kept whatever its size: a publication larger than the window must reach its readers.
            let newest = window.first + 1 == end && age(window.first) < LIVE.ttl;
            if live == LiveWindow::Kept && !is_place(window.first) && (newest || keeps(&window, LIVE)) {
                break;
            }
            advance(&mut window);
        }
        (history, window)
    }
}
