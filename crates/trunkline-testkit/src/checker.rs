//! A checker of histories: every accepted push is delivered once, in order, or told as a gap; every call runs once,
//! or its client is told that this is not known.
//!
//! A test records what it accepted, delivered, ran and was told, in the order in which each party saw it, and asks
//! [`History::check`] at the end. The checker knows no protocol, no engine and no transport, so that it judges them
//! by what they promise and not by how they do it. It uses the standard library alone: the session engine's tests
//! include this very file, without the rest of this crate.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A place in a channel: epoch, then offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The identity of the channel's history.
    pub epoch: u64,
    /// Offsets rise within it, and need not be dense.
    pub offset: u64,
}

/// One thing that somebody saw. Clients, channels, calls and contents are named by the test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The broker accepted a push to a channel.
    Accepted {
        /// Where.
        channel: String,
        /// At which place.
        at: Place,
        /// Unique in the history.
        content: String,
    },
    /// A client is owed what this channel accepts after this place.
    Subscribed {
        /// Who.
        client: String,
        /// To what.
        channel: String,
        /// After which place.
        after: Place,
    },
    /// A client is owed nothing more of this channel.
    Left {
        /// Who.
        client: String,
        /// What.
        channel: String,
    },
    /// A client was given a push.
    Delivered {
        /// Who.
        client: String,
        /// Of which channel.
        channel: String,
        /// From which place.
        at: Place,
        /// What it was.
        content: String,
    },
    /// A client was told that what came after `after`, up to and including `next`, is lost.
    Gap {
        /// Who.
        client: String,
        /// Of which channel.
        channel: String,
        /// After which place.
        after: Place,
        /// Delivery goes on from here; `None`: the channel is over for this client.
        next: Option<Place>,
    },
    /// A client made a call.
    Called {
        /// Who.
        client: String,
        /// Unique in the history.
        call: String,
    },
    /// A service ran a call.
    Ran {
        /// Which.
        call: String,
    },
    /// A client was told how its call ended.
    Ended {
        /// Which.
        call: String,
        /// How.
        end: End,
    },
    /// A service was told that a push shares the fate of a call's reply.
    Bound {
        /// Which.
        call: String,
        /// Unique in the history.
        content: String,
    },
    /// A client was given a push that belongs to a reply.
    GivenBound {
        /// Who.
        client: String,
        /// What it was.
        content: String,
    },
}

/// How a call ended, for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With the reply of the service: it ran.
    Reply,
    /// With an error: it ran at most once.
    Error,
    /// `RESULT_UNKNOWN`: it ran at most once.
    Unknown,
    /// It was never sent, or refused for good: it has not run.
    NotRun,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the fields say who and what, as in `Seen`")]
pub enum Violation {
    /// Accepted, owed, never delivered, and no gap tells it.
    Lost { client: String, channel: String, content: String },
    /// Delivered again.
    Duplicate { client: String, channel: String, content: String },
    /// Delivered after something that was accepted later.
    Reordered { client: String, channel: String, content: String },
    /// Delivered, and not what was accepted at that place, or accepted nowhere.
    Invented { client: String, channel: String, content: String },
    /// Delivered of a channel that the client is not on.
    Stray { client: String, channel: String, content: String },
    /// A gap that leads back.
    BackwardGap { client: String, channel: String },
    /// A call ran again.
    DoubleExecution { call: String, times: usize },
    /// A call ended otherwise than it ran.
    FalseEnd { call: String, end: &'static str, times: usize },
    /// A call never ended, or more than once.
    EndedTimes { call: String, times: usize },
    /// A bound push did not share its reply's fate.
    Unbound { call: String, content: String, given: usize },
}

/// What a history held, so that a test can show that it tested something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Pushes accepted.
    pub accepted: usize,
    /// Pushes delivered, each client counted.
    pub delivered: usize,
    /// Gaps told.
    pub gaps: usize,
    /// Pushes that a gap told as lost, each client counted.
    pub told_lost: usize,
    /// Calls that ended with a reply.
    pub replies: usize,
    /// Calls that ended with `RESULT_UNKNOWN`.
    pub unknown: usize,
    /// Bound pushes that came with their reply.
    pub bound: usize,
}

/// What everybody saw, in order.
#[derive(Debug, Clone, Default)]
pub struct History {
    seen: Vec<Seen>,
}

impl History {
    /// An empty history.
    pub fn new() -> Self {
        History::default()
    }

    /// Adds what somebody saw. The order matters for each party by itself.
    pub fn saw(&mut self, seen: Seen) {
        self.seen.push(seen);
    }

