//! What one of several equal generators does of a load: of clients and of things that are due, every so many-th one. All
//! shares together are the whole, exactly, and none knows of the others.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::clock::Moment;

/// The share of one generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    at: u32,
    of: u32,
}

/// Things that are due at a steady rate, those of one share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dues {
    pub(super) start: Moment,
    pub(super) lasting: Duration,
    /// Of all shares, a second.
    pub(super) rate: u32,
    pub(super) share: Share,
}

impl Share {
    pub(crate) const WHOLE: Share = Share { at: 0, of: 1 };

    /// The shares of so many generators.
    pub(super) fn all(of: u32) -> impl Iterator<Item = Share> {
        (0..of).map(move |at| Share { at, of })
    }

    pub(super) fn is_whole(self) -> bool {
        self.of == 1
    }

    /// Which one it is, from 0.
    pub(super) fn at(self) -> u32 {
        self.at
    }

    /// How many of so many are in this share.
    pub(super) fn count(self, whole: u64) -> u64 {
        let of = u64::from(self.of);
        whole / of + u64::from(u64::from(self.at) < whole % of)
    }

    /// The number that this share's next one has in the whole, after so many.
    pub(super) fn number(self, after: u64) -> u64 {
        after * u64::from(self.of) + u64::from(self.at)
    }
}

impl Dues {
    /// When this share's next one is due, after so many; `None` where the time is over by then.
    pub(super) fn next(&self, after: u64) -> Option<Moment> {
        let since = self.share.number(after) * 1_000_000_000 / u64::from(self.rate.max(1));
        Some(self.start.after(Duration::from_nanos(since))).filter(|due| *due < self.end())
    }

    /// How many are due in this share.
    pub(super) fn count(&self) -> u64 {
        let all = self.lasting.as_nanos() * u128::from(self.rate);
        self.share.count(u64::try_from(all.div_ceil(1_000_000_000)).unwrap_or(u64::MAX))
    }

    pub(super) fn end(&self) -> Moment {
        self.start.after(self.lasting)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.at, self.of)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(at, of)| Some((at.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((at, of)) if at < of => Ok(Share { at, of }),
            _ => Err("wanted the number of a share and how many there are, such as 0/2".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_the_whole_together() {
        for of in 1..=7 {
            for whole in [0, 1, of - 1, of, 100, 20_001] {
                let counts: Vec<u64> = Share::all(of).map(|share| share.count(whole.into())).collect();
                assert_eq!(counts.iter().sum::<u64>(), u64::from(whole), "{of} of {whole}");
                assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
            }
        }
        let mut numbers: Vec<u64> = Share::all(3)
            .flat_map(|share| (0..share.count(10)).map(move |after| share.number(after)))
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..10).collect::<Vec<u64>>());
    }

    #[test]
    fn what_is_due_is_due_once_at_its_time_in_one_of_the_shares() {
        let start = Moment(7);
        for (rate, millis) in [(100, 1_000), (7, 1_000), (3, 500), (1_000, 333)] {
            let mut dues = Vec::new();
            for share in Share::all(4) {
                let due = Dues { start, lasting: Duration::from_millis(millis), rate, share };
                let of_share: Vec<Moment> = (0..).map_while(|after| due.next(after)).collect();
                assert_eq!(of_share.len() as u64, due.count(), "{rate} a second, {share}");
                dues.extend(of_share);
            }
            dues.sort_unstable();
            let all = (u64::from(rate) * millis).div_ceil(1_000);
            let wanted: Vec<Moment> =
                (0..all).map(|number| Moment(7 + number * 1_000_000_000 / u64::from(rate))).collect();
            assert_eq!(dues, wanted);
        }
    }

    #[test]
    fn a_share_is_read_as_it_is_written() {
        assert_eq!(Share::all(2).map(|share| share.to_string()).collect::<Vec<_>>(), ["0/2", "1/2"]);
        assert_eq!("1/2".parse(), Ok(Share { at: 1, of: 2 }));
        for wrong in ["", "1", "2/2", "0/0", "x/2", "-1/2"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong:?}");
        }
    }
}
