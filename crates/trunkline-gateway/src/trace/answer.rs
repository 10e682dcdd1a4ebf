//! The answer to an operator: where a message is now, and the steps that led there, as far as the ring has them.

use std::sync::Arc;

use serde::Serialize;
use trunkline_session::{ClientSeq, SessionId};

use super::state::{self, Known};
use super::{Entry, Step, Trace, TraceStatus, name};
use crate::gateway::Node;
use crate::session::Session;

/// The most steps of one answer.
const MAX_STEPS: usize = 1_000;

/// Which message is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceQuestion {
    /// A call of the session, by its number.
    Call(u64),
    /// A channel's publication, by its offset, and by its epoch where the channel has had several.
    Publication {
        /// The channel.
        channel: String,
        /// Its epoch; `None` is the one that it has now.
        epoch: Option<u64>,
        /// The publication's offset.
        offset: u64,
    },
}

/// What became of a message.
#[derive(Debug, Clone, Serialize)]
pub struct TraceAnswer {
    /// Where it is now, in one word.
    pub state: &'static str,
    /// The same in a sentence, with the reason.
    pub says: String,
    /// Why there may be steps that are not shown, and what to do about it.
    pub note: Option<String>,
    /// Whether a trace is kept at all.
    pub trace: TraceStatus,
    /// The steps that are kept, oldest first.
    pub steps: Vec<TracedStep>,
}

/// One step of a message.
#[derive(Debug, Clone, Serialize)]
pub struct TracedStep {
    /// In Unix milliseconds.
    at: u64,
    #[serde(flatten)]
    step: Step,
}

/// Says what is known of a message of this session.
pub(crate) fn answer(node: &Node, id: SessionId, question: &TraceQuestion) -> TraceAnswer {
    let session = node.hub.session(id);
    // First: a connection tells the trace of what it writes under the lock that this takes, so that no step is missing
    // of what a client has.
    let known = session.as_ref().map(|session| look(session, question));
    let mut steps = steps(&node.trace, id, known.as_ref(), question);
    if let TraceQuestion::Publication { .. } = question {
        put_acceptance_first(&mut steps);
    }
    let trace = node.trace.status();
    let (state, says) = known.as_ref().map_or_else(|| state::of_nobody(&steps), |known| known.state(&steps));
    let note = note(&trace, &steps);
    let steps = steps.into_iter().map(|Entry { at, step, .. }| TracedStep { at, step }).collect();
    TraceAnswer { state, says, note, trace, steps }
}

fn look(session: &Arc<Session>, question: &TraceQuestion) -> Known {
    match question {
        TraceQuestion::Call(call) => {
            let (stage, is_queued) = session.call_stage(ClientSeq(*call));
            Known::Call { stage, is_queued }
        }
        TraceQuestion::Publication { channel, epoch, offset } => {
            let place = session.place_on(channel);
            let epoch = epoch.or_else(|| Some(place.as_ref()?.log.head().epoch.0));
            Known::Publication { place, channel: name(channel), epoch, offset: *offset }
        }
    }
}

/// What the ring has of the message: its own steps, and what became of the session meanwhile.
fn steps(trace: &Trace, id: SessionId, known: Option<&Known>, question: &TraceQuestion) -> Vec<Entry> {
    let of_session = |entry: &Entry| entry.session == Some(id);
    let mut steps = match question {
        TraceQuestion::Call(call) => {
            // The frames that asked for this call; what answers it has their number.
            let mut asked = trace.pick(|entry| match entry.step {
                Step::Received { call: asked, msg_id, .. } if asked == *call && of_session(entry) => {
                    Some(msg_id)
                }
                _ => None,
            });
            asked.extend(known.and_then(Known::answers));
            let mut acks = Acks::default();
            trace.pick(|entry| {
                let is_about = of_session(entry) && acks.is_about(&entry.step, *call, &asked);
                is_about.then(|| entry.clone())
            })
        }
        TraceQuestion::Publication { channel, epoch, offset } => {
            let epoch = known.map_or(*epoch, Known::epoch);
            let wanted = Wanted { channel: &name(channel), epoch, offset: *offset };
            let mut is_acked = false;
            trace.pick(|entry| {
                let is_its = (entry.session.is_none() || of_session(entry)) && wanted.is_in(&entry.step);
                // Of its acks the first is enough.
                let is_about = is_its && !(is_acked && matches!(entry.step, Step::Acked { .. }));
                is_acked |= is_about && matches!(entry.step, Step::Acked { .. });
                is_about.then(|| entry.clone())
            })
        }
    };
    steps.drain(..steps.len().saturating_sub(MAX_STEPS));
    steps
}