    /// How much there is.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Nothing yet?
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Judges a complete history: whoever is on a channel at its end was given the time to catch up, and every call
    /// was waited for.
    pub fn check(&self) -> Result<Summary, Vec<Violation>> {
        let mut checker = Checker::default();
        for seen in &self.seen {
            if let Seen::Accepted { channel, at, content } = seen {
                checker.summary.accepted += 1;
                checker.accepted.entry(channel).or_default().insert(*at, content);
            }
        }
        for seen in &self.seen {
            checker.channel_event(seen);
            checker.call_event(seen);
        }
        checker.finish()
    }
}

#[derive(Default)]
struct Checker<'a> {
    accepted: BTreeMap<&'a str, BTreeMap<Place, &'a str>>,
    /// By client and channel.
    cursors: BTreeMap<(&'a str, &'a str), Cursor>,
    calls: BTreeMap<&'a str, Call<'a>>,
    given_bound: BTreeMap<&'a str, usize>,
    summary: Summary,
    violations: Vec<Violation>,
}

#[derive(Default)]
struct Cursor {
    /// `None`: not on the channel.
    at: Option<Place>,
    delivered: BTreeSet<Place>,
}

#[derive(Default)]
struct Call<'a> {
    made: bool,
    ran: usize,
    ends: Vec<End>,
    bound: Vec<&'a str>,
}

impl<'a> Checker<'a> {
    fn channel_event(&mut self, seen: &'a Seen) {
        match seen {
            Seen::Subscribed { client, channel, after } => {
                self.cursors.entry((client, channel)).or_default().at = Some(*after);
            }
            Seen::Left { client, channel } => {
                self.cursors.entry((client, channel)).or_default().at = None;
            }
            Seen::Delivered { client, channel, at, content } => self.delivered(client, channel, *at, content),
            Seen::Gap { client, channel, after, next } => self.gap(client, channel, *after, *next),
            _ => {}
        }
    }

    fn delivered(&mut self, client: &'a str, channel: &'a str, at: Place, content: &str) {
        let named = (client.to_owned(), channel.to_owned(), content.to_owned());
        let true_content = self.accepted.get(channel).and_then(|places| places.get(&at));
        if true_content.is_none_or(|accepted| *accepted != content) {
            let (client, channel, content) = named;
            return self.violations.push(Violation::Invented { client, channel, content });
        }
        let cursor = self.cursors.entry((client, channel)).or_default();
        let (client_name, channel_name, content) = named;
        let (before, twice) = (cursor.at, !cursor.delivered.insert(at));
        let violation = match before {
            _ if twice => Violation::Duplicate { client: client_name, channel: channel_name, content },
            None => Violation::Stray { client: client_name, channel: channel_name, content },
            Some(before) if at <= before => {
                Violation::Reordered { client: client_name, channel: channel_name, content }
            }
            Some(before) => {
                cursor.at = Some(at);
                self.summary.delivered += 1;
                return self.lost_between(client, channel, before, Some(at));
            }
        };
        self.violations.push(violation);
    }

    fn gap(&mut self, client: &'a str, channel: &'a str, after: Place, next: Option<Place>) {
        self.summary.gaps += 1;
        let cursor = self.cursors.entry((client, channel)).or_default();
        let Some(before) = cursor.at else { return };
        cursor.at = next;
        let told_from = after.max(before);
        if let Some(next) = next.filter(|next| *next < before) {
            cursor.at = Some(before.max(next));
            let (client, channel) = (client.to_owned(), channel.to_owned());
            return self.violations.push(Violation::BackwardGap { client, channel });
        }
        // What lies before the gap's begin is not told by it.
        let untold = self.between(channel, before, Some(after)).into_iter().filter(|(at, _)| *at <= after);
        let untold: Vec<_> = untold.map(|(_, content)| content.to_owned()).collect();
        self.summary.told_lost += self
            .between(channel, told_from, None)
            .into_iter()
            .filter(|(at, _)| next.is_none_or(|next| *at <= next))
            .count();
        for content in untold {
            let (client, channel) = (client.to_owned(), channel.to_owned());
            self.violations.push(Violation::Lost { client, channel, content });
        }
    }

    /// Accepted after `from`, and up to and including `to`.
    fn between(&self, channel: &str, from: Place, to: Option<Place>) -> Vec<(Place, &'a str)> {
        let places = self.accepted.get(channel).into_iter().flatten();
        let inside = places.filter(|(at, _)| **at > from && to.is_none_or(|to| **at <= to));
        inside.map(|(at, content)| (*at, *content)).collect()
    }

