//! The one task of a connection: it reads, polls the handler, writes, and keeps time.
//!
//! Reading never waits for writing, nor writing for the handler: each turn does what each of them can do now. The
//! driver decides nothing about packets but where they go; everything that is written was appended to the outbox by
//! somebody else, or is a control packet. Its parts are `read`, `datagrams`, `lanes`, `intake`, `write`, `clock`,
//! `beat` and `signal`.

mod beat;
mod clock;
mod datagrams;
mod intake;
mod lanes;
mod read;
mod signal;
mod write;

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, timeout},
};

use self::{beat::Heart, datagrams::Datagrams, intake::Stage, lanes::Lanes};
use super::{
    Session,
    core::Core,
    outbox::{LaneWay, Part, State},
};
use crate::{
    ByteWriter, CloseReason, Connection, FrameReader, Framing, Streams, TransportError, Wire, close, codes,
    connection::Unproven,
    defaults::{CLOSE_TIMEOUT, KEEPALIVE},
    rate_limit::ConnectionLimiter,
};

/// What serves one connection; it may run until it has returned or the connection is long gone.
pub(crate) type Handler = Pin<Box<dyn Future<Output = Result<(), TransportError>> + Send>>;

/// Frames that are read in one turn before the handler and the writer have theirs.
const READS: usize = 64;

/// Turns in which a link is read that takes nothing more: a peer that could still send must come to an end.
const LAST_TURNS: u32 = 64;

/// Turns in a row before other tasks of the thread have theirs.
const TURNS: usize = 16;

pub(crate) struct Driver {
    core: Arc<Core>,
    reader: FrameReader,
    writer: ByteWriter,
    handler: Option<Handler>,
    /// What is being written, and how much of its first part is.
    batch: VecDeque<Part>,
    offset: usize,
    /// Written and not yet told to the outbox.
    unaccounted: usize,
    /// A packet that is not through yet; nothing behind it is read meanwhile.
    stage: Option<Stage>,
    limiter: Option<ConnectionLimiter>,
    datagrams: Option<Datagrams>,
    /// Streams of lanes, once the peer has said that it takes such.
    lanes: Option<Box<Lanes>>,
    /// The peer has ended, and what it sent by lanes before that is yet to be read.
    ending: Option<CloseReason>,
    /// Bytes of a partial frame that the shared budget knows of.
    held: usize,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whom the timer wakes.
    timer_wakes: Option<Waker>,
    /// The timer is set for everything that has a time, as far as nobody has said otherwise.
    is_timer_set: bool,
    heart: Heart,
    /// The limit that the reader knows.
    limit: usize,
    /// Since when the link has taken nothing although there is something.
    stalled: Option<Instant>,
    phase: Phase,
    /// The peer has said that it goes away: its end will be no surprise.
    going_away: Option<String>,
    broken: Option<Broken>,
    /// Until when the peer's first packet must have come, where nothing else watches it.
    first_packet: Option<Instant>,
    /// Its handshake is not complete.
    unproven: Option<Unproven>,
    /// Until when the peer must have proved itself, where it has to.
    proof: Option<Instant>,
    said_hello: bool,
    is_paused: bool,
    /// The inbox had no room when the driver last put something in. Others only take out of it.
    is_inbox_full: bool,
}

/// Why nothing more can be written. A socket tells an error once: an end that is read after it is not the peer's.
struct Broken {
    error: String,
    /// For so many turns what the link has brought is still read.
    turns: u32,
}

/// What the connection is doing.
#[derive(Debug)]
enum Phase {
    Open,
    /// The peer has ended its side; the handler may still finish and what it says is still sent.
    PeerEnded(CloseReason, Instant),
    /// The rest is sent, then the last word, then the end.
    Closing {
        reason: CloseReason,
        until: Instant,
        said_goodbye: bool,
    },
}

