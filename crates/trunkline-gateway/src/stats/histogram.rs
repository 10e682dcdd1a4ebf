//! How long things take, in fixed buckets: two relaxed additions for each, and no lock.

use std::time::Duration;

use serde::Serialize;

use super::Counter;

/// The buckets' upper bounds: the eleven of Prometheus' client libraries, which GateSvr used, and three below them,
/// since most calls end within 5 ms.
pub const BOUNDS_SECONDS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const BOUNDS_US: [u64; BOUNDS_SECONDS.len()] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Counts durations.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// The last one is for what is longer than every bound.
    buckets: [Counter; BOUNDS_US.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    /// So many things took so long.
    pub(crate) fn observe(&self, took: Duration, things: u64) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[at].add(things);
        self.sum_us.add(us.saturating_mul(things));
    }

    pub(crate) fn read(&self) -> Durations {
        Durations { buckets: self.buckets.iter().map(Counter::value).collect(), sum_us: self.sum_us.value() }
    }
}

/// Durations counted so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Durations {
    /// How many fell between the bound before and this one ([`BOUNDS_SECONDS`]); the last are longer than all.
    pub buckets: Vec<u64>,
    /// All together, in microseconds.
    pub sum_us: u64,
}

impl Durations {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl std::ops::AddAssign for Durations {
    fn add_assign(&mut self, other: Self) {
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), 0);
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum_us += other.sum_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_agree_and_a_bound_belongs_to_its_bucket() {
        for (seconds, us) in BOUNDS_SECONDS.iter().zip(BOUNDS_US) {
            assert_eq!(Duration::from_secs_f64(*seconds), Duration::from_micros(us));
        }
        let histogram = Histogram::default();
        for us in [0, 500, 501, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(us), 1);
        }
        let read = histogram.read();
        assert_eq!((read.buckets[0], read.buckets[1], read.buckets[13], read.buckets[14]), (2, 1, 1, 1));
        assert_eq!((read.count(), read.sum_us), (5, 20_001_002));
        histogram.observe(Duration::from_micros(700), 3);
        let read = histogram.read();
        assert_eq!((read.buckets[1], read.sum_us), (4, 20_003_102));
    }
}
