//! What is behind the session's lock: its engine, the connection that holds it, and what belongs to both.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;
use trunkline_proto::wire::ChannelPosition;
use trunkline_proto::{UpBody, UpFrame};
use trunkline_service::Caller;
use trunkline_session::engine::{Input, SentPositions};
use trunkline_session::protocol0::{Acked, LedgerError};
use trunkline_session::{Engine, Fence, Ledger, Now, Position, Seq};

use super::Session;
use super::attached::AttachedSet;
use super::bound_keys::BoundKeys;
use super::gate::{Gate, Together};
use super::membership::UnderWay;
use super::owner::Owner;
use super::waiters::AckWaiters;
use crate::connection::Handle;
use crate::gateway::Node;
use crate::limits::UserShare;

/// What is behind the session's one lock.
pub(super) struct Inner {
    pub(super) engine: Engine,
    pub(super) link: Option<Link>,
    pub(super) attached: AttachedSet,
    /// What the session was attached to before the START that is under way.
    pub(super) former: Option<Box<AttachedSet>>,
    /// Channels that it is being joined to: it is a member of them already, or will be in a moment.
    pub(super) joining: UnderWay,
    pub(super) owner: Owner,
    /// The user's share of the node's calls, once the session has called.
    pub(super) share: OnceCell<Arc<UserShare>>,
    pub(super) ledger: Option<Arc<Mutex<Ledger>>>,
    pub(super) waiters: AckWaiters,
    pub(super) bound_keys: BoundKeys,
}

/// The connection that holds the session.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) handle: Arc<Handle>,
    pub(super) fence: Fence,
}

impl Inner {
    /// Answers the channels that the ack tells of.
    pub(super) fn ack_numbers(&mut self, seq: Seq) -> Result<Vec<ChannelPosition>, LedgerError> {
        let Some(ledger) = &self.ledger else { return Ok(Vec::new()) };
        let Acked { positions, answers } = ledger.lock().ack(seq)?;
        self.engine.answers_acked(&answers);
        self.waiters.acked(&positions);
        Ok(positions)
    }

    pub(super) fn caller(&mut self, node: &Node, session: &Session) -> Arc<Caller> {
        self.owner.caller(session, node, self.link.as_ref().map(|link| &*link.handle))
    }

    /// Tells who waits for what the client has acked already.
    pub(super) fn wake_acked(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let acked = match &self.ledger {
            Some(ledger) => ledger.lock().acked_positions(),
            None => self.engine.acked_positions(),
        };
        self.waiters.acked(&acked);
    }

    /// One frame of the connection that holds the session.
    pub(super) fn frame(
        &mut self,
        node: &Node,
        session: &Session,
        now: Now,
        link: &Link,
        together: &Together,
        frame: UpFrame,
    ) {
        if matches!(frame.body, UpBody::Heartbeat(_)) && !session.is_calling() {
            self.owner.rest();
        }
        if node.trace.is_on() {
            session.trace_read(node, &frame);
            self.trace_replies_acked(node, session, &frame);
        }
        let sent = Sent { handle: &link.handle, ledger: self.ledger.as_deref() };
        let gate = Gate { node, user: &session.user, share: &self.share, together };
        let input = Input::Frame { fence: link.fence, frame, sent: &sent, gate: &gate };
        self.engine.handle_input(now, input);
    }

    /// Protocol 0: the connection that holds the session now numbers nothing more, and where each channel stands then.
    pub(super) fn stop_at_sent(&self) -> Vec<ChannelPosition> {
        if let Some(link) = &self.link {
            link.handle.stop_numbering();
        }
        self.ledger.as_ref().map(|ledger| ledger.lock().sent_positions()).unwrap_or_default()
    }

    /// No connection holds the session any more. A seed client's queued frames wait for its next one.
    pub(super) fn unlink(&mut self, session: &Session) -> Option<Arc<Handle>> {
        let Link { handle, .. } = self.link.take()?;
        self.owner.left(Some(&handle));
        handle.stop_numbering();
        session.live.store(false, Relaxed);
        Some(handle)
    }
}

/// What the connection has sent, for the engine's judgement of acks.
struct Sent<'a> {
    handle: &'a Handle,
    ledger: Option<&'a Mutex<Ledger>>,
}

impl SentPositions for Sent<'_> {
    fn sent(&self, channel: &str) -> Option<Position> {
        self.handle.sent(channel)
    }

    fn highest_seq(&self) -> Seq {
        self.ledger.map_or(Seq(0), |ledger| ledger.lock().highest())
    }
}
