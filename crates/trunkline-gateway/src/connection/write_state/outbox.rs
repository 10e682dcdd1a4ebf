//! The outbox: control frames and replies that wait for their connection, counted here and over all connections.
//!
//! What bounds it is that its connection reads no further while it is full, and that no call starts while all
//! together are too large. Dropping it gives back what it counts.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use trunkline_session::Seq;

use crate::defaults;
use crate::limits::ReplyQueue;

/// A frame that waits.
pub(super) struct Outgoing {
    /// Protocol 1: the frame with its framing. Protocol 0: its body, unless it is complete as it is.
    pub(super) bytes: Bytes,
    /// How a protocol 0 frame is numbered; `None`: it is complete as it is.
    pub(super) numbering: Option<Numbering>,
    /// The `msg_id` of the call that it answers, else 0.
    pub(super) answers: u32,
}

/// Which number a protocol 0 frame bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbering {
    /// The next one, kept until it is acked; where it answers a call, its `msg_id`, else 0.
    Next { answers: u32 },
    /// This one: it is kept already, or (0) it is not part of the numbered stream.
    Fixed(Seq),
}

/// See the module.
pub(super) struct Outbox {
    frames: VecDeque<Outgoing>,
    bytes: usize,
    all: Arc<ReplyQueue>,
}

impl Outbox {
    pub(super) fn new(all: Arc<ReplyQueue>) -> Self {
        Outbox { frames: VecDeque::new(), bytes: 0, all }
    }

    pub(super) fn push(&mut self, outgoing: Outgoing) {
        self.bytes += outgoing.bytes.len();
        self.all.add(outgoing.bytes.len());
        self.frames.push_back(outgoing);
    }

    pub(super) fn front(&self) -> Option<&Outgoing> {
        self.frames.front()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Outgoing> {
        self.frames.iter()
    }

    pub(super) fn pop(&mut self) -> Option<Outgoing> {
        let outgoing = self.frames.pop_front()?;
        self.gone(outgoing.bytes.len());
        Some(outgoing)
    }

    /// Takes out, in their order, those that `which` names.
    pub(super) fn take(&mut self, which: impl Fn(&Outgoing) -> bool) -> VecDeque<Outgoing> {
        let (taken, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.frames).into_iter().partition(which);
        self.frames = kept;
        self.gone(taken.iter().map(|outgoing| outgoing.bytes.len()).sum());
        taken
    }

    /// Is so much queued that the connection should read no further?
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= defaults::OUTBOX_BYTES || self.frames.len() >= defaults::OUTBOX_FRAMES
    }

    pub(super) fn frames(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn gone(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.all.take(bytes);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.all.take(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_together_are_counted_whatever_way_a_frame_goes() {
        let all = Arc::<ReplyQueue>::default();
        let mut outboxes = [Outbox::new(Arc::clone(&all)), Outbox::new(Arc::clone(&all))];
        for (at, outbox) in outboxes.iter_mut().enumerate() {
            for length in 1..=4 {
                let numbering = (length == 3).then_some(Numbering::Next { answers: 0 });
                outbox.push(Outgoing { bytes: vec![0; length + at].into(), numbering, answers: 0 });
            }
        }
        let [mut one, other] = outboxes;
        assert_eq!((one.bytes(), other.bytes(), all.bytes()), (10, 14, 24));
        assert_eq!(one.pop().map(|outgoing| outgoing.bytes.len()), Some(1));
        let taken = one.take(|outgoing| outgoing.numbering.is_some());
        assert_eq!((taken.len(), one.frames(), one.bytes(), all.bytes()), (1, 2, 6, 20));
        drop(one);
        assert_eq!(all.bytes(), 14);
        drop(other);
        assert_eq!(all.bytes(), 0);
    }
}
