//! Where a message is now, in a word and a sentence, from what the session, its connection and the channel's log know.
//! Steps are taken as evidence where those no longer know; nothing is said that neither shows.

use trunkline_broker::Log;
use trunkline_session::Position;
use trunkline_session::engine::CallStage;

use super::{Entry, Step};
use crate::session::{Place, to_broker};

/// What a session knows of the message.
pub(super) enum Known {
    Call {
        stage: CallStage,
        /// Its answer waits to be written.
        is_queued: bool,
    },
    Publication {
        /// `None`: the session is not on the channel.
        place: Option<Place>,
        channel: Box<str>,
        /// The one that is meant, as far as it is known.
        epoch: Option<u64>,
        offset: u64,
    },
}

/// One word, and a sentence.
pub(super) type State = (&'static str, String);

impl Known {
    pub(super) fn state(&self, steps: &[Entry]) -> State {
        match self {
            Known::Call { stage, is_queued } => of_call(*stage, *is_queued, steps),
            Known::Publication { place: None, channel, .. } => {
                ("not_subscribed", format!("the session is not on {channel} now"))
            }
            Known::Publication { place: Some(place), epoch, offset, .. } => {
                of_publication(place, *epoch, *offset, steps)
            }
        }
    }

    /// The message id that the kept reply answers.
    pub(super) fn answers(&self) -> Option<u32> {
        match self {
            Known::Call { stage: CallStage::Kept { msg_id }, .. } if *msg_id != 0 => Some(*msg_id),
            _ => None,
        }
    }

    pub(super) fn epoch(&self) -> Option<u64> {
        match self {
            Known::Publication { epoch, .. } => *epoch,
            Known::Call { .. } => None,
        }
    }
}

/// Without a session.
pub(super) fn of_nobody(steps: &[Entry]) -> State {
    let ended = newest(steps, |step| match step {
        Step::SessionEnded { code } => Some(*code),
        _ => None,
    });
    match ended {
        Some(0) => ("gone", "the session is over: its resume window has passed".into()),
        Some(code) => ("gone", format!("the session is over, with close code {code} (docs/codes.md)")),
        None => ("unknown", "this node has no such session: /stats lists those that it has".into()),
    }
}

fn of_call(stage: CallStage, is_queued: bool, steps: &[Entry]) -> State {
    let is_written = has(steps, |step| matches!(step, Step::Written { .. }));
    let is_acked = has(steps, |step| matches!(step, Step::RepliesAcked { .. }));
    let error = newest(steps, |step| match step {
        Step::Queued { error: Some(error), .. } => Some(error.clone()),
        _ => None,
    });
    match stage {
        CallStage::Unknown => match error {
            Some(error) => {
                ("rejected", format!("its frame was answered {error}, and its number counts as never seen"))
            }
            None => ("unknown", "the session has not seen this number".into()),
        },
        CallStage::Waiting => ("accepted", "it waits for the session's turn".into()),
        CallStage::Running => ("running", "it runs at its service or upstream".into()),
        CallStage::Held => ("held", "it has ended; its reply waits for those before it (x-order)".into()),
        CallStage::Refused => {
            let why = newest(steps, |step| match step {
                Step::Refused { why, .. } => Some((*why).into()),
                Step::Ended { outcome, .. } => Some(outcome.clone()),
                _ => None,
            });
            let why = why.map_or_else(String::new, |why| format!(" ({why})"));
            ("refused", format!("it was refused for load{why}; the same number can come again"))
        }
        CallStage::Done => ("done", "it has run; with msg_id 0 no reply was wanted".into()),
        CallStage::Kept { .. } if is_queued => {
            ("queued", "it has ended; its answer waits to be written, since the client reads slowly".into())
        }
        CallStage::Kept { .. } if is_written => {
            ("written", "its reply is written, and kept until the client acks it".into())
        }
        CallStage::Kept { .. } => {
            ("kept", "it has ended; its reply is kept until the client asks for it or acks it".into())
        }
        CallStage::Forgotten | CallStage::TooOld if is_acked => {
            ("acked", "it has ended, and the client has its reply".into())
        }
        CallStage::Forgotten => {
            ("ended", "it has ended, and its reply is no longer kept: the client has acked it, or others needed the room".into())
        }
        CallStage::TooOld if is_written => {
            ("written", "its answer was written; its number is older than the session remembers".into())
        }
        CallStage::TooOld => {
            ("forgotten", "its number is older than the 64 that a session remembers, so only a trace can tell".into())
        }
    }
}

fn of_publication(place: &Place, epoch: Option<u64>, offset: u64, steps: &[Entry]) -> State {
    let was_delivered = has(steps, |step| matches!(step, Step::Delivered { .. }));
    let head = place.log.head();
    let wanted = Position { epoch: epoch.unwrap_or(head.epoch.0), offset };
    let has_passed =
        |at: Option<Position>| at.is_some_and(|at| at.epoch == wanted.epoch && at.offset >= offset);
    if has(steps, |step| matches!(step, Step::Gap { .. })) {
        let why =
            "the channel's history had let go of it before the client took it, and the client was told a gap";
        return ("dropped", why.into());
    }
    if head.epoch.0 != wanted.epoch {
        return ("gone", format!("the channel's history began anew: its epoch is {}", head.epoch.0));
    }
    if offset > head.offset.0 {
        return (
            "unknown",
            format!("nothing was published there yet: the newest offset is {}", head.offset.0),
        );
    }
    if has_passed(place.acked) && was_delivered {
        return ("acked", "the client has acked it".into());
    }
    if has_passed(place.sent) && was_delivered {
        return ("written", "it is written, and the client has not acked it yet".into());
    }
    if has_passed(place.acked) || has_passed(place.sent) {
        let why = "delivery is past it, and no step of it is kept: it was delivered before the trace, or lies before the session came to the channel";
        return ("passed", why.into());
    }
    let stands = place.sent.map_or_else(
        || "no connection holds the session".to_owned(),
        |at| format!("delivery stands at offset {}", at.offset),
    );
    if is_kept(&place.log, wanted) {
        ("queued", format!("it is in the channel's log, and not written yet: {stands}"))
    } else {
        (
            "dropped",
            format!("the channel's history has let go of it, and the client will be told a gap: {stands}"),
        )
    }
}

fn is_kept(log: &Log, at: Position) -> bool {
    log.entry(to_broker(at)).is_some()
}

fn has(steps: &[Entry], which: impl Fn(&Step) -> bool) -> bool {
    steps.iter().any(|entry| which(&entry.step))
}

fn newest<T>(steps: &[Entry], which: impl Fn(&Step) -> Option<T>) -> Option<T> {
    steps.iter().rev().find_map(|entry| which(&entry.step))
}