impl Driver {
    pub(crate) fn new(core: Arc<Core>, connection: Connection, handler: Option<Handler>) -> Box<Self> {
        let now = Instant::now();
        let heart = Heart::new(now, core.shared.heartbeat);
        let limit = core.message_limit();
        // On TCP nothing else watches a v1 peer. Without it the connection works all the same.
        if let Err(error) = connection.writer.set_keepalive(KEEPALIVE) {
            tracing::debug!(%error, "no keepalive");
        }
        let shared = &core.shared;
        let limiter = shared.limiter.as_ref();
        let limiter = limiter.map(|limiter| limiter.connection(core.info.peer.map(|peer| peer.ip()), now));
        {
            let mut out = core.out.lock();
            out.link = connection.writer.direct();
            if connection.streams.are_supported() {
                out.lane_way = LaneWay::Undecided;
            }
        }
        let datagrams = Datagrams::of(&connection.streams);
        *core.streams.lock() = Some(connection.streams).filter(Streams::are_supported);
        // Only a server waits for its peers.
        let first_packet =
            shared.first_packet.filter(|_| !core.knows_wire() && core.framing.ping(b"").is_none());
        let first_packet = first_packet.map(|within| now + within);
        let proof = shared.auth_within.map(|within| now + within);
        Box::new(Self {
            core,
            reader: connection.reader,
            writer: connection.writer,
            handler,
            batch: VecDeque::new(),
            offset: 0,
            unaccounted: 0,
            stage: None,
            limiter,
            datagrams,
            lanes: None,
            ending: None,
            held: 0,
            timer: None,
            timer_wakes: None,
            is_timer_set: false,
            heart,
            limit,
            stalled: None,
            phase: Phase::Open,
            going_away: None,
            broken: None,
            first_packet,
            unproven: connection.unproven,
            proof,
            said_hello: false,
            is_paused: false,
            is_inbox_full: false,
        })
    }

    /// Drives the connection to its end and says how it ended. Everybody who waits on it has been told by then, and
    /// the link is closed. `gone` is called when it can no longer be used, before the last bytes are waited for.
    ///
    /// In a box, as the end is in another: the future of a task has room for everything that it holds at any time, some of
    /// it twice, and most connections do nothing most of the time.
    pub(crate) async fn run(mut self: Box<Self>, gone: impl FnOnce() + Send) -> CloseReason {
        let reason = poll_fn(|cx| self.poll(cx)).await;
        Box::pin(self.end(reason, gone)).await
    }

