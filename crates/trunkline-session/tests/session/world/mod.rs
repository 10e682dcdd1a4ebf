//! A world in virtual time: clients, links, one node, one log, and a history of what each saw.
//!
//! Links deliver in order and with delay. A cut keeps a random prefix of what was under way, in each direction, and
//! the two ends learn of it at different times: so a START can arrive long after its client has gone on, and a node
//! can write for a while to nobody.

mod dice;
mod log;
mod node;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use trunkline_proto::codes::Advice;
use trunkline_proto::wire::{BusinessRequest, Verdict};
use trunkline_proto::{Dialect, DownBody, DownFrame, UpFrame};
use trunkline_session::client::{
    CallEnd, CallId, ClientCall, ClientConfig, ClientInput, ClientOutput, Dropped, Request, WantReply,
};
use trunkline_session::engine::{Event, Input};
use trunkline_session::{Channel, ClientEngine, ClientSeq, Now, Position, SessionConfig, SessionId};

pub(crate) use crate::checker::{End, History, Seen, Summary};
pub(crate) use dice::Dice;
use log::{Log, place};
use node::{Around, Conn, Later, Node};

const START_UNIX_MS: u64 = 1_795_161_600_000;

/// How rough the world is.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    /// Items that a channel keeps.
    pub(crate) window: usize,
    /// Frames that a link takes before the node has to wait.
    pub(crate) link_room: usize,
    pub(crate) most_delay_ms: u64,
    pub(crate) config: SessionConfig,
    pub(crate) ack_every: u32,
    pub(crate) start_timeout: Duration,
    /// What is accepted once a session has begun is owed to its client, even if it has not heard of it yet.
    pub(crate) owed_from_begin: bool,
}

impl Default for Weather {
    fn default() -> Self {
        Weather {
            window: 1000,
            link_room: 8,
            most_delay_ms: 80,
            config: SessionConfig::default(),
            ack_every: 3,
            start_timeout: Duration::from_secs(10),
            owed_from_begin: false,
        }
    }
}

#[derive(Debug, Default)]
struct Link {
    up: VecDeque<Bytes>,
    down: VecDeque<Bytes>,
    client: usize,
    /// The client still uses it.
    client_open: bool,
    /// The way through: what is sent into a broken one goes nowhere.
    broken: bool,
    up_until: Duration,
    down_until: Duration,
}

#[derive(Debug, Clone)]
enum Happens {
    UpArrives(usize),
    DownArrives(usize),
    NodeSeesEnd(usize),
    ClientSeesEnd(usize),
    Reconnect(usize),
    At(Later),
}

struct Client {
    engine: ClientEngine,
    link: Option<usize>,
    connecting: bool,
    calls: BTreeMap<CallId, String>,
    on: BTreeSet<String>,
    made: u64,
    verdicts: Vec<Verdict>,
    last_lost: Option<Advice>,
}

pub(crate) struct World {
    pub(crate) at: Duration,
    pub(crate) history: History,
    pub(crate) dice: Dice,
    weather: Weather,
    node: Node,
    log: Log,
    clients: Vec<Client>,
    links: Vec<Link>,
    queue: BTreeMap<(Duration, u64), Happens>,
    events: u64,
    notes: BTreeMap<(SessionId, ClientSeq), (String, bool)>,
    keys: BTreeMap<String, Position>,
    pushes: u64,
    /// Frames that clients dropped because a right node does not send them.
    pub(crate) dropped: Vec<(usize, Dropped)>,
}

impl World {
    pub(crate) fn new(seed: u64, weather: Weather, clients: usize) -> Self {
        let mut world = World {
            at: Duration::from_secs(1000),
            history: History::new(),
            dice: Dice::new(seed),
            node: Node::new(weather.config.clone()),
            log: Log::new(weather.window),
            weather,
            clients: Vec::new(),
            links: Vec::new(),
            queue: BTreeMap::new(),
            events: 0,
            notes: BTreeMap::new(),
            keys: BTreeMap::new(),
            pushes: 0,
            dropped: Vec::new(),
        };
        for n in 0..clients {
            let config = ClientConfig {
                user: format!("u{n}"),
                device_id: "d".into(),
                instance: 100 + n as u64,
                ack_every: world.weather.ack_every,
                ack_after: Duration::from_millis(200),
                start_timeout: world.weather.start_timeout,
                ..ClientConfig::default()
            };
            world.add_client(config);
        }
        world
    }

