//! What a log's lock guards: its epoch, its head, what is kept, and who is parked.
//!
//! A log that nobody has published to yet, with one subscriber, is these few words and nothing else, because most
//! channels of most sessions are silent: the rest is made with the first publication or the second subscriber.

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
    /// A position (e, 0) with this epoch or a later one, below `epoch`, is before the first publication.
    since: Epoch,
    /// The head that is answered until the first publication.
    absent: Epoch,
    live: LiveWindow,
    subscriptions: u32,
    /// One of those who are parked; the others are in the rest.
    parked: Option<Arc<dyn Unpark>>,
    rest: Option<Box<Rest>>,
}

/// What a silent channel of one session does not need.
#[derive(Debug)]
struct Rest {
    /// `None` until the first publication.
    epoch: Option<Epoch>,
    head: Offset,
    generation: u64,
    /// All who are parked but the first.
    parked: Slab<Arc<dyn Unpark>>,
    /// The number that the next publication has in its window. It never falls, so that bytes which a reader is
    /// encoding while everything is dropped are not taken for a later publication's.
    next_seq: Seq,
    /// Only while something is kept.
    kept: Option<Box<Kept>>,
    /// What the engine's budget counts for this log.
    charged: usize,
}

/// The generation of a log without [`Rest`].
const FIRST_GENERATION: u64 = 1;

/// So many beside the first are many: fewer are dealt with sooner each by itself.
const MANY: usize = 7;

/// The place of [`State::parked`] among those who are parked.
const INSIDE: usize = usize::MAX;

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
pub(crate) struct Woken {
    first: Option<Arc<dyn Unpark>>,
    others: Slab<Arc<dyn Unpark>>,
}

impl Woken {
    pub(crate) fn unpark(self) {
        let are_many = self.others.len() >= MANY;
        for unpark in self.first.into_iter().chain(self.others.into_iter().map(|(_, unpark)| unpark)) {
            if are_many {
                unpark.unpark_among_many();
            } else {
                unpark.unpark();
            }
        }
    }
}

