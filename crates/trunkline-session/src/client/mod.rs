//! The client's side of a session: START and resume, calls, positions, acks, heartbeats (protocol 1 only).
//!
//! The driver connects, gives frames and time, and does what comes out. The engine refuses to choose an address, to
//! back off and to store anything: [`ClientOutput::Lost`] says what is advised, [`ClientEngine::positions`] what to
//! store. It loses nothing silently: every call ends once, every publication is delivered once and in its channel's
//! order, or a gap is told.
//!
//! After each input or intent take outputs until `poll_output` is `None`, and carry them out in that order.

mod calls;
mod channels;
mod frames;
mod io;
mod requests;

pub use io::*;

use std::collections::VecDeque;
use std::time::Duration;

use trunkline_proto::codes::Advice;
use trunkline_proto::wire::{
    ChannelPosition, ClientAck, CloseNotice, HeartbeatRequest, StartRequest, StopRequest, stop_request,
};
use trunkline_proto::{CloseCode, UpBody, UpFrame};

use crate::Now;
use crate::defaults::{HEARTBEAT, SILENCE_HALF_HEARTBEATS};
use crate::position::Position;
use calls::Calls;
use channels::Channels;
use requests::Requests;

/// A client of one user on one device.
#[derive(Debug)]
pub struct ClientEngine {
    config: ClientConfig,
    phase: Phase,
    attempt: u64,
    next_msg_id: u32,
    resume_token: String,
    session_id: String,
    heartbeat: Duration,
    channels: Channels,
    calls: Calls,
    requests: Requests,
    /// What acks have told of replies.
    replied_told: u64,
    /// Since when replies wait to be acked.
    replied_since: Option<Duration>,
    /// The token of a refresh without answer, where the last START went with it.
    offered: Option<String>,
    /// When the last heartbeat left, or START_RESP came.
    beat_at: Duration,
    heard_at: Duration,
    /// The notice that came before the connection's end.
    notice: Option<CloseNotice>,
    outputs: VecDeque<ClientOutput>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No connection.
    Apart,
    /// START was sent with this `msg_id`.
    Starting { msg_id: u32, since: Duration },
    /// START_RESP came.
    Live,
    /// For good.
    Closed,
}

impl ClientEngine {
    /// A client that waits for its first connection.
    pub fn new(config: ClientConfig) -> Self {
        ClientEngine {
            config,
            phase: Phase::Apart,
            attempt: 0,
            next_msg_id: 1,
            resume_token: String::new(),
            session_id: String::new(),
            heartbeat: HEARTBEAT,
            channels: Channels::default(),
            calls: Calls::default(),
            requests: Requests::default(),
            replied_told: 0,
            replied_since: None,
            offered: None,
            beat_at: Duration::ZERO,
            heard_at: Duration::ZERO,
            notice: None,
            outputs: VecDeque::new(),
        }
    }

    /// Channels that a former run of the program was on, and where: what was lost meanwhile is told at the first
    /// START. Only before it.
    pub fn restore(&mut self, positions: impl IntoIterator<Item = ChannelPosition>) {
        for position in positions {
            self.channels.put(&position.channel, Position::from(&position));
        }
    }

    /// Takes one input.
    pub fn handle_input(&mut self, now: Now, input: ClientInput) {
        match input {
            ClientInput::Connected => self.connected(now),
            ClientInput::Frame(frame) => self.frame(now, frame),
            ClientInput::Disconnected(code) => self.disconnected(code),
            ClientInput::Timeout => self.timeout(now),
        }
        self.flush(now);
    }

    /// The next thing to do; `None` when all is done.
    pub fn poll_output(&mut self) -> Option<ClientOutput> {
        self.outputs.pop_front()
    }

    /// When to give [`ClientInput::Timeout`], if nothing else happens before.
    pub fn next_timeout(&self) -> Option<Duration> {
        match self.phase {
            Phase::Apart | Phase::Closed => None,
            Phase::Starting { since, .. } => Some(since + self.config.start_timeout),
            Phase::Live => {
                let beat = (self.beat_at + self.heartbeat).min(self.heard_at + self.silence());
                let others = [self.calls.next_retry(), self.ack_due()];
                Some(others.into_iter().flatten().fold(beat, Duration::min))
            }
        }
    }

