//! The one task of a connection: it reads, polls the handler, writes, and keeps time.
//!
//! Reading never waits for writing, nor writing for the handler: each turn does what each of them can do now. The
//! driver decides nothing about packets but where they go; everything that is written was appended to the outbox by
//! somebody else, or is a control packet.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
};

use tokio::{
    task::JoinHandle,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    core::{Core, closed},
    events::overflow,
    inbox::Item,
    outbox::{self, Part, State},
    requests::Delivered,
};
use crate::{
    ByteWriter, CloseReason, Connection, Flags, FrameKind, FrameReader, Framing, Incoming, Overflow, Packet,
    PacketType, ReadError, SlowConsumer, TransportError, Wire, WireError, close, codes, compress,
    defaults::{CLOSE_TIMEOUT, INLINE_COMPRESSION, KEEPALIVE, SILENCE_TENTHS},
    packet::{
        Header, Kind,
        control::{ControlPacket, Features},
        encode, stream,
    },
};

/// What serves one connection; it may run until it has returned or the connection is long gone.
pub(crate) type Handler = Pin<Box<dyn Future<Output = Result<(), TransportError>> + Send>>;

/// Frames that are read in one turn before the handler and the writer have theirs.
const READS: usize = 64;

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
    /// A large compressed packet on another thread; nothing behind it is read meanwhile.
    inflating: Option<Box<Inflating>>,
    /// Bytes of a partial frame that the shared budget knows of.
    held: usize,
    timer: Option<Pin<Box<Sleep>>>,
    next_beat: Instant,
    heard: Instant,
    /// The limit that the reader knows.
    limit: usize,
    /// Since when the link has taken nothing although there is something.
    stalled: Option<Instant>,
    phase: Phase,
    /// The peer has said that it goes away: its end will be no surprise.
    going_away: Option<String>,
    said_hello: bool,
    is_paused: bool,
}

struct Inflating {
    header: Header,
    packet_type: PacketType,
    ext: bytes::Bytes,
    size: usize,
    task: JoinHandle<Result<bytes::Bytes, WireError>>,
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
    pub(crate) fn new(core: Arc<Core>, connection: Connection, handler: Option<Handler>) -> Self {
        let now = Instant::now();
        let heartbeat = core.shared.heartbeat;
        // The first beat comes at a random moment, so that connections of one moment do not beat together.
        let first = heartbeat.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        let limit = core.message_limit();
        // On TCP nothing else watches a v1 peer. Without it the connection works all the same.
        if let Err(error) = connection.writer.set_keepalive(KEEPALIVE) {
            tracing::debug!(%error, "no keepalive");
        }
        Self {
            core,
            reader: connection.reader,
            writer: connection.writer,
            handler,
            batch: VecDeque::new(),
            offset: 0,
            unaccounted: 0,
            inflating: None,
            held: 0,
            timer: None,
            next_beat: now + first,
            heard: now,
            limit,
            stalled: None,
            phase: Phase::Open,
            going_away: None,
            said_hello: false,
            is_paused: false,
        }
    }

