//! How long requests took, in nanoseconds: at ten microseconds a whole one more or less is a tenth.

use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::bench::latency::{Percentiles, Recorded};

/// What takes longer counts as this long.
const LONGEST_NS: u64 = 60_000_000_000;

/// Recorders at once that do not wait for each other.
const SHARDS: usize = 8;

/// Times that many tasks of one process record, three digits exact.
pub(super) struct Times(Vec<Mutex<Histogram<u64>>>);

impl Times {
    pub(super) fn new() -> anyhow::Result<Self> {
        let shards = (0..SHARDS).map(|_| Ok(Mutex::new(empty()?))).collect::<anyhow::Result<_>>()?;
        Ok(Times(shards))
    }

    /// Records a time; `who` spreads the recorders.
    pub(super) fn record(&self, who: usize, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0[who % SHARDS].lock().saturating_record(nanos);
    }

    pub(super) fn recorded(&self) -> Recorded {
        let mut all = Recorded::default();
        self.0.iter().for_each(|shard| all.add(&shard.lock(), Duration::from_nanos(1)));
        all
    }
}

/// The quantiles of what several processes have recorded, in microseconds.
pub(super) fn quantiles<const N: usize>(all: &[Recorded], shares: [f64; N]) -> anyhow::Result<[f64; N]> {
    let mut sum = empty()?;
    for (nanos, count) in all.iter().flat_map(Recorded::iter) {
        sum.saturating_record_n(nanos, count);
    }
    #[expect(clippy::cast_precision_loss, reason = "times are below 2^52 ns")]
    Ok(shares.map(|share| sum.value_at_quantile(share) as f64 / 1_000.0))
}

/// The same with everything that other reports have, in whole microseconds.
pub(super) fn percentiles<'a>(all: impl Iterator<Item = &'a Recorded>) -> anyhow::Result<Percentiles> {
    all.cloned().fold(Recorded::default(), Recorded::and).percentiles()
}

fn empty() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LONGEST_NS, 3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_all_processes() {
        let (one, other) = (Times::new().unwrap(), Times::new().unwrap());
        for at in 1..=500 {
            one.record(at, Duration::from_nanos(at as u64 * 1_000));
            other.record(at, Duration::from_nanos((at as u64 + 500) * 1_000));
        }
        let all = [one.recorded(), other.recorded()];
        let [p50, p99] = quantiles(&all, [0.5, 0.99]).unwrap();
        assert!((499.0..=501.0).contains(&p50) && (989.0..=991.0).contains(&p99), "{p50} {p99}");
        let whole = percentiles(all.iter()).unwrap();
        assert!(whole.count == 1_000 && (499..=501).contains(&whole.p50), "{whole:?}");
        let words = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Recorded>>(&words).unwrap(), all);
    }
}