    pub(crate) fn add_client(&mut self, config: ClientConfig) -> usize {
        let n = self.clients.len();
        self.clients.push(Client {
            engine: ClientEngine::new(config),
            link: None,
            connecting: false,
            calls: BTreeMap::new(),
            on: BTreeSet::new(),
            made: 0,
            verdicts: Vec::new(),
            last_lost: None,
        });
        self.reconnect_soon(n);
        n
    }

    pub(crate) fn now(&self) -> Now {
        let unix_ms = START_UNIX_MS + u64::try_from(self.at.as_millis()).unwrap();
        Now { at: self.at, unix_ms }
    }

    // What a test does to the world.

    pub(crate) fn push(&mut self, channel: &str) {
        self.pushes += 1;
        let content = format!("push-{}", self.pushes);
        let (_, mut around) = self.split();
        around.publish(channel, content);
        self.write_all();
    }

    pub(crate) fn call(&mut self, client: usize, kind: Kind) {
        let now = self.now();
        let known = &mut self.clients[client];
        known.made += 1;
        let prefix = if kind == Kind::Quiet { "quiet" } else { "call" };
        let action = format!("{prefix}-{client}-{}", known.made);
        let mut call = ClientCall {
            request: BusinessRequest { action: action.clone(), ..BusinessRequest::default() },
            ..ClientCall::default()
        };
        match kind {
            Kind::Plain => {}
            Kind::Ordered => drop(call.headers.insert("x-order".into(), "request".into())),
            Kind::Quiet => call.reply = WantReply::ErrorsOnly,
        }
        if let Ok(id) = known.engine.call(now, call) {
            known.calls.insert(id, action.clone());
            self.history.saw(Seen::Called { client: name(client), call: action });
        }
        self.client_outputs(client);
    }

    pub(crate) fn request(&mut self, client: usize, request: Request) {
        let now = self.now();
        let _full_or_closed = self.clients[client].engine.request(now, request);
        self.client_outputs(client);
    }

    pub(crate) fn stop(&mut self, client: usize) {
        self.clients[client].engine.stop(trunkline_proto::wire::stop_request::Reason::UserLogout);
        self.client_outputs(client);
    }

    /// The client's link breaks.
    pub(crate) fn cut(&mut self, client: usize) {
        let Some(link) = self.clients[client].link else { return };
        self.break_link(link);
        let (soon, late) = (self.dice.millis(0, 300), self.dice.millis(0, 4000));
        self.happens(soon, Happens::ClientSeesEnd(link));
        self.happens(late, Happens::NodeSeesEnd(link));
    }

    fn break_link(&mut self, link: usize) {
        let (up, down) = (self.links[link].up.len() as u64, self.links[link].down.len() as u64);
        let (up, down) = (self.dice.upto(up), self.dice.upto(down));
        let link = &mut self.links[link];
        link.broken = true;
        link.up.truncate(usize::try_from(up).unwrap());
        link.down.truncate(usize::try_from(down).unwrap());
    }

    pub(crate) fn join(&mut self, client: usize, channel: &str) {
        let session = self.clients[client].engine.session_id().parse::<SessionId>();
        let Some(session) = session.ok().filter(|session| self.node.hub.contains_key(session)) else {
            return;
        };
        let now = self.now();
        let (node, mut around) = self.split();
        let (position, _) = around.log.attach(channel, None);
        let known = node.hub[&session].channels().any(|(known, _)| &**known == channel);
        if known {
            return;
        }
        let link = node.hub[&session].connection().map(|(connection, _)| connection.0 as usize);
        if let Some(conn) = link.and_then(|link| node.conns.get_mut(&link)) {
            conn.attach(channel, position);
        }
        let channel = Channel::from(channel);
        node.give(now, session, Input::Joined { channel, position }, &mut around);
        self.after_node();
    }

    pub(crate) fn withdraw(&mut self, client: usize, channel: &str) {
        let Ok(session) = self.clients[client].engine.session_id().parse::<SessionId>() else { return };
        let now = self.now();
        let error = trunkline_proto::ErrorCode::Forbidden.message("withdrawn");
        let channel = Channel::from(channel);
        let (node, mut around) = self.split();
        node.give(now, session, Input::Withdrawn { channel, error }, &mut around);
        self.after_node();
    }

