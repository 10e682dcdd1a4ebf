//! How long things took, as percentiles. Times are microseconds, three digits exact, up to a minute.

use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::machine::Machine;

/// Of the histograms here.
const UNIT: Duration = Duration::from_micros(1);

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

/// How often each time was recorded, in nanoseconds: what a process tells another one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recorded(Vec<(u64, u64)>);

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

    /// All times, for another process.
    pub(super) fn recorded(&self) -> Recorded {
        let mut all = Recorded::default();
        self.shards.iter().for_each(|shard| all.add(&shard.lock().times, UNIT));
        all
    }

    /// Only of the times of which nothing fell into a slow moment of the machine. None where moments are not kept, or
    /// not those of all times.
    pub(super) fn steady(&self, machine: &Machine) -> anyhow::Result<Option<Percentiles>> {
        Ok(self.even(machine)?.map(|even| Percentiles::of(&even)))
    }

    /// The same, for another process.
    pub(super) fn steady_recorded(&self, machine: &Machine) -> anyhow::Result<Option<Recorded>> {
        Ok(self.even(machine)?.map(|even| {
            let mut steady = Recorded::default();
            steady.add(&even, UNIT);
            steady
        }))
    }

    fn even(&self, machine: &Machine) -> anyhow::Result<Option<Histogram<u64>>> {
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
        Ok(Some(steady))
    }
}

impl Recorded {
    /// Takes over what a histogram of such units has.
    pub(super) fn add(&mut self, times: &Histogram<u64>, unit: Duration) {
        let nanos = |value: u64| value.saturating_mul(u64::try_from(unit.as_nanos()).unwrap_or(u64::MAX));
        let recorded = times.iter_recorded();
        self.0.extend(recorded.map(|time| (nanos(time.value_iterated_to()), time.count_at_value())));
    }

    /// Both together.
    pub(super) fn and(mut self, other: Recorded) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Times in nanoseconds, and how often each was recorded.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }

    pub(super) fn percentiles(&self) -> anyhow::Result<Percentiles> {
        let mut all = empty()?;
        for (nanos, count) in self.iter() {
            all.saturating_record_n(micros(Duration::from_nanos(nanos)), count);
        }
        Ok(Percentiles::of(&all))
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
        let steady = latencies.steady(&Machine::slow_in(vec![at(29)..at(20)], 1.0)).unwrap().unwrap();
        assert_eq!((steady.count, steady.max), (1, 100));
        latencies.add(&Latencies::new().unwrap());
        assert_eq!(latencies.steady(&Machine::default()).unwrap().unwrap().count, 2);
        let others = Latencies::new().unwrap();
        others.record(0, Duration::from_micros(1));
        latencies.add(&others);
        assert_eq!(latencies.steady(&Machine::default()).unwrap(), None, "one has no moment");
    }

    #[test]
    fn what_another_process_is_told_has_the_same_percentiles() {
        let latencies = Latencies::timed().unwrap();
        (1..=1_000_u64).for_each(|at| latencies.record(at as usize, Duration::from_micros(at * at)));
        let words = serde_json::to_string(&latencies.recorded()).unwrap();
        let told: Recorded = serde_json::from_str(&words).unwrap();
        assert_eq!(told.percentiles().unwrap(), latencies.percentiles());
        let steady = latencies.steady_recorded(&Machine::default()).unwrap().unwrap();
        assert_eq!(steady.percentiles().unwrap(), latencies.percentiles());
        assert_eq!(told.and(steady).percentiles().unwrap().count, 2_000);
    }
}
