//! The client's one task: it owns the connection, the engine and everything that waits for an answer.
//!
//! It waits for one thing at a time and lets the engine decide what that means; `outputs` carries out what comes of
//! it. Reading never waits for writing, and replies never wait for unread events.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use trunkline_proto::wire::{ChannelResponse, ErrorMessage, stop_request};
use trunkline_proto::{CloseCode, DownBody, DownFrame, UpBody, UpFrame};
use trunkline_session::client::{CallId, ClientCall, ClientConfig, ClientInput, Request, RequestId};
use trunkline_session::{ClientEngine, Now};
use trunkline_transport::{ConnectOptions, Connection, Endpoint};

use crate::client::{Caller, Control, Wanted};
use crate::defaults;
use crate::error::{CallError, ConnectError};
use crate::event::{Closed, Event};
use crate::link::{Arrived, Reader, Writer, split};
use crate::options::Options;
use crate::outputs::refuse;
use crate::race::{Unreachable, race};
use crate::unread::EventQueue;

pub(crate) type Answer<T> = oneshot::Sender<Result<T, CallError>>;

/// Why a call was last refused for load, for its caller to know if that was the last word.
pub(crate) type LastRefusal = Mutex<Option<ErrorMessage>>;

/// See the module.
pub(crate) struct Actor {
    pub(crate) options: Options,
    pub(crate) engine: ClientEngine,
    pub(crate) events: Arc<EventQueue>,
    pub(crate) link: Option<Link>,
    pub(crate) calls: HashMap<CallId, Caller>,
    pub(crate) answers: HashMap<RequestId, Answer<ChannelResponse>>,
    pub(crate) state: State,
    /// The protocol of the connection, for people.
    pub(crate) transport: &'static str,
    pub(crate) keeping: Keeping,
    /// Where the gateway sent the client: tried before all other endpoints, once.
    pub(crate) redirect: Option<Endpoint>,
    /// Why the last connection ended, where only the transport knows.
    pub(crate) end: String,
    /// Why the last connection was lost.
    pub(crate) refusal: Closed,
    /// The largest frame up, as the last START_RESP said.
    max_frame_up: usize,
    /// Failed attempts and short connections in a row.
    pub(crate) attempt: u32,
    pub(crate) live_since: Option<Instant>,
    origin: Instant,
    ended: Arc<Mutex<Option<Closed>>>,
    /// Who waits for the client to stop: told by being dropped.
    stopping: Vec<oneshot::Sender<()>>,
    requests: mpsc::Receiver<Wanted>,
    control: mpsc::Receiver<Control>,
}

/// A connection in use.
pub(crate) struct Link {
    reader: Reader,
    pub(crate) writer: Writer,
    /// A heartbeat is under way, or nothing can be sent any more: it is read even while events wait.
    pub(crate) must_read: bool,
}

/// What the task is about.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    /// Connected, or to be connected at once.
    Running,
    /// To connect again, but not before this.
    Waiting(Instant),
    /// Over.
    Ended(Closed),
}

/// What becomes of publications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// They become events.
    All,
    /// One did not fit: no more is kept on this connection, and once there is room the session is resumed from the
    /// last that did.
    Nothing,
}

/// One thing that was waited for.
enum Happened {
    Control(Option<Control>),
    Due,
    Flushed(io::Result<()>),
    Arrived(Arrived),
    Room,
    Wanted(Option<Wanted>),
}

