//! A time of the node in one word, and none in the same: every session holds several.

use std::num::NonZeroU64;
use std::time::Duration;

/// A time of the node, in nanoseconds and one more: they last for 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At(NonZeroU64);

impl From<Duration> for At {
    fn from(time: Duration) -> Self {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        At(NonZeroU64::MIN.saturating_add(nanos))
    }
}

impl At {
    /// As everything else has it.
    pub(super) fn time(self) -> Duration {
        Duration::from_nanos(self.0.get() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_comes_back_as_it_was() {
        for nanos in [0, 1, 1_999_999_999, u64::MAX - 1] {
            let time = Duration::from_nanos(nanos);
            assert_eq!(At::from(time).time(), time);
        }
        assert!(At::from(Duration::MAX) > At::from(Duration::from_secs(1 << 33)));
        assert_eq!(size_of::<Option<At>>(), 8);
    }
}