    /// All that was accepted strictly between the two is lost: nothing has told it.
    fn lost_between(&mut self, client: &str, channel: &str, from: Place, to: Option<Place>) {
        for (at, content) in self.between(channel, from, to) {
            if Some(at) != to {
                self.violations.push(Violation::Lost {
                    client: client.to_owned(),
                    channel: channel.to_owned(),
                    content: content.to_owned(),
                });
            }
        }
    }

    fn call_event(&mut self, seen: &'a Seen) {
        match seen {
            Seen::Called { call, .. } => self.calls.entry(call).or_default().made = true,
            Seen::Ran { call } => self.calls.entry(call).or_default().ran += 1,
            Seen::Ended { call, end } => self.calls.entry(call).or_default().ends.push(*end),
            Seen::Bound { call, content } => self.calls.entry(call).or_default().bound.push(content),
            Seen::GivenBound { content, .. } => *self.given_bound.entry(content).or_default() += 1,
            _ => {}
        }
    }

    fn finish(mut self) -> Result<Summary, Vec<Violation>> {
        let open: Vec<_> = self.cursors.iter().filter_map(|(key, cursor)| Some((*key, cursor.at?))).collect();
        for ((client, channel), at) in open {
            self.lost_between(client, channel, at, None);
        }
        for (call, known) in std::mem::take(&mut self.calls) {
            self.finish_call(call, &known);
        }
        if self.violations.is_empty() { Ok(self.summary) } else { Err(self.violations) }
    }