impl Actor {
    pub(crate) fn new(
        options: Options,
        events: Arc<EventQueue>,
        ended: Arc<Mutex<Option<Closed>>>,
        requests: mpsc::Receiver<Wanted>,
        control: mpsc::Receiver<Control>,
    ) -> Self {
        let engine = ClientEngine::new(ClientConfig {
            user: options.user.clone(),
            auth_token: options.token.clone(),
            device_id: options.device.clone(),
            client: options.name.clone(),
            platform: options.platform.clone(),
            // Below 2^53 for JSON, and never 0, which would not be compared.
            instance: (rand::random::<u64>() >> 11) | 1,
            ..ClientConfig::default()
        });
        Actor {
            options,
            engine,
            events,
            link: None,
            calls: HashMap::new(),
            answers: HashMap::new(),
            state: State::Running,
            transport: "",
            keeping: Keeping::All,
            redirect: None,
            end: String::new(),
            refusal: Closed { code: None, reason: String::new() },
            max_frame_up: trunkline_session::defaults::MAX_FRAME_SIZE as usize,
            attempt: 0,
            live_since: None,
            origin: Instant::now(),
            ended,
            stopping: Vec::new(),
            requests,
            control,
        }
    }

    /// The first session, or why there is none.
    pub(crate) async fn start_first(&mut self) -> Result<(), ConnectError> {
        let connection = reach(self.options.clone(), None).await?;
        self.attach(connection);
        while self.link.is_some() && !self.engine.is_live() {
            self.step().await;
        }
        if self.engine.is_live() {
            return Ok(());
        }
        Err(match self.refusal.clone() {
            silent if silent.code == Some(CloseCode::Silent.number()) => ConnectError::Silent,
            refusal => ConnectError::Refused(refusal),
        })
    }

    /// Runs until the client has ended.
    pub(crate) async fn run(mut self) {
        let closed = loop {
            match self.state.clone() {
                State::Ended(closed) => break closed,
                State::Running if self.link.is_some() => self.step().await,
                State::Running => self.reconnect().await,
                State::Waiting(until) => {
                    if self.while_apart(sleep_until(until)).await.is_some() {
                        self.state = State::Running;
                    }
                }
            }
        };
        self.cut();
        *self.ended.lock() = Some(closed.clone());
        self.events.push(Event::Closed(closed));
    }

    /// Gives the engine an input and carries out what follows from it.
    pub(crate) fn input(&mut self, input: ClientInput) {
        self.engine.handle_input(self.now(), input);
        self.carry_out(None);
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        Now { at: self.origin.elapsed(), unix_ms }
    }

    fn attach(&mut self, connection: Connection) {
        self.transport = connection.info.protocol.as_str();
        let (reader, writer) = split(connection, self.options.dialect);
        self.link = Some(Link { reader, writer, must_read: false });
        self.keeping = Keeping::All;
        self.input(ClientInput::Connected);
    }

    /// The connection is gone: `code` is what the transport knows.
    fn detach(&mut self, code: Option<u32>, reason: String) {
        self.end = reason;
        self.cut();
        self.input(ClientInput::Disconnected(code));
    }

    async fn reconnect(&mut self) {
        let attempt = reach(self.options.clone(), self.redirect.take());
        match self.while_apart(attempt).await {
            Some(Ok(connection)) => self.attach(connection),
            Some(Err(error)) => {
                let retry_in = self.retry_in(None);
                tracing::debug!(%error, ?retry_in, "no endpoint answers");
                self.state = State::Waiting(Instant::now() + retry_in);
            }
            None => {}
        }
    }

    /// Waits for `what` without a connection, while requests are taken up; `None` if the client ends before.
    async fn while_apart<T>(&mut self, what: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(what);
        while !matches!(self.state, State::Ended(_)) {
            let happened = tokio::select! {
                biased;
                control = self.control.recv() => Happened::Control(control),
                done = &mut what => return Some(done),
                wanted = self.requests.recv(), if self.takes() => Happened::Wanted(wanted),
            };
            self.happened(happened).await;
        }
        None
    }

