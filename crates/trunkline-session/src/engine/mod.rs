//! The gateway's side of a session: one [`Engine`] per session, with or without a connection.
//!
//! The gateway reads a START, checks its token, lets the login policy choose the session, and gives the START to
//! its engine; then every frame, every end of a call, and the passing of time. The engine decides what is
//! accepted, what is answered, what runs and when it ends. It refuses to authorise, to route, to publish and to
//! write: those are outputs. Publications on their way down never pass through it.
//!
//! After each `handle_input` take outputs until `poll_output` is `None`, and carry them out in that order.

mod at;
mod cache;
mod calls;
mod channels;
mod frames;
mod io;
mod numbers;
mod rate;
mod refused;
mod replies;
mod start;

pub use calls::request_bytes;
pub use io::*;
pub use start::TokenlessStart;
pub(crate) use start::gap_text;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use trunkline_proto::wire::{ChannelPosition, ChannelResponse, CloseNotice, ErrorMessage};
use trunkline_proto::{CloseCode, Dialect, DownBody, DownFrame};

use crate::Now;
use crate::budget::ReplyBudget;
use crate::config::{Protocol, SessionConfig};
use crate::ids::{ClientSeq, ConnectionId, Fence, SessionId};
use crate::position::{Channel, Position, is_implicit_name};
use at::At;
use calls::{Calls, Cx};
use channels::Channels;
use frames::Operations;
use rate::Bucket;
use start::{Starting, Tokens};

/// A session. It has one owner; drop gives its share of the node's reply budget back.
#[derive(Debug)]
pub struct Engine {
    config: Arc<SessionConfig>,
    session: SessionId,
    device: u64,
    phase: Phase,
    link: Option<Link>,
    /// Of the last accepted START; a lower or equal one comes too late.
    fence: Option<Fence>,
    protocol: Protocol,
    dialect: Dialect,
    instance: u64,
    attempt: u64,
    tokens: Tokens,
    channels: Channels,
    /// `None` until the first call: most sessions of most applications only listen.
    calls: Option<Box<Calls>>,
    budget: ReplyBudget,
    /// `None` until the first one, as `calls`.
    operations: Option<Box<Operations>>,
    bucket: Bucket,
    undecodable: u32,
    heard_at: At,
    /// The reply queue is full, so the gateway does not read: silence is then its own.
    is_full: bool,
    /// When an expired token is no longer waited for.
    expiry: Option<At>,
    outputs: Outputs,
}

#[derive(Debug)]
enum Phase {
    /// No START yet.
    New,
    /// A START was accepted, its channels are being attached.
    Starting(Box<Starting>),
    /// START_RESP was sent.
    Live,
    /// No connection since then; the resume window runs.
    Lost(Duration),
    /// For good, with the close code that ended it (0: its resume window passed).
    Ended(u32),
}

/// What an engine has said and nobody has taken. An idle session holds no room for it ([`Engine::rest`]): four outputs
/// are more than the rest of the engine.
#[derive(Debug, Default)]
pub(crate) struct Outputs(Option<Box<Said>>);

#[derive(Debug, Default)]
struct Said(VecDeque<Output>);

impl Outputs {
    pub(crate) fn push_back(&mut self, output: Output) {
        self.0.get_or_insert_default().0.push_back(output);
    }

    fn pop_front(&mut self) -> Option<Output> {
        self.0.as_mut()?.0.pop_front()
    }
}

#[derive(Debug)]
struct Link {
    connection: ConnectionId,
}

impl Engine {
    /// A session that waits for its first START. `device` is [`crate::token::device_hash`].
    pub fn new(session: SessionId, device: u64, config: Arc<SessionConfig>, budget: ReplyBudget) -> Self {
        Engine {
            session,
            device,
            phase: Phase::New,
            link: None,
            fence: None,
            protocol: Protocol::Trunkline,
            dialect: Dialect::Protobuf,
            instance: 0,
            attempt: 0,
            tokens: Tokens::default(),
            channels: Channels::default(),
            calls: None,
            budget,
            operations: None,
            bucket: Bucket::new(config.frame_burst),
            undecodable: 0,
            heard_at: At::from(Duration::ZERO),
            is_full: false,
            expiry: None,
            outputs: Outputs::default(),
            config,
        }
    }

