//! The memory watermark: above it no session begins and no call starts, so that what is under way can end.
//!
//! It reads nothing: whoever can read the process's memory tells it, rarely.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What the process has, and what it may have.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    used: AtomicU64,
    limit: AtomicU64,
    short: AtomicBool,
}

impl Memory {
    /// A new reading. Once short, the process has to come down to 95 % of its limit: on the very edge a node would
    /// change its mind with every page.
    pub(crate) fn read(&self, used: u64, limit: u64) {
        self.used.store(used, Relaxed);
        self.limit.store(limit, Relaxed);
        let end = if self.is_short() { limit - limit / 20 } else { limit };
        self.short.store(limit > 0 && used >= end, Relaxed);
    }

    /// Is the process above its watermark?
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Relaxed)
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_short_from_the_limit_on_and_until_well_below_it() {
        let memory = Memory::default();
        let short = |used| {
            memory.read(used, 1_000);
            memory.is_short()
        };
        assert_eq!(
            [999, 1_000, 999, 951, 950, 949, 999].map(short),
            [false, true, true, true, true, false, false]
        );
        memory.read(u64::MAX, 0);
        assert!(!memory.is_short(), "no limit");
    }
}