    /// Waits for one thing that the connection or a handle brings, and deals with it.
    async fn step(&mut self) {
        let reading = self.reads();
        let due = self.engine.next_timeout().map(|at| self.origin + at);
        let taking = self.takes();
        let Some(link) = &mut self.link else { return };
        // All branches are cancel safe: what they have done so far stays in the link and in the queues. Control comes
        // first, because whoever stops or cuts does not want to wait behind traffic.
        let happened = tokio::select! {
            biased;
            control = self.control.recv() => Happened::Control(control),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Happened::Due,
            flushed = link.writer.flush() => Happened::Flushed(flushed),
            arrived = link.reader.next(), if reading => Happened::Arrived(arrived),
            () = self.events.room(), if self.events.is_full() => Happened::Room,
            wanted = self.requests.recv(), if taking => Happened::Wanted(wanted),
        };
        self.happened(happened).await;
        if self.keeping == Keeping::Nothing && !self.events.is_full() && self.link.is_some() {
            self.detach(None, "resuming from the last event that was kept".into());
        }
    }

    /// While events wait unread, only what is awaited is a reason to read.
    fn reads(&self) -> bool {
        let must = self.link.as_ref().is_some_and(|link| link.must_read);
        !self.events.is_full()
            || must
            || !self.engine.is_live()
            || !self.calls.is_empty()
            || !self.answers.is_empty()
    }

    /// Requests are taken up while few wait and little is unsent; others wait with their callers.
    fn takes(&self) -> bool {
        let unsent = self.link.as_ref().map_or(0, |link| link.writer.unsent());
        unsent < defaults::UNSENT_BYTES && self.calls.len() + self.answers.len() < defaults::TAKEN_UP
    }

    async fn happened(&mut self, happened: Happened) {
        match happened {
            Happened::Control(Some(Control::Stop(done))) => {
                self.stopping.push(done);
                self.stop().await;
            }
            Happened::Control(Some(Control::Cut)) if self.link.is_some() => {
                self.detach(None, "cut by the program".into());
            }
            Happened::Control(Some(Control::Cut)) | Happened::Room | Happened::Flushed(Ok(())) => {}
            Happened::Control(None) | Happened::Wanted(None) => {
                self.state = State::Ended(Closed { code: None, reason: "all handles were dropped".into() });
            }
            Happened::Flushed(Err(error)) => {
                // What the gateway said last may still be readable, so the reader says when it is over.
                tracing::debug!(%error, "nothing can be sent any more");
                if let Some(link) = &mut self.link {
                    link.writer.give_up();
                    link.must_read = true;
                }
            }
            Happened::Due => {
                self.abandon_unwanted();
                self.input(ClientInput::Timeout);
            }
            Happened::Arrived(arrived) => self.arrived(arrived),
            Happened::Wanted(Some(wanted)) => self.take_up(wanted),
        }
    }

