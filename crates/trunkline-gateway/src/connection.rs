//! One connection: its actor reads, asks the session what frames mean, and writes what is due.
//!
//! The actor is the connection's only task. Reading never waits for writing, but it pauses while the outbox is full.
//! Everything written goes through the connection's one write state; a flusher may write from it in the actor's place, where
//! many connections wait for one publication.

mod flusher;
mod further;
mod handle;
mod hold;
mod pace;
mod refusal;
mod serving;
mod write_state;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use trunkline_broker::Unpark;
use trunkline_proto::{CloseCode, DecodeError, Dialect, UpBody, UpFrame};
use trunkline_transport::{
    ByteWriter, Connection, Frame, FrameKind, FrameReader, Framing, Incoming, ReadError,
};

pub(crate) use flusher::Flusher;
pub(crate) use handle::{Ending, Handle};
pub(crate) use pace::PauseReason;
pub use refusal::Refusal;
pub(crate) use refusal::refuse;

use self::further::Further;
use self::hold::{Hold, Stage, Started};
use self::serving::{Boxed, Serving};
use crate::encode::WireForm;
use crate::gateway::{Moment, Node};
use crate::start;
use write_state::{Gathering, Tracer};

/// What a peer may take to read the last frames of a connection that ends.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// So many frames of one read are given to their session together: the calls among them that a service of the process
/// answers end before the next come, and no more than may run at once wait for room to be answered.
const FRAMES_AT_ONCE: usize = trunkline_session::defaults::RUNNING_CALLS;

/// What a moment is counted in.
const TICK: Duration = Duration::from_millis(1);

/// Serves a connection until it ends. The connection is taken apart first, since most of what describes it is of no use
/// any more.
pub(crate) fn serve(node: Arc<Node>, connection: Connection) -> Serving {
    let Connection { info, reader, writer, streams, .. } = connection;
    let hold = Hold::new(&node, &info, &writer);
    let further = Further::new(streams);
    Serving::new(Actor { hold, reader, writer, stalled_since: None, armed: None, pause: None, further })
}

struct Actor {
    hold: Hold,
    reader: FrameReader,
    writer: ByteWriter,
    stalled_since: Option<Moment>,
    /// When the node's timers wake it.
    armed: Option<Moment>,
    /// Nothing is read until it ends.
    pause: Option<Pin<Box<Sleep>>>,
    further: Option<Box<Further>>,
}

