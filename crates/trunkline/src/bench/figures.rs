//! What one generator has counted and timed, or all of them together: what a process tells the bench that started it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::clock::Moment;
use super::latency::Recorded;
use super::report::Report;

/// What was counted, by its name.
pub(super) type Counts = BTreeMap<Cow<'static, str>, u64>;

/// See the module.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) counts: Counts,
    /// How often what failed.
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) latency: Recorded,
    /// Of what the machine did not hold up, where that is known.
    pub(super) steady: Option<Recorded>,
    /// How late the generator was, where it had a schedule.
    pub(super) late: Option<Recorded>,
    /// How many were done in each tenth of a second, where that is counted.
    pub(super) tenths: Vec<u32>,
    /// When the first and the last error came.
    pub(super) failing: Option<(Moment, Moment)>,
    /// When all began.
    pub(super) began: Moment,
    /// From then to the last answer.
    pub(super) seconds: f64,
    pub(super) failure: Option<String>,
}

/// Names what was counted.
pub(super) fn counts<const N: usize>(each: [(&'static str, u64); N]) -> Counts {
    each.map(|(name, count)| (Cow::Borrowed(name), count)).into()
}

impl Figures {
    /// Both together, which began at the same moment.
    pub(super) fn and(mut self, other: Figures) -> Self {
        for (name, count) in other.counts {
            *self.counts.entry(name).or_default() += count;
        }
        for (name, times) in other.errors {
            *self.errors.entry(name).or_default() += times;
        }
        self.latency = self.latency.and(other.latency);
        // Of half of the times nothing is known.
        self.steady = self.steady.zip(other.steady).map(|(mine, others)| mine.and(others));
        self.late = match (self.late, other.late) {
            (Some(mine), Some(others)) => Some(mine.and(others)),
            (mine, others) => mine.or(others),
        };
        if self.tenths.len() < other.tenths.len() {
            self.tenths.resize(other.tenths.len(), 0);
        }
        for (mine, others) in self.tenths.iter_mut().zip(&other.tenths) {
            *mine += others;
        }
        self.failing = match (self.failing, other.failing) {
            (Some(mine), Some(others)) => Some((mine.0.min(others.0), mine.1.max(others.1))),
            (mine, others) => mine.or(others),
        };
        self.seconds = self.seconds.max(other.seconds);
        self.failure = self.failure.or(other.failure);
        self
    }

    pub(super) fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or_default()
    }

    /// So many in the time that they took.
    pub(super) fn a_second(&self, count: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 of anything")]
        let count = count as f64;
        count / self.seconds.max(0.001)
    }

    /// Tells all this in a report.
    pub(super) fn tell(self, report: &mut Report) -> anyhow::Result<()> {
        report.seconds = self.seconds;
        report.latency_us = self.latency.percentiles()?;
        report.steady_us = self.steady.map(|steady| steady.percentiles()).transpose()?;
        report.counts = self.counts;
        report.errors = self.errors;
        report.per_tenth = self.tenths;
        report.failure = self.failure;
        let failing = self.failing.map(|(first, last)| last.since(first).as_secs_f64());
        report.measured.extend(failing.map(|seconds| ("failing_seconds", seconds)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::latency::Latencies;

    fn recorded(times: &[u64]) -> Recorded {
        let latencies = Latencies::new().unwrap();
        times.iter().for_each(|time| latencies.record(0, Duration::from_micros(*time)));
        latencies.recorded()
    }

    #[test]
    fn the_figures_of_two_are_those_of_one_that_did_it_all() {
        let one = Figures {
            counts: counts([("done", 3), ("failed", 1)]),
            errors: [("a".to_owned(), 1)].into(),
            latency: recorded(&[1, 2, 3]),
            steady: Some(recorded(&[1, 2])),
            late: Some(recorded(&[5])),
            tenths: vec![1, 2],
            failing: Some((Moment(5), Moment(5))),
            began: Moment(1),
            seconds: 2.0,
            failure: None,
        };
        let other = Figures {
            counts: counts([("done", 4), ("failed", 2)]),
            errors: [("a".to_owned(), 1), ("b".to_owned(), 1)].into(),
            latency: recorded(&[4, 900]),
            steady: Some(recorded(&[4])),
            late: Some(recorded(&[7])),
            tenths: vec![0, 0, 4],
            failing: Some((Moment(3), Moment(9))),
            began: Moment(1),
            seconds: 1.0,
            failure: Some("broken".to_owned()),
        };
        let words = serde_json::to_string(&other).unwrap();
        assert_eq!(serde_json::from_str::<Figures>(&words).unwrap(), other);
        let both = one.and(other);
        assert_eq!((both.count("done"), both.count("failed"), both.count("x")), (7, 3, 0));
        assert_eq!(both.errors, [("a".to_owned(), 2), ("b".to_owned(), 1)].into());
        let latency = both.latency.percentiles().unwrap();
        assert_eq!((latency.count, latency.p50, latency.max), (5, 3, 900));
        assert_eq!(both.steady.as_ref().unwrap().percentiles().unwrap().count, 3);
        assert_eq!(both.late.as_ref().unwrap().percentiles().unwrap().max, 7);
        assert_eq!((&both.tenths[..], both.failing), (&[1, 2, 4][..], Some((Moment(3), Moment(9)))));
        assert_eq!((both.a_second(7), both.failure.as_deref(), both.began), (3.5, Some("broken"), Moment(1)));
        // One that does not know what was steady leaves it unknown.
        let unknown = Figures::default();
        let all = Figures { steady: Some(recorded(&[1])), ..Figures::default() }.and(unknown);
        assert_eq!((all.steady, all.late, all.failing), (None, None, None));
    }
}