    fn arrived(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Nothing => {}
            Arrived::Ping(payload) => {
                if let Some(link) = &mut self.link {
                    link.writer.pong(&payload);
                }
            }
            Arrived::End { code, reason } => self.detach(code, reason),
            Arrived::Frame(frame) => self.frame(*frame),
        }
    }

    fn frame(&mut self, frame: DownFrame) {
        if self.engine.is_live() && self.skips(&frame) {
            self.keeping = Keeping::Nothing;
            return;
        }
        match &frame.body {
            DownBody::StartResp(response) if response.success && response.max_frame_size > 0 => {
                self.max_frame_up = response.max_frame_size as usize;
                self.live_since = Some(Instant::now());
            }
            DownBody::HeartbeatResp(_) => {
                if let Some(link) = &mut self.link {
                    link.must_read = false;
                }
            }
            _ => {}
        }
        let group = matches!(frame.body, DownBody::Group(_)).then(Default::default);
        self.engine.handle_input(self.now(), ClientInput::Frame(frame));
        self.carry_out(group);
    }

    /// Whether a frame is one that there is no room for, or comes after one.
    fn skips(&self, frame: &DownFrame) -> bool {
        let own_bytes = match &frame.body {
            DownBody::Gap(_) => 0,
            DownBody::Publication(publication) => publication.data.len() + publication.sender.len(),
            DownBody::BusinessData(push) if frame.position.is_some() => push.data.len() + push.content.len(),
            _ => return false,
        };
        self.keeping == Keeping::Nothing || !self.events.admits(own_bytes)
    }

    fn take_up(&mut self, wanted: Wanted) {
        let now = self.now();
        let size = self.frame_size(&wanted);
        let too_large = || CallError::TooLarge { size, limit: self.max_frame_up };
        match wanted {
            Wanted::Call { caller, .. } if caller.answer.is_closed() => {}
            Wanted::Request { answer, .. } if answer.is_closed() => {}
            // An error means that the caller has stopped waiting just now.
            Wanted::Call { caller, .. } if size > self.max_frame_up => {
                drop(caller.answer.send(Err(too_large())));
            }
            Wanted::Request { answer, .. } if size > self.max_frame_up => drop(answer.send(Err(too_large()))),
            Wanted::Call { call, caller } => match self.engine.call(now, call) {
                Ok(id) => drop(self.calls.insert(id, caller)),
                Err(refusal) => refuse(caller.answer, refusal),
            },
            Wanted::Request { request, answer } => match self.engine.request(now, request) {
                Ok(id) => drop(self.answers.insert(id, answer)),
                Err(refusal) => refuse(answer, refusal),
            },
        }
        self.carry_out(None);
    }

    /// How large the frame of this request is, exactly where that could matter: a frame over the limit would end
    /// the connection.
    fn frame_size(&self, wanted: &Wanted) -> usize {
        let (rough, body) = match wanted {
            Wanted::Call { call: ClientCall { request, headers, .. }, .. } => {
                let pairs = request.params.iter().chain(headers);
                let pairs: usize = pairs.map(|(name, value)| name.len() + value.len() + 8).sum();
                (request.data.len() + request.action.len() + pairs, UpBody::Business(request.clone()))
            }
            Wanted::Request { request: Request::Publish(publish), .. } => {
                (publish.data.len() + publish.channel.len(), UpBody::Publish(publish.clone()))
            }
            Wanted::Request { .. } => return 0,
        };
        // Base64 adds a third, JSON's escapes at most five to each byte of a text; names and numbers are short.
        if rough * 6 + 1024 < self.max_frame_up {
            return rough;
        }
        let mut frame = UpFrame::new(u32::MAX, u64::MAX >> 11, body);
        if let Wanted::Call { call, .. } = wanted {
            frame.headers.clone_from(&call.headers);
        }
        self.options.dialect.encode_up(&frame).len()
    }

    /// Calls whose caller has stopped waiting need not be sent again.
    fn abandon_unwanted(&mut self) {
        let engine = &mut self.engine;
        self.calls.retain(|id, caller| {
            if caller.answer.is_closed() {
                engine.abandon(*id);
            }
            !caller.answer.is_closed()
        });
        self.answers.retain(|_, answer| !answer.is_closed());
    }

    /// Says STOP and waits, for a while, until the gateway has closed.
    async fn stop(&mut self) {
        self.engine.stop(stop_request::Reason::UserLogout);
        self.carry_out(None);
        if let Some(link) = &mut self.link {
            let gone = async {
                loop {
                    tokio::select! {
                        flushed = link.writer.flush() => if flushed.is_err() { return },
                        arrived = link.reader.next() => if matches!(arrived, Arrived::End { .. }) { return },
                    }
                }
            };
            // Without an answer the gateway keeps the session for its resume window, and no longer.
            let _ = timeout(defaults::STOP_TIMEOUT, gone).await;
        }
        self.state = State::Ended(Closed { code: None, reason: "stopped".into() });
    }
}

/// One connection to one of the endpoints, within the time for it.
async fn reach(options: Options, redirect: Option<Endpoint>) -> Result<Connection, Unreachable> {
    let connect = ConnectOptions {
        tls: options.tls,
        timeout: options.connect_timeout,
        max_frame: defaults::MAX_FRAME_DOWN,
        keep_alive: Some(defaults::KEEP_ALIVE),
        ..ConnectOptions::default()
    };
    let endpoints: Vec<_> = redirect.into_iter().chain(options.endpoints).collect();
    race(&endpoints, options.head_start, &connect).await
}
