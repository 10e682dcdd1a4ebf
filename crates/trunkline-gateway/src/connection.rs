//! One connection: its actor reads, asks the session what frames mean, and writes what is due.
//!
//! The actor is the connection's only task. Reading never waits for writing, but it pauses while the outbox is full.
//! Everything written goes through the connection's one write state.

mod further;
mod handle;
mod write_state;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until, timeout};
use trunkline_broker::Unpark;
use trunkline_proto::{CloseCode, Dialect, DownBody, DownFrame, UpBody};
use trunkline_session::Fence;
use trunkline_session::engine::Pressure;
use trunkline_transport::{
    ByteWriter, Connection, ConnectionInfo, Frame, FrameKind, FrameReader, Framing, Incoming, ReadError,
};

pub(crate) use handle::{Ending, Handle};

use self::further::Further;
use crate::defaults;
use crate::encode::WireForm;
use crate::gateway::Node;
use crate::limits::{AddressPace, Pace};
use crate::session::Session;
use crate::start;

/// However fast an address sends, each of its connections is read once in so long: well within the silence after which
/// a client counts as gone.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a peer may take to read the last frames of a connection that ends.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Serves a connection until it ends. An idle connection costs mostly this future, so what is rare in its life (START,
/// the close) is boxed when it comes. The connection is taken apart before the future begins, since a future holds its
/// arguments beside what they are moved into.
pub(crate) fn serve(node: Arc<Node>, connection: Connection) -> impl Future<Output = ()> + Send {
    let Connection { info, reader, writer, streams, .. } = connection;
    let serving = node.serving.token();
    let hold = Hold::new(&node, &info, writer.framing());
    let address = info.peer.and_then(|peer| node.limits.addresses.pace(peer.ip()));
    let start_deadline = Instant::now() + node.options().start_timeout;
    let mut actor = Actor {
        hold,
        reader,
        writer,
        start_deadline,
        stalled_since: None,
        pressure: Pressure::Room,
        pace: Pace::default(),
        address,
        paused_until: None,
        timer: Box::pin(sleep_until(start_deadline)),
        further: Further::new(streams),
    };
    async move {
        let (code, reason) = actor.run().await;
        let Actor { hold, reader, writer, .. } = actor;
        let closed_by = CloseCode::from_number(code).unwrap_or(CloseCode::Internal);
        hold.node.stats.closed_by.one(CloseCode::ALL, &closed_by);
        drop(hold);
        Box::pin(trunkline_transport::close(reader, writer, code, &reason, CLOSE_DEADLINE)).await;
        drop(serving);
    }
}

/// Why a connection is told to come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The node has as many connections as it may.
    Full,
    /// The node stops.
    Stopping,
    /// Its address opens connections too fast.
    RateLimited,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Refusal; 3] = [Refusal::Full, Refusal::Stopping, Refusal::RateLimited];

    /// As metrics name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::Full => "full",
            Refusal::Stopping => "stopping",
            Refusal::RateLimited => "rate",
        }
    }

    fn words(self) -> (CloseCode, &'static str) {
        match self {
            Refusal::Full => (CloseCode::Overloaded, "the node has as many connections as it may"),
            Refusal::Stopping => (CloseCode::GoingAway, "the node stops"),
            Refusal::RateLimited => (CloseCode::RateLimited, "this address opens connections too fast"),
        }
    }
}

/// Why a connection is read no further for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PauseReason {
    /// It sends faster than a connection is read.
    Connection,
    /// All connections of its address together do.
    Address,
}

impl PauseReason {
    /// Every reason.
    pub(crate) const ALL: [PauseReason; 2] = [PauseReason::Connection, PauseReason::Address];

    /// As metrics name it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            PauseReason::Connection => "connection",
            PauseReason::Address => "address",
        }
    }
}

/// Tells a connection that comes at a bad time to come back, and closes it.
pub(crate) async fn refuse(connection: Connection, why: Refusal) {
    let Connection { reader, mut writer, .. } = connection;
    let (code, reason) = why.words();
    let framing = writer.framing();
    let mut notice = code.notice(reason);
    notice.reconnect_after_ms = rand::random_range(1_000..5_000);
    let notice = Dialect::Protobuf.encode_down(&DownFrame::new(0, DownBody::Close(notice)));
    let number = u16::try_from(code.number()).unwrap_or(1013);
    let close = framing.close(number, reason).unwrap_or_default();
    let told = async {
        writer.send(FrameKind::Binary, &notice).await?;
        writer.write_all(&close).await
    };
    // A peer that is not told closes all the same.
    drop(timeout(CLOSE_DEADLINE, told).await);
    trunkline_transport::close(reader, writer, code.number(), reason, CLOSE_DEADLINE).await;
}

