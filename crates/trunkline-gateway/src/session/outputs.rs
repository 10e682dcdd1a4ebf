//! What a session's engine says is carried out, in the engine's order: frames and channels under the session's lock, all
//! else (calls, jobs, ends of connections) once it is free. Decides nothing of the protocol.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use parking_lot::MutexGuard;
use trunkline_broker::Cursor;
use trunkline_proto::{CloseCode, DownBody, DownFrame};
use trunkline_service::SessionEvent;
use trunkline_session::engine::{CallRequest, Event, Input, Output};
use trunkline_session::protocol0::{LedgerError, Replay, is_numbered, lost_publication};
use trunkline_session::{Channel, ConnectionId, Position, RequestRefusal, Seq};

use super::attached::AttachedSet;
use super::calls::Round;
use super::jobs::Job;
use super::waiters::AckWaiters;
use super::{Attached, Inner, Session, replies, to_broker};
use crate::connection::Ending;
use crate::encode::WireForm;
use crate::gateway::Node;
use crate::trace::Step;

/// What an engine said that must wait until the session's lock is free.
pub(super) enum Effect {
    Call(Box<CallRequest>),
    CallRefused(RequestRefusal),
    RequestRefused(RequestRefusal),
    Job(Job),
    Leave(Channel),
    /// The session has ended, and what it was attached to is let go of.
    LetGo(AttachedSet),
    /// A connection is to end: one that is not the session's any more, or the session's with it.
    End(ConnectionId, Ending),
}

impl Session {
    /// Gives the engine an input and carries out what it says.
    pub(crate) fn apply(self: &Arc<Self>, node: &Arc<Node>, input: Input<'_>) {
        self.apply_locked(node, self.inner.lock(), input);
    }

    pub(super) fn apply_locked(
        self: &Arc<Self>,
        node: &Arc<Node>,
        mut inner: MutexGuard<'_, Inner>,
        input: Input<'_>,
    ) {
        inner.engine.handle_input(node.now(), input);
        let effects = inner.drain_and_rest(node, self);
        drop(inner);
        self.carry_out(node, effects);
    }

    /// Calls have ended.
    pub(super) fn calls_ended(self: &Arc<Self>, node: &Arc<Node>, mut round: Round) {
        loop {
            let (now, outcomes) = (node.now(), round.take_outcomes());
            let mut effects = Vec::new();
            let mut inner = self.inner.lock();
            for (seq, outcome) in outcomes {
                inner.engine.handle_input(now, Input::CallEnded { seq, outcome });
                inner.drain(node, self, &mut effects);
            }
            inner.engine.rest();
            drop(inner);
            replies::make_room(node);
            let next = self.run_effects(node, effects);
            // Only now, when those that waited for them have begun, they are no longer under way.
            drop(round);
            match next {
                Some(next) => round = next,
                None => return,
            }
        }
    }

    /// Carries out what the engine said, and what it says then to calls that end at once.
    pub(super) fn carry_out(self: &Arc<Self>, node: &Arc<Node>, effects: Vec<Effect>) {
        if let Some(round) = self.run_effects(node, effects) {
            self.calls_ended(node, round);
        }
    }

    /// Carries out what the engine said; the calls that have ended by that.
    fn run_effects(self: &Arc<Self>, node: &Arc<Node>, effects: Vec<Effect>) -> Option<Round> {
        let mut round: Option<Round> = None;
        let count = effects.len();
        for effect in effects {
            match effect {
                Effect::Call(call) => {
                    round.get_or_insert_with(|| Round::begin(node, self, count)).call(node, *call);
                }
                Effect::CallRefused(why) => {
                    node.stats.calls_refused.one();
                    node.stats.calls_refused_by.one(RequestRefusal::ALL, &why);
                    replies::make_room(node);
                }
                Effect::RequestRefused(why) => {
                    node.stats.requests_refused_by.one(RequestRefusal::ALL, &why);
                }
                Effect::Job(job) => self.jobs.add(node, self, job),
                Effect::LetGo(channels) => drop(channels),
                Effect::Leave(channel) => self.jobs.add(node, self, Job::Leave(channel)),
                Effect::End(connection, ending) => node.connections.end(connection, ending),
            }
        }
        round.and_then(|round| round.begun(node))
    }
}

impl Inner {
    pub(super) fn drain(&mut self, node: &Node, session: &Session, effects: &mut Vec<Effect>) {
        while let Some(output) = self.engine.poll_output() {
            self.carry_out(node, session, output, effects);
        }
    }

