//! The log of one channel on this node: appended to once, read by every subscriber at its own cursor.
//!
//! A slow reader costs nothing but its cursor: when the window has moved past it, it is told a gap. The log wakes
//! only those who parked at its head, and encodes each publication once per variant, when first asked. It holds its
//! lock for copies of references only, never while bytes are encoded or written, and has no task or queue. It asks its
//! engine's clock only where a publication has a time of its own.

mod chunks;
mod notes;
mod reading;
mod shared;
mod state;
mod subscription;
#[cfg(test)]
mod tests;
mod window;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use self::reading::{Piece, ReadOutcome};
pub use self::shared::LogsFull;
pub use self::subscription::{Subscription, Unpark};

use self::notes::Notes;
pub(crate) use self::shared::{Share, Shared};
pub(crate) use self::state::Woken;
use self::state::{Place, State};
use self::window::Slot;
use crate::broker::{Direction, Page};
use crate::item::{Entry, Item, Variant};
use crate::limits::HistoryLimits;
use crate::names::{ChannelName, Epoch, Offset, Position};

/// Whether a log keeps its last publications for readers, whatever the history's limits say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveWindow {
    /// Somebody is attached.
    Kept,
    /// Nobody is: the history's limits are all that counts.
    Off,
}

/// Where a subscriber stands in a log: all that a subscriber is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    position: Position,
}

impl Cursor {
    /// A cursor at a position that [`Log::locate`] or a broker gave. A wrong one is told as a gap.
    pub fn at(position: Position) -> Self {
        Cursor { position }
    }

    /// The position that reading goes on from: what is before it was read.
    pub fn position(&self) -> Position {
        self.position
    }
}

/// What became of the position that a subscriber came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachVerdict {
    /// It had none: delivery begins at the head.
    Fresh,
    /// Nothing was lost.
    Continued,
    /// What lies between is lost.
    Gap {
        /// The position it came with.
        from: Position,
        /// Where delivery goes on from.
        next: Position,
    },
}

/// When a publication is appended, by the engine's two clocks.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Wall time, for clients.
    pub timestamp_ms: i64,
    /// Uptime, for limits.
    pub uptime: Duration,
}

/// What is appended.
#[derive(Debug, Clone)]
pub struct Addition {
    /// The publication.
    pub item: Item,
    /// When it comes.
    pub stamp: Stamp,
    /// The log's history from now on.
    pub limits: HistoryLimits,
    /// How long it may be delivered, where that is less than the limits allow.
    pub ttl: Option<Duration>,
}

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Where the publication is.
    pub position: Position,
    /// The log's subscriptions at that moment.
    pub subscriptions: u32,
}

/// What to do with a publication whose predecessor the log does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Refuse it, so that the engine can fill in from history.
    Refuse,
    /// Append it; readers are told a gap in the place of what is missing.
    Gap,
}

/// A received publication does not follow the log's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the publication does not follow the log's head {head}")]
pub struct Misplaced {
    /// The log's head.
    pub head: Position,
}

/// One channel's log. See the module.
#[derive(Debug)]
pub struct Log {
    channel: ChannelName,
    state: Mutex<State>,
    /// Held by the one reader that encodes a variant, so that each publication is encoded once.
    encoding: [Mutex<()>; Variant::COUNT],
    shared: Arc<Shared>,
    share: Share,
    notes: Notes,
}

impl Log {
    /// The log of a channel that has no publication yet. A position (e, 0) with `since` ≤ e is before the first;
    /// `now` is what the log answers as its head until then.
    pub fn new(channel: ChannelName, since: Epoch, now: Epoch) -> Self {
        Log::within(Arc::new(Shared::unlimited()), Share::Whole, channel, since, now)
    }

    /// A log among others of its engine.
    pub(crate) fn within(
        shared: Arc<Shared>,
        share: Share,
        channel: ChannelName,
        since: Epoch,
        now: Epoch,
    ) -> Self {
        let state = Mutex::new(State::new(since, now));
        Log { channel, state, encoding: Default::default(), shared, share, notes: Notes::default() }
    }

    /// Tells the engine that an attachment is being dropped.
    pub(crate) fn detach(self: &Arc<Self>) {
        if let Some(engine) = self.shared.engine() {
            engine.detach(self);
        }
    }

    /// What its engine has noted of the channel.
    pub(crate) fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Whose log it is.
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The position of the newest publication, or (some time before the first, 0).
    pub fn head(&self) -> Position {
        self.state.lock().head_position()
    }

    /// The epoch, once something was published.
    pub fn epoch(&self) -> Option<Epoch> {
        self.state.lock().epoch()
    }

    /// How many subscriptions there are now.
    pub fn subscriptions(&self) -> u32 {
        self.state.lock().subscriptions()
    }

    /// A cursor for a subscriber that comes with this position, or with none, and what became of it.
    pub fn locate(&self, from: Option<Position>) -> (Cursor, AttachVerdict) {
        let state = self.state.lock();
        match from {
            None => (Cursor::at(state.head_position()), AttachVerdict::Fresh),
            Some(from) => match state.place(from) {
                Place::Head | Place::At(_) => (Cursor::at(from), AttachVerdict::Continued),
                Place::Gap { next } => (Cursor::at(next), AttachVerdict::Gap { from, next }),
            },
        }
    }