impl State {
    pub(super) fn new(since: Epoch, now: Epoch) -> Self {
        State {
            since,
            absent: now.max(since),
            live: LiveWindow::Off,
            subscriptions: 0,
            parked: None,
            rest: None,
        }
    }

    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.rest.as_ref()?.epoch
    }

    pub(super) fn head(&self) -> Offset {
        self.rest.as_ref().map_or(Offset(0), |rest| rest.head)
    }

    pub(super) fn head_position(&self) -> Position {
        Position { epoch: self.epoch().unwrap_or(self.absent), offset: self.head() }
    }

    /// Rises with everything that a parked reader must see: who parked in an earlier one has been unparked.
    pub(super) fn generation(&self) -> u64 {
        self.rest.as_ref().map_or(FIRST_GENERATION, |rest| rest.generation)
    }

    /// Takes a reader in among those who are parked, and answers its place there.
    pub(super) fn park(&mut self, unpark: Arc<dyn Unpark>) -> usize {
        if self.parked.is_none() {
            self.parked = Some(unpark);
            return INSIDE;
        }
        self.rest().parked.insert(unpark)
    }

    /// Takes a reader out that parked in this generation.
    pub(super) fn leave(&mut self, place: usize) {
        if place == INSIDE {
            self.parked = None;
        } else if let Some(rest) = &mut self.rest {
            rest.parked.remove(place);
            if rest.parked.is_empty() {
                // The room of those who are gone goes with them.
                rest.parked = Slab::new();
            }
        }
    }

    /// How many are parked, and for how many there is room.
    #[cfg(test)]
    pub(super) fn parked(&self) -> (usize, usize) {
        let others = self.rest.as_ref().map_or((0, 0), |rest| (rest.parked.len(), rest.parked.capacity()));
        (others.0 + usize::from(self.parked.is_some()), others.1)
    }

    fn rest(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    pub(super) fn subscriptions(&self) -> u32 {
        self.subscriptions
    }

    pub(super) fn window(&self) -> Option<&Window> {
        self.rest.as_ref()?.kept.as_ref().map(|kept| &kept.window)
    }

    pub(super) fn kept_mut(&mut self) -> Option<&mut Kept> {
        self.rest.as_mut()?.kept.as_deref_mut()
    }

    pub(super) fn encodings(&self) -> [u64; Variant::COUNT] {
        let kept = self.rest.as_ref().and_then(|rest| rest.kept.as_ref());
        kept.map_or([0; Variant::COUNT], |kept| kept.encodings)
    }

    /// The position before the oldest kept publication: where a reader goes on after a loss.
    fn oldest(&self) -> Position {
        let offset = self.window().and_then(Window::floor).unwrap_or(self.head());
        Position { offset, ..self.head_position() }
    }

    pub(super) fn place(&self, at: Position) -> Place {
        let before_first = at.offset == Offset(0) && at.epoch >= self.since;
        let Some(epoch) = self.epoch() else {
            return if before_first { Place::Head } else { Place::Gap { next: self.oldest() } };
        };
        if at.epoch != epoch && !(before_first && at.epoch < epoch) || at.offset > self.head() {
            return Place::Gap { next: self.oldest() };
        }
        if at.offset == self.head() {
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
        let rest = self.rest();
        rest.epoch = Some(head.epoch);
        rest.head = head.offset;
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
            self.rest().charged += size;
            return Ok(());
        }
        // What is encoded can be made again.
        self.drop_encodings();
        self.expire(now);
        self.settle(shared);
        let live = self.live;
        let displaced = match self.kept_mut() {
            Some(kept) => {
                kept.window.set_limits(limits);
                kept.window.displaced(cost, now, live)
            }
            None => Window::new(0, limits).displaced(cost, now, live),
        };
        let grows = size.saturating_sub(displaced);
        shared.take(grows, share)?;
        self.rest().charged += grows;
        Ok(())
    }

    /// Tells the budget what this log takes now.
    pub(super) fn settle(&mut self, shared: &Shared) {
        let Some(rest) = &mut self.rest else { return };
        let takes = rest.kept.as_ref().map_or(0, |kept| kept.bytes());
        shared.settle(rest.charged, takes);
        rest.charged = takes;
    }

    fn drop_encodings(&mut self) {
        if let Some(kept) = self.kept_mut() {
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
        let live = self.live;
        let rest = self.rest();
        rest.head = slot.offset;
        let base = rest.next_seq;
        rest.next_seq += 1;
        let kept = rest.kept.get_or_insert_with(|| {
            Box::new(Kept {
                window: Window::new(base, limits),
                variants: Default::default(),
                encodings: [0; Variant::COUNT],
            })
        });
        kept.window.set_limits(limits);
        kept.window.push(slot, live);
        rest.release();
        self.wake()
    }

    /// Everyone who is parked, to be unparked once; whoever parks from now on waits for the next.
    fn wake(&mut self) -> Woken {
        let first = self.parked.take();
        let rest = self.rest();
        rest.generation += 1;
        // Those woken will mostly park again: room for as many saves growing under the lock, step by step.
        let room = Slab::with_capacity(rest.parked.len());
        Woken { first, others: std::mem::replace(&mut rest.parked, room) }
    }

    pub(super) fn reset(&mut self, head: Position, since: Epoch) -> Woken {
        self.since = since;
        self.absent = head.epoch.max(since);
        let rest = self.rest();
        rest.epoch = (head.offset > Offset(0)).then_some(head.epoch);
        rest.head = head.offset;
        rest.kept = None;
        self.wake()
    }

    pub(super) fn expire(&mut self, uptime: Duration) {
        let live = self.live;
        if let Some(rest) = &mut self.rest {
            if let Some(kept) = &mut rest.kept {
                for seq in kept.window.expire(uptime) {
                    kept.variants.iter_mut().flatten().for_each(|chunks| chunks.drop_holding(seq));
                }
                kept.window.trim(uptime, live);
            }
            rest.release();
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
        let Some((window, epoch)) = self.window().zip(self.epoch()) else {
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

impl Default for Rest {
    fn default() -> Self {
        Rest {
            epoch: None,
            head: Offset(0),
            generation: FIRST_GENERATION,
            parked: Slab::new(),
            next_seq: 0,
            kept: None,
            charged: 0,
        }
    }
}

impl Rest {
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
