//! A session on this node: its engine behind one short lock, the connection that holds it now, and the channels it is
//! attached to. It outlives its connections.
//!
//! This module gives the engine its inputs (`outputs` carries out what it says) and decides nothing of the protocol. What
//! takes time (calls, channel operations) runs in tasks of the node, and comes back as inputs.

mod attached;
mod bound_keys;
mod calls;
mod figures;
mod gate;
mod inner;
mod jobs;
mod membership;
mod operations;
mod outputs;
mod owner;
mod refresh;
mod replies;
mod traced;
mod waiters;

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use trunkline_proto::CloseCode;
use trunkline_proto::wire::{CloseNotice, ErrorMessage};
use trunkline_service::Caller;
use trunkline_session::engine::{
    Answer, BindAnswer, BoundPush, ChannelKind, GiveUp, Input, OperationId, Output, Pressure, StartAccepted,
    StartFacts, TokenlessStart,
};
use trunkline_session::protocol0::LedgerError;
use trunkline_session::{ClientSeq, ConnectionId, Engine, Fence, Ledger, Position, Protocol, Seq, SessionId};

pub(crate) use attached::Attached;
use attached::AttachedSet;
use bound_keys::BoundKeys;
pub use figures::{QueueFigures, SessionFigures, SessionPage};
use gate::Together;
use inner::{Inner, Link};
use jobs::Jobs;
pub(crate) use membership::Arriving;
use membership::UnderWay;
pub(crate) use operations::{error_message, reserve};
use outputs::Effect;
use owner::Owner;
pub(crate) use owner::SharedRights;
pub(crate) use traced::Place;
use waiters::AckWaiters;

use crate::auth::{Identity, Rights};
use crate::connection::{Decoded, Ending, Handle};
use crate::gateway::Node;

/// One session. Shared by the hub, its connection's actor and the tasks that work for it.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) user: Arc<str>,
    pub(crate) device: Box<str>,
    pub(crate) platform: Box<str>,
    /// When it was made, in Unix milliseconds.
    created_ms: u64,
    /// The newest fence, readable without the lock.
    fence: AtomicU64,
    /// Whether a connection holds the session now.
    live: AtomicBool,
    /// Whether a START of the session was ever accepted: until then its first one is under way.
    accepted: AtomicBool,
    /// Whether a START of the session was ever answered, so that it has a place in its channels.
    begun: AtomicBool,
    /// Whether services heard that it began, so that they hear of its end.
    told: AtomicBool,
    /// Whether a block of numbers is being reserved (protocol 0).
    reserving: AtomicBool,
    /// Calls that run now.
    calling: AtomicU32,
    jobs: Jobs,
    inner: Mutex<Inner>,
}

/// Where the client of a START stands in its channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stands {
    /// Where the START says.
    AsSaid,
    /// Where delivery on the session's last connection stands: a resume of protocol 0.
    WhereSent,
}

/// What a new session is made of.
pub(crate) struct NewSession {
    pub(crate) id: SessionId,
    pub(crate) user: Arc<str>,
    pub(crate) device: String,
    pub(crate) platform: String,
    pub(crate) fence: Fence,
    pub(crate) engine: Engine,
    pub(crate) ledger: Option<Arc<Mutex<Ledger>>>,
    pub(crate) created_ms: u64,
}

impl Session {
    pub(crate) fn new(new: NewSession) -> Arc<Self> {
        let NewSession { id, user, device, platform, fence, engine, ledger, created_ms } = new;
        Arc::new(Session {
            id,
            user,
            device: device.into(),
            platform: platform.into(),
            created_ms,
            fence: AtomicU64::new(fence.number()),
            live: AtomicBool::new(false),
            accepted: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            told: AtomicBool::new(false),
            reserving: AtomicBool::new(false),
            calling: AtomicU32::new(0),
            jobs: Jobs::default(),
            inner: Mutex::new(Inner {
                engine,
                link: None,
                attached: AttachedSet::default(),
                former: None,
                joining: UnderWay::default(),
                owner: Owner::default(),
                share: OnceCell::new(),
                ledger,
                waiters: AckWaiters::default(),
                bound_keys: BoundKeys::default(),
            }),
        })
    }

