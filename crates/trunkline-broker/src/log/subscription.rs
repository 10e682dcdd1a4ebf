//! Waiting at a log's head without a queue, a waker list that grows, or a lost wake-up.
//!
//! Whether a reader is at the head and its parking are one step under the log's lock, so nothing can be published
//! between them; and a reader is parked at most once, however often it asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::reading::{Piece, ReadOutcome};
use super::state::{Place, State};
use super::{Cursor, Log};
use crate::item::{Encode, Variant};

/// What to do when something was published after the head at which a reader parked.
pub trait Unpark: Send + Sync {
    /// Called once for each time of parking, from the publisher's thread, outside all locks of the log. It must not
    /// block: it marks work, it does not do it.
    fn unpark(&self);

    /// The same, where many are unparked by one publication: they may be dealt with together.
    fn unpark_among_many(self: Arc<Self>) {
        self.unpark();
    }
}

impl std::fmt::Debug for dyn Unpark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpark")
    }
}

/// A reader's place among those who can park at a log. Dropping it takes it away in O(1) and leaves nothing behind;
/// an `unpark` that is already on its way may still come. There are several for each session, so it holds no more
/// than it must.
#[derive(Debug)]
pub struct Subscription {
    log: Arc<Log>,
    /// The generation in which it parked last, and its place there. Read and written under the log's lock only, so
    /// the lock orders them; they are atomic so that parking needs no `&mut`.
    generation: AtomicU64,
    place: AtomicUsize,
}

impl Log {
    /// Registers a reader. It counts as live until the subscription is dropped.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        self.state.lock().subscribed();
        Subscription { log: self.clone(), generation: AtomicU64::new(0), place: AtomicUsize::new(0) }
    }
}

impl Subscription {
    /// The log that it reads.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Parks at the head. True: parked, the next publication unparks it once. False: there is something to read
    /// already, so read again. Who is to be unparked is asked for only where it is not parked yet, under the log's
    /// lock.
    pub fn park(&self, cursor: &Cursor, unpark: impl FnOnce() -> Arc<dyn Unpark>) -> bool {
        self.park_in(&mut self.log.state.lock(), cursor, unpark)
    }

    /// As [`Log::read`], and at the head as [`Subscription::park`] in the same step: why reading stopped, and whether it is
    /// parked. A reader that keeps up so takes the log's lock once for each time that it is unparked.
    pub fn read_or_park(
        &self,
        cursor: &mut Cursor,
        variant: Variant,
        encode: &dyn Encode,
        max_bytes: usize,
        out: &mut Vec<Piece>,
        unpark: impl FnOnce() -> Arc<dyn Unpark>,
    ) -> (ReadOutcome, bool) {
        let mut is_parked = false;
        let at_head = |state: &mut State, cursor: &Cursor| is_parked = self.park_in(state, cursor, unpark);
        let outcome = self.log.read_then(cursor, variant, encode, max_bytes, out, at_head);
        (outcome, is_parked)
    }

    fn park_in(&self, state: &mut State, cursor: &Cursor, unpark: impl FnOnce() -> Arc<dyn Unpark>) -> bool {
        if state.place(cursor.position) != Place::Head {
            return false;
        }
        if self.generation.load(Ordering::Relaxed) == state.generation() {
            return true;
        }
        self.place.store(state.park(unpark()), Ordering::Relaxed);
        self.generation.store(state.generation(), Ordering::Relaxed);
        true
    }

    /// Takes back the last [`Subscription::park`], if nothing has unparked it yet.
    pub fn unpark_quietly(&self) {
        self.leave(&mut self.log.state.lock());
    }

    fn leave(&self, state: &mut State) {
        if self.generation.swap(0, Ordering::Relaxed) == state.generation() {
            state.leave(self.place.load(Ordering::Relaxed));
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.log.state.lock();
        self.leave(&mut state);
        state.unsubscribed();
        self.log.settle(&mut state);
    }
}
