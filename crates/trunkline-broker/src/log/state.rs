//! What a log's lock guards: its epoch, its head, what is kept, and who is parked.
//!
//! A log that nobody has published to yet is these few words and nothing else, because most channels of most
//! sessions are silent: the window is made with the first publication.

use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::LiveWindow;
use super::chunks::Chunks;
use super::shared::{LogsFull, Share, Shared};
use super::subscription::Unpark;
use super::window::{self, Seq, Slot, Window};
use crate::broker::{Direction, Page};
use crate::item::Variant;
use crate::limits::HistoryLimits;
use crate::names::{Epoch, Offset, Position};

/// Where a position is in the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At the head: nothing to read.
    Head,
    /// Before this publication, and nothing is missing between.
    At(Seq),
    /// Something is missing; reading goes on from there.
    Gap { next: Position },
}

/// The guarded part of a log.
#[derive(Debug)]
pub(super) struct State {
    /// `None` until the first publication.
    epoch: Option<Epoch>,
    /// A position (e, 0) with this epoch or a later one, below `epoch`, is before the first publication.
    since: Epoch,
    /// The head that is answered until the first publication.
    absent: Epoch,
    head: Offset,
    live: LiveWindow,
    subscriptions: u32,
    /// Rises with everything that a parked reader must see: who parked in an earlier one has been unparked.
    pub(super) generation: u64,
    pub(super) parked: Slab<Arc<dyn Unpark>>,
    /// The number that the next publication has in its window. It never falls, so that bytes which a reader is
    /// encoding while everything is dropped are not taken for a later publication's.
    next_seq: Seq,
    /// Only while something is kept.
    kept: Option<Box<Kept>>,
    /// What the engine's budget counts for this log.
    charged: usize,
}

/// What a log has once something was published.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) window: Window,
    /// Boxed, because a channel's subscribers mostly share one or two variants.
    variants: [Option<Box<Chunks>>; Variant::COUNT],
    pub(super) encodings: [u64; Variant::COUNT],
}

/// Those who were parked; to be unparked after the lock is released.
#[must_use]
pub(crate) struct Woken(Slab<Arc<dyn Unpark>>);

impl Woken {
    pub(crate) fn unpark(self) {
        for (_, unpark) in &self.0 {
            unpark.unpark();
        }
    }
}

impl State {
    pub(super) fn new(since: Epoch, now: Epoch) -> Self {
        State {
            epoch: None,
            since,
            absent: now.max(since),
            head: Offset(0),
            live: LiveWindow::Off,
            subscriptions: 0,
            generation: 1,
            parked: Slab::new(),
            next_seq: 0,
            kept: None,
            charged: 0,
        }
    }

    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    pub(super) fn head(&self) -> Offset {
        self.head
    }

    pub(super) fn head_position(&self) -> Position {
        Position { epoch: self.epoch.unwrap_or(self.absent), offset: self.head }
    }

    pub(super) fn subscriptions(&self) -> u32 {
        self.subscriptions
    }

    pub(super) fn window(&self) -> Option<&Window> {
        self.kept.as_ref().map(|kept| &kept.window)
    }

    pub(super) fn kept_mut(&mut self) -> Option<&mut Kept> {
        self.kept.as_deref_mut()
    }

    pub(super) fn encodings(&self) -> [u64; Variant::COUNT] {
        self.kept.as_ref().map_or([0; Variant::COUNT], |kept| kept.encodings)
    }

    /// The position before the oldest kept publication: where a reader goes on after a loss.
    fn oldest(&self) -> Position {
        let offset = self.window().and_then(Window::floor).unwrap_or(self.head);
        Position { offset, ..self.head_position() }
    }

    pub(super) fn place(&self, at: Position) -> Place {
        let before_first = at.offset == Offset(0) && at.epoch >= self.since;
        let Some(epoch) = self.epoch else {
            return if before_first { Place::Head } else { Place::Gap { next: self.oldest() } };
        };
        if at.epoch != epoch && !(before_first && at.epoch < epoch) || at.offset > self.head {
            return Place::Gap { next: self.oldest() };
        }
        if at.offset == self.head {
            return Place::Head;
        }
        let found = self.window().and_then(|window| {
            let seq = window.after(at.offset)?;
            Some((seq, window.slot(seq)?.prev))
        });
        match found {
            Some((seq, prev)) if prev <= at.offset => Place::At(seq),
            Some((_, prev)) => Place::Gap { next: Position { epoch, offset: prev } },
            // Nothing that can be read follows.
            None => Place::Gap { next: self.head_position() },
        }
    }

    /// Begins the epoch of a channel that had none.
    pub(super) fn begin(&mut self, head: Position) {
        self.epoch = Some(head.epoch);
        self.head = head.offset;
    }

    /// Makes room for a publication: takes it from the budget, or from what it displaces in this log.
    pub(super) fn admit(
        &mut self,
        cost: usize,
        now: Duration,
        limits: HistoryLimits,
        shared: &Shared,
        share: Share,
    ) -> Result<(), LogsFull> {
        let size = window::size(cost);
        if shared.take(size, share).is_ok() {
            self.charged += size;
            return Ok(());
        }
        // What is encoded can be made again.
        self.drop_encodings();
        self.expire(now);
        self.settle(shared);
        let live = self.live;
        let displaced = match &mut self.kept {
            Some(kept) => {
                kept.window.set_limits(limits);
                kept.window.displaced(cost, now, live)
            }
            None => Window::new(0, limits).displaced(cost, now, live),
        };
        let grows = size.saturating_sub(displaced);
        shared.take(grows, share)?;
        self.charged += grows;
        Ok(())
    }