    async fn end(mut self: Box<Self>, reason: CloseReason, gone: impl FnOnce()) -> CloseReason {
        // Counted here and not earlier: until now a partial frame was held.
        self.core.shared.budget.give(std::mem::take(&mut self.held));
        self.settle(Waker::noop());
        self.settle_lanes();
        let (code, text, is_orderly) = match &reason {
            CloseReason::Closed { code, reason } => (*code, reason.clone(), true),
            CloseReason::Peer { .. } | CloseReason::Ended => (codes::NORMAL, String::new(), true),
            CloseReason::Protocol(text) => (codes::PROTOCOL, text.clone(), true),
            CloseReason::HandlerFailed(_) | CloseReason::HandlerPanicked => {
                (codes::INTERNAL, String::new(), true)
            }
            CloseReason::TooFast => (codes::POLICY, reason.to_string(), true),
            CloseReason::Overflow => (codes::OVERLOADED, reason.to_string(), true),
            CloseReason::Slow => (codes::OVERLOADED, reason.to_string(), false),
            CloseReason::Lost(_) | CloseReason::Silent | CloseReason::CutOff => {
                (codes::GOING_AWAY, reason.to_string(), false)
            }
        };
        if self.core.out.lock().queued() > 0 {
            let batch = std::mem::take(&mut self.batch);
            let of_lanes = self.lanes.as_mut().map(|lanes| lanes.batches()).unwrap_or_default();
            let mut out = self.core.out.lock();
            out.keep_unsent(batch, self.offset);
            out.keep_lanes_unsent(of_lanes);
        }
        self.core.ended(&reason);
        let stack = &self.core.shared.middleware;
        if !stack.is_empty() {
            stack.close(&Session::new(Arc::clone(&self.core)), &reason);
        }
        gone();
        let timeout = self.core.shared.close_timeout.min(CLOSE_TIMEOUT);
        let handler = self.handler.take().filter(|_| self.core.is_admitted() && surprises(&reason));
        // They would keep the link open.
        drop((self.datagrams.take(), self.lanes.take()));
        let Self { reader, mut writer, .. } = *self;
        let closing = async {
            if is_orderly {
                close(reader, writer, code.into(), &text, timeout).await;
            } else {
                writer.abort(code.into(), &text);
            }
        };
        tokio::join!(closing, let_end(handler, timeout));
        reason
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        for _ in 0..TURNS {
            self.look();
            let turned = if self.broken.is_some() { self.last_turn(cx) } else { self.turn(cx) };
            let mut again = match turned {
                Ok(again) => again,
                Err(reason) => return Poll::Ready(reason),
            };
            match self.flush(cx, again) {
                Ok(lets_go_on) => again |= lets_go_on,
                Err(reason) => return Poll::Ready(reason),
            }
            if again {
                continue;
            }
            match self.keep_time(cx) {
                Ok(false) if self.may_sleep(cx) => return Poll::Pending,
                Ok(_) => {}
                Err(reason) => return Poll::Ready(reason),
            }
        }
        // Who has always more to do is not above the clock either.
        if let Err(reason) = self.keep_time(cx) {
            return Poll::Ready(reason);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what can be written now, and learns of the end: whether there is more to do, be it that the handler can go on, as
    /// [`Driver::write`] says, or that the link has failed. `has_more` is there to be read.
    fn flush(&mut self, cx: &mut Context<'_>, has_more: bool) -> Result<bool, CloseReason> {
        let mut lets_go_on = false;
        if self.broken.is_none() {
            match self.write_little(cx.waker()) {
                Ok((true, more)) => return Ok(more),
                Ok((false, more)) => lets_go_on = more,
                Err(error) => return Ok(self.broke(&error)),
            }
        }
        if let Some(reason) = self.observe_close() {
            return Err(reason);
        }
        if let Some(broken) = &mut self.broken {
            broken.turns -= 1;
            if has_more && broken.turns > 0 && matches!(self.phase, Phase::Open) {
                return Ok(true);
            }
            let error = broken.error.clone();
            return Err(self.lost(error));
        }
        match self.write(cx) {
            Ok(more) => lets_go_on |= more,
            Err(error) => return Ok(self.broke(&error)),
        }
        self.finished().map_or(Ok(lets_go_on), Err)
    }

    /// The link takes nothing more, and is read once more at least before that counts, since the peer may have said why.
    #[cold]
    fn broke(&mut self, error: &std::io::Error) -> bool {
        self.broken.get_or_insert_with(|| Broken { error: error.to_string(), turns: LAST_TURNS });
        true
    }

    /// The link has failed. What the peer said before that is the better reason.
    #[cold]
    pub(super) fn lost(&mut self, error: String) -> CloseReason {
        let goes_away = |reason| CloseReason::Peer { code: codes::GOING_AWAY, reason };
        let said = self.peer_reason().or_else(|| self.going_away.take().map(goes_away));
        said.unwrap_or(CloseReason::Lost(error))
    }

    /// What others have appended, or could not write, is known from here on.
    fn look(&mut self) {
        let mut out = self.core.out.lock();
        let (has_news, lanes_have_news) = out.look();
        self.is_timer_set &= !has_news;
        if let Some(lanes) = &mut self.lanes {
            lanes.note_news(lanes_have_news);
        }
        let broken = out.take_broken();
        drop(out);
        if let Some(error) = broken {
            self.broke(&error);
        }
    }

    /// Reads and polls the handler: whether there is more to do before the task may sleep. `Err` is an end without
    /// further ado.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if !self.said_hello {
            self.said_hello = true;
            self.hello();
        }
        let mut again = self.read(cx)?;
        // Before the peer has proved itself to a middleware, the handler does not know of it; and if it ended now, what it has
        // sent would seem to have left.
        let may_run = self.core.is_admitted() && self.broken.is_none();
        if let Some(handler) = self.handler.as_mut().filter(|_| may_run) {
            // A panic must cost this connection and nothing else, and the peer is still told.
            match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx))) {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(result)) => {
                    self.handler = None;
                    again = true;
                    self.handler_ended(result);
                }
                Err(_) => {
                    // Dropping what has panicked may panic again.
                    let handler = self.handler.take();
                    drop(catch_unwind(AssertUnwindSafe(move || drop(handler))));
                    again = true;
                    self.begin_close(CloseReason::HandlerPanicked);
                }
            }
        }
        Ok(again)
    }

    #[cold]
    fn handler_ended(&mut self, result: Result<(), TransportError>) {
        let reason = match result {
            Ok(()) => CloseReason::Closed { code: codes::NORMAL, reason: String::new() },
            // The connection's own end, handed through by `?`, is no failure of the handler.
            Err(TransportError::Closed(reason)) => reason,
            Err(TransportError::Recv(crate::RecvError::Closed(reason))) => reason,
            Err(TransportError::Send(crate::SendError::Closed(reason))) => reason,
            Err(error) => CloseReason::HandlerFailed(error.to_string()),
        };
        let reason = match &self.phase {
            Phase::PeerEnded(peer, _) => peer.clone(),
            _ => reason,
        };
        self.begin_close(reason);
    }

    /// Ends the connection once the rest is sent. The first reason counts.
    fn begin_close(&mut self, reason: CloseReason) {
        let mut out = self.core.out.lock();
        if out.state == State::Open {
            out.state = State::Closing(reason);
        }
    }

    /// A client of v2 speaks first, so that the server knows the wire and what it inflates.
    fn hello(&mut self) {
        if self.core.wire() == Wire::V2 {
            self.ping(Instant::now());
        }
    }

    /// The same without the task's budget, whose end would look as if the link had brought nothing more.
    #[cold]
    fn last_turn(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        match pin!(unconstrained(poll_fn(|cx| Poll::Ready(self.turn(cx))))).poll(cx) {
            Poll::Ready(turned) => turned,
            Poll::Pending => Ok(false),
        }
    }

    /// Everything is done: whether to wait for a waker. Otherwise something has come meanwhile.
    fn may_sleep(&mut self, cx: &Context<'_>) -> bool {
        let mut out = self.core.out.lock();
        let lanes_have_news = self.lanes.is_some() && out.has_lane_news();
        let has_new = lanes_have_news || (self.batch.is_empty() && out.queued() > out.lanes_queued());
        // A close that is observed already, and not said yet, waits for its lanes, which wake this task.
        let must_close =
            out.state != State::Open && self.batch.is_empty() && !matches!(self.phase, Phase::Closing { .. });
        if has_new || must_close {
            return false;
        }
        out.sleep(cx.waker())
    }
}