    fn finish_call(&mut self, call: &str, known: &Call<'_>) {
        let name = call.to_owned();
        if known.ran > 1 {
            self.violations.push(Violation::DoubleExecution { call: name.clone(), times: known.ran });
        }
        if known.made && known.ends.len() != 1 {
            self.violations.push(Violation::EndedTimes { call: name.clone(), times: known.ends.len() });
        }
        let false_end = match known.ends.first() {
            Some(End::Reply) if known.ran == 0 => Some("reply"),
            Some(End::NotRun) if known.ran > 0 => Some("not run"),
            _ => None,
        };
        if let Some(end) = false_end {
            self.violations.push(Violation::FalseEnd { call: name.clone(), end, times: known.ran });
        }
        let replied = known.ends.first() == Some(&End::Reply);
        self.summary.replies += usize::from(replied);
        self.summary.unknown += usize::from(known.ends.first() == Some(&End::Unknown));
        for content in &known.bound {
            let given = self.given_bound.get(content).copied().unwrap_or(0);
            // An error may come as a group too; what is not known brings nothing.
            let right = match known.ends.first() {
                Some(End::Reply) => given == 1,
                Some(End::Error) => given <= 1,
                _ => given == 0,
            };
            if right {
                self.summary.bound += given;
            } else {
                let content = (*content).to_owned();
                self.violations.push(Violation::Unbound { call: name.clone(), content, given });
            }
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Place {
        Place { epoch: 1, offset }
    }

    fn accepted(offset: u64) -> Seen {
        Seen::Accepted { channel: "all".into(), at: at(offset), content: format!("p{offset}") }
    }

    fn delivered(offset: u64) -> Seen {
        let content = format!("p{offset}");
        Seen::Delivered { client: "a".into(), channel: "all".into(), at: at(offset), content }
    }

    fn gap(after: u64, next: Option<u64>) -> Seen {
        Seen::Gap { client: "a".into(), channel: "all".into(), after: at(after), next: next.map(at) }
    }

    fn call(seen: &[Seen]) -> Result<Summary, Vec<Violation>> {
        let mut history = History::new();
        history.saw(Seen::Called { client: "a".into(), call: "c".into() });
        seen.iter().for_each(|seen| history.saw(seen.clone()));
        history.check()
    }

    fn ran() -> Seen {
        Seen::Ran { call: "c".into() }
    }

    fn ended(end: End) -> Seen {
        Seen::Ended { call: "c".into(), end }
    }

    /// Pushes 10, 20, … 50 were accepted (offsets are not dense), and the client is on the channel from 0.
    fn pushes(seen: impl IntoIterator<Item = Seen>) -> Result<Summary, Vec<Violation>> {
        let mut history = History::new();
        (1..=5).for_each(|n| history.saw(accepted(10 * n)));
        history.saw(Seen::Subscribed { client: "a".into(), channel: "all".into(), after: at(0) });
        seen.into_iter().for_each(|seen| history.saw(seen));
        history.check()
    }

    fn named(content: &str) -> (String, String, String) {
        ("a".into(), "all".into(), content.into())
    }

    fn lost(content: &str) -> Violation {
        let (client, channel, content) = named(content);
        Violation::Lost { client, channel, content }
    }

    #[test]
    fn a_whole_delivery_passes_and_is_counted() {
        let summary = pushes([10, 20, 30, 40, 50].map(delivered)).unwrap();
        assert_eq!((summary.accepted, summary.delivered, summary.told_lost), (5, 5, 0));
    }

    #[test]
    fn a_planted_loss_is_caught_in_the_middle_and_at_the_end() {
        assert_eq!(pushes([10, 20, 40, 50].map(delivered)), Err(vec![lost("p30")]));
        assert_eq!(pushes([10, 20, 30, 40].map(delivered)), Err(vec![lost("p50")]));
        assert_eq!(pushes([]).unwrap_err().len(), 5);
    }

    #[test]
    fn a_planted_duplicate_is_caught() {
        let (client, channel, content) = named("p20");
        let twice = pushes([10, 20, 30, 20, 40, 50].map(delivered));
        assert_eq!(twice, Err(vec![Violation::Duplicate { client, channel, content }]));
    }

    #[test]
    fn a_planted_reordering_is_caught() {
        let (client, channel, content) = named("p20");
        let reordered = pushes([10, 30, 20, 40, 50].map(delivered)).unwrap_err();
        assert!(reordered.contains(&Violation::Reordered { client, channel, content }), "{reordered:?}");
    }

    #[test]
    fn a_planted_double_execution_is_caught() {
        let twice = call(&[ran(), ran(), ended(End::Reply)]);
        assert_eq!(twice, Err(vec![Violation::DoubleExecution { call: "c".into(), times: 2 }]));
        let unknown = call(&[ran(), ended(End::Unknown), ran()]);
        assert_eq!(unknown, Err(vec![Violation::DoubleExecution { call: "c".into(), times: 2 }]));
    }

    #[test]
    fn a_gap_excuses_exactly_its_range() {
        let told = [delivered(10), gap(10, Some(40)), delivered(50)];
        let summary = pushes(told).unwrap();
        assert_eq!((summary.delivered, summary.told_lost), (2, 3));
        let short = [delivered(10), gap(10, Some(30)), delivered(50)];
        assert_eq!(pushes(short), Err(vec![lost("p40")]));
        let late = [delivered(10), gap(20, Some(40)), delivered(50)];
        assert_eq!(pushes(late), Err(vec![lost("p20")]));
        let for_good = [delivered(10), gap(10, None)];
        assert_eq!(pushes(for_good).unwrap().told_lost, 4);
    }

    #[test]
    fn what_was_never_accepted_or_is_not_owed_is_caught() {
        let invented = pushes([delivered(10), delivered(15), delivered(20), delivered(30)]).unwrap_err();
        assert!(invented.iter().any(|v| matches!(v, Violation::Invented { .. })), "{invented:?}");
        let mut history = History::new();
        history.saw(accepted(10));
        history.saw(delivered(10));
        assert!(matches!(history.check().unwrap_err()[..], [Violation::Stray { .. }]));
        let back = pushes([10, 20, 30, 40, 50].map(delivered).into_iter().chain([gap(50, Some(20))]));
        assert!(matches!(back.unwrap_err()[..], [Violation::BackwardGap { .. }]));
    }

    #[test]
    fn false_and_missing_ends_are_caught() {
        assert!(call(&[ran(), ended(End::Reply)]).is_ok() && call(&[ended(End::Unknown)]).is_ok());
        for (seen, times) in [(vec![ran()], 0), (vec![ran(), ended(End::Reply), ended(End::Reply)], 2)] {
            assert_eq!(call(&seen), Err(vec![Violation::EndedTimes { call: "c".into(), times }]));
        }
        assert!(matches!(
            call(&[ended(End::Reply)]).unwrap_err()[..],
            [Violation::FalseEnd { times: 0, .. }]
        ));
        assert!(call(&[ran(), ended(End::NotRun)]).is_err());
    }

    #[test]
    fn bound_pushes_share_the_reply_s_fate() {
        let bound = || Seen::Bound { call: "c".into(), content: "b".into() };
        let given = || Seen::GivenBound { client: "a".into(), content: "b".into() };
        assert_eq!(call(&[ran(), bound(), given(), ended(End::Reply)]).unwrap().bound, 1);
        assert!(call(&[ran(), bound(), ended(End::Unknown)]).is_ok());
        for wrong in [
            vec![ran(), bound(), ended(End::Reply)],
            vec![ran(), bound(), given(), given(), ended(End::Reply)],
            vec![ran(), bound(), given(), ended(End::Unknown)],
        ] {
            assert!(matches!(call(&wrong).unwrap_err()[..], [Violation::Unbound { .. }]), "{wrong:?}");
        }
    }
}
