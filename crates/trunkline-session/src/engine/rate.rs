//! A token bucket for a session's frames, in whole numbers so that virtual time is exact.

use std::time::Duration;

/// Frames a session may still send at once.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// A frame takes 10^9; a nanosecond brings as many as the rate per second says.
    level: u64,
    /// When it was looked at last, in nanoseconds. A new bucket is full, so that the time before counts for nothing.
    at_ns: u64,
}

const FRAME: u64 = 1_000_000_000;

impl Bucket {
    pub(crate) fn new(burst: u32) -> Self {
        Bucket { level: full(burst), at_ns: 0 }
    }

    /// Takes a frame, or says when there is one to take. A rate of 0 never limits.
    pub(crate) fn take(&mut self, now: Duration, per_second: u32, burst: u32) -> Result<(), Duration> {
        if per_second == 0 {
            return Ok(());
        }
        let rate = u64::from(per_second);
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let passed = now.saturating_sub(self.at_ns);
        self.at_ns = now;
        self.level = self.level.saturating_add(passed.saturating_mul(rate)).min(full(burst));
        if self.level >= FRAME {
            self.level -= FRAME;
            return Ok(());
        }
        Err(Duration::from_nanos((FRAME - self.level).div_ceil(rate)))
    }
}

/// The level of a burst: the largest is 2^32 frames, which stay below 2^63.
fn full(burst: u32) -> u64 {
    u64::from(burst) * FRAME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut bucket = Bucket::new(10);
        let start = Duration::from_secs(5);
        for _ in 0..10 {
            assert_eq!(bucket.take(start, 4, 10), Ok(()));
        }
        assert_eq!(bucket.take(start, 4, 10), Err(Duration::from_millis(250)));
        assert_eq!(bucket.take(start + Duration::from_millis(250), 4, 10), Ok(()));
        assert!(bucket.take(start + Duration::from_millis(499), 4, 10).is_err());
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..20).filter(|_| bucket.take(later, 4, 10).is_ok()).count(), 10);
    }
}