    /// kill -9 of the node; the memory broker's data goes with it if `wipe`.
    pub(crate) fn kill_node(&mut self, wipe: bool) {
        for link in 0..self.links.len() {
            if self.links[link].client_open {
                self.break_link(link);
                let soon = self.dice.millis(0, 300);
                self.happens(soon, Happens::ClientSeesEnd(link));
            }
            self.links[link].up.clear();
            self.links[link].broken = true;
        }
        self.node.kill();
        if wipe {
            self.log.wipe();
        }
    }

    pub(crate) fn verdicts(&self, client: usize) -> &[Verdict] {
        &self.clients[client].verdicts
    }

    pub(crate) fn last_lost(&self, client: usize) -> Option<Advice> {
        self.clients[client].last_lost
    }

    pub(crate) fn is_live(&self, client: usize) -> bool {
        self.clients[client].engine.is_live()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.node.hub.len()
    }

    pub(crate) fn running_most(&self) -> usize {
        self.node.running_most
    }

    pub(crate) fn budget_used(&self) -> u64 {
        self.node.budget_used()
    }

    // Time.

    pub(crate) fn run_for(&mut self, time: Duration) {
        let until = self.at + time;
        while let Some(next) = self.next_at().filter(|next| *next <= until) {
            self.step(next);
        }
        self.at = until;
    }

    /// Runs until nothing is under way, and judges the history.
    pub(crate) fn settle(&mut self) -> Summary {
        self.calm();
        self.history.check().unwrap_or_else(|violations| panic!("{violations:#?}\n{:#?}", self.tail()))
    }

    pub(crate) fn calm(&mut self) {
        let until = self.at + Duration::from_secs(600);
        while !self.is_calm() {
            let next = self.next_at().expect("something is under way, so something will happen");
            assert!(next < until, "the world does not come to rest: {:?}", self.queue.values().next());
            self.step(next);
        }
    }

    fn is_calm(&mut self) -> bool {
        let clients = self.clients.iter().all(|client| {
            client.calls.is_empty()
                && !client.connecting
                && (client.engine.is_live() || client.engine.is_closed())
        });
        // A broken link that its client still trusts is no rest either.
        let links = self
            .links
            .iter()
            .all(|link| link.up.is_empty() && (!link.client_open || (link.down.is_empty() && !link.broken)));
        clients
            && links
            && !self.queue.values().any(|happens| matches!(happens, Happens::At(_)))
            && self.node.is_idle(&mut self.log)
    }

    fn tail(&self) -> String {
        let clients =
            self.clients.iter().map(|client| (client.engine.is_live(), client.link, client.connecting));
        format!("at {:?}, live, link, connecting: {:?}", self.at, clients.collect::<Vec<_>>())
    }

    fn next_at(&self) -> Option<Duration> {
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        let engines = self.node.hub.values().filter_map(trunkline_session::Engine::next_timeout).min();
        let clients = self.clients.iter().filter_map(|client| client.engine.next_timeout()).min();
        [queued, engines, clients].into_iter().flatten().min()
    }

    fn step(&mut self, at: Duration) {
        self.at = self.at.max(at);
        if self.queue.keys().next().is_some_and(|(queued, _)| *queued <= self.at)
            && let Some((_, happens)) = self.queue.pop_first()
        {
            return self.happen(happens);
        }
        let (now, at) = (self.now(), self.at);
        let is_due = |timeout: Option<Duration>| timeout.is_some_and(|timeout| timeout <= at);
        for client in 0..self.clients.len() {
            if is_due(self.clients[client].engine.next_timeout()) {
                self.clients[client].engine.handle_input(now, ClientInput::Timeout);
                self.client_outputs(client);
            }
        }
        for session in self.node.hub.keys().copied().collect::<Vec<_>>() {
            if is_due(self.node.hub.get(&session).and_then(trunkline_session::Engine::next_timeout)) {
                let (node, mut around) = self.split();
                node.give(now, session, Input::Timeout, &mut around);
                self.after_node();
            }
        }
    }

    fn happens(&mut self, after: Duration, what: Happens) {
        self.events += 1;
        self.queue.insert((self.at + after, self.events), what);
    }

