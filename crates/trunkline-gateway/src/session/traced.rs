//! What a session tells the trace, and what it knows of one message when an operator asks.

use std::sync::Arc;

use trunkline_broker::Log;
use trunkline_proto::wire::{ChannelGap, ChannelPosition};
use trunkline_proto::{DownBody, DownFrame, UpBody, UpFrame};
use trunkline_session::engine::CallStage;
use trunkline_session::{Channel, ClientSeq, Position};

use super::{Inner, Session};
use crate::gateway::Node;
use crate::trace::{Step, answers, name};

/// Where a session stands on a channel.
pub(crate) struct Place {
    pub(crate) log: Arc<Log>,
    /// How far it is written; `None` without a connection.
    pub(crate) sent: Option<Position>,
    pub(crate) acked: Option<Position>,
}

impl Session {
    pub(super) fn trace(&self, node: &Node, step: impl FnOnce() -> Step) {
        node.trace.record(Some(self.id), step);
    }

    /// A frame that was read, before the engine has judged it.
    pub(super) fn trace_read(&self, node: &Node, frame: &UpFrame) {
        if let UpBody::Business(request) = &frame.body {
            self.trace(node, || Step::Received {
                call: frame.seq_id,
                msg_id: frame.msg_id,
                action: name(&request.action),
                bytes: request.data.len(),
            });
        }
    }

    /// Acks of channels that the engine has taken.
    pub(super) fn trace_acked(&self, node: &Node, positions: &[ChannelPosition]) {
        for position in positions {
            self.trace(node, || Step::Acked {
                channel: name(&position.channel),
                epoch: position.epoch,
                offset: position.offset,
            });
        }
    }

    /// A frame that the engine sends: an answer to a call, or a gap that the client is told of.
    pub(super) fn trace_sent(&self, node: &Node, frame: &DownFrame) {
        match &frame.body {
            DownBody::StartResp(response) => {
                response.gaps.iter().for_each(|gap| self.trace_gap(node, gap));
            }
            DownBody::Gap(gap) => self.trace_gap(node, gap),
            DownBody::Error(error) if frame.msg_id != 0 || error.client_seq != 0 => self.trace(node, || {
                Step::Queued { msg_id: frame.msg_id, call: error.client_seq, error: Some(name(&error.name)) }
            }),
            _ if answers(frame) != 0 => {
                self.trace(node, || Step::Queued { msg_id: frame.msg_id, call: 0, error: None });
            }
            _ => {}
        }
    }

    fn trace_gap(&self, node: &Node, gap: &ChannelGap) {
        let next = gap.next.as_ref();
        self.trace(node, || Step::Gap {
            channel: name(&gap.channel),
            epoch: gap.epoch,
            from: gap.offset,
            next_epoch: next.map_or(gap.epoch, |next| next.epoch),
            offset: next.map_or(gap.offset, |next| next.offset),
        });
    }

    /// Where delivery of channels begins.
    pub(super) fn trace_followed(&self, node: &Node, channels: &[(Channel, Position)]) {
        for (channel, position) in channels {
            self.trace(node, || Step::Followed {
                channel: name(channel),
                epoch: position.epoch,
                offset: position.offset,
            });
        }
    }

    /// See [`trunkline_session::Engine::call_stage`]; and whether its answer waits to be written.
    pub(crate) fn call_stage(&self, call: ClientSeq) -> (CallStage, bool) {
        let inner = self.inner.lock();
        let stage = inner.engine.call_stage(call);
        let is_queued = match (stage, &inner.link) {
            (CallStage::Kept { msg_id }, Some(link)) => msg_id != 0 && link.handle.has_queued(msg_id),
            _ => false,
        };
        (stage, is_queued)
    }

    /// Where it stands on a channel, if it is on it.
    pub(crate) fn place_on(&self, channel: &str) -> Option<Place> {
        let inner = self.inner.lock();
        let log = Arc::clone(inner.attached.get(channel)?.log());
        let sent = inner.link.as_ref().and_then(|link| link.handle.sent(channel));
        let acked = match &inner.ledger {
            Some(ledger) => ledger.lock().acked_positions(),
            None => inner.engine.acked_positions(),
        };
        let acked = acked.iter().find(|position| position.channel == channel).map(Position::from);
        Some(Place { log, sent, acked })
    }
}

impl Inner {
    /// The client has replies, as it says and as far as such calls were seen. Acks of protocol 1 say so.
    pub(super) fn trace_replies_acked(&self, node: &Node, session: &Session, frame: &UpFrame) {
        let UpBody::Ack(ack) = &frame.body else { return };
        let up_to = ack.replied_client_seq;
        if up_to > 0 && self.engine.call_stage(ClientSeq(up_to)) != CallStage::Unknown {
            session.trace(node, || Step::RepliesAcked { up_to });
        }
    }

    pub(super) fn trace_connected(&self, node: &Node, session: &Session) {
        if let Some(link) = &self.link {
            session.trace(node, || Step::Connected { connection: link.handle.id.0 });
        }
    }
}