    /// Takes one input. An ended session takes none.
    pub fn handle_input(&mut self, now: Now, input: Input<'_>) {
        match input {
            Input::Start(facts) => self.start(now, *facts),
            Input::Attached { fence, channels, refused } if self.is_owner(fence) => {
                self.attached(now, channels, refused);
            }
            Input::StartFailed { fence, error, close } if self.is_owner(fence) => {
                self.start_failed(now, error, close);
            }
            Input::Frame { fence, frame, sent, gate } if self.is_owner(fence) && self.reads() => {
                self.heard_at = now.at.into();
                self.undecodable = 0;
                self.frame(now, frame, sent, gate);
            }
            Input::Undecodable { fence, detail } if self.is_owner(fence) && self.reads() => {
                self.heard_at = now.at.into();
                self.undecodable(now, &detail);
            }
            Input::Answer { id, result } => self.answer(now, id, result),
            Input::CallEnded { seq, outcome } => {
                self.with_calls(|calls, cx| calls.ended(cx, now.at, seq, outcome));
            }
            Input::Joined { channel, position } => self.joined(channel, position),
            Input::Withdrawn { channel, error } => self.withdrawn(&channel, error),
            Input::Pressure(pressure) => self.pressure(now, pressure),
            Input::Disconnected { fence } if self.is_owner(fence) => self.lose(now),
            Input::Timeout => self.timeout(now),
            Input::Kick(notice) => self.kick(now, notice),
            // Of a connection that no longer owns the session, or before it reads.
            Input::Attached { .. }
            | Input::StartFailed { .. }
            | Input::Frame { .. }
            | Input::Undecodable { .. }
            | Input::Disconnected { .. } => {}
        }
    }

    /// The next thing to do; `None` when all is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Gives back what the engine keeps for its next outputs. To be called when all are taken and no further input is at
    /// hand: most sessions are idle most of the time.
    pub fn rest(&mut self) {
        if self.outputs.0.as_ref().is_some_and(|said| said.0.is_empty()) {
            self.outputs.0 = None;
        }
    }

    /// When to give [`Input::Timeout`], if nothing else happens before.
    pub fn next_timeout(&self) -> Option<Duration> {
        match self.phase {
            Phase::New | Phase::Starting(_) | Phase::Ended(_) => None,
            Phase::Live => {
                let silent = (!self.is_full).then(|| self.silent_at());
                silent.into_iter().chain(self.expiry.map(At::time)).min()
            }
            Phase::Lost(since) => Some(since + self.config.resume_window),
        }
    }

    /// Joins a push to the running call `seq`, or says why not. The pusher is answered with it at once.
    pub fn bind(&mut self, seq: ClientSeq, push: BoundPush) -> BindAnswer {
        let calls = self.calls.as_mut();
        calls.map_or(BindAnswer::NoSuchCall, |calls| calls.bind(&self.config, self.dialect, seq, push))
    }

    /// Does this call run, or wait to run? For pushes that name a user with several sessions.
    pub fn runs(&self, seq: ClientSeq) -> bool {
        self.calls.as_ref().is_some_and(|calls| calls.runs(seq))
    }

    /// Protocol 0: the client's ack tells that it has the answers to frames with these `msg_id`s: their cached replies
    /// are of no more use.
    pub fn answers_acked(&mut self, msg_ids: &[u32]) {
        if let Some(calls) = &mut self.calls {
            calls.acked(msg_ids);
        }
    }

    /// When the newest of the cached replies was made; `None` where none is cached. Where a node's budget is short,
    /// sessions give up theirs in this order.
    pub fn cached_since(&self) -> Option<Duration> {
        self.calls.as_ref()?.cached_since()
    }

    /// Gives cached replies up: a call whose reply is asked for again is `RESULT_UNKNOWN`.
    pub fn give_up_replies(&mut self, which: GiveUp) {
        if let Some(calls) = &mut self.calls {
            calls.give_up(which);
        }
    }

    /// What is known of this call number.
    pub fn call_stage(&self, seq: ClientSeq) -> CallStage {
        self.calls.as_ref().map_or(CallStage::Unknown, |calls| calls.stage(seq))
    }