    /// Whether a connection holds the session now.
    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Relaxed)
    }

    /// Whether somebody has the session now: a connection, or its first START, which is under way.
    pub(crate) fn is_taken(&self) -> bool {
        self.is_live() || !self.was_accepted()
    }

    /// Whether a START of the session was ever accepted.
    pub(crate) fn was_accepted(&self) -> bool {
        self.accepted.load(Relaxed)
    }

    /// Whether a START of the session was ever answered.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Relaxed)
    }

    /// The number of the newest fence.
    pub(crate) fn fence(&self) -> u64 {
        self.fence.load(Relaxed)
    }

    /// Who calls, for services. It is made anew after the session was idle.
    pub(crate) fn caller(&self, node: &Node) -> Arc<Caller> {
        self.inner.lock().caller(node, self)
    }

    /// Protocol 0: what numbers the session's frames.
    pub(crate) fn ledger(&self) -> Option<Arc<Mutex<Ledger>>> {
        self.inner.lock().ledger.clone()
    }

    /// Protocol 0: the client has everything up to this number, as an ack or a START says.
    pub(crate) fn ack_numbers(&self, seq: Seq) -> Result<(), LedgerError> {
        self.inner.lock().ack_numbers(seq).map(drop)
    }

    /// Protocol 0: reserves the next block of numbers in the broker, before the last one is used up.
    pub(crate) fn reserve_numbers(self: &Arc<Self>, node: &Arc<Node>) {
        let Some(ledger) = self.ledger() else { return };
        if ledger.lock().wants().is_some() && !self.reserving.swap(true, Relaxed) {
            operations::spawn_reserve(node, self, ledger);
        }
    }

    /// The numbers are reserved, or could not be.
    fn reserved(&self) {
        self.reserving.store(false, Relaxed);
        if let Some(link) = &self.inner.lock().link {
            link.handle.wake();
        }
    }

    /// See [`Engine::cached_since`].
    pub(crate) fn cached_since(&self) -> Option<Duration> {
        self.inner.lock().engine.cached_since()
    }

    /// See [`Engine::give_up_replies`].
    pub(crate) fn give_up_replies(&self, which: GiveUp) {
        self.inner.lock().engine.give_up_replies(which);
    }

    /// Whether a call of the session runs now.
    pub(crate) fn is_calling(&self) -> bool {
        self.calling.load(Relaxed) > 0
    }

    /// The connection that holds the session, if one does.
    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        self.inner.lock().link.as_ref().map(|link| link.handle.id)
    }

    /// What the token grants on channels; `None` where it says nothing.
    pub(crate) fn rights(&self) -> Option<Arc<Rights>> {
        self.inner.lock().owner.rights()
    }

    /// See [`Engine::judge_tokenless`].
    pub(crate) fn judge_tokenless(&self, instance: u64, attempt: u64) -> TokenlessStart {
        self.inner.lock().engine.judge_tokenless(instance, attempt)
    }

    /// The protocol of the last START.
    pub(crate) fn protocol(&self) -> Protocol {
        self.inner.lock().engine.protocol()
    }

    /// When the session wants to be looked at again without input.
    pub(crate) fn next_timeout(&self) -> Option<Duration> {
        self.inner.lock().engine.next_timeout()
    }

    /// Does the engine take frames now? Not while it waits for an operation's place.
    pub(crate) fn is_reading_paused(&self) -> bool {
        !self.inner.lock().engine.reads()
    }

    /// A START chose this session. On success the connection holds it.
    pub(crate) fn begin(
        self: &Arc<Self>,
        node: &Arc<Node>,
        handle: &Arc<Handle>,
        mut facts: StartFacts,
        stands: Stands,
        identity: Identity,
    ) -> Result<StartAccepted, Ending> {
        let fence = facts.fence;
        let groups: Vec<Arc<str>> = identity.groups.iter().map(|group| group.as_str().into()).collect();
        let mut effects = Vec::new();
        let mut inner = self.inner.lock();
        // A START that is refused leaves the connection that holds the session as it is.
        if stands == Stands::WhereSent && inner.engine.accepts(&facts) {
            facts.positions = inner.stop_at_sent();
        }
        inner.engine.handle_input(node.now(), Input::Start(Box::new(facts)));
        let mut answer = Err(Ending::new(CloseCode::Internal, "the session gave no answer to START"));
        while let Some(output) = inner.engine.poll_output() {
            match output {
                Output::StartRefused { connection: _, response, close } => {
                    handle.send(&response);
                    answer = Err(Ending::from_notice(&close));
                }
                Output::StartAccepted(accepted) => {
                    if let Some(old) = inner.unlink(self) {
                        old.end(Ending::new(CloseCode::Replaced, "a later START holds this session"));
                    }
                    if let Some(ledger) = &inner.ledger {
                        handle.set_ledger(Arc::clone(ledger));
                    }
                    inner.link = Some(Link { handle: Arc::clone(handle), fence });
                    inner.owner.set(node, &identity);
                    // Kept until the new ones are there: a channel that nobody is attached to forgets its window.
                    let former = std::mem::take(&mut inner.attached);
                    if !former.is_empty() {
                        inner.former.get_or_insert_default().extend(former);
                    }
                    self.fence.store(fence.number(), Relaxed);
                    self.live.store(true, Relaxed);
                    self.accepted.store(true, Relaxed);
                    node.hub.regroup(self, &groups);
                    answer = Ok(accepted);
                }
                other => inner.carry_out(node, self, other, &mut effects),
            }
        }
        inner.engine.rest();
        drop(inner);
        self.carry_out(node, effects);
        match &answer {
            // What waited for room on the last connection has it on this one.
            Ok(_) => self.jobs.resume(node, self),
            Err(ending) if ending.code == CloseCode::TokenUsed => {
                node.stats.tokens_reused.one();
                let remote = handle.remote();
                tracing::warn!(user = %self.user, session = %self.id, %remote, "a used resume token was refused");
            }
            Err(_) => {}
        }
        answer
    }

    /// The channels of a START are attached, or could not be.
    pub(crate) fn attached(
        self: &Arc<Self>,
        node: &Arc<Node>,
        fence: Fence,
        channels: Vec<Arriving>,
        input: Input<'_>,
    ) {
        let mut inner = self.inner.lock();
        if inner.link.as_ref().is_none_or(|link| link.fence != fence) {
            // It was overtaken, and what it attached is let go of behind the lock.
            self.apply_locked(node, inner, input);
            drop(channels);
            return;
        }
        for arriving in channels {
            inner.arrive(arriving);
        }
        let former = inner.former.take();
        let mut gone = AttachedSet::default();
        let has_begun = matches!(input, Input::Attached { .. });
        for attached in former.into_iter().flat_map(|former| *former) {
            // A START that fails leaves a session where it was.
            let known = if has_begun { &mut gone } else { &mut inner.attached };
            if !known.contains(attached.name()) {
                known.insert(attached);
            }
        }
        let left = gone.present().filter(|channel| !inner.is_member(channel));
        let leaves = left.cloned().map(Effect::Leave).collect();
        self.begun.fetch_or(has_begun, Relaxed);
        self.apply_locked(node, inner, input);
        self.carry_out(node, leaves);
        // What the client has by its positions, it has acked.
        self.inner.lock().wake_acked();
    }

    /// A subscription's channel is attached: the engine says when it is delivered.
    fn subscribed(self: &Arc<Self>, node: &Arc<Node>, arriving: Arriving, id: OperationId, answer: Answer) {
        let mut inner = self.inner.lock();
        inner.arrive(arriving);
        self.apply_locked(node, inner, Input::Answer { id, result: Ok(answer) });
    }

    /// A service joins the session to a channel; a session that has ended is joined to nothing.
    pub(crate) fn joined(self: &Arc<Self>, node: &Arc<Node>, arriving: Arriving, position: Position) {
        let channel = Arc::clone(arriving.attached.name());
        let mut inner = self.inner.lock();
        if inner.engine.is_ended() {
            drop(inner);
            drop(arriving);
            return;
        }
        inner.arrive(arriving);
        self.apply_locked(node, inner, Input::Joined { channel, position });
    }

    /// A service takes the session off a channel. False: it is not on it.
    pub(crate) fn withdraw(self: &Arc<Self>, node: &Arc<Node>, channel: &str, error: ErrorMessage) -> bool {
        let inner = self.inner.lock();
        // During a START what the session was on before is what it may be on again.
        let known = inner.attached.get(channel).or_else(|| inner.former.as_ref()?.get(channel));
        let Some(channel) = known.map(|attached| Arc::clone(attached.name())) else { return false };
        self.apply_locked(node, inner, Input::Withdrawn { channel, error });
        true
    }

    /// The fence of the connection that holds the session now.
    fn link_fence(&self) -> Option<Fence> {
        self.inner.lock().link.as_ref().map(|link| link.fence)
    }

    /// Is so much queued for the session's connection that nothing more should be begun for it? Then the connection
    /// says when it has room.
    fn wait_while_full(&self) -> bool {
        self.inner.lock().link.as_ref().is_some_and(|link| link.handle.wait_while_full())
    }

    /// Did a service put the session on this channel?
    fn is_joined(&self, channel: &str) -> bool {
        let inner = self.inner.lock();
        inner.engine.channels().any(|(name, kind)| **name == *channel && kind == ChannelKind::Joined)
    }

    /// Frames of the connection with this fence, as they were read. Takes them all.
    pub(crate) fn frames(self: &Arc<Self>, node: &Arc<Node>, fence: Fence, frames: &mut Vec<Decoded>) {
        let now = node.now();
        let mut inner = self.inner.lock();
        let Some(link) = inner.link.clone().filter(|link| link.fence == fence) else { return frames.clear() };
        let mut effects = Vec::with_capacity(frames.len());
        let together = Together::of(frames);
        for frame in frames.drain(..) {
            match frame {
                Ok(frame) => inner.frame(node, self, now, &link, &together, frame),
                Err(error) => {
                    node.stats.frames_malformed.one();
                    let input = Input::Undecodable { fence, detail: error.to_string() };
                    inner.engine.handle_input(now, input);
                }
            }
            inner.drain(node, self, &mut effects);
        }
        inner.engine.rest();
        drop(inner);
        drop(together);
        self.carry_out(node, effects);
    }

    /// The engine's time has come.
    pub(crate) fn timeout(self: &Arc<Self>, node: &Arc<Node>) {
        self.apply(node, Input::Timeout);
    }

    /// The connection's reply queue became full, or has room again.
    pub(crate) fn pressure(self: &Arc<Self>, node: &Arc<Node>, fence: Fence, pressure: Pressure) {
        if self.link_fence() == Some(fence) {
            self.apply(node, Input::Pressure(pressure));
        }
    }

    /// The connection has room again that the session's operations wait for.
    pub(crate) fn has_room(self: &Arc<Self>, node: &Arc<Node>) {
        self.jobs.resume(node, self);
    }

    /// Ends the connection; codes from 4100 on end the session too.
    pub(crate) fn kick(self: &Arc<Self>, node: &Arc<Node>, notice: CloseNotice) {
        self.apply(node, Input::Kick(notice));
    }

    /// The connection with this fence has ended.
    pub(crate) fn disconnected(self: &Arc<Self>, node: &Arc<Node>, fence: Fence) {
        let mut inner = self.inner.lock();
        if inner.link.as_ref().is_some_and(|link| link.fence == fence) {
            inner.unlink(self);
        }
        self.apply_locked(node, inner, Input::Disconnected { fence });
        self.jobs.resume(node, self);
        if let Some(at) = self.next_timeout() {
            node.watch_waiting(self, node.instant(at));
        }
    }

    /// A push to a running call; see [`Engine::bind`]. The same key again is bound already.
    pub(crate) fn bind(
        self: &Arc<Self>,
        node: &Arc<Node>,
        seq: ClientSeq,
        key: &str,
        push: BoundPush,
    ) -> BindAnswer {
        let mut inner = self.inner.lock();
        if inner.bound_keys.contains(seq, key) {
            return BindAnswer::Bound;
        }
        let answer = inner.engine.bind(seq, push);
        if answer == BindAnswer::Bound {
            inner.bound_keys.remember(seq, key);
        }
        let effects = inner.drain_and_rest(node, self);
        drop(inner);
        self.carry_out(node, effects);
        answer
    }

    /// Does a call with this number run, or wait to run?
    pub(crate) fn runs(&self, seq: ClientSeq) -> bool {
        self.inner.lock().engine.runs(seq)
    }

    /// Waits for the client's ack of a position; dropped when the session ends.
    pub(crate) fn wait_ack(&self, channel: &str, position: Position) -> tokio::sync::oneshot::Receiver<()> {
        let mut inner = self.inner.lock();
        let waiting = inner.waiters.wait(channel, position);
        // The ack may have been faster than whoever published.
        inner.wake_acked();
        waiting
    }
}

/// The broker's position as the engine has it: the crates of one layer do not know each other.
pub(crate) fn to_session(position: trunkline_broker::Position) -> Position {
    Position { epoch: position.epoch.0, offset: position.offset.0 }
}

/// The engine's position as the broker has it.
pub(crate) fn to_broker(position: Position) -> trunkline_broker::Position {
    trunkline_broker::Position::new(position.epoch, position.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_a_session_is_small() {
        let (session, engine) = (size_of::<Session>(), size_of::<Engine>());
        assert!(session <= 496, "a session has {session} B, {engine} of them its engine");
    }
}
