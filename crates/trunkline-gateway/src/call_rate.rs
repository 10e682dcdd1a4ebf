//! How many calls the node starts per second, over all its sessions.
//!
//! A true rate, not a window that empties at its end: after a burst, calls are let in one by one as time goes by
//! (the generic cell rate algorithm, ITU-T I.371). It holds one number and takes no lock. A refused call has not run,
//! and its client is told when to send it again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::options::CallLimit;

/// The node's rate of calls.
pub(crate) struct CallRate {
    /// Nanoseconds between two calls at the rate.
    interval: u64,
    /// How far ahead of the rate a burst may run, in nanoseconds.
    ahead: u64,
    /// When the calls that were let in would have come at the rate, in nanoseconds since the node's start.
    expected: AtomicU64,
}

impl CallRate {
    pub(crate) fn new(limit: CallLimit) -> Self {
        let interval = 1_000_000_000 / u64::from(limit.per_second.get());
        let ahead = interval.saturating_mul(u64::from(limit.burst.get()) - 1);
        CallRate { interval, ahead, expected: AtomicU64::new(0) }
    }

    /// Lets a call in at `now`, counted from the node's start.
    ///
    /// # Errors
    /// How long to wait until one would be let in.
    pub(crate) fn admit(&self, now: Duration) -> Result<(), Duration> {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let mut expected = self.expected.load(Relaxed);
        loop {
            let at = expected.max(now);
            let early = at - now;
            if early > self.ahead {
                return Err(Duration::from_nanos(early - self.ahead));
            }
            // The number is all there is, so no other memory has to be ordered with it.
            match self.expected.compare_exchange_weak(
                expected,
                at.saturating_add(self.interval),
                Relaxed,
                Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(newer) => expected = newer,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn rate(per_second: u32, burst: u32) -> CallRate {
        let number = |n| NonZeroU32::new(n).unwrap();
        CallRate::new(CallLimit { per_second: number(per_second), burst: number(burst) })
    }

    fn admitted(rate: &CallRate, millis: u64) -> bool {
        rate.admit(Duration::from_millis(millis)).is_ok()
    }

    #[test]
    fn a_burst_passes_and_then_one_per_interval() {
        let rate = rate(10, 5);
        assert_eq!((0..20).filter(|_| admitted(&rate, 1_000)).count(), 5);
        assert_eq!(rate.admit(Duration::from_millis(1_000)), Err(Duration::from_millis(100)));
        assert_eq!(rate.admit(Duration::from_millis(1_060)), Err(Duration::from_millis(40)));
        assert!(admitted(&rate, 1_100) && !admitted(&rate, 1_100));
        // A refused call costs nothing: whoever waits as told is let in.
        assert!(admitted(&rate, 1_200));
    }

    /// The seed's window let 2.5 times the limit through for its first half, and nothing for its second.
    #[test]
    fn an_overload_passes_at_the_rate_in_every_second() {
        let rate = rate(2_000, 2_000);
        let mut passed = [0; 10];
        for tick in 0..100_000_u64 {
            if rate.admit(Duration::from_micros(tick * 100)).is_ok() {
                passed[usize::try_from(tick / 10_000).unwrap()] += 1;
            }
        }
        assert!(
            (3_999..=4_000).contains(&passed[0]),
            "the first second has the burst and the rate: {passed:?}"
        );
        assert!(passed[1..].iter().all(|second| (1_999..=2_001).contains(second)), "{passed:?}");
    }

    #[test]
    fn many_threads_together_get_no_more_than_the_burst() {
        let rate = rate(1, 1_000);
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| (0..1_000).filter(|_| admitted(&rate, 5)).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, 1_000);
    }
}
