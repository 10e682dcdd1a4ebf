//! How much a connection to an instance carries: the calls that run on it, against those that its peer lets run.
//!
//! The connection's task says so, and the others read it, when they choose a connection or have calls to give away. It
//! decides nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;

/// See the module. The figures are hints: a call that finds no room after all waits.
pub(super) struct Load {
    running: AtomicUsize,
    room: AtomicUsize,
    given_up: AtomicBool,
    /// Of the connection's task, while it has no room for what waits.
    full: AtomicWaker,
}

impl Load {
    /// Of a connection whose peer takes so many calls until it says otherwise.
    pub(super) fn new(room: usize) -> Self {
        Load {
            running: AtomicUsize::new(0),
            room: AtomicUsize::new(room),
            given_up: AtomicBool::new(false),
            full: AtomicWaker::new(),
        }
    }

    /// So many run, of so many that the peer takes.
    pub(super) fn set(&self, running: usize, room: usize) {
        self.running.store(running, Ordering::Relaxed);
        self.room.store(room, Ordering::Relaxed);
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub(super) fn room(&self) -> usize {
        self.room.load(Ordering::Relaxed)
    }

    /// The connection's task has no room, and is to be woken when another has.
    pub(super) fn wait_for_others(&self, waker: &Waker) {
        self.full.register(waker);
    }

    /// What waits there may go to another connection, or has just come.
    pub(super) fn wake(&self) {
        self.full.wake();
    }

    /// Nobody chooses the connection any more: what waits there is not to wait for its calls.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }
}