    /// Appends an item at the next offset: the engine whose history this log is. `mint` gives the epoch if this is
    /// the first; it must be above every epoch given before.
    ///
    /// # Errors
    /// The engine's logs are full, and nothing was appended.
    pub fn append_next(
        &self,
        addition: Addition,
        mint: impl FnOnce() -> Epoch,
    ) -> Result<Appended, LogsFull> {
        let (appended, woken) = self.append_next_quietly(addition, mint)?;
        woken.unpark();
        Ok(appended)
    }

    /// [`Log::append_next`], but the caller unparks, after it has released a lock of its own.
    pub(crate) fn append_next_quietly(
        &self,
        addition: Addition,
        mint: impl FnOnce() -> Epoch,
    ) -> Result<(Appended, Woken), LogsFull> {
        let Addition { item, stamp, limits, ttl } = addition;
        let mut state = self.state.lock();
        state.expire_due(&self.shared);
        state.admit(item.cost(), stamp.uptime, limits, &self.shared, self.share)?;
        if state.epoch().is_none() {
            state.begin(Position { epoch: mint(), offset: Offset(0) });
        }
        let prev = state.head();
        let slot = Slot {
            offset: Offset(prev.0 + 1),
            prev,
            timestamp_ms: stamp.timestamp_ms,
            kept_since: stamp.uptime,
            expires: ttl.map(|ttl| stamp.uptime.saturating_add(ttl)),
            item: Some(Arc::new(item)),
        };
        let woken = state.push(slot, limits);
        state.settle(&self.shared);
        Ok((Appended { position: state.head_position(), subscriptions: state.subscriptions() }, woken))
    }

    /// Appends a publication received from an engine elsewhere, if it follows the head. One that the log has
    /// already is accepted and changes nothing.
    pub fn append_received(
        &self,
        entry: Entry,
        uptime: Duration,
        limits: HistoryLimits,
        missing: Missing,
    ) -> Result<(), Misplaced> {
        let mut state = self.state.lock();
        let misplaced = Misplaced { head: state.head_position() };
        match state.epoch() {
            None if entry.prev == Offset(0) || missing == Missing::Gap => {
                state.begin(Position { epoch: entry.position.epoch, offset: Offset(0) });
            }
            Some(epoch) if epoch == entry.position.epoch => {
                if entry.position.offset <= state.head() {
                    return Ok(());
                }
                if entry.prev > state.head() && missing == Missing::Refuse {
                    return Err(misplaced);
                }
            }
            _ => return Err(misplaced),
        }
        let slot = Slot {
            offset: entry.position.offset,
            prev: entry.prev,
            timestamp_ms: entry.timestamp_ms,
            kept_since: uptime,
            expires: None,
            item: Some(entry.item),
        };
        let woken = state.push(slot, limits);
        state.settle(&self.shared);
        drop(state);
        woken.unpark();
        Ok(())
    }

    /// Forgets everything and goes on from `head`, because the engine has: every cursor elsewhere is told a gap.
    /// `since` as in [`Log::new`].
    pub fn reset(&self, head: Position, since: Epoch) {
        let mut state = self.state.lock();
        let woken = state.reset(head, since);
        state.settle(&self.shared);
        drop(state);
        woken.unpark();
    }

    /// Drops what the limits no longer keep at this time.
    pub fn expire(&self, uptime: Duration) {
        let mut state = self.state.lock();
        state.expire(uptime);
        state.drop_encodings_if_tight(&self.shared);
        state.settle(&self.shared);
    }

    fn settle(&self, state: &mut State) {
        state.settle(&self.shared);
    }

    /// Whether readers are served beyond the history from now on.
    pub fn keep_live_window(&self, live: LiveWindow) {
        self.state.lock().keep_live(live);
    }

    /// Whether no publication is kept.
    pub fn is_empty(&self) -> bool {
        self.state.lock().window().is_none()
    }

    /// The publication at a position, while it is kept.
    pub fn entry(&self, at: Position) -> Option<Entry> {
        let mut state = self.state.lock();
        state.expire_due(&self.shared);
        let (window, epoch) = (state.window()?, state.epoch()?);
        let before = Offset(at.offset.0.checked_sub(1)?);
        let seq = window.after(before)?;
        window.entry(epoch, seq).filter(|entry| entry.position == at)
    }

    /// A page of the history, which may be shorter than what readers are served from.
    pub fn page(&self, since: Option<Position>, limit: usize, direction: Direction) -> Page {
        self.state.lock().page(since, limit, direction)
    }

    /// How many publications were encoded in each variant since something is kept: one for each, whatever the number
    /// of readers.
    pub fn encodings(&self) -> [u64; Variant::COUNT] {
        self.state.lock().encodings()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let _ = state.reset(Position::default(), Epoch(0));
        state.settle(&self.shared);
    }
}
