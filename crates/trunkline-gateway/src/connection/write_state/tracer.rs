//! What a connection tells the trace of its session: answers that are written, and how far its channels are.

use trunkline_broker::Position;
use trunkline_session::SessionId;

use crate::trace::{Step, Trace, name};

/// The trace, as one connection's. Before START there is no session, and nothing to tell.
#[derive(Clone, Copy)]
pub(crate) struct Tracer<'a> {
    pub(crate) trace: &'a Trace,
    pub(crate) session: Option<SessionId>,
}

impl Tracer<'_> {
    /// A frame that answers `msg_id` is on its way.
    pub(super) fn written(self, msg_id: u32) {
        if msg_id != 0 {
            self.record(|| Step::Written { msg_id });
        }
    }

    pub(super) fn delivered(self, channel: &str, from: Position, up_to: Position) {
        self.record(|| Step::Delivered {
            channel: name(channel),
            epoch: up_to.epoch.0,
            from: from.offset.0,
            offset: up_to.offset.0,
        });
    }

    pub(super) fn gap(self, channel: &str, from: Position, next: Position) {
        self.record(|| Step::Gap {
            channel: name(channel),
            epoch: from.epoch.0,
            from: from.offset.0,
            next_epoch: next.epoch.0,
            offset: next.offset.0,
        });
    }

    fn record(self, step: impl FnOnce() -> Step) {
        if self.session.is_some() {
            self.trace.record(self.session, step);
        }
    }
}