    /// Drives the connection to its end and says how it ended. Everybody who waits on it has been told by then, and
    /// the link is closed. `gone` is called when it can no longer be used, before the last bytes are waited for.
    pub(crate) async fn run(mut self, gone: impl FnOnce()) -> CloseReason {
        let reason = poll_fn(|cx| self.poll(cx)).await;
        // Counted here and not earlier: until now a partial frame was held.
        self.core.shared.budget.give(std::mem::take(&mut self.held));
        self.settle();
        let (code, text, is_orderly) = match &reason {
            CloseReason::Closed { code, reason } => (*code, reason.clone(), true),
            CloseReason::Peer { .. } | CloseReason::Ended => (codes::NORMAL, String::new(), true),
            CloseReason::Protocol(text) => (codes::PROTOCOL, text.clone(), true),
            CloseReason::HandlerFailed(_) | CloseReason::HandlerPanicked => {
                (codes::INTERNAL, String::new(), true)
            }
            CloseReason::Slow | CloseReason::Overflow => (codes::OVERLOADED, reason.to_string(), false),
            CloseReason::Lost(_) | CloseReason::Silent | CloseReason::CutOff => {
                (codes::GOING_AWAY, reason.to_string(), false)
            }
        };
        self.core.ended(&reason);
        gone();
        drop(self.handler.take());
        if is_orderly {
            let timeout = self.core.shared.close_timeout.min(CLOSE_TIMEOUT);
            close(self.reader, self.writer, code.into(), &text, timeout).await;
        } else {
            self.writer.abort(code.into(), &text);
        }
        reason
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        for _ in 0..TURNS {
            let mut moved = match self.turn(cx) {
                Ok(moved) => moved,
                Err(reason) => return Poll::Ready(reason),
            };
            if let Some(reason) = self.observe_close() {
                return Poll::Ready(reason);
            }
            match self.write(cx) {
                Ok(wrote) => moved |= wrote,
                Err(error) => {
                    let reason = self.peer_reason().unwrap_or_else(|| CloseReason::Lost(error.to_string()));
                    return Poll::Ready(reason);
                }
            }
            match self.keep_time(cx) {
                Ok(beat) => moved |= beat,
                Err(reason) => return Poll::Ready(reason),
            }
            if let Some(reason) = self.finished() {
                return Poll::Ready(reason);
            }
            if !moved && self.may_sleep(cx) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads and polls the handler. `Err` is an end without further ado.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if !self.said_hello {
            self.said_hello = true;
            self.hello();
        }
        let mut moved = self.read(cx)?;
        if let Some(handler) = &mut self.handler {
            // A panic must cost this connection and nothing else, and the peer is still told.
            match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx))) {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(result)) => {
                    self.handler = None;
                    moved = true;
                    self.handler_ended(result);
                }
                Err(_) => {
                    // Dropping what has panicked may panic again.
                    let handler = self.handler.take();
                    drop(catch_unwind(AssertUnwindSafe(move || drop(handler))));
                    moved = true;
                    self.begin_close(CloseReason::HandlerPanicked);
                }
            }
        }
        Ok(moved)
    }

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
            self.ping();
        }
    }

    fn ping(&self) {
        let token = u64::try_from(self.core.born.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.core.control(&ControlPacket::Ping { token, features: Features::ours() });
    }

    // ---- reading -------------------------------------------------------------------------------------------------

    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let mut moved = self.inflated(cx)?;
        if self.inflating.is_some() {
            return Ok(moved);
        }
        let limit = self.core.message_limit();
        if limit != self.limit {
            self.limit = limit;
            self.reader.set_max_frame(frame_limit(self.core.framing, limit));
        }
        for _ in 0..READS {
            if !matches!(self.phase, Phase::Open) && !self.listens_while_closing() {
                break;
            }
            self.is_paused = self.should_pause(cx.waker());
            if self.is_paused {
                break;
            }
            match self.reader.poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(incoming))) => {
                    moved = true;
                    self.incoming(incoming, cx)?;
                    if self.inflating.is_some() {
                        break;
                    }
                }
                Poll::Ready(Ok(None)) => {
                    moved = true;
                    let reason = match self.going_away.take() {
                        Some(reason) => CloseReason::Peer { code: codes::GOING_AWAY, reason },
                        None => CloseReason::Ended,
                    };
                    self.peer_ended(reason);
                    break;
                }
                Poll::Ready(Err(ReadError::Io(error))) => {
                    return Err(self.peer_reason().unwrap_or_else(|| CloseReason::Lost(error.to_string())));
                }
                Poll::Ready(Err(error)) => {
                    moved = true;
                    self.broke_protocol(&error);
                    break;
                }
            }
        }
        if moved {
            self.heard = Instant::now();
        }
        let held = self.reader.held();
        if held != self.held {
            self.core.shared.budget.take(held);
            self.core.shared.budget.give(std::mem::replace(&mut self.held, held));
        }
        Ok(moved)
    }

    /// While the rest is sent, responses and credit for it may still arrive, and a peer that ends must be noticed.
    fn listens_while_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. }) && !self.core.has_ended()
    }

    fn should_pause(&mut self, waker: &Waker) -> bool {
        if !self.core.shared.budget.has_room(0) && self.core.inbox.lock().bytes() > 0 {
            self.core.shared.budget.wake_on_room(waker);
            return !self.core.shared.budget.has_room(0);
        }
        if self.core.inbox.lock().has_room() || overflow(&self.core) != Overflow::Wait {
            return false;
        }
        let mut inbox = self.core.inbox.lock();
        inbox.pause(waker);
        !inbox.has_room()
    }

    fn incoming(&mut self, incoming: Incoming, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        match incoming {
            Incoming::Frame(frame) if frame.kind == FrameKind::Binary => self.frame(frame.bytes, cx),
            Incoming::Frame(_) => {
                let error = ReadError::Protocol { close_code: 1002, reason: "packets are binary messages" };
                self.broke_protocol(&error);
                Ok(())
            }
            Incoming::Ping(payload) => {
                if let Some(pong) = self.core.framing.pong(&payload) {
                    self.core.push_raw(&pong);
                }
                Ok(())
            }
            Incoming::Pong(_) => Ok(()),
            Incoming::Close { code, reason } => {
                let code = code.unwrap_or(codes::NORMAL);
                self.peer_ended(CloseReason::Peer { code, reason });
                Ok(())
            }
        }
    }

    fn frame(&mut self, bytes: bytes::Bytes, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let size = bytes.len();
        let (header, ext, payload) = match encode::split(bytes, self.limit) {
            Ok(parts) => parts,
            Err(error) => {
                self.broke_protocol(&stream::refused(&error));
                return Ok(());
            }
        };
        self.core.learn_wire(header.wire);
        match header.kind {
            Kind::Control(control) => {
                match ControlPacket::parse(&header, control, &payload) {
                    Ok(packet) => self.control(packet),
                    Err(error) => self.broke_protocol(&stream::refused(&error)),
                }
                Ok(())
            }
            Kind::Data(packet_type) => {
                let payload = match header.compression {
                    crate::Compression::None => payload,
                    how => {
                        // Most inflate to little. What turns out to be larger starts again on another thread.
                        match compress::inflate(how, &payload, INLINE_COMPRESSION.min(self.limit)) {
                            Ok(payload) => payload,
                            Err(WireError::TooLarge { .. }) if self.limit > INLINE_COMPRESSION => {
                                let limit = self.limit;
                                let task = tokio::task::spawn_blocking(move || {
                                    compress::inflate(how, &payload, limit)
                                });
                                let inflating = Inflating { header, packet_type, ext, size, task };
                                self.inflating = Some(Box::new(inflating));
                                self.inflated(cx)?;
                                return Ok(());
                            }
                            Err(error) => {
                                self.broke_protocol(&stream::refused(&error));
                                return Ok(());
                            }
                        }
                    }
                };
                let packet = encode::assemble(&header, packet_type, ext, payload);
                self.packet(packet, size, cx.waker())
            }
        }
    }

    /// Takes back what was inflated elsewhere, if it is there.
    fn inflated(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let Some(inflating) = &mut self.inflating else { return Ok(false) };
        let Poll::Ready(done) = Pin::new(&mut inflating.task).poll(cx) else { return Ok(false) };
        let Some(inflating) = self.inflating.take() else { return Ok(false) };
        match done {
            Ok(Ok(payload)) => {
                let Inflating { header, packet_type, ext, size, .. } = *inflating;
                let packet = encode::assemble(&header, packet_type, ext, payload);
                self.packet(packet, size, cx.waker())?;
            }
            Ok(Err(error)) => self.broke_protocol(&stream::refused(&error)),
            // The runtime is going down, or a decoder has panicked: nothing can be told about the payload.
            Err(error) => return Err(CloseReason::Protocol(error.to_string())),
        }
        Ok(true)
    }

    fn packet(&mut self, packet: Packet, size: usize, waker: &Waker) -> Result<(), CloseReason> {
        self.core.stats.received(packet.packet_type, size);
        match packet.packet_type {
            PacketType::Response => self.response(packet),
            PacketType::Request => {
                let is_refused = {
                    let mut open = self.core.open.lock();
                    if open.is_draining && self.core.wire() == Wire::V2 {
                        true
                    } else {
                        open.begin(packet.message_id);
                        false
                    }
                };
                if is_refused {
                    // Best effort: the peer was told before that new requests are refused.
                    let refusal = packet.reply_error(codes::GOING_AWAY, "draining");
                    drop(self.core.try_append(&refusal));
                    return Ok(());
                }
                self.deliver(packet, waker)
            }
            PacketType::OneWay => self.deliver(packet, waker),
        }
    }

    fn deliver(&mut self, packet: Packet, waker: &Waker) -> Result<(), CloseReason> {
        if self.core.received_packet(packet, waker) { Ok(()) } else { Err(CloseReason::Overflow) }
    }

    fn response(&mut self, packet: Packet) -> Result<(), CloseReason> {
        let message_id = packet.message_id;
        let has_more = packet.flags.contains(Flags::MORE);
        let delivered = {
            let mut pending = self.core.pending.lock();
            if has_more {
                pending.extend(message_id, Instant::now());
            }
            pending.deliver(packet)
        };
        match delivered {
            Delivered::To(wake) => wake.into_iter().for_each(Waker::wake),
            Delivered::Stale => {
                self.core.stats.stale_responses.fetch_add(1, Relaxed);
            }
            Delivered::OverWindow(wake) => {
                self.core.control(&ControlPacket::Cancel { message_id });
                wake.into_iter().for_each(Waker::wake);
            }
        }
        Ok(())
    }

    fn control(&mut self, packet: ControlPacket) {
        match packet {
            ControlPacket::Ping { token, features } => {
                self.core.learn_features(features);
                self.core.control(&ControlPacket::Pong { token, features: Features::ours() });
            }
            ControlPacket::Pong { token, features } => {
                self.core.learn_features(features);
                let now = u64::try_from(self.core.born.elapsed().as_micros()).unwrap_or(u64::MAX);
                // A token from the future is not one of ours.
                if let Some(rtt) = now.checked_sub(token) {
                    self.core.stats.rtt.store(rtt.max(1), Relaxed);
                }
            }
            ControlPacket::GoAway { code: codes::GOING_AWAY, reason } => {
                let wake = self.core.pending.lock().go_away();
                wake.into_iter().for_each(Waker::wake);
                self.going_away = Some(reason.clone());
                self.core.received(Item::GoingAway { code: codes::GOING_AWAY, reason });
            }
            ControlPacket::GoAway { code, reason } => {
                self.peer_ended(CloseReason::Peer { code, reason });
            }
            ControlPacket::Cancel { message_id } => self.core.cancelled(message_id),
            ControlPacket::Window { message_id, bytes } => {
                let wake = self.core.open.lock().grant(message_id, bytes);
                wake.into_iter().for_each(Waker::wake);
            }
        }
    }

    fn broke_protocol(&mut self, error: &ReadError) {
        let reason = CloseReason::Protocol(error.to_string());
        self.core.finish_inbox(&reason);
        self.begin_close(reason);
    }

    /// The peer will send nothing more. Without a handler the rest is sent and that is it; a handler may finish.
    fn peer_ended(&mut self, reason: CloseReason) {
        self.core.finish_inbox(&reason);
        let wake = self.core.pending.lock().disconnect(&reason);
        wake.into_iter().for_each(Waker::wake);
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        if self.handler.is_some() {
            self.phase = Phase::PeerEnded(reason, Instant::now() + self.core.shared.close_timeout);
        } else {
            self.begin_close(reason);
        }
    }

    fn peer_reason(&self) -> Option<CloseReason> {
        match &self.phase {
            Phase::PeerEnded(reason, _) | Phase::Closing { reason, .. } => Some(reason.clone()),
            Phase::Open => None,
        }
    }

    // ---- writing -------------------------------------------------------------------------------------------------

    /// Writes until the link takes no more or there is nothing: whether anything moved.
    fn write(&mut self, cx: &mut Context<'_>) -> std::io::Result<bool> {
        let mut moved = false;
        loop {
            if self.batch.is_empty() {
                self.settle();
                if !self.core.out.lock().take_batch(&mut self.batch) {
                    if !self.begin_closing() {
                        break;
                    }
                    continue;
                }
            }
            let (slices, count) = outbox::slices(&self.batch, self.offset);
            match self.writer.poll_write_vectored(cx, &slices[..count]) {
                Poll::Ready(Ok(n)) => {
                    moved = true;
                    self.stalled = None;
                    self.unaccounted += n;
                    self.offset = outbox::advance(&mut self.batch, self.offset, n);
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.stalled.get_or_insert_with(Instant::now);
                    break;
                }
            }
        }
        self.settle();
        // What TLS holds back is moved on; if the socket does not take it, its waker comes back here.
        match self.writer.poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(moved),
        }
    }

    /// Tells the outbox and the budget what was written, and wakes who waited for it.
    fn settle(&mut self) {
        let written = std::mem::take(&mut self.unaccounted);
        if written == 0 {
            return;
        }
        let mut wake = Vec::new();
        self.core.out.lock().written(written, &mut wake);
        self.core.shared.budget.give(written);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Learns that the connection is to close: nothing is received any more, and the clock runs. A slow peer is cut at
    /// once, since what is queued is what it does not take; so is whom a shutdown cuts.
    fn observe_close(&mut self) -> Option<CloseReason> {
        let reason = closed(&self.core.out.lock().state)?;
        if matches!(reason, CloseReason::Slow | CloseReason::CutOff) {
            return Some(reason);
        }
        if matches!(self.phase, Phase::Closing { .. }) {
            return None;
        }
        self.core.finish_inbox(&reason);
        let until = Instant::now() + self.core.shared.close_timeout;
        self.phase = Phase::Closing { reason, until, said_goodbye: false };
        None
    }

    /// The queue is empty: if the connection is to close, the last word is said now. True if it was.
    fn begin_closing(&mut self) -> bool {
        let Phase::Closing { reason, said_goodbye, .. } = &mut self.phase else { return false };
        if std::mem::replace(said_goodbye, true) {
            return false;
        }
        let (code, text) = match reason {
            CloseReason::Closed { code, reason } => (*code, reason.clone()),
            CloseReason::Protocol(text) => (codes::PROTOCOL, text.clone()),
            CloseReason::Slow | CloseReason::Overflow => (codes::OVERLOADED, reason.to_string()),
            CloseReason::HandlerFailed(_) | CloseReason::HandlerPanicked => {
                (codes::INTERNAL, "the handler failed".to_owned())
            }
            // The peer's own last word is answered in kind, as RFC 6455 §5.5.1 asks.
            CloseReason::Peer { code, .. } => (*code, String::new()),
            _ => (codes::NORMAL, String::new()),
        };
        let ended_by_peer = matches!(reason, CloseReason::Peer { .. } | CloseReason::Ended);
        let mut out = self.core.out.lock();
        let before = out.appended();
        if self.core.wire() == Wire::V2 && !ended_by_peer && code != codes::GOING_AWAY {
            let bytes = ControlPacket::GoAway { code, reason: text.clone() }.to_bytes();
            out.push_framed(&self.core.framing.frame(FrameKind::Binary, &bytes));
        }
        if let Some(frame) = self.core.framing.close(code, &text) {
            out.push_framed(&frame);
        }
        let added = usize::try_from(out.appended() - before).unwrap_or(0);
        self.core.shared.budget.take(added);
        added > 0
    }

    /// Whether everything is said and the handler has had its time.
    fn finished(&self) -> Option<CloseReason> {
        let Phase::Closing { reason, said_goodbye: true, .. } = &self.phase else { return None };
        let is_done = self.handler.is_none() && self.batch.is_empty() && self.core.out.lock().queued() == 0;
        is_done.then(|| reason.clone())
    }

    // ---- time ----------------------------------------------------------------------------------------------------

    /// Does what is due and sets the timer for the next of it: true if anything was done.
    fn keep_time(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let mut moved = false;
        loop {
            let next = self.next_deadline();
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(next)));
            // A timer that is set too early only looks again; setting it costs more than that.
            if timer.deadline() > next || timer.is_elapsed() {
                timer.as_mut().reset(next);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(moved);
            }
            moved = true;
            self.due(Instant::now())?;
        }
    }

    fn next_deadline(&self) -> Instant {
        let mut next = self.next_beat;
        if let Some(armed) = self.core.pending.lock().armed {
            next = next.min(armed);
        }
        if let (Some(since), SlowConsumer::Wait(limit)) = (self.stalled, self.core.shared.slow_consumer)
            && self.core.out.lock().is_pressed
        {
            next = next.min(since + limit);
        }
        match &self.phase {
            Phase::Open => next,
            Phase::PeerEnded(_, until) | Phase::Closing { until, .. } => next.min(*until),
        }
    }

    fn due(&mut self, now: Instant) -> Result<(), CloseReason> {
        match &self.phase {
            Phase::Closing { until, reason, .. } if *until <= now => {
                let is_empty = self.core.out.lock().queued() == 0;
                return Err(if is_empty { reason.clone() } else { CloseReason::CutOff });
            }
            Phase::PeerEnded(reason, until) if *until <= now => return Err(reason.clone()),
            _ => {}
        }
        if let (Some(since), SlowConsumer::Wait(limit)) = (self.stalled, self.core.shared.slow_consumer)
            && since + limit <= now
            && self.core.out.lock().is_pressed
        {
            return Err(CloseReason::Slow);
        }
        if self.core.pending.lock().armed.is_some_and(|armed| armed <= now) {
            let (wake, expired) = self.core.pending.lock().expire(now);
            for message_id in expired {
                self.core.control(&ControlPacket::Cancel { message_id });
            }
            wake.into_iter().for_each(Waker::wake);
        }
        if self.next_beat <= now {
            self.next_beat = now + self.core.shared.heartbeat;
            self.beat(now)?;
        }
        Ok(())
    }

    /// On v2 a ping; towards a v1 peer a WebSocket ping, or nothing where the link watches itself.
    fn beat(&mut self, now: Instant) -> Result<(), CloseReason> {
        let v2 = self.core.wire() == Wire::V2;
        let is_answered = v2 || matches!(self.core.framing, Framing::WebSocket { .. });
        let silence = self.core.shared.heartbeat * SILENCE_TENTHS / 10;
        // While we do not read, the silence is ours.
        if is_answered && !self.is_paused && self.inflating.is_none() && self.heard + silence < now {
            return Err(CloseReason::Silent);
        }
        if v2 {
            self.ping();
        } else if let Some(ping) = self.core.framing.ping(b"") {
            self.core.push_raw(&ping);
        }
        Ok(())
    }

    /// Nothing moved: whether to wait for a waker. Otherwise something was appended meanwhile.
    fn may_sleep(&mut self, cx: &Context<'_>) -> bool {
        let mut out = self.core.out.lock();
        let has_new = self.batch.is_empty() && out.queued() > 0;
        let must_close = closed(&out.state).is_some()
            && self.batch.is_empty()
            && !matches!(self.phase, Phase::Closing { said_goodbye: true, .. });
        if has_new || must_close {
            return false;
        }
        match &mut out.writer {
            Some(old) if old.will_wake(cx.waker()) => {}
            other => *other = Some(cx.waker().clone()),
        }
        true
    }
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
