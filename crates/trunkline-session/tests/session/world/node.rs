//! The gateway's part in the world: connections with their write state, the hub, services. It does what the real
//! gateway does around engines, with nothing of its async machinery.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use trunkline_proto::wire::{
    BusinessResponse, ChannelGap, ChannelRefusal, ChannelResponse, CloseNotice, Publication, StartRequest,
    StartResponse,
};
use trunkline_proto::{CloseCode, Dialect, DownBody, DownFrame, ErrorCode, UpBody, UpFrame};
use trunkline_session::engine::{
    Answer, AttachRequest, BindAnswer, BindHint, BindTarget, BoundPush, CallHistory, CallOutcome, CallReply,
    ChannelKind, ChannelStart, Event, Input, Operation, OperationId, Output, SentPositions, StartFacts,
    TokenFact, TokenlessStart,
};
use trunkline_session::token::{ResumeToken, device_hash};
use trunkline_session::{
    Channel, ClientSeq, ConnectionId, Engine, Fence, Now, OpenGate, Position, Protocol, ReplyBudget, Seq,
    SessionConfig, SessionId,
};

use super::dice::Dice;
use super::log::{Log, Next, place};
use crate::checker::{History, Seen};

/// What happens at a node after a while.
#[derive(Debug, Clone)]
pub(crate) enum Later {
    Attach {
        session: SessionId,
        fence: Fence,
        wanted: Vec<AttachRequest>,
        link: usize,
    },
    Operate {
        session: SessionId,
        id: OperationId,
        operation: Operation,
        link: usize,
    },
    /// Something a service does while a call runs; the last of them ends it.
    Serve {
        session: SessionId,
        seq: ClientSeq,
        life: u64,
        steps: u64,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Conn {
    pub(crate) owner: Option<(SessionId, Fence)>,
    /// START was read; what comes before START_RESP waits, as the gateway pauses reading.
    pub(crate) inbox: VecDeque<UpFrame>,
    replies: VecDeque<DownFrame>,
    /// Attached, not delivered yet, and delivered.
    cursors: BTreeMap<String, Position>,
    live: BTreeSet<String>,
    pub(crate) closing: bool,
}

impl Conn {
    /// A cursor that waits for `Output::Deliver`.
    pub(crate) fn attach(&mut self, channel: &str, position: Position) {
        self.cursors.insert(channel.to_owned(), position);
    }
}

impl SentPositions for Conn {
    fn sent(&self, channel: &str) -> Option<Position> {
        self.cursors.get(channel).copied()
    }

    fn highest_seq(&self) -> Seq {
        Seq(0)
    }
}

pub(crate) struct Node {
    pub(crate) config: Arc<SessionConfig>,
    budget: ReplyBudget,
    pub(crate) hub: BTreeMap<SessionId, Engine>,
    devices: BTreeMap<(String, String), SessionId>,
    users: BTreeMap<SessionId, String>,
    pub(crate) conns: BTreeMap<usize, Conn>,
    next_session: u128,
    next_fence: u64,
    /// Rises with each kill: what was under way before is void.
    pub(crate) life: u64,
    pub(crate) later: Vec<Later>,
    /// Verified facts about what happened.
    pub(crate) events: Vec<(SessionId, Event)>,
    /// 1 in so many calls is refused by the service for load, fails, or is pushed into.
    pub(crate) trouble: u64,
    bound: u64,
    runs: u64,
    pub(crate) running_most: usize,
    running: BTreeMap<SessionId, usize>,
}

impl Node {
    pub(crate) fn new(config: SessionConfig) -> Self {
        Node {
            config: Arc::new(config),
            budget: ReplyBudget::default(),
            hub: BTreeMap::new(),
            devices: BTreeMap::new(),
            users: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_session: 1,
            next_fence: 0,
            life: 0,
            later: Vec::new(),
            events: Vec::new(),
            trouble: 6,
            bound: 0,
            runs: 0,
            running_most: 0,
            running: BTreeMap::new(),
        }
    }

    /// kill -9: sessions, connections and running calls are gone; what services did is done.
    pub(crate) fn kill(&mut self) {
        self.hub.clear();
        self.devices.clear();
        self.conns.clear();
        self.later.clear();
        self.running.clear();
        self.life += 1;
    }

    pub(crate) fn user(&self, session: SessionId) -> Option<String> {
        self.users.get(&session).cloned()
    }

    pub(crate) fn budget_used(&self) -> u64 {
        self.budget.used()
    }

    pub(crate) fn frame(&mut self, now: Now, link: usize, frame: UpFrame, world: &mut Around<'_>) {
        let Some(conn) = self.conns.get_mut(&link) else { return };
        if conn.closing {
            return;
        }
        match (conn.owner, frame.body) {
            (None, UpBody::Start(start)) => self.start(now, link, frame.msg_id, &start, world),
            (None, _) => self.close(link, CloseCode::StartExpected.notice("")),
            (Some(_), body) => {
                conn.inbox.push_back(UpFrame { body, ..frame });
                self.read(now, link, world);
            }
        }
    }

    /// Gives what was read to the engine, unless START_RESP is still to come.
    fn read(&mut self, now: Now, link: usize, world: &mut Around<'_>) {
        while let Some(conn) = self.conns.get_mut(&link) {
            let Some((session, fence)) = conn.owner else { return };
            let Some(engine) = self.hub.get_mut(&session) else { return };
            let owns = engine.connection().is_some_and(|(_, owner)| owner == fence);
            if owns && !engine.reads() {
                return;
            }
            let Some(frame) = conn.inbox.pop_front() else { return };
            engine.handle_input(now, Input::Frame { fence, frame, sent: conn, gate: &OpenGate });
            self.carry_out(now, session, world);
        }
    }

    fn start(&mut self, now: Now, link: usize, msg_id: u32, start: &StartRequest, world: &mut Around<'_>) {
        self.next_fence += 1;
        let fence = Fence::new(self.next_fence, 1).unwrap();
        let device = (start.openid.clone(), start.device_id.clone());
        let hash = device_hash(&device.0, &device.1);
        let (mut token, mut former, mut chosen) = (TokenFact::None, None, None);
        if !start.resume_token.is_empty() {
            match ResumeToken::verify(&start.resume_token, &self.config.token_key) {
                Ok(read) if read.device == hash && self.alive(read.session) => {
                    token = TokenFact::Generation(read.generation);
                    chosen = Some(read.session);
                }
                Ok(read) if read.device == hash => former = Some(read.session),
                _ => return self.refuse(link, msg_id, CloseCode::TokenUsed),
            }
        }
        let mut replaces = None;
        if chosen.is_none()
            && let Some(held) = self.devices.get(&device).copied().filter(|held| self.alive(*held))
        {
            match self.hub[&held].judge_tokenless(start.instance, start.attempt) {
                TokenlessStart::Late | TokenlessStart::SameStart => chosen = Some(held),
                TokenlessStart::Another => replaces = Some(held),
            }
        }
        let session = chosen.unwrap_or(SessionId(self.next_session));
        if chosen.is_none() {
            self.next_session += 1;
            let engine = Engine::new(session, hash, self.config.clone(), self.budget.clone());
            self.hub.insert(session, engine);
            self.users.insert(session, start.openid.clone());
            self.devices.insert(device, session);
        }
        let facts = StartFacts {
            connection: ConnectionId(link as u64),
            fence,
            protocol: Protocol::Trunkline,
            dialect: Dialect::Protobuf,
            msg_id,
            instance: start.instance,
            attempt: start.attempt,
            token,
            former,
            last_acked_seq: Seq(0),
            last_sent_client_seq: ClientSeq(start.last_sent_client_seq),
            implicit: [format!("user:{}", start.openid), format!("session:{session}"), "all".to_owned()]
                .map(|name| Channel::from(name.as_str()))
                .to_vec(),
            positions: start.positions.clone(),
            expires_at: None,
        };
        self.give(now, session, Input::Start(Box::new(facts)), world);
        if let Some(old) = replaces {
            self.give(
                now,
                old,
                Input::Kick(CloseCode::Replaced.notice("another session of the device")),
                world,
            );
        }
    }

    fn alive(&self, session: SessionId) -> bool {
        self.hub.get(&session).is_some_and(|engine| !engine.is_ended())
    }

    fn refuse(&mut self, link: usize, msg_id: u32, code: CloseCode) {
        let error = Some(ErrorCode::Unauthenticated.message("refused"));
        let response = StartResponse { success: false, error, ..StartResponse::default() };
        self.reply(link, DownFrame::new(msg_id, DownBody::StartResp(response.into())));
        self.close(link, code.notice("refused"));
    }

    fn reply(&mut self, link: usize, frame: DownFrame) {
        if let Some(conn) = self.conns.get_mut(&link).filter(|conn| !conn.closing) {
            conn.replies.push_back(frame);
        }
    }

    fn close(&mut self, link: usize, notice: CloseNotice) {
        if let Some(conn) = self.conns.get_mut(&link) {
            conn.replies.push_back(DownFrame::new(0, DownBody::Close(notice)));
            conn.cursors.clear();
            conn.live.clear();
            conn.closing = true;
        }
    }

    pub(crate) fn give(&mut self, now: Now, session: SessionId, input: Input<'_>, world: &mut Around<'_>) {
        if let Some(engine) = self.hub.get_mut(&session) {
            engine.handle_input(now, input);
            self.carry_out(now, session, world);
        }
    }

    pub(crate) fn gone(&mut self, now: Now, link: usize, world: &mut Around<'_>) {
        if let Some((session, fence)) = self.conns.remove(&link).and_then(|conn| conn.owner) {
            self.give(now, session, Input::Disconnected { fence }, world);
        }
    }

    fn carry_out(&mut self, now: Now, session: SessionId, world: &mut Around<'_>) {
        while let Some(engine) = self.hub.get_mut(&session) {
            let link = engine.connection().map(|(connection, _)| connection.0 as usize);
            let Some(output) = engine.poll_output() else { break };
            self.output(session, link, output, world);
        }
        if self.hub.get(&session).is_some_and(Engine::is_ended) {
            self.hub.remove(&session);
            self.running.remove(&session);
            self.devices.retain(|_, held| *held != session);
        }
        if let Some((_, link)) = self.owner_link(session) {
            self.read(now, link, world);
        }
    }

    fn owner_link(&self, session: SessionId) -> Option<(Fence, usize)> {
        let (connection, fence) = self.hub.get(&session)?.connection()?;
        let link = connection.0 as usize;
        let has_work = self.conns.get(&link).is_some_and(|conn| !conn.inbox.is_empty());
        (has_work && self.hub[&session].reads()).then_some((fence, link))
    }

    fn output(&mut self, session: SessionId, link: Option<usize>, output: Output, world: &mut Around<'_>) {
        match output {
            Output::StartRefused { connection, response, close } => {
                let link = connection.0 as usize;
                self.reply(link, *response);
                self.close(link, close);
            }
            Output::StartAccepted(accepted) => {
                if let Some(old) = accepted.replaced {
                    self.close(old.0 as usize, CloseCode::Replaced.notice("a later START"));
                }
                let link = accepted.connection.0 as usize;
                if let Some(conn) = self.conns.get_mut(&link) {
                    conn.owner = Some((session, accepted.fence));
                }
                let (fence, wanted) = (accepted.fence, accepted.attach);
                self.later.push(Later::Attach { session, fence, wanted, link });
            }
            Output::Send(frame) => self.reply(link.expect("frames are sent to a connection only"), *frame),
            Output::Deliver(channels) => {
                let conn = link.and_then(|link| self.conns.get_mut(&link));
                if let Some(conn) = conn {
                    for (channel, _) in channels {
                        assert!(conn.cursors.contains_key(&*channel), "{channel} is delivered unattached");
                        conn.live.insert(channel.to_string());
                    }
                }
            }
            Output::Detach(channel) => {
                if let Some(conn) = link.and_then(|link| self.conns.get_mut(&link)) {
                    conn.cursors.remove(&*channel);
                    conn.live.remove(&*channel);
                }
            }
            Output::Call(call) => self.call(session, &call, world),
            Output::Operation { id, operation } => {
                let link = link.expect("operations come from a connection");
                self.later.push(Later::Operate { session, id, operation, link });
            }
            Output::Publish(target, push) => {
                let channel = self.own_channel(session, target);
                world.publish(&channel, push.message);
            }
            Output::Close { connection, notice } => self.close(connection.0 as usize, notice),
            Output::Event(event) => self.events.push((session, event)),
            Output::CallRefused(..) | Output::RequestRefused(_) | Output::Acked(_) | Output::AckedSeq(_) => {}
        }
    }

    fn own_channel(&self, session: SessionId, target: BindTarget) -> String {
        match target {
            BindTarget::Session => format!("session:{session}"),
            BindTarget::User => format!("user:{}", self.users[&session]),
        }
    }

    fn call(
        &mut self,
        session: SessionId,
        call: &trunkline_session::engine::CallRequest,
        world: &mut Around<'_>,
    ) {
        let life = self.life;
        let running = self.running.entry(session).or_default();
        *running += 1;
        self.running_most = self.running_most.max(*running);
        // Refused and unknown calls do not run, so they take no step of a service.
        let refused = world.dice.one_in(self.trouble * 2);
        let steps =
            if call.history == CallHistory::MayHaveRun || refused { 0 } else { 1 + world.dice.upto(3) };
        if steps > 0 {
            self.runs += 1;
            world.history.saw(Seen::Ran { call: call.request.action.clone() });
        }
        let unknown = call.history == CallHistory::MayHaveRun;
        world.notes.insert((session, call.seq), (call.request.action.clone(), unknown));
        self.later.push(Later::Serve { session, seq: call.seq, life, steps });
    }

    pub(crate) fn do_later(&mut self, now: Now, later: Later, world: &mut Around<'_>) {
        match later {
            Later::Attach { session, fence, wanted, link } => {
                self.attach(now, session, fence, &wanted, link, world);
            }
            Later::Operate { session, id, operation, link } => {
                let result = self.operate(operation, link, world);
                self.give(now, session, Input::Answer { id, result }, world);
            }
            Later::Serve { session, seq, life, steps } if life == self.life => {
                self.serve(now, session, seq, steps, world);
            }
            Later::Serve { .. } => {}
        }
    }

    fn attach(
        &mut self,
        now: Now,
        session: SessionId,
        fence: Fence,
        wanted: &[AttachRequest],
        link: usize,
        world: &mut Around<'_>,
    ) {
        let (mut channels, mut refused) = (Vec::new(), Vec::new());
        for AttachRequest { channel, from, kind } in wanted.iter().cloned() {
            if kind == ChannelKind::Own && channel.starts_with("secret:") {
                let error = Some(ErrorCode::Forbidden.message("no right"));
                refused.push(ChannelRefusal { channel: channel.to_string(), error });
                continue;
            }
            let (position, gap) = world.log.attach(&channel, from);
            if let Some(conn) = self.conns.get_mut(&link) {
                conn.cursors.insert(channel.to_string(), position);
            }
            channels.push(ChannelStart { channel, kind, position, gap });
        }
        self.give(now, session, Input::Attached { fence, channels, refused }, world);
    }

    fn operate(
        &mut self,
        operation: Operation,
        link: usize,
        world: &mut Around<'_>,
    ) -> Result<Answer, trunkline_proto::wire::ErrorMessage> {
        match operation {
            Operation::Subscribe { channel, .. } if channel.starts_with("secret:") => {
                Err(ErrorCode::Forbidden.message("no right"))
            }
            Operation::Subscribe { channel, since } => {
                let (position, gap) = world.log.attach(&channel, since);
                if let Some(conn) = self.conns.get_mut(&link).filter(|conn| !conn.closing) {
                    conn.cursors.insert(channel.to_string(), position);
                }
                Ok(Answer::Subscribed { position, gap })
            }
            Operation::Publish(publish) => {
                let content = String::from_utf8_lossy(&publish.data).into_owned();
                let position = world.publish_once(&publish.channel, &publish.idempotency_key, content);
                let Position { epoch, offset } = position;
                Ok(Answer::Channel(ChannelResponse {
                    channel: publish.channel,
                    epoch,
                    offset,
                    ..Default::default()
                }))
            }
            Operation::Refresh { .. } => Ok(Answer::Refreshed { expires_at: None }),
            Operation::History(_) | Operation::Presence(_) => Ok(Answer::Channel(ChannelResponse::default())),
        }
    }

    fn serve(&mut self, now: Now, session: SessionId, seq: ClientSeq, steps: u64, world: &mut Around<'_>) {
        let (call, unknown) = world.notes[&(session, seq)].clone();
        if steps > 1 {
            if world.dice.one_in(2) {
                self.push_into(session, seq, &call, world);
            }
            self.later.push(Later::Serve { session, seq, life: self.life, steps: steps - 1 });
            return;
        }
        let outcome = if unknown {
            CallOutcome::Error(ErrorCode::ResultUnknown.message("it may have run elsewhere"))
        } else if steps == 0 {
            let mut error = ErrorCode::Overloaded.message("the service is busy");
            error.retry_after_ms = 40;
            CallOutcome::Error(error)
        } else if world.dice.one_in(self.trouble * 2) {
            CallOutcome::Error(ErrorCode::UpstreamFailed.message("it failed"))
        } else {
            let response = BusinessResponse { code: 200, message: call, ..Default::default() };
            CallOutcome::Reply(Box::new(CallReply { response, ..CallReply::default() }))
        };
        if let Some(running) = self.running.get_mut(&session) {
            *running -= 1;
        }
        self.give(now, session, Input::CallEnded { seq, outcome }, world);
    }

    /// A service pushes from inside a running call.
    fn push_into(&mut self, session: SessionId, seq: ClientSeq, call: &str, world: &mut Around<'_>) {
        let Some(engine) = self.hub.get_mut(&session) else { return };
        self.bound += 1;
        let content = format!("bound-{}-{}", self.life, self.bound);
        let push = BusinessResponse { code: 200, message: content.clone(), ..Default::default() };
        let hint = if world.dice.one_in(2) { BindHint::Before } else { BindHint::After };
        let answer = engine.bind(seq, BoundPush { hint, target: BindTarget::User, push });
        assert_eq!(answer, BindAnswer::Bound, "a call that runs takes pushes");
        // A call that wants no reply publishes them instead, and the log records that.
        if !call.starts_with("quiet") {
            world.history.saw(Seen::Bound { call: call.to_owned(), content });
        }
    }

    /// Writes to a connection what its link takes: replies first, then its cursors in turn.
    pub(crate) fn write(&mut self, link: usize, room: usize, log: &mut Log) -> Vec<DownFrame> {
        let Some(conn) = self.conns.get_mut(&link) else { return Vec::new() };
        let mut frames = Vec::new();
        while frames.len() < room {
            if let Some(frame) = conn.replies.pop_front() {
                frames.push(frame);
                continue;
            }
            let before = frames.len();
            for channel in &conn.live {
                let Some(cursor) = conn.cursors.get_mut(channel).filter(|_| frames.len() < room) else {
                    continue;
                };
                match log.next(channel, *cursor) {
                    Next::Nothing => {}
                    Next::Item(position, content) => {
                        *cursor = position;
                        let body = Publication { data: content.into(), ..Publication::default() };
                        let at = position.to_wire(channel);
                        frames.push(DownFrame::publication(at, DownBody::Publication(body)));
                    }
                    Next::Gap(next) => {
                        let Position { epoch, offset } = *cursor;
                        *cursor = next;
                        let next = Some(next.to_wire(channel));
                        let gap = ChannelGap { channel: channel.clone(), epoch, offset, next };
                        frames.push(DownFrame::new(0, DownBody::Gap(gap)));
                    }
                }
            }
            if frames.len() == before {
                break;
            }
        }
        frames
    }

    /// Nothing waits to be written, read or done.
    pub(crate) fn is_idle(&self, log: &mut Log) -> bool {
        self.later.is_empty()
            && self.conns.values().all(|conn| {
                conn.replies.is_empty()
                    && conn.inbox.is_empty()
                    && conn.live.iter().all(|channel| log.is_at_head(channel, conn.cursors[channel]))
            })
    }
}

/// What is outside the node.
pub(crate) struct Around<'a> {
    pub(crate) log: &'a mut Log,
    pub(crate) history: &'a mut History,
    pub(crate) dice: &'a mut Dice,
    /// Which call a number is.
    pub(crate) notes: &'a mut BTreeMap<(SessionId, ClientSeq), (String, bool)>,
    pub(crate) keys: &'a mut BTreeMap<String, Position>,
}

impl Around<'_> {
    pub(crate) fn publish(&mut self, channel: &str, content: String) -> Position {
        let step = 1 + self.dice.upto(2);
        let position = self.log.publish(channel, step, content.clone());
        self.history.saw(Seen::Accepted { channel: channel.to_owned(), at: place(position), content });
        position
    }

    fn publish_once(&mut self, channel: &str, key: &str, content: String) -> Position {
        if let Some(position) = self.keys.get(key) {
            return *position;
        }
        let position = self.publish(channel, content);
        self.keys.insert(key.to_owned(), position);
        position
    }
}
