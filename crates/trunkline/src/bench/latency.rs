//! How long things took, as percentiles. Times are microseconds, three digits exact, up to a minute.

use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

use super::machine::Machine;

/// What takes longer counts as this long.
const LONGEST_US: u64 = 60_000_000;

/// Recorders at once that do not wait for each other. A histogram is about 200 KB, so there is not one a client.
const SHARDS: usize = 8;

/// Times whose moments are kept, by each shard: 2 million in all, which are 32 MB.
const MOST_MOMENTS: usize = 262_144;

/// Times that many tasks record.
pub(super) struct Latencies {
    shards: Vec<Mutex<Shard>>,
}

struct Shard {
    times: Histogram<u64>,
    /// When each ended, where that is wanted and while there is room.
    moments: Option<Vec<(Instant, Duration)>>,
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
        Self::with_moments(None)
    }

    /// The same, and it can be told later which times ended while the machine was slow.
    pub(super) fn timed() -> anyhow::Result<Self> {
        Self::with_moments(Some(Vec::new()))
    }

    fn with_moments(moments: Option<Vec<(Instant, Duration)>>) -> anyhow::Result<Self> {
        let shard = || Ok(Mutex::new(Shard { times: empty()?, moments: moments.clone() }));
        Ok(Latencies { shards: (0..SHARDS).map(|_| shard()).collect::<anyhow::Result<_>>()? })
    }

    /// Records a time that ends now; `who` spreads the recorders.
    pub(super) fn record(&self, who: usize, time: Duration) {
        let shard = &mut *self.shards[who % SHARDS].lock();
        shard.times.saturating_record(micros(time));
        if let Some(moments) = shard.moments.as_mut().filter(|moments| moments.len() < MOST_MOMENTS) {
            moments.push((Instant::now(), time));
        }
    }

    /// Records a time that many had, without its moment.
    pub(super) fn record_many(&self, time: Duration, count: u64) {
        self.shards[0].lock().times.saturating_record_n(micros(time), count);
    }

    /// Takes over what another one recorded.
    pub(super) fn add(&self, other: &Latencies) {
        for (mine, others) in self.shards.iter().zip(&other.shards) {
            let (mine, others) = (&mut *mine.lock(), others.lock());
            // Both have the same bounds, which is all that adding asks for.
            let _ = mine.times.add(&others.times);
            if let (Some(mine), Some(others)) = (&mut mine.moments, &others.moments) {
                mine.extend(others.iter().take(MOST_MOMENTS.saturating_sub(mine.len())));
            }
        }
    }

    pub(super) fn percentiles(&self) -> Percentiles {
        let mut all = self.shards[0].lock().times.clone();
        for shard in &self.shards[1..] {
            // Both have the same bounds, which is all that adding asks for.
            let _ = all.add(&shard.lock().times);
        }
        Percentiles::of(&all)
    }

    /// Only of the times of which nothing fell into a slow moment of the machine. None where moments are not kept, or
    /// not those of all times.
    pub(super) fn steady(&self, machine: &Machine) -> anyhow::Result<Option<Percentiles>> {
        let mut steady = empty()?;
        for shard in &self.shards {
            let shard = shard.lock();
            let all = usize::try_from(shard.times.len())?;
            let Some(moments) = shard.moments.as_ref().filter(|moments| moments.len() == all) else {
                return Ok(None);
            };
            let even = moments
                .iter()
                .filter(|(end, time)| !machine.slowed(end.checked_sub(*time).unwrap_or(*end), *end));
            even.for_each(|(_, time)| steady.saturating_record(micros(*time)));
        }
        Ok(Some(Percentiles::of(&steady)))
    }
}

fn empty() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LONGEST_US, 3)?)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Percentiles {
    fn of(times: &Histogram<u64>) -> Self {
        Percentiles {
            count: times.len(),
            mean: times.mean(),
            p50: times.value_at_quantile(0.5),
            p90: times.value_at_quantile(0.9),
            p99: times.value_at_quantile(0.99),
            p999: times.value_at_quantile(0.999),
            max: times.max(),
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
        assert_eq!(latencies.steady(&Machine::default()).unwrap(), None, "no moments are kept");
    }

    #[test]
    fn steady_are_the_times_that_no_slow_moment_of_the_machine_is_in() {
        let latencies = Latencies::timed().unwrap();
        latencies.record(0, Duration::from_millis(30));
        latencies.record(1, Duration::from_micros(100));
        let now = Instant::now();
        let at = |millis| now.checked_sub(Duration::from_millis(millis)).unwrap();
        let all = latencies.steady(&Machine::default()).unwrap().unwrap();
        assert_eq!((all.count, latencies.percentiles().count), (2, 2));
        let steady = latencies.steady(&Machine::slow_in(at(29)..at(20))).unwrap().unwrap();
        assert_eq!((steady.count, steady.max), (1, 100));
        latencies.record_many(Duration::from_micros(1), 5);
        assert_eq!(latencies.steady(&Machine::default()).unwrap(), None, "five have no moments");
    }
}