/// What the node knows of a connection while its actor lives. Drop takes it back, also when the actor panics: the
/// session goes on without the connection.
struct Hold {
    node: Arc<Node>,
    handle: Arc<Handle>,
    /// The session and the fence under which this connection holds it.
    session: Option<(Arc<Session>, Fence)>,
}

impl Hold {
    fn new(node: &Arc<Node>, info: &ConnectionInfo, framing: Framing) -> Self {
        let queue = Arc::clone(&node.limits.reply_queue);
        let handle = Handle::new(node.next_connection(), info, framing, queue);
        node.stats.gauge(handle.protocol).up();
        node.connections.insert(&handle);
        // A drain looks at all connections when it has begun: who comes in behind its look is told here.
        if node.is_stopping() {
            handle.end(Ending::new(CloseCode::GoingAway, "the node stops: reconnect"));
        }
        Hold { node: Arc::clone(node), handle, session: None }
    }
}

impl Hold {
    /// A seed client's frames wait for numbers.
    fn on_not_numbered(&self, pending: &write_state::Pending) {
        match pending {
            write_state::Pending::Unacked => {
                let text = "1,000 frames or 1 MiB are not acked: reconnect and resume";
                self.handle.end(Ending::new(CloseCode::Slow, text));
            }
            write_state::Pending::NotReserved
            | write_state::Pending::Nothing
            | write_state::Pending::Bytes => {}
        }
        if let Some((session, _)) = &self.session {
            session.reserve_numbers(&self.node);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The session first: what it sends until then is kept for its next connection.
        if let Some((session, fence)) = self.session.take() {
            session.disconnected(&self.node, fence);
        }
        self.handle.abandon();
        self.node.connections.remove(self.handle.id);
        self.node.stats.gauge(self.handle.protocol).down();
    }
}

struct Actor {
    hold: Hold,
    reader: FrameReader,
    writer: ByteWriter,
    start_deadline: Instant,
    stalled_since: Option<Instant>,
    /// What the session's engine was last told of the outbox.
    pressure: Pressure,
    /// The connection's own pace, and its address's.
    pace: Pace,
    address: Option<Arc<AddressPace>>,
    /// Nothing is read until then.
    paused_until: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    further: Option<Box<Further>>,
}

/// What the actor has to deal with next.
enum Step {
    Read(Result<Option<Incoming>, ReadError>),
    Deadline,
    /// The peer stopped or began to take what is written, or the outbox filled up or emptied.
    FlowChanged,
    /// Everything that was queued before the end is written.
    Drained,
    WriteFailed,
}

impl Actor {
    /// Runs until the connection is over; answers the code and reason for the transport's own close.
    async fn run(&mut self) -> (u32, String) {
        loop {
            self.tell_pressure();
            self.end_pause();
            self.arm_timer();
            let step = poll_fn(|cx| self.poll_step(cx)).await;
            match step {
                Step::Read(Ok(Some(Incoming::Frame(frame)))) => {
                    self.keep_pace();
                    self.on_frame(frame).await;
                }
                Step::Read(Ok(Some(Incoming::Ping(payload)))) => {
                    self.keep_pace();
                    self.on_ping(&payload);
                }
                Step::Read(Ok(Some(Incoming::Pong(_)))) => {}
                Step::Read(Ok(Some(Incoming::Close { code, .. }))) => self.hold.handle.answer_close(code),
                Step::Read(Ok(None) | Err(ReadError::Io(_))) | Step::WriteFailed => {
                    return (CloseCode::GoingAway.number(), "the connection was lost".into());
                }
                Step::Read(Err(error)) => self.on_bad_frame(&error),
                Step::Deadline => {
                    if let Some(ended) = self.on_deadline() {
                        return ended;
                    }
                }
                Step::FlowChanged => {}
                Step::Drained => {
                    let ending = self.hold.handle.ending();
                    return ending.map_or_else(
                        || (CloseCode::Internal.number(), String::new()),
                        |ending| (ending.code.number(), ending.reason),
                    );
                }
            }
        }
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        // Registered before anything is looked at, so that what comes in between wakes us again.
        self.hold.handle.waker().register(cx.waker());
        if let Some(further) = &mut self.further {
            further.poll_refuse(cx);
        }
        let was_stalled = self.stalled_since.is_some();
        // Asked before the write: an end that comes during it has queued a notice that is not written yet.
        let is_ending = self.hold.handle.is_ending();
        let idle = match self.poll_write(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => return Poll::Ready(Step::WriteFailed),
            Poll::Pending => false,
        };
        if let Some((session, _)) = &self.hold.session
            && self.hold.handle.take_room()
        {
            session.has_room(&self.hold.node);
        }
        // The timer and the engine have to hear of it before anything else happens.
        if was_stalled != self.stalled_since.is_some() || self.pressure != self.current_pressure() {
            return Poll::Ready(Step::FlowChanged);
        }
        if is_ending {
            if idle {
                return Poll::Ready(Step::Drained);
            }
        } else if !self.hold.handle.is_full()
            && !self.is_paused()
            && let Poll::Ready(read) = self.reader.poll_next(cx)
        {
            return Poll::Ready(Step::Read(read));
        }
        self.timer.as_mut().poll(cx).map(|()| Step::Deadline)
    }

