//! Which of the things that a connection's task waits for has woken it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release},
    },
    task::Wake,
};

use futures_util::task::AtomicWaker;

/// Remembers a wake-up, so that what was not woken need not be polled.
pub(super) struct Signal {
    is_given: AtomicBool,
    driver: Arc<AtomicWaker>,
}

impl Signal {
    pub(super) fn new(driver: &Arc<AtomicWaker>) -> Arc<Self> {
        Arc::new(Self { is_given: AtomicBool::new(false), driver: Arc::clone(driver) })
    }

    /// Whether it was given since this was asked.
    pub(super) fn take(&self) -> bool {
        self.is_given.swap(false, AcqRel)
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_given.store(true, Release);
        self.driver.wake();
    }
}
