//! How long things took, as percentiles. Times are microseconds, three digits exact, up to a minute.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

/// What takes longer counts as this long.
const LONGEST_US: u64 = 60_000_000;

/// Recorders at once that do not wait for each other. A histogram is about 200 KB, so there is not one a client.
const SHARDS: usize = 8;

/// Times that many tasks record.
pub(super) struct Latencies {
    shards: Vec<Mutex<Histogram<u64>>>,
}

/// Of all recorded times, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) count: u64,
    pub(super) mean: f64,
    pub(super) p50: u64,
    pub(super) p90: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
    pub(super) max: u64,
}

impl Latencies {
    pub(super) fn new() -> anyhow::Result<Self> {
        let shard = || Ok(Mutex::new(Histogram::new_with_bounds(1, LONGEST_US, 3)?));
        Ok(Latencies { shards: (0..SHARDS).map(|_| shard()).collect::<anyhow::Result<_>>()? })
    }

    /// Records a time; `who` spreads the recorders.
    pub(super) fn record(&self, who: usize, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.shards[who % SHARDS].lock().saturating_record(micros);
    }

    /// Records a time that many had.
    pub(super) fn record_many(&self, time: Duration, count: u64) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.shards[0].lock().saturating_record_n(micros, count);
    }

    /// Takes over what another one recorded.
    pub(super) fn add(&self, other: &Latencies) {
        for (mine, others) in self.shards.iter().zip(&other.shards) {
            // Both have the same bounds, which is all that adding asks for.
            let _ = mine.lock().add(&*others.lock());
        }
    }

    pub(super) fn percentiles(&self) -> Percentiles {
        let mut all = self.shards[0].lock().clone();
        for shard in &self.shards[1..] {
            // Both have the same bounds, which is all that adding asks for.
            let _ = all.add(&*shard.lock());
        }
        Percentiles {
            count: all.len(),
            mean: all.mean(),
            p50: all.value_at_quantile(0.5),
            p90: all.value_at_quantile(0.9),
            p99: all.value_at_quantile(0.99),
            p999: all.value_at_quantile(0.999),
            max: all.max(),
        }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1_000.0;
        write!(
            f,
            "p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
            ms(self.p50),
            ms(self.p90),
            ms(self.p99),
            ms(self.p999),
            ms(self.max)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_all_shards() {
        let latencies = Latencies::new().unwrap();
        for at in 1..=1_000 {
            latencies.record(at, Duration::from_micros(at as u64));
        }
        latencies.record(0, Duration::from_secs(3_600));
        let all = latencies.percentiles();
        assert_eq!((all.count, all.p50, all.p90), (1_001, 501, 901));
        assert!(all.max >= LONGEST_US && all.max < LONGEST_US * 2, "{}", all.max);
    }
}