    /// What the engine has to say, when it will not be given more at once.
    pub(super) fn drain_and_rest(&mut self, node: &Node, session: &Session) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.drain(node, session, &mut effects);
        self.engine.rest();
        effects
    }

    pub(super) fn carry_out(
        &mut self,
        node: &Node,
        session: &Session,
        output: Output,
        effects: &mut Vec<Effect>,
    ) {
        match output {
            // It is the answer to `begin`, which takes it itself.
            Output::StartAccepted(_) => {}
            Output::StartRefused { connection, response, close } => {
                self.send(&response);
                self.unlink(session);
                effects.push(Effect::End(connection, Ending::from_notice(&close)));
            }
            Output::Send(frame) => {
                session.trace_sent(node, &frame);
                self.send(&frame);
            }
            Output::Deliver(channels) => {
                session.trace_followed(node, &channels);
                self.deliver(channels);
            }
            Output::Detach(channel) => {
                if let Some(attached) = self.attached.remove(&channel) {
                    if let Some(link) = &self.link {
                        link.handle.unfollow(&channel);
                    }
                    if attached.present {
                        effects.push(Effect::Leave(channel));
                    }
                }
            }
            Output::Call(call) => effects.push(Effect::Call(call)),
            Output::CallRefused(seq, why) => {
                session.trace(node, || Step::Refused { call: seq.0, why: why.as_str() });
                effects.push(Effect::CallRefused(why));
            }
            Output::RequestRefused(why) => effects.push(Effect::RequestRefused(why)),
            Output::Operation { id, operation } => {
                effects.push(Effect::Job(Job::Operation(id, operation, node.uptime())));
            }
            Output::Publish(target, push) => effects.push(Effect::Job(Job::Publish(target, push))),
            Output::Acked(positions) => {
                session.trace_acked(node, &positions);
                self.waiters.acked(&positions);
            }
            Output::AckedSeq(seq) => {
                // The engine has judged the number already; where nothing more is kept for the client, START says so.
                let _: Result<(), LedgerError> =
                    self.ack_numbers(seq).map(|acked| session.trace_acked(node, &acked));
            }
            Output::Close { connection, notice } => {
                let is_ours = self.link.as_ref().is_some_and(|link| link.handle.id == connection);
                if is_ours && notice.code == CloseCode::Stopped.number() {
                    // Nobody comes back for what is queued: it is written before the connection closes.
                    self.owner.left(self.link.take().as_ref().map(|link| &*link.handle));
                    session.live.store(false, Relaxed);
                } else if is_ours {
                    self.unlink(session);
                }
                effects.push(Effect::End(connection, Ending::from_notice(&notice)));
            }
            Output::Event(event) => self.tell(node, session, event, effects),
        }
    }

    /// Events are queued under the session's lock, so that services hear them in the engine's order.
    fn tell(&mut self, node: &Node, session: &Session, event: Event, effects: &mut Vec<Effect>) {
        let event = match event {
            Event::Started => {
                self.trace_connected(node, session);
                node.stats.sessions_started.one();
                SessionEvent::Started
            }
            Event::Resumed => {
                self.trace_connected(node, session);
                node.stats.sessions_resumed.one();
                SessionEvent::Resumed
            }
            Event::Lost => {
                session.trace(node, || Step::Lost);
                SessionEvent::Lost
            }
            Event::Ended(code) => {
                session.trace(node, || Step::SessionEnded { code });
                node.stats.sessions_ended.one();
                // First: who hears of the end no longer finds the session.
                node.hub.remove(session);
                self.let_go(effects);
                SessionEvent::Ended(code)
            }
        };
        let caller = self.owner.teller(session, node, self.link.as_ref().map(|link| &*link.handle));
        node.events.tell(&session.told, caller, event);
    }

    /// Nothing is attached any more, and where the session was a member it leaves.
    fn let_go(&mut self, effects: &mut Vec<Effect>) {
        self.waiters = AckWaiters::default();
        let former = self.former.take().map(|former| *former);
        for channels in [Some(std::mem::take(&mut self.attached)), former].into_iter().flatten() {
            effects.extend(channels.present().cloned().map(Effect::Leave));
            effects.push(Effect::LetGo(channels));
        }
    }

    fn send(&mut self, frame: &DownFrame) {
        let Some(link) = &self.link else { return };
        link.handle.send(frame);
        if let (Some(ledger), DownBody::StartResp(response)) = (&self.ledger, &frame.body)
            && response.success
            && !is_numbered(frame)
        {
            // Neither a connection's write state nor a log is looked into while the ledger is held: they come first.
            let unacked: Vec<_> = ledger.lock().replay().collect();
            link.handle.send_again(self.encoded(unacked, link.handle.form()));
        }
    }

    /// What a resumed seed client has not acked, as bytes: replies as they were, publications from their logs.
    fn encoded(&self, unacked: Vec<(Seq, Replay)>, form: WireForm) -> Vec<(Seq, Bytes)> {
        let body = |replay| match replay {
            Replay::Frame(bytes) => bytes,
            Replay::Publication { channel, position } => {
                let log = self.attached.get(&channel).map(Attached::log);
                log.and_then(|log| log.encoded(to_broker(position), form.variant(), &form)).unwrap_or_else(
                    || form.dialect.encode_down(&lost_publication(&channel, position.offset)).into(),
                )
            }
        };
        unacked.into_iter().map(|(seq, replay)| (seq, body(replay))).collect()
    }

    /// Channels begin behind what was queued before: the reply that names their position goes out first.
    fn deliver(&mut self, channels: Vec<(Channel, Position)>) {
        let Some(link) = &self.link else { return };
        for (channel, position) in channels {
            if let Some(attached) = self.attached.get(&channel) {
                link.handle.follow(attached.log(), Cursor::at(to_broker(position)));
            }
        }
    }
}