    /// Tells the budget what this log takes now.
    pub(super) fn settle(&mut self, shared: &Shared) {
        let takes = self.kept.as_ref().map_or(0, |kept| kept.bytes());
        shared.settle(self.charged, takes);
        self.charged = takes;
    }

    fn drop_encodings(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.variants = Default::default();
        }
    }

    /// Where bytes are short, nothing is kept that the next reader can make anew.
    pub(super) fn drop_encodings_if_tight(&mut self, shared: &Shared) {
        if shared.is_tight() {
            self.drop_encodings();
        }
    }

    /// Lets go of publications whose own time is over. Most logs have none, and do not ask the clock.
    pub(super) fn expire_due(&mut self, shared: &Shared) {
        if self.window().is_some_and(|window| window.expiry().is_some())
            && let Some(now) = shared.uptime()
        {
            self.expire(now);
        }
    }

    /// Appends, trims, and takes out those who are parked.
    pub(super) fn push(&mut self, slot: Slot, limits: HistoryLimits) -> Woken {
        self.head = slot.offset;
        let base = self.next_seq;
        self.next_seq += 1;
        let kept = self.kept.get_or_insert_with(|| {
            Box::new(Kept {
                window: Window::new(base, limits),
                variants: Default::default(),
                encodings: [0; Variant::COUNT],
            })
        });
        kept.window.set_limits(limits);
        kept.window.push(slot, self.live);
        self.release();
        self.wake()
    }

    /// Everyone who is parked, to be unparked once; whoever parks from now on waits for the next.
    fn wake(&mut self) -> Woken {
        self.generation += 1;
        // Those woken will mostly park again: room for as many saves growing under the lock, step by step.
        let room = Slab::with_capacity(self.parked.len());
        Woken(std::mem::replace(&mut self.parked, room))
    }

    pub(super) fn reset(&mut self, head: Position, since: Epoch) -> Woken {
        self.since = since;
        self.absent = head.epoch.max(since);
        self.epoch = (head.offset > Offset(0)).then_some(head.epoch);
        self.head = head.offset;
        self.kept = None;
        self.wake()
    }

    pub(super) fn expire(&mut self, uptime: Duration) {
        let live = self.live;
        if let Some(kept) = &mut self.kept {
            for seq in kept.window.expire(uptime) {
                kept.variants.iter_mut().flatten().for_each(|chunks| chunks.drop_holding(seq));
            }
            kept.window.trim(uptime, live);
        }
        self.release();
    }

    /// Drops the bytes of what the window has dropped, and everything once nothing is kept.
    fn release(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        if kept.window.is_empty() {
            self.kept = None;
            return;
        }
        let base = kept.window.base();
        for chunks in kept.variants.iter_mut().flatten() {
            chunks.release_before(base);
        }
    }

    pub(super) fn keep_live(&mut self, live: LiveWindow) {
        self.live = live;
    }

    pub(super) fn subscribed(&mut self) {
        self.subscriptions += 1;
    }

    /// One subscription less. With the last, what was encoded is dropped: the next reader makes it anew.
    pub(super) fn unsubscribed(&mut self) {
        self.subscriptions -= 1;
        if self.subscriptions == 0 {
            self.drop_encodings();
        }
    }

    pub(super) fn page(&self, since: Option<Position>, limit: usize, direction: Direction) -> Page {
        let place = since.map(|since| self.place(since));
        let mut page = Page { position: self.head_position(), publications: Vec::new(), recovered: true };
        let Some((window, epoch)) = self.window().zip(self.epoch) else {
            page.recovered = !matches!(place, Some(Place::Gap { .. }));
            return page;
        };
        let (first, end) = (window.history_first(), window.end());
        let whole = |range: std::ops::Range<Seq>| since.is_none() || !window.has_expired(range);
        let from = match place {
            None if direction == Direction::Forward => first,
            None | Some(Place::Head) => end,
            Some(Place::At(seq)) => seq,
            Some(Place::Gap { next }) => {
                page.recovered = false;
                window.after(next.offset).unwrap_or(end)
            }
        };
        match direction {
            Direction::Forward => {
                page.recovered &= from >= first;
                let range = from.max(first)..end;
                page.recovered &= whole(range.clone());
                page.publications.extend(range.take(limit).filter_map(|seq| window.entry(epoch, seq)));
            }
            Direction::Reverse => {
                // `from` is the first after `since`; a reverse page is what lies strictly before `since` itself.
                let until = match since {
                    Some(since) if page.recovered => window
                        .slot(from.wrapping_sub(1))
                        .map_or(from, |slot| if slot.offset == since.offset { from - 1 } else { from }),
                    _ => from,
                };
                let range = first..until.max(first);
                page.recovered &= whole(range.clone());
                page.publications.extend(range.rev().take(limit).filter_map(|seq| window.entry(epoch, seq)));
            }
        }
        page
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        let encoded: usize = self.variants.iter().flatten().map(|chunks| chunks.bytes()).sum();
        self.window.bytes() + encoded
    }

    /// What is kept, and what is encoded of it in one variant.
    pub(super) fn parts(&mut self, variant: Variant) -> (&Window, &mut Chunks) {
        (&self.window, self.variants[variant.index()].get_or_insert_default())
    }
}