    fn happen(&mut self, happens: Happens) {
        let now = self.now();
        match happens {
            Happens::UpArrives(link) => {
                let Some(bytes) = self.links[link].up.pop_front() else { return };
                let frame = Dialect::Protobuf.decode_up(&bytes).unwrap();
                let (node, mut around) = self.split();
                node.frame(now, link, frame, &mut around);
                self.after_node();
            }
            Happens::DownArrives(link) => {
                let Some(bytes) = self.links[link].down.pop_front() else { return };
                let client = self.links[link].client;
                if self.links[link].client_open {
                    let frame = Dialect::Protobuf.decode_down(&bytes).unwrap();
                    let is_close = matches!(frame.body, DownBody::Close(_));
                    self.clients[client].engine.handle_input(now, ClientInput::Frame(frame));
                    self.client_outputs(client);
                    if is_close {
                        self.client_sees_end(link);
                    }
                }
                self.write_all();
            }
            Happens::NodeSeesEnd(link) => {
                let (node, mut around) = self.split();
                node.gone(now, link, &mut around);
                self.after_node();
            }
            Happens::ClientSeesEnd(link) => self.client_sees_end(link),
            Happens::Reconnect(client) => self.connect(client),
            Happens::At(later) => {
                let (node, mut around) = self.split();
                node.do_later(now, later, &mut around);
                self.after_node();
            }
        }
    }

    // Links.

    fn reconnect_soon(&mut self, client: usize) {
        if !self.clients[client].connecting && !self.clients[client].engine.is_closed() {
            self.clients[client].connecting = true;
            let soon = self.dice.millis(1, 500);
            self.happens(soon, Happens::Reconnect(client));
        }
    }

    fn connect(&mut self, client: usize) {
        self.clients[client].connecting = false;
        if self.clients[client].engine.is_closed() {
            return;
        }
        let link = self.links.len();
        self.links.push(Link { client, client_open: true, ..Link::default() });
        self.node.conns.insert(link, Conn::default());
        self.clients[client].link = Some(link);
        let now = self.now();
        self.clients[client].engine.handle_input(now, ClientInput::Connected);
        self.client_outputs(client);
    }

    fn client_sees_end(&mut self, link: usize) {
        let client = self.links[link].client;
        if !std::mem::take(&mut self.links[link].client_open) || self.clients[client].link != Some(link) {
            return;
        }
        self.clients[client].link = None;
        let now = self.now();
        self.clients[client].engine.handle_input(now, ClientInput::Disconnected(None));
        self.client_outputs(client);
        self.happens(Duration::ZERO, Happens::NodeSeesEnd(link));
        self.reconnect_soon(client);
    }

    fn send_up(&mut self, link: usize, frame: &UpFrame) {
        if self.links[link].broken {
            return;
        }
        let delay = self.dice.millis(1, self.weather.most_delay_ms);
        let link_state = &mut self.links[link];
        link_state.up.push_back(Dialect::Protobuf.encode_up(frame).into());
        link_state.up_until = link_state.up_until.max(self.at + delay);
        let after = link_state.up_until - self.at;
        self.happens(after, Happens::UpArrives(link));
    }

    fn send_down(&mut self, link: usize, frame: &DownFrame) {
        if self.links[link].broken {
            return;
        }
        let delay = self.dice.millis(1, self.weather.most_delay_ms);
        let link_state = &mut self.links[link];
        link_state.down.push_back(Dialect::Protobuf.encode_down(frame).into());
        link_state.down_until = link_state.down_until.max(self.at + delay);
        let after = link_state.down_until - self.at;
        self.happens(after, Happens::DownArrives(link));
    }

    // What comes out.

    fn split(&mut self) -> (&mut Node, Around<'_>) {
        let around = Around {
            log: &mut self.log,
            history: &mut self.history,
            dice: &mut self.dice,
            notes: &mut self.notes,
            keys: &mut self.keys,
        };
        (&mut self.node, around)
    }

    /// A session began whose client has never had one.
    fn owe_from_begin(&mut self, session: SessionId) {
        let Some(user) = self.node.user(session) else { return };
        let client = user.trim_start_matches('u').parse::<usize>().unwrap();
        if !self.weather.owed_from_begin || !self.clients[client].on.is_empty() {
            return;
        }
        for channel in [user, "all".to_owned(), format!("session:{session}")] {
            let channel = if channel.starts_with('u') { format!("user:{channel}") } else { channel };
            let (after, _) = self.log.attach(&channel, None);
            let (client_name, after) = (name(client), place(after));
            self.clients[client].on.insert(channel.clone());
            self.history.saw(Seen::Subscribed { client: client_name, channel, after });
        }
    }