    /// Makes a call. It is sent at once if there is a session, and is kept until it ends.
    pub fn call(&mut self, now: Now, call: ClientCall) -> Result<CallId, Refusal> {
        if self.phase == Phase::Closed {
            return Err(Refusal::Closed);
        }
        if self.calls.waiting() >= self.config.queue {
            return Err(Refusal::QueueFull);
        }
        let id = self.calls.add(call);
        self.flush(now);
        Ok(id)
    }

    /// Nobody waits for this call any more: it ends without output. If it was sent it may still run.
    pub fn abandon(&mut self, id: CallId) {
        self.calls.abandon(id);
    }

    /// Makes a request; [`ClientOutput::Answered`] follows. It is kept over cuts until then.
    pub fn request(&mut self, now: Now, request: Request) -> Result<RequestId, Refusal> {
        if self.phase == Phase::Closed {
            return Err(Refusal::Closed);
        }
        if self.requests.waiting() >= self.config.queue {
            return Err(Refusal::QueueFull);
        }
        let id = self.requests.add(request, self.config.instance);
        self.flush(now);
        Ok(id)
    }

    /// The token of the next START; a live session is refreshed with [`Request::Refresh`].
    pub fn set_auth_token(&mut self, auth_token: String) {
        self.config.auth_token = auth_token;
    }

    /// Ends the session. What is under way ends at once.
    pub fn stop(&mut self, reason: stop_request::Reason) {
        if self.phase == Phase::Live {
            let stop = StopRequest { reason: reason as i32 };
            self.outputs.push_back(ClientOutput::Send(UpFrame::new(0, 0, UpBody::Stop(stop))));
        }
        self.close_for_good("the client has stopped");
    }

    /// Sends what waits to be acked now, instead of after a while.
    pub fn ack_now(&mut self) {
        if self.phase == Phase::Live {
            self.send_ack(0);
        }
    }

    /// Where the client is in each of its channels.
    pub fn positions(&self) -> Vec<ChannelPosition> {
        self.channels.positions()
    }

    /// The session's id; empty before the first START_RESP.
    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// START_RESP came, and the connection lives.
    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// No input or intent has an effect any more.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// When the next ack leaves: of publications or of replies, whichever comes first.
    fn ack_due(&self) -> Option<Duration> {
        let replies = self.replied_since.map(|since| since + self.config.ack_after);
        [self.channels.ack_due(&self.config), replies].into_iter().flatten().min()
    }

    fn silence(&self) -> Duration {
        self.heartbeat * SILENCE_HALF_HEARTBEATS / 2
    }

    fn take_msg_id(&mut self) -> u32 {
        next_msg_id(&mut self.next_msg_id)
    }

    fn connected(&mut self, now: Now) {
        if self.phase == Phase::Closed {
            return;
        }
        self.requests.cut();
        self.notice = None;
        self.attempt += 1;
        let msg_id = self.take_msg_id();
        // A new token is the user's wish, and the old one may have expired. Whether it is good the answer says.
        self.offered = self.requests.refreshing().map(str::to_owned);
        let mut positions = self.channels.positions();
        positions.retain(|position| !self.requests.leaving().any(|leaving| *leaving == *position.channel));
        let start = StartRequest {
            openid: self.config.user.clone(),
            auth_token: self.offered.as_ref().unwrap_or(&self.config.auth_token).clone(),
            resume_token: self.resume_token.clone(),
            positions,
            device_id: self.config.device_id.clone(),
            client: self.config.client.clone(),
            protocol: 1,
            last_sent_client_seq: self.calls.last_sent().0,
            platform: self.config.platform.clone(),
            instance: self.config.instance,
            attempt: self.attempt,
            ..StartRequest::default()
        };
        self.phase = Phase::Starting { msg_id, since: now.at };
        self.outputs.push_back(ClientOutput::Send(UpFrame::new(msg_id, 0, UpBody::Start(start.into()))));
    }