/// Whether a handler that still runs has yet to hear of this end. One that was asked for has been told while the rest
/// was sent, and one that was cut off has had its time.
fn surprises(reason: &CloseReason) -> bool {
    !matches!(reason, CloseReason::Closed { .. } | CloseReason::CutOff)
}

/// What a handler waits for on its connection answers by now that it is gone: it has so long to return.
async fn let_end(handler: Option<Handler>, within: Duration) {
    let Some(mut handler) = handler else { return };
    let ended = AssertUnwindSafe(handler.as_mut()).catch_unwind();
    if timeout(within, ended).await.is_ok_and(|ended| ended.is_err()) {
        tracing::debug!("a handler panicked after the end of its connection");
    }
    // Dropping what has panicked may panic again.
    drop(catch_unwind(AssertUnwindSafe(move || drop(handler))));
}

/// The reader's limit for frames whose packets may carry `message` bytes: under [`Framing::Packet`] the reader sees
/// the packet's own header; elsewhere only the frame's, which has room for header and extension header.
pub(crate) fn frame_limit(framing: Framing, message: usize) -> usize {
    match framing {
        Framing::Packet => message,
        Framing::Length | Framing::WebSocket { .. } => {
            message.saturating_add(crate::packet::HEADER + crate::packet::MAX_EXT_HEADER)
        }
    }
}
