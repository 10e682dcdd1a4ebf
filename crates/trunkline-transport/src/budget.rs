//! A budget in bytes that many connections share.
//!
//! It counts and wakes; what to do when it is spent is decided where the bytes are.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
    task::Waker,
};

use parking_lot::Mutex;

/// Bytes in use against a limit.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    is_awaited: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
            is_awaited: AtomicBool::new(false),
            waiting: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Whether `bytes` more would fit now. Two who ask at once may both be told yes: the overshoot is a packet each.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes) <= self.limit
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, SeqCst);
    }

    pub(crate) fn give(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.used.fetch_sub(bytes, SeqCst);
        // Nobody waits as a rule, so the rule costs one load.
        if self.is_awaited.load(SeqCst) && self.has_room(0) {
            self.is_awaited.store(false, SeqCst);
            let waiting = std::mem::take(&mut *self.waiting.lock());
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Wakes this task once when bytes are given back. Ask [`Budget::has_room`] again after this, before waiting.
    pub(crate) fn wake_on_room(&self, waker: &Waker) {
        let mut waiting = self.waiting.lock();
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
        self.is_awaited.store(true, SeqCst);
    }
}