/// A frame of a session's client.
pub(crate) type Decoded = Result<UpFrame, DecodeError>;

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
    fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<(u32, String)> {
        loop {
            if let Stage::Starting(starting) = &mut self.hold.stage {
                let started = ready!(starting.as_mut().poll(cx));
                self.on_started(started);
            }
            self.tell_pressure();
            self.arm_timer();
            match ready!(self.poll_step(cx)) {
                Step::Read(Ok(Some(incoming))) => self.on_read(incoming),
                Step::Read(Ok(None) | Err(ReadError::Io(_))) | Step::WriteFailed => {
                    return Poll::Ready((CloseCode::GoingAway.number(), "the connection was lost".into()));
                }
                Step::Read(Err(error)) => self.on_bad_frame(&error),
                Step::Deadline => {
                    if let Some(ended) = self.on_deadline() {
                        return Poll::Ready(ended);
                    }
                }
                Step::FlowChanged => {}
                Step::Drained => {
                    let ending = self.hold.handle.ending();
                    return Poll::Ready(ending.map_or_else(
                        || (CloseCode::Internal.number(), String::new()),
                        |ending| (ending.code.number(), ending.reason),
                    ));
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
        if let Some((session, _)) = self.hold.session()
            && self.hold.handle.take_room()
        {
            session.has_room(&self.hold.node);
        }
        // The timer and the engine have to hear of it before anything else happens.
        if was_stalled != self.stalled_since.is_some() || self.hold.handle.is_pressure_new() {
            return Poll::Ready(Step::FlowChanged);
        }
        if is_ending && idle {
            return Poll::Ready(Step::Drained);
        }
        self.poll_pause(cx);
        if !is_ending
            && self.has_room()
            && let Poll::Ready(read) = self.reader.poll_next(cx)
        {
            return Poll::Ready(Step::Read(read));
        }
        if self.armed.is_some_and(|at| at <= self.now()) {
            self.armed = None;
            return Poll::Ready(Step::Deadline);
        }
        Poll::Pending
    }

    /// Writes until nothing is left or the socket takes no more. Ready: every channel is parked at its head.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let node = Arc::clone(&self.hold.node);
        Gathering::lend(&node.stats, |gathering| self.poll_write_gathered(gathering, cx))
    }

    fn poll_write_gathered(
        &mut self,
        gathering: &mut Gathering,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        let hold = &self.hold;
        let session = hold.session().map(|(session, _)| session.id);
        let tracer = Tracer { trace: &hold.node.trace, session };
        loop {
            let mut state = hold.handle.write_next();
            let pending = state.gather(gathering, &|| Arc::clone(&hold.handle) as Arc<dyn Unpark>, tracer);
            match pending {
                write_state::Pending::Bytes => {}
                other => {
                    state.set_blocked(false);
                    drop(state);
                    hold.on_not_numbered(&other);
                    let flushed = self.writer.poll_flush(cx);
                    match &flushed {
                        Poll::Ready(_) => self.stalled_since = None,
                        Poll::Pending => self.stalls(),
                    }
                    return flushed;
                }
            }
            match gathering.write(|slices| self.writer.poll_write_vectored(cx, slices)) {
                Poll::Ready(Ok(written)) => {
                    state.advance(gathering, written, tracer);
                    self.stalled_since = None;
                    hold.node.stats.bytes_out.add(written as u64);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    state.advance(gathering, 0, tracer);
                    state.set_blocked(true);
                    drop(state);
                    self.stalls();
                    return Poll::Pending;
                }
            }
        }
    }

    /// Is there nothing that keeps the next frame waiting?
    fn has_room(&self) -> bool {
        self.pause.is_none()
            && !self.hold.handle.is_full()
            && self.hold.session().is_none_or(|(session, _)| !session.is_reading_paused())
    }

    /// A frame takes its place; what comes too fast waits.
    fn keep_pace(&mut self) {
        if let Some(pause) = self.hold.handle.reading().keep_pace(&self.hold.node) {
            self.pause = Some(Box::pin(sleep(pause)));
        }
    }

    /// Reading goes on when the pause is over.
    fn poll_pause(&mut self, cx: &mut Context<'_>) {
        if let Some(pause) = &mut self.pause
            && pause.as_mut().poll(cx).is_ready()
        {
            self.pause = None;
        }
    }

    fn now(&self) -> Moment {
        Moment::passed_by(self.hold.node.uptime())
    }

    /// The peer takes nothing now.
    fn stalls(&mut self) {
        if self.stalled_since.is_none() {
            self.stalled_since = Some(Moment::not_before(self.hold.node.uptime()));
        }
    }

    /// It is woken no later than at the earliest thing that can happen without input: START's deadline, the session's
    /// next time-out, or the end of patience with a peer that takes nothing. Once the connection ends only the last is
    /// waited for.
    fn arm_timer(&mut self) {
        let Hold { node, handle, stage } = &self.hold;
        let (now, patience) = (node.uptime(), node.options().write_stall);
        let expected = match stage {
            _ if handle.is_ending() => None,
            Stage::Holder(session, _) => session.next_timeout().map(Moment::not_before),
            Stage::Stranger { start_by } => Some(*start_by),
            Stage::Starting(_) | Stage::Refused => None,
        };
        let stall = self.stalled_since.map(|since| since.after(patience));
        // A connection with neither looks again once in a while; nothing depends on when. What is late already comes
        // with the next millisecond, so that no poll goes on for ever.
        let earliest = expected.into_iter().chain(stall).min();
        let at =
            earliest.unwrap_or(Moment::not_before(now + patience)).max(Moment::passed_by(now).after(TICK));
        if self.armed.is_none_or(|armed| at < armed) {
            node.timers.add(at, handle.id);
            self.armed = Some(at);
        }
    }

    /// Answers how the connection ends, if it ends without another word.
    fn on_deadline(&mut self) -> Option<(u32, String)> {
        let now = self.now();
        let patience = self.hold.node.options().write_stall;
        if self.stalled_since.is_some_and(|since| since.after(patience) <= now) {
            // A peer that reads nothing would not read a notice either.
            let reason = "nothing was read for too long: reconnect and resume";
            return Some((CloseCode::Slow.number(), reason.into()));
        }
        match &self.hold.stage {
            Stage::Holder(session, _) => session.timeout(&self.hold.node),
            Stage::Stranger { start_by } if *start_by <= now => {
                self.hold.handle.end(Ending::new(CloseCode::StartTimeout, "no START came in time"));
            }
            Stage::Stranger { .. } | Stage::Starting(_) | Stage::Refused => {}
        }
        None
    }

    /// Tells the engine when the outbox fills up and when there is room again: it starts no call meanwhile.
    fn tell_pressure(&mut self) {
        if let Some(pressure) = self.hold.handle.take_pressure()
            && let Some((session, fence)) = self.hold.session()
        {
            session.pressure(&self.hold.node, fence, pressure);
        }
    }

    /// Deals with all that one read has brought, before the write side is looked at again; unless nothing more is to be
    /// read before that. The session gets frames several at a time.
    fn on_read(&mut self, first: Incoming) {
        let mut frames = Vec::new();
        let dialect = self.hold.handle.form().dialect;
        let (mut count, mut bytes) = (0, 0);
        let mut next = Some(Ok(first));
        while let Some(read) = next {
            match read {
                Ok(Incoming::Frame(frame)) => {
                    count += 1;
                    bytes += frame.bytes.len() as u64;
                    self.keep_pace();
                    self.on_frame(frame, dialect, &mut frames);
                }
                Ok(Incoming::Ping(payload)) => {
                    self.keep_pace();
                    // So that the limit of what waits to be written is looked at before the next one.
                    self.hand_over(&mut frames);
                    self.on_ping(&payload);
                }
                Ok(Incoming::Pong(_)) => {}
                Ok(Incoming::Close { code, .. }) => {
                    self.hand_over(&mut frames);
                    self.hold.handle.answer_close(code);
                }
                Err(error) => {
                    self.hand_over(&mut frames);
                    self.on_bad_frame(&error);
                }
            }
            if frames.len() >= FRAMES_AT_ONCE {
                self.hand_over(&mut frames);
            }
            // While some wait nothing else of this connection can have changed that matters to the next.
            let goes_on = self.pause.is_none() && (!frames.is_empty() || self.reads_on());
            next = if goes_on { self.reader.next_buffered() } else { None };
        }
        self.hand_over(&mut frames);
        self.hold.node.stats.frames_in.add(count);
        self.hold.node.stats.bytes_in.add(bytes);
    }

    /// Has the connection a session that takes frames now?
    fn reads_on(&self) -> bool {
        self.hold.session().is_some() && !self.hold.handle.is_ending() && self.has_room()
    }

    fn on_frame(&mut self, frame: Frame, dialect: Dialect, frames: &mut Vec<Decoded>) {
        match &self.hold.stage {
            Stage::Holder(..) => self.on_session_frame(&frame, dialect, frames),
            Stage::Stranger { .. } => {
                let dialect = self.dialect_of(&frame);
                let (node, handle) = (Arc::clone(&self.hold.node), Arc::clone(&self.hold.handle));
                self.hold.stage = Stage::Starting(Box::pin(first_frame(node, handle, dialect, frame)));
            }
            // Neither reads.
            Stage::Starting(_) | Stage::Refused => {}
        }
    }

    /// The first frame is answered.
    fn on_started(&mut self, started: Started) {
        self.hold.stage = match started {
            Ok((session, fence)) => {
                if let Some(further) = &mut self.further {
                    further.started();
                }
                Stage::Holder(session, fence)
            }
            Err(ending) => {
                self.hold.handle.end(ending);
                Stage::Refused
            }
        };
    }

    /// `dialect` is its session's.
    fn on_session_frame(&self, frame: &Frame, dialect: Dialect, frames: &mut Vec<Decoded>) {
        if self.dialect_of(frame) == dialect {
            let decoded = dialect.decode_up(&frame.bytes);
            // All else is answered, or ends the session, when it is looked at: calls before it have run by then, or begun, or
            // wait for room. And the limit of what waits to be written is looked at before the next one.
            let waits =
                matches!(&decoded, Ok(frame) if matches!(frame.body, UpBody::Business(_) | UpBody::Ack(_)));
            if !waits {
                self.hand_over(frames);
            }
            frames.push(decoded);
            if !waits {
                self.hand_over(frames);
            }
            return;
        }
        self.hand_over(frames);
        let text = "a frame in another dialect than START's: one connection speaks one dialect";
        self.hold.handle.end(Ending::new(CloseCode::DialectMixed, text));
    }

    /// Gives the session what was decoded for it.
    fn hand_over(&self, frames: &mut Vec<Decoded>) {
        if let Some((session, fence)) = self.hold.session()
            && !frames.is_empty()
        {
            session.frames(&self.hold.node, fence, frames);
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

    /// The connection is over; the transport tells its peer.
    fn close(self, code: u32, reason: String) -> Boxed<()> {
        let Actor { hold, reader, writer, further, .. } = self;
        let closed_by = CloseCode::from_number(code).unwrap_or(CloseCode::Internal);
        hold.node.stats.closed_by.one(CloseCode::ALL, &closed_by);
        drop(hold);
        Box::pin(async move {
            trunkline_transport::close(reader, writer, code, &reason, CLOSE_DEADLINE).await;
            drop(further);
        })
    }
}

/// Whatever a connection's first frame is, its answer is written as it was.
async fn first_frame(node: Arc<Node>, handle: Arc<Handle>, dialect: Dialect, frame: Frame) -> Started {
    let form = handle.form();
    handle.set_form(WireForm { dialect, ..form });
    match dialect.decode_up(&frame.bytes) {
        Ok(frame) => match frame.body {
            UpBody::Start(request) => {
                let begin = Instant::now();
                let started = start::start(&node, &handle, dialect, frame.msg_id, *request).await;
                node.stats.start_durations.observe(begin.elapsed(), 1);
                started
            }
            _ => Err(Ending::new(CloseCode::StartExpected, "the first frame must be START")),
        },
        Err(error) => {
            node.stats.frames_malformed.one();
            Err(Ending::new(CloseCode::StartExpected, format!("the first frame must be START: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_an_idle_connection_is_small() {
        // With its tracker's token and what the runtime has beside it (104 B) a task is to fit into 256 B.
        let (task, handle) = (size_of::<Serving>(), size_of::<Handle>());
        assert!(task <= 144, "an idle connection's future has {task} B");
        assert!(handle <= 184, "an idle connection's handle has {handle} B");
    }
}