    fn disconnected(&mut self, code: Option<u32>) {
        if matches!(self.phase, Phase::Apart | Phase::Closed) {
            return;
        }
        let notice = self.notice.take();
        // A refused START leaves a notice that has a reason only.
        let code = notice.as_ref().map(|notice| notice.code).filter(|code| *code != 0).or(code);
        let mut advice = code.map_or(Advice::Resume, Advice::of);
        self.phase = Phase::Apart;
        self.requests.cut();
        if code == Some(CloseCode::Unauthenticated.number())
            && let Some(refused) = self.offered.take()
        {
            // The token of the refresh is refused, not the client: it comes back with the one that it had.
            let why = notice.as_ref().map(|notice| notice.reason.as_str()).unwrap_or_default();
            self.requests.refuse_refreshes(&refused, why, &mut self.outputs);
            advice = Advice::Resume;
        }
        if advice == Advice::Fresh {
            // The positions stay: what they have lost is told by the fresh session.
            self.resume_token.clear();
        }
        let notice = notice.unwrap_or_default();
        if matches!(advice, Advice::StayAway | Advice::FixRequest) {
            self.close_for_good(if notice.reason.is_empty() { "told to stay away" } else { &notice.reason });
        }
        self.outputs.push_back(ClientOutput::Lost(Lost {
            advice,
            code,
            reconnect_after: (notice.reconnect_after_ms > 0)
                .then(|| Duration::from_millis(u64::from(notice.reconnect_after_ms))),
            redirect: (!notice.redirect.is_empty()).then_some(notice.redirect),
            reason: notice.reason,
        }));
    }

    fn close_for_good(&mut self, why: &str) {
        self.phase = Phase::Closed;
        self.calls.end_all(why, &mut self.outputs);
        self.requests.end_all(why, &mut self.outputs);
    }

    /// The connection is of no use: closed here, and resumed on another.
    fn give_up(&mut self, code: CloseCode) {
        self.outputs.push_back(ClientOutput::Close { code: code.number() });
        self.disconnected(Some(code.number()));
    }

    fn timeout(&mut self, now: Now) {
        match self.phase {
            Phase::Starting { since, .. } if now.at >= since + self.config.start_timeout => {
                self.give_up(CloseCode::Silent);
            }
            Phase::Live if now.at >= self.heard_at + self.silence() => self.give_up(CloseCode::Silent),
            Phase::Live => {
                self.calls.retry(now.at, &mut self.outputs);
                if now.at >= self.beat_at + self.heartbeat {
                    self.send_heartbeat(now);
                }
            }
            _ => {}
        }
    }

    fn send_heartbeat(&mut self, now: Now) {
        self.beat_at = now.at;
        self.calls.heartbeat_sent();
        let client_timestamp = i64::try_from(now.unix_ms).unwrap_or(i64::MAX);
        let beat = UpBody::Heartbeat(HeartbeatRequest { client_timestamp });
        let msg_id = self.take_msg_id();
        self.outputs.push_back(ClientOutput::Send(UpFrame::new(msg_id, 0, beat)));
    }

    /// Sends what may be sent now.
    fn flush(&mut self, now: Now) {
        if self.phase != Phase::Live {
            return;
        }
        let counter = &mut self.next_msg_id;
        let mut next = || next_msg_id(counter);
        self.requests.send_queued(&mut self.outputs, &mut next);
        self.calls.send_queued(&mut self.outputs, &mut next);
        if self.calls.needs_heartbeat() {
            self.send_heartbeat(now);
        }
        let replies = self.calls.replied() - self.replied_told;
        if replies > 0 {
            self.replied_since.get_or_insert(now.at);
        }
        let many = replies >= u64::from(self.config.ack_every);
        if many || self.ack_due().is_some_and(|due| now.at >= due) {
            self.send_ack(0);
        }
    }

    fn send_ack(&mut self, start_fence: u64) {
        self.replied_told = self.calls.replied();
        self.replied_since = None;
        let ack = ClientAck {
            positions: self.channels.take_ack(),
            replied_client_seq: self.replied_told,
            start_fence,
            ..ClientAck::default()
        };
        self.outputs.push_back(ClientOutput::Send(UpFrame::new(0, 0, UpBody::Ack(ack))));
    }
}

/// 0 is no `msg_id`. After four billion it begins anew: none of the old ones can still be open.
fn next_msg_id(counter: &mut u32) -> u32 {
    let msg_id = *counter;
    *counter = counter.checked_add(1).unwrap_or(1);
    msg_id
}