/// Which acks are about a call: an ack names all replies up to a number, also those of calls that still run, which it
/// does not touch. Of a call's acks the first is enough.
#[derive(Default)]
struct Acks {
    runs: bool,
    is_acked: bool,
}

impl Acks {
    fn is_about(&mut self, step: &Step, wanted: u64, asked: &[u32]) -> bool {
        let is_about = match step {
            Step::Connected { .. } | Step::Lost | Step::SessionEnded { .. } => true,
            Step::Received { call, .. }
            | Step::Refused { call, .. }
            | Step::Started { call }
            | Step::Ended { call, .. }
            | Step::Queued { msg_id: 0, call, .. } => *call == wanted,
            Step::Queued { msg_id, .. } | Step::Written { msg_id } => asked.contains(msg_id),
            Step::RepliesAcked { up_to } => *up_to >= wanted && !self.runs && !self.is_acked,
            Step::Followed { .. }
            | Step::Published { .. }
            | Step::Delivered { .. }
            | Step::Gap { .. }
            | Step::Acked { .. } => false,
        };
        match step {
            Step::Started { .. } if is_about => self.runs = true,
            Step::Ended { .. } if is_about => self.runs = false,
            Step::RepliesAcked { .. } => self.is_acked |= is_about,
            _ => {}
        }
        is_about
    }
}

/// The publication that is asked for.
struct Wanted<'a> {
    channel: &'a str,
    /// `None`: any, where the session is not there to say which is meant.
    epoch: Option<u64>,
    offset: u64,
}

impl Wanted<'_> {
    fn is_in(&self, step: &Step) -> bool {
        let on = |channel: &str, epoch: u64| {
            channel == self.channel && self.epoch.is_none_or(|wanted| wanted == epoch)
        };
        let wanted = self.offset;
        match step {
            Step::Connected { .. } | Step::Lost | Step::SessionEnded { .. } => true,
            // Whatever the epoch: before the first publication a channel has none.
            Step::Followed { channel, .. } => **channel == *self.channel,
            Step::Published { channel, epoch, offset, .. } => on(channel, *epoch) && *offset == wanted,
            Step::Delivered { channel, epoch, from, offset } => {
                on(channel, *epoch) && *from < wanted && wanted <= *offset
            }
            Step::Acked { channel, epoch, offset } => on(channel, *epoch) && *offset >= wanted,
            Step::Gap { channel, epoch, from, next_epoch, offset } if epoch == next_epoch => {
                on(channel, *epoch) && *from < wanted && wanted <= *offset
            }
            // The rest of the old history, and the beginning of the new one.
            Step::Gap { channel, epoch, from, next_epoch, offset } => {
                on(channel, *epoch) && *from < wanted || on(channel, *next_epoch) && wanted <= *offset
            }
            Step::Received { .. }
            | Step::Refused { .. }
            | Step::Started { .. }
            | Step::Ended { .. }
            | Step::Queued { .. }
            | Step::Written { .. }
            | Step::RepliesAcked { .. } => false,
        }
    }
}