    fn after_node(&mut self) {
        for (session, event) in std::mem::take(&mut self.node.events) {
            if event == Event::Started {
                self.owe_from_begin(session);
            }
        }
        for later in std::mem::take(&mut self.node.later) {
            let after = self.dice.millis(0, 120);
            self.happens(after, Happens::At(later));
        }
        self.write_all();
    }

    fn write_all(&mut self) {
        for link in self.node.conns.keys().copied().collect::<Vec<_>>() {
            let under_way = if self.links[link].broken { 0 } else { self.links[link].down.len() };
            let room = self.weather.link_room.saturating_sub(under_way);
            for frame in self.node.write(link, room, &mut self.log) {
                self.send_down(link, &frame);
            }
        }
    }

    fn client_outputs(&mut self, client: usize) {
        while let Some(output) = self.clients[client].engine.poll_output() {
            self.client_output(client, output);
        }
        self.follow_channels(client);
    }

    /// Whatever position the client newly stores, it is owed what comes after it.
    fn follow_channels(&mut self, client: usize) {
        if self.clients[client].verdicts.is_empty() {
            return;
        }
        let mut positions = self.clients[client].engine.positions();
        if self.clients[client].engine.is_closed() {
            positions.clear();
        }
        let now_on: BTreeSet<_> = positions.iter().map(|position| position.channel.clone()).collect();
        let was_on = std::mem::take(&mut self.clients[client].on);
        for position in positions.iter().filter(|position| !was_on.contains(&position.channel)) {
            let (channel, after) = (position.channel.clone(), place(Position::from(position)));
            self.history.saw(Seen::Subscribed { client: name(client), channel, after });
        }
        for channel in was_on.difference(&now_on) {
            self.history.saw(Seen::Left { client: name(client), channel: channel.clone() });
        }
        self.clients[client].on = now_on;
    }

    fn client_output(&mut self, client: usize, output: ClientOutput) {
        let who = name(client);
        match output {
            ClientOutput::Send(frame) => {
                if let Some(link) = self.clients[client].link {
                    self.send_up(link, &frame);
                }
            }
            ClientOutput::Started(started) => self.clients[client].verdicts.push(started.verdict),
            ClientOutput::Publication { position, frame } => {
                let DownBody::Publication(publication) = frame.body else { panic!("{frame:?}") };
                let content = String::from_utf8_lossy(&publication.data).into_owned();
                let at = place(Position::from(&position));
                self.history.saw(Seen::Delivered { client: who, channel: position.channel, at, content });
            }
            ClientOutput::Push(push) => {
                self.history.saw(Seen::GivenBound { client: who, content: push.message })
            }
            ClientOutput::Gap(gap) => {
                let after = place(Position { epoch: gap.epoch, offset: gap.offset });
                let next = gap.next.as_ref().map(|next| place(Position::from(next)));
                self.history.saw(Seen::Gap { client: who, channel: gap.channel, after, next });
            }
            ClientOutput::CallEnded(id, end) => {
                let call = self.clients[client].calls.remove(&id).expect("a call ends once");
                let end = match end {
                    CallEnd::Reply { response, .. } => {
                        assert_eq!(response.message, call, "the reply of another call");
                        End::Reply
                    }
                    // It will run or fail later; it ran at most once.
                    CallEnd::Error(_) | CallEnd::Received => End::Error,
                    CallEnd::ResultUnknown(_) => End::Unknown,
                    CallEnd::NotSent => End::NotRun,
                };
                self.history.saw(Seen::Ended { call, end });
            }
            ClientOutput::Dropped(dropped) => self.dropped.push((client, dropped)),
            ClientOutput::Close { .. } => {
                if let Some(link) = self.clients[client].link.take() {
                    self.links[link].client_open = false;
                    self.happens(Duration::from_millis(50), Happens::NodeSeesEnd(link));
                }
            }
            ClientOutput::Lost(lost) => {
                self.clients[client].last_lost = Some(lost.advice);
                self.reconnect_soon(client);
            }
            ClientOutput::Answered(..)
            | ClientOutput::CallRefused(..)
            | ClientOutput::LateError(..)
            | ClientOutput::Joined(_)
            | ClientOutput::Left { .. } => {}
        }
    }
}

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Ordered,
    Quiet,
}

pub(crate) fn name(client: usize) -> String {
    format!("client {client}")
}