    /// Writes until nothing is left or the socket takes no more. Ready: every channel is parked at its head.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let hold = &self.hold;
        loop {
            let mut state = hold.handle.write_state();
            let pending = state.gather(&|| Arc::clone(&hold.handle) as Arc<dyn Unpark>);
            let written = state.take_written();
            hold.node.stats.deliveries.add(written.deliveries);
            hold.node.stats.gaps_told.add(written.gaps);
            hold.node.stats.publications_encoded.add(written.encoded);
            match pending {
                write_state::Pending::Bytes => {}
                other => {
                    drop(state);
                    hold.on_not_numbered(&other);
                    let flushed = self.writer.poll_flush(cx);
                    match &flushed {
                        Poll::Ready(_) => self.stalled_since = None,
                        Poll::Pending => drop(self.stalled_since.get_or_insert_with(Instant::now)),
                    }
                    return flushed;
                }
            }
            let slices = state.slices();
            match self.writer.poll_write_vectored(cx, &slices) {
                Poll::Ready(Ok(written)) => {
                    drop(slices);
                    state.advance(written);
                    self.stalled_since = None;
                    hold.node.stats.bytes_out.add(written as u64);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    drop(slices);
                    state.give_back();
                    self.stalled_since.get_or_insert_with(Instant::now);
                    return Poll::Pending;
                }
            }
        }
    }

    fn is_paused(&self) -> bool {
        self.paused_until.is_some()
            || self.hold.session.as_ref().is_some_and(|(session, _)| session.is_reading_paused())
    }

    /// A frame takes its place at the pace of its connection and of its address. What comes faster waits in the
    /// client's socket: it may be a heartbeat or an ack, which nothing refuses.
    fn keep_pace(&mut self) {
        let node = &self.hold.node;
        let config = &node.session_config;
        let own = config.frames_per_second.saturating_mul(defaults::READ_PACE);
        if own == 0 && self.address.is_none() {
            return;
        }
        let now = node.uptime();
        let burst = config.frame_burst.saturating_mul(defaults::READ_PACE);
        let own = self.pace.take(now, own, burst);
        let shared = self.address.as_ref().map_or(Duration::ZERO, |address| address.take(now));
        let pause = own.max(shared).min(LONGEST_PAUSE);
        if !pause.is_zero() {
            let reason = if own > shared { PauseReason::Connection } else { PauseReason::Address };
            node.stats.reads_paused_by.one(&PauseReason::ALL, &reason);
            self.paused_until = Some(Instant::now() + pause);
        }
    }

    /// Reading goes on when the pause is over.
    fn end_pause(&mut self) {
        self.paused_until = self.paused_until.filter(|until| *until > Instant::now());
    }

    /// The timer stands at the earliest thing that can happen without input: START's deadline, the session's next
    /// time-out, the end of a pause, or of patience with a peer that takes nothing.
    fn arm_timer(&mut self) {
        let session = match &self.hold.session {
            Some((session, _)) => session.next_timeout(&self.hold.node),
            None => Some(self.start_deadline),
        };
        let stall = self.stalled_since.map(|since| since + self.hold.node.options().write_stall);
        // A connection with neither looks again once in a while; nothing depends on when.
        let fallback = Instant::now() + self.hold.node.options().write_stall;
        let at =
            [session, stall, self.paused_until].into_iter().flatten().min().unwrap_or(fallback).min(fallback);
        if self.timer.deadline() != at {
            self.timer.as_mut().reset(at);
        }
    }

