//! A token bucket in whole numbers, so that a rate is exact over any time.

use std::time::Duration;

/// One token. A nanosecond brings as many of these parts as the rate per second says.
pub(super) const ONE: u64 = 1_000_000_000;

/// The parts of so many tokens.
pub(super) fn parts(tokens: u32) -> u64 {
    u64::from(tokens) * ONE
}

/// A bucket without a rate of its own: it is told the rate each time, since a share's changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tokens {
    level: u64,
    at: Duration,
}

impl Tokens {
    pub(super) fn full(cap: u64, now: Duration) -> Self {
        Tokens { level: cap, at: now }
    }

    /// Adds what the time since the last look has brought, at `rate / parts_of` a second. Time that goes backwards
    /// brings nothing.
    pub(super) fn refill(&mut self, now: Duration, rate: u32, parts_of: u32, cap: u64) {
        let passed = now.saturating_sub(self.at).as_nanos();
        self.at = self.at.max(now);
        let brought = passed * u128::from(rate) / u128::from(parts_of.max(1));
        let level = u128::from(self.level).saturating_add(brought).min(u128::from(cap));
        self.level = u64::try_from(level).unwrap_or(cap);
    }

    pub(super) fn level(self) -> u64 {
        self.level
    }

    /// Takes one token and leaves `reserve`, or takes nothing.
    pub(super) fn take(&mut self, reserve: u64) -> bool {
        let enough = self.level >= reserve.saturating_add(ONE);
        if enough {
            self.level -= ONE;
        }
        enough
    }

    /// How long until there is a token, at `rate / parts_of` a second.
    pub(super) fn wait(self, rate: u32, parts_of: u32) -> Duration {
        let missing = u128::from(ONE.saturating_sub(self.level)) * u128::from(parts_of.max(1));
        let nanos = missing.div_ceil(u128::from(rate.max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}
