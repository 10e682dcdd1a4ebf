//! Times of calm phases beside those of phases with a fault, without what the machine itself held up.

use std::fmt;
use std::time::{Duration, Instant};

use crate::machine::Machine;

/// Something that has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) at: Instant,
    pub(crate) took: Duration,
}

/// What phases with a fault are of the calm before each. Shown as the ratio with its spread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Compared {
    /// The median of the ratios within a round: from minute to minute the machine is another one, even where it is not
    /// slow.
    pub(crate) ratio: f64,
    least: f64,
    most: f64,
    /// Those that were even enough to count.
    rounds: usize,
    /// The medians of the rounds' p99.
    pub(crate) calm: Duration,
    pub(crate) disturbed: Duration,
}

/// The p99 of a round's calm and that of its disturbed phase, without what a slow machine held up: it does so at its own
/// time, and not less to one of the two. `None`: that was the greater part of one.
pub(crate) type Round = Option<(Duration, Duration)>;

/// What came of rounds in which the machine was looked at.
pub(crate) fn rounds(calm: &[Vec<Ended>], disturbed: &[Vec<Ended>], machine: &Machine) -> Vec<Round> {
    let of_one =
        |(calm, disturbed): (&Vec<Ended>, &Vec<Ended>)| Some((p99(calm, machine)?, p99(disturbed, machine)?));
    calm.iter().zip(disturbed).map(of_one).collect()
}

impl Compared {
    /// `None` where the machine was too slow in most rounds.
    pub(crate) fn of(all: &[Round]) -> Option<Compared> {
        let rounds: Vec<_> = all.iter().copied().flatten().collect();
        if rounds.len() * 2 <= all.len() {
            return None;
        }
        let ratio = |(calm, disturbed): &(Duration, Duration)| disturbed.as_secs_f64() / calm.as_secs_f64();
        let mut ratios: Vec<f64> = rounds.iter().map(ratio).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let (calm, disturbed): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
        Some(Compared {
            ratio: ratios[(ratios.len() - 1) / 2],
            least: ratios[0],
            most: ratios[ratios.len() - 1],
            rounds: ratios.len(),
            calm: median(&calm),
            disturbed: median(&disturbed),
        })
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compared { ratio, least, most, rounds, .. } = self;
        write!(f, "{ratio:.2} x; {least:.2} to {most:.2} in {rounds} rounds")
    }
}

/// The p99 of a round, unless a slow machine held up the greater part of it.
fn p99(calls: &[Ended], machine: &Machine) -> Option<Duration> {
    assert!(!calls.is_empty(), "nothing ended in a phase");
    let from = |call: &Ended| call.at.checked_sub(call.took).unwrap_or(call.at);
    let even = calls.iter().filter(|call| !machine.slowed(from(call), call.at));
    let mut times: Vec<_> = even.map(|call| call.took).collect();
    times.sort_unstable();
    let is_most = times.len() > calls.len() / 2;
    times.get(times.len() * 99 / 100).copied().filter(|_| is_most)
}

/// The middle one, the lower of two.
fn median<T: Ord + Copy>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    *sorted.get(sorted.len().saturating_sub(1) / 2).expect("a median of something")
}

#[test]
fn a_median_is_the_middle_one() {
    assert_eq!(median(&[3, 1, 2]), 2);
    assert_eq!(median(&[4, 1, 3, 2]), 2);
}
