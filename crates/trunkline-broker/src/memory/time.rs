//! The broker's clock: wall time that never repeats, and uptime.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::log::Stamp;
use crate::names::{Epoch, Incarnation};

/// The injected clock, made strictly rising where epochs come from it.
pub(super) struct Time {
    clock: Arc<dyn Clock>,
    /// The last epoch or incarnation that was given.
    last_us: AtomicU64,
    incarnation: AtomicU64,
}

impl Time {
    /// Begins an incarnation above everything that `last_us` covers.
    pub(super) fn new(clock: Arc<dyn Clock>, last_us: u64) -> Self {
        let incarnation = clock.unix_us().max(last_us + 1);
        Time { clock, last_us: AtomicU64::new(incarnation), incarnation: AtomicU64::new(incarnation) }
    }

    /// The wall clock in µs, above every reading before: a set-back clock never gives an epoch twice.
    pub(super) fn mint(&self) -> Epoch {
        let now = self.clock.unix_us();
        let rise = |last: u64| Some(now.max(last + 1));
        let last = self.last_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rise);
        // `rise` never answers `None`, so both arms hold the value before.
        let (Ok(last) | Err(last)) = last;
        Epoch(now.max(last + 1))
    }

    pub(super) fn last_us(&self) -> u64 {
        self.last_us.load(Ordering::Relaxed)
    }

    pub(super) fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.load(Ordering::Relaxed))
    }

    /// Begins a new incarnation, above every epoch given before.
    pub(super) fn reincarnate(&self) -> Incarnation {
        let epoch = self.mint();
        self.incarnation.store(epoch.0, Ordering::Relaxed);
        Incarnation(epoch.0)
    }

    pub(super) fn uptime(&self) -> Duration {
        self.clock.uptime()
    }

    pub(super) fn stamp(&self) -> Stamp {
        let timestamp_ms = i64::try_from(self.clock.unix_us() / 1_000).unwrap_or(i64::MAX);
        Stamp { timestamp_ms, uptime: self.clock.uptime() }
    }
}