    /// Answers how the connection ends, if it ends without another word.
    fn on_deadline(&mut self) -> Option<(u32, String)> {
        let now = Instant::now();
        let patience = self.hold.node.options().write_stall;
        if self.stalled_since.is_some_and(|since| now >= since + patience) {
            // A peer that reads nothing would not read a notice either.
            let reason = "nothing was read for too long: reconnect and resume";
            return Some((CloseCode::Slow.number(), reason.into()));
        }
        match &self.hold.session {
            Some((session, _)) => session.timeout(&self.hold.node),
            None if now >= self.start_deadline => {
                self.hold.handle.end(Ending::new(CloseCode::StartTimeout, "no START came in time"));
            }
            None => {}
        }
        None
    }

    /// Tells the engine when the outbox fills up and when there is room again: it starts no call meanwhile.
    fn tell_pressure(&mut self) {
        let pressure = self.current_pressure();
        if pressure != self.pressure {
            self.pressure = pressure;
            if let Some((session, fence)) = &self.hold.session {
                session.pressure(&self.hold.node, *fence, pressure);
            }
        }
    }

    fn current_pressure(&self) -> Pressure {
        if self.hold.handle.is_full() { Pressure::Full } else { Pressure::Room }
    }

    async fn on_frame(&mut self, frame: Frame) {
        self.hold.node.stats.frames_in.one();
        self.hold.node.stats.bytes_in.add(frame.bytes.len() as u64);
        match self.hold.session.clone() {
            Some((session, fence)) => self.on_session_frame(&session, fence, &frame),
            None => Box::pin(self.on_first_frame(&frame)).await,
        }
    }

    fn on_session_frame(&mut self, session: &Arc<Session>, fence: Fence, frame: &Frame) {
        let dialect = self.hold.handle.form().dialect;
        if self.dialect_of(frame) != dialect {
            let text = "a frame in another dialect than START's: one connection speaks one dialect";
            self.hold.handle.end(Ending::new(CloseCode::DialectMixed, text));
            return;
        }
        match dialect.decode_up(&frame.bytes) {
            Ok(frame) => session.frame(&self.hold.node, fence, frame),
            Err(error) => {
                self.hold.node.stats.frames_malformed.one();
                session.undecodable(&self.hold.node, fence, &error);
            }
        }
    }

    /// On WebSocket the kind of the message says the dialect, on streams the frame's first byte.
    fn dialect_of(&self, frame: &Frame) -> Dialect {
        match (self.writer.framing(), frame.kind) {
            (Framing::WebSocket { .. }, FrameKind::Text) => Dialect::Json,
            (Framing::WebSocket { .. }, FrameKind::Binary) => Dialect::Protobuf,
            (Framing::Length | Framing::Packet, _) => Dialect::of_first_frame(&frame.bytes),
        }
    }

    async fn on_first_frame(&mut self, frame: &Frame) {
        let dialect = self.dialect_of(frame);
        // Whatever this frame is, its answer is written as it was.
        let form = self.hold.handle.form();
        self.hold.handle.set_form(WireForm { dialect, ..form });
        let started = match dialect.decode_up(&frame.bytes) {
            Ok(frame) => match frame.body {
                UpBody::Start(request) => {
                    let begin = Instant::now();
                    let (node, handle) = (&self.hold.node, &self.hold.handle);
                    let started = start::start(node, handle, dialect, frame.msg_id, request).await;
                    node.stats.start_durations.observe(begin.elapsed());
                    started
                }
                _ => Err(Ending::new(CloseCode::StartExpected, "the first frame must be START")),
            },
            Err(error) => {
                self.hold.node.stats.frames_malformed.one();
                Err(Ending::new(CloseCode::StartExpected, format!("the first frame must be START: {error}")))
            }
        };
        match started {
            Ok(session) => {
                self.hold.session = Some(session);
                if let Some(further) = &mut self.further {
                    further.started();
                }
            }
            Err(ending) => self.hold.handle.end(ending),
        }
    }

    fn on_ping(&mut self, payload: &[u8]) {
        if let Some(pong) = self.writer.framing().pong(payload) {
            self.hold.handle.send_raw(pong);
        }
    }

    fn on_bad_frame(&mut self, error: &ReadError) {
        self.hold.node.stats.frames_malformed.one();
        let code = match error {
            ReadError::TooLarge { .. } => CloseCode::FrameTooLarge,
            _ => CloseCode::BadFrame,
        };
        self.hold.handle.end(Ending::new(code, error.to_string()));
    }
}

#[cfg(test)]
mod tests {
    fn size_of_future<A, B, F: Future<Output = ()>>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn p1_an_idle_connections_future_is_small() {
        let size = size_of_future(super::serve);
        assert!(size <= 512, "an idle connection's future has {size} B");
    }
}
