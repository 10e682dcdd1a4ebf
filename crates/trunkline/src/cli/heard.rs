//! The account of a listener: what it was given, in which order, and what is missing.
//!
//! It believes nothing but offsets. They are compared within one epoch only; a hole between two of them is a loss
//! where nobody told a gap, since this gateway numbers a channel's publications without holes.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;
use trunkline_client::{Event, Position, Verdict};

/// What a listener has heard so far.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Heard {
    pub(crate) pushes: u64,
    pub(crate) publications: u64,
    /// Connections that the listener cut itself.
    pub(crate) cuts: u64,
    pub(crate) starts: u64,
    pub(crate) resumes: u64,
    /// Gaps that were told.
    pub(crate) gaps: u64,
    /// What came at an offset that had passed.
    pub(crate) duplicates: u64,
    /// Offsets that were passed over without a word.
    pub(crate) lost: u64,
    /// Epoch and offset up to which each channel is accounted for.
    #[serde(skip)]
    last: HashMap<String, (u64, u64)>,
}

impl Heard {
    /// Pushes and publications.
    pub(crate) fn received(&self) -> u64 {
        self.pushes + self.publications
    }

    /// Up to which offset a channel is accounted for.
    pub(crate) fn offset(&self, channel: &str) -> Option<u64> {
        self.last.get(channel).map(|(_, offset)| *offset)
    }

    /// A channel is listened to from here on.
    pub(crate) fn begins(&mut self, position: &Position) {
        // What has been heard meanwhile counts more than an answer that came later.
        self.last.entry(position.channel.clone()).or_insert((position.epoch, position.offset));
    }

    /// Takes note of an event.
    pub(crate) fn event(&mut self, event: &Event) {
        match event {
            Event::Push(push) => {
                self.pushes += 1;
                if let Some(position) = &push.position {
                    self.arrived(position);
                }
            }
            Event::Publication(publication) => {
                self.publications += 1;
                self.arrived(&publication.position);
            }
            Event::Started(started) => {
                self.starts += 1;
                self.resumes += u64::from(started.verdict != Verdict::Fresh);
            }
            Event::Gap(gap) => {
                self.gaps += 1;
                match &gap.next {
                    Some(next) => {
                        self.last.insert(next.channel.clone(), (next.epoch, next.offset));
                    }
                    None => drop(self.last.remove(&gap.from.channel)),
                }
            }
            Event::Left { channel, .. } => drop(self.last.remove(channel)),
            Event::Joined(position) => {
                self.last.insert(position.channel.clone(), (position.epoch, position.offset));
            }
            _ => {}
        }
    }

    fn arrived(&mut self, position: &Position) {
        let Position { channel, epoch, offset } = position;
        let Some((last_epoch, last)) = self.last.get_mut(channel) else {
            self.last.insert(channel.clone(), (*epoch, *offset));
            return;
        };
        if *epoch < *last_epoch || (*epoch == *last_epoch && *offset <= *last) {
            self.duplicates += 1;
            return;
        }
        // A channel that begins has position (clock, 0) until its first publication gives it its epoch, so only the
        // first of a new epoch may follow an offset of 0 without a word.
        let next = if *epoch == *last_epoch { *last + 1 } else { 1 };
        self.lost += offset.saturating_sub(next);
        (*last_epoch, *last) = (*epoch, *offset);
    }
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "received {}: {} pushes, {} publications; {} cuts, {} resumes, {} gaps told, {} duplicates, {} lost",
            self.received(),
            self.pushes,
            self.publications,
            self.cuts,
            self.resumes,
            self.gaps,
            self.duplicates,
            self.lost
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use trunkline_client::{Gap, Publication};

    fn at(epoch: u64, offset: u64) -> Position {
        Position { channel: "room:1".to_owned(), epoch, offset }
    }

    fn heard(positions: &[(u64, u64)]) -> Heard {
        let mut heard = Heard::default();
        heard.begins(&at(5, 10));
        for (epoch, offset) in positions {
            heard.event(&publication(*epoch, *offset));
        }
        heard
    }

    fn publication(epoch: u64, offset: u64) -> Event {
        let position = at(epoch, offset);
        Event::Publication(Publication { position, data: Bytes::new(), timestamp: 0, sender: String::new() })
    }

    #[test]
    fn every_publication_once_and_in_order_is_no_loss() {
        let heard = heard(&[(5, 11), (5, 12), (5, 13)]);
        assert_eq!((heard.received(), heard.duplicates, heard.lost), (3, 0, 0));
    }

    #[test]
    fn a_hole_and_a_repetition_are_counted() {
        assert_eq!(heard(&[(5, 12)]).lost, 1, "the first after the beginning is missing");
        let holes = heard(&[(5, 11), (5, 15), (5, 15), (5, 12)]);
        assert_eq!((holes.duplicates, holes.lost), (2, 3));
        assert_eq!(heard(&[(4, 11)]).duplicates, 1, "an epoch that is over");
        assert_eq!(heard(&[(6, 3)]).lost, 2, "a new epoch begins with 1");
    }

    #[test]
    fn a_gap_that_was_told_is_no_loss() {
        let mut heard = heard(&[(5, 11)]);
        heard.event(&Event::Gap(Gap { from: at(5, 11), next: Some(at(5, 40)) }));
        heard.event(&publication(5, 41));
        assert_eq!((heard.gaps, heard.duplicates, heard.lost), (1, 0, 0));
    }
}