/// That a publication was accepted is known when the broker answers. By then a connection may have written it.
fn put_acceptance_first(steps: &mut [Entry]) {
    let place = |which: fn(&Step) -> bool| steps.iter().position(|entry| which(&entry.step));
    let published = place(|step| matches!(step, Step::Published { .. }));
    let outcome =
        place(|step| matches!(step, Step::Delivered { .. } | Step::Gap { .. } | Step::Acked { .. }));
    if let (Some(published), Some(outcome)) = (published, outcome)
        && outcome < published
    {
        steps[outcome..=published].rotate_right(1);
    }
}

/// Steps may be missing: since when, and what to do.
fn note(trace: &TraceStatus, steps: &[Entry]) -> Option<String> {
    let has_beginning =
        steps.iter().any(|entry| matches!(entry.step, Step::Received { .. } | Step::Published { .. }));
    if !trace.on {
        Some(
            "no trace is kept, so how it came there is not known: switch it on, then ask for what follows"
                .into(),
        )
    } else if has_beginning {
        None
    } else if trace.forgotten > 0 {
        Some(format!(
            "its beginning is no longer known: {} older steps made room for newer ones. A larger trace.bytes keeps more",
            trace.forgotten
        ))
    } else {
        Some(
            "its beginning is not known: it was before the trace, or at another node, or has not been".into(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(step: Step) -> Entry {
        Entry { at: 0, session: None, step }
    }

    #[test]
    fn a_gap_is_about_what_it_leaves_out() {
        let gap = |epoch, from, next_epoch, offset| Step::Gap {
            channel: "c".into(),
            epoch,
            from,
            next_epoch,
            offset,
        };
        let is_lost =
            |epoch, offset, step: &Step| Wanted { channel: "c", epoch: Some(epoch), offset }.is_in(step);
        let within = gap(7, 10, 7, 20);
        assert_eq!([10, 11, 20, 21].map(|offset| is_lost(7, offset, &within)), [false, true, true, false]);
        assert!(!is_lost(8, 15, &within));
        let anew = gap(7, 10, 9, 5);
        assert_eq!([10, 11, 999].map(|offset| is_lost(7, offset, &anew)), [false, true, true]);
        assert_eq!([1, 5, 6].map(|offset| is_lost(9, offset, &anew)), [true, true, false]);
        assert!(!Wanted { channel: "d", epoch: None, offset: 15 }.is_in(&within));
    }

    #[test]
    fn an_ack_counts_when_the_call_has_ended_and_once() {
        let acked = |up_to| Step::RepliesAcked { up_to };
        let ended = Step::Ended { call: 5, outcome: "reply 200".into(), bytes: 0 };
        let mut acks = Acks::default();
        let steps = [acked(4), Step::Started { call: 5 }, acked(6), ended, acked(4), acked(7), acked(8)];
        let about = steps.map(|step| acks.is_about(&step, 5, &[]));
        assert_eq!(about, [false, true, false, true, false, true, false]);
    }

    #[test]
    fn acceptance_comes_before_delivery() {
        let published = || Step::Published { channel: "c".into(), epoch: 1, offset: 1, bytes: 1 };
        let delivered = || Step::Delivered { channel: "c".into(), epoch: 1, from: 0, offset: 1 };
        let connected = || Step::Connected { connection: 1 };
        let mut late = [connected(), delivered(), published(), Step::Lost].map(entry);
        put_acceptance_first(&mut late);
        assert_eq!(late, [connected(), published(), delivered(), Step::Lost].map(entry));
        put_acceptance_first(&mut late);
        assert_eq!(late[1], entry(published()));
    }

    #[test]
    fn what_steps_are_missing_is_said() {
        let status = |on, forgotten| TraceStatus { on, steps: 0, bytes: 0, forgotten };
        let lost = [entry(Step::Lost)];
        assert!(note(&status(false, 0), &lost).unwrap().contains("no trace is kept"));
        assert!(note(&status(true, 5), &lost).unwrap().contains("5 older steps made room"));
        assert!(note(&status(true, 0), &lost).unwrap().contains("before the trace"));
        let step = Step::Received { call: 1, msg_id: 1, action: "a".into(), bytes: 0 };
        assert_eq!(note(&status(true, 5), &[entry(step)]), None);
    }
}