    /// Whether frames of the connection may be given: after START_RESP, until its end.
    pub fn reads(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// The session is over; no output but those still queued will come.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// Whose engine this is.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// When the client was last heard of: a START or a frame.
    pub fn heard_at(&self) -> Duration {
        self.heard_at.time()
    }

    fn silent_at(&self) -> Duration {
        self.heard_at() + self.config.silence()
    }

    /// The protocol of the last START.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The channels the session is on, and why.
    pub fn channels(&self) -> impl Iterator<Item = (&Channel, ChannelKind)> {
        self.channels.names().map(|(channel, subscription)| (channel, subscription.kind))
    }

    /// What the client has of each channel, by its acks: where a session in its place would go on.
    pub fn acked_positions(&self) -> Vec<ChannelPosition> {
        self.channels.handover()
    }

    fn is_owner(&self, fence: Fence) -> bool {
        self.link.is_some() && self.fence == Some(fence)
    }

    fn send(&mut self, frame: DownFrame) {
        self.outputs.push_back(Output::Send(frame.into()));
    }

    /// The memory of calls, from the first one on.
    fn calls_begun(&mut self) -> &mut Calls {
        let pressure = if self.is_full { Pressure::Full } else { Pressure::Room };
        let new = || Box::new(Calls::new(self.budget.clone(), pressure));
        self.calls.get_or_insert_with(new)
    }

    /// Nothing happens while there was no call.
    fn with_calls(&mut self, work: impl FnOnce(&mut Calls, &mut Cx<'_>)) {
        let to = self.reply_to();
        let Some(calls) = &mut self.calls else { return };
        let mut cx = Cx {
            config: &self.config,
            to,
            protocol: self.protocol,
            dialect: self.dialect,
            session: self.session,
            outputs: &mut self.outputs,
        };
        work(calls, &mut cx);
    }

    fn pressure(&mut self, now: Now, pressure: Pressure) {
        if self.is_full && pressure == Pressure::Room {
            // What the client said meanwhile was not read.
            self.heard_at = now.at.into();
        }
        self.is_full = pressure == Pressure::Full;
        self.with_calls(|calls, cx| calls.set_pressure(cx, pressure));
    }

    fn expires_at(&mut self, now: Now, unix_ms: Option<u64>) {
        self.expiry = unix_ms.map(|expiry| {
            let left = Duration::from_millis(expiry.saturating_sub(now.unix_ms));
            now.at.saturating_add(left).saturating_add(self.config.expiry_grace).into()
        });
    }

    fn timeout(&mut self, now: Now) {
        match self.phase {
            Phase::Live if !self.is_full && now.at >= self.silent_at() => {
                self.close(now, CloseCode::Silent.notice("nothing was heard for 2.5 heartbeats"));
            }
            // The session stays: with a new token its client can resume it and has lost nothing.
            Phase::Live if self.expiry.is_some_and(|expiry| now.at >= expiry.time()) => {
                self.close(now, CloseCode::TokenExpired.notice("the token expired and was not refreshed"));
            }
            Phase::Lost(since) if now.at >= since + self.config.resume_window => {
                self.end(0);
            }
            _ => {}
        }
    }

    fn kick(&mut self, now: Now, notice: CloseNotice) {
        let code = notice.code;
        if matches!(self.phase, Phase::Ended(_)) {
            return;
        }
        self.close(now, notice);
        if !(4000..4100).contains(&code) {
            self.end(code);
        }
    }

    /// Ends the connection. The session waits for its client.
    fn close(&mut self, now: Now, notice: CloseNotice) {
        if let Some(Link { connection }) = &self.link {
            self.outputs.push_back(Output::Close { connection: *connection, notice });
            self.lose(now);
        }
    }

    fn lose(&mut self, now: Now) {
        let was_live = matches!(self.phase, Phase::Live);
        self.link = None;
        self.channels.cut();
        self.phase = Phase::Lost(now.at);
        // The next connection has a reply queue of its own, and nobody is left to say that this one has room.
        self.pressure(now, Pressure::Room);
        if was_live {
            self.outputs.push_back(Output::Event(Event::Lost));
        }
    }

    fn end(&mut self, code: u32) {
        self.phase = Phase::Ended(code);
        self.link = None;
        if let Some(calls) = &mut self.calls {
            calls.clear();
        }
        self.outputs.push_back(Output::Event(Event::Ended(code)));
    }

    fn joined(&mut self, channel: Channel, position: Position) {
        match &mut self.phase {
            Phase::Ended(_) => {}
            Phase::Starting(starting) => {
                starting.joined.push((channel, position));
            }
            Phase::New | Phase::Live | Phase::Lost(_) => {
                let live = matches!(self.phase, Phase::Live);
                // On it already: delivery goes on as it is, it only no longer depends on the client's list.
                if self.channels.join(&channel, live) {
                    return;
                }
                let kind = match is_implicit_name(&channel) {
                    true => ChannelKind::Implicit,
                    false => ChannelKind::Joined,
                };
                self.channels.attached(channel.clone(), kind, position, live);
                if live {
                    let Position { epoch, offset } = position;
                    let told =
                        ChannelResponse { channel: channel.to_string(), epoch, offset, ..Default::default() };
                    self.send(DownFrame::new(0, DownBody::ChannelResp(told)));
                    self.outputs.push_back(Output::Deliver(vec![(channel, position)]));
                }
            }
        }
    }

    fn withdrawn(&mut self, channel: &str, error: ErrorMessage) {
        if let Phase::Starting(starting) = &mut self.phase {
            starting.withdraw(channel, error);
            self.channels.remove(channel);
            return;
        }
        let Some(known) = self.channels.remove(channel) else { return };
        // Also without a connection: what is attached for a session that may come back must not stay.
        self.outputs.push_back(Output::Detach(Channel::from(channel)));
        if known.live {
            let told =
                ChannelResponse { channel: channel.to_owned(), error: Some(error), ..Default::default() };
            self.send(DownFrame::new(0, DownBody::ChannelResp(told)));
        }
    }
}
