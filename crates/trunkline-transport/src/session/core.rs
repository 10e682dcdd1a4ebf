//! The shared state of one connection: what its handles append to and its driver writes from.
//!
//! Every method is short and takes one lock at a time; wakers are called when no lock is held.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use bytes::{BufMut, BytesMut};
use http::Extensions;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    Session,
    events::{Hub, overflow},
    inbox::{Inbox, Item, Pushed},
    outbox::{Outbox, SharedFrame, State},
    requests::{Open, Pending},
    stats::Counters,
};
use crate::{
    CloseReason, Compression, ConnectionInfo, Framing, Limits, MiddlewareStack, Overflow, Packet, PacketType,
    SendError, SessionId, SlowConsumer, StreamError, Streams, Wire,
    budget::Budget,
    codes,
    defaults::INLINE_COMPRESSION,
    packet::{
        Flags,
        control::{ControlPacket, Features},
        encode,
    },
    rate_limit::RateLimiter,
};

/// What the connections of one server or client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) slow_consumer: SlowConsumer,
    pub(crate) overflow: Overflow,
    pub(crate) heartbeat: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) close_timeout: Duration,
    /// Payloads from this size on are compressed so, for peers of v2 that inflate it.
    pub(crate) compression: Option<(Compression, usize)>,
    /// Within how long a peer has to prove itself, if it has to at all.
    pub(crate) auth_within: Option<Duration>,
    /// A middleware asks for the proof: until then nobody knows of the connection.
    pub(crate) hides_strangers: bool,
    /// Within how long a peer has to say which wire it speaks.
    pub(crate) first_packet: Option<Duration>,
    pub(crate) middleware: MiddlewareStack,
    pub(crate) limiter: Option<Arc<RateLimiter>>,
    pub(crate) budget: Budget,
    /// The sums of connections that have ended; those of the living are added when somebody asks.
    pub(crate) ended: Counters,
    pub(crate) hub: Hub,
    /// A connection has come, is going away, or has gone: for a client's keeper, and who waits for a connection.
    pub(crate) changed: Notify,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) id: SessionId,
    pub(crate) info: ConnectionInfo,
    pub(crate) framing: Framing,
    pub(crate) shared: Arc<Shared>,
    pub(crate) out: Mutex<Outbox>,
    pub(crate) inbox: Mutex<Inbox>,
    pub(crate) pending: Mutex<Pending>,
    pub(crate) open: Mutex<Open>,
    pub(crate) stats: Counters,
    pub(crate) born: Instant,
    /// 0 while unknown, else the version.
    wire: AtomicU8,
    peer_features: AtomicU8,
    is_authenticated: AtomicBool,
    /// The server's user knows of it.
    is_admitted: AtomicBool,
    /// Datagrams to the peer, where the protocol has them, until the connection ends.
    pub(crate) streams: Mutex<Option<Streams>>,
    /// The UDP socket of a client's QUIC or WebTransport connection, until that ends.
    pub(crate) udp: Mutex<Option<quinn::Endpoint>>,
    /// What middleware and handlers keep for it.
    pub(crate) extensions: Mutex<Extensions>,
    has_ended: AtomicBool,
    /// Received packets are events rather than a handler's.
    pub(crate) is_evented: bool,
}

impl Core {
    pub(crate) fn new(
        id: SessionId,
        info: ConnectionInfo,
        framing: Framing,
        wire: Option<Wire>,
        is_evented: bool,
        shared: Arc<Shared>,
    ) -> Self {
        let limits = &shared.limits;
        let keeps_apart = shared.slow_consumer == SlowConsumer::DropOldest;
        Self {
            id,
            info,
            framing,
            out: Mutex::new(Outbox::new(limits.queued, keeps_apart)),
            inbox: Mutex::new(Inbox::new(limits.received)),
            pending: Mutex::new(Pending::new(limits.requests)),
            open: Mutex::new(Open::default()),
            stats: Counters::default(),
            born: Instant::now(),
            wire: AtomicU8::new(wire.map_or(0, wire_number)),
            peer_features: AtomicU8::new(0),
            is_authenticated: AtomicBool::new(shared.auth_within.is_none()),
            is_admitted: AtomicBool::new(!shared.hides_strangers),
            streams: Mutex::new(None),
            udp: Mutex::new(None),
            extensions: Mutex::default(),
            has_ended: AtomicBool::new(false),
            is_evented,
            shared,
        }
    }

    /// The peer's wire; v1 while it is not known, since every peer reads that.
    pub(crate) fn wire(&self) -> Wire {
        if self.wire.load(Relaxed) == 2 { Wire::V2 } else { Wire::V1 }
    }

    /// The first packet says which wire is spoken.
    pub(crate) fn learn_wire(&self, wire: Wire) {
        if self.wire.load(Relaxed) == 0 {
            self.wire.store(wire_number(wire), Relaxed);
        }
    }

    pub(crate) fn knows_wire(&self) -> bool {
        self.wire.load(Relaxed) != 0
    }

    pub(crate) fn learn_features(&self, features: Features) {
        self.peer_features.store(features.0, Relaxed);
    }

    pub(crate) fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Relaxed)
    }

    /// The peer has proved itself in its handshake.
    pub(crate) fn begin_authenticated(&mut self) {
        *self.is_authenticated.get_mut() = true;
        *self.is_admitted.get_mut() = true;
    }

    /// The peer has proved itself: the limit of its packets is the usual one from the next header on.
    pub(crate) fn authenticate(self: &Arc<Self>) {
        self.is_authenticated.store(true, Relaxed);
        if !self.is_admitted.swap(true, Relaxed) && self.is_evented {
            self.received(Item::Established);
        }
        self.wake_driver();
    }

    /// Whether handler, events and broadcasts may know of it.
    pub(crate) fn is_admitted(&self) -> bool {
        self.is_admitted.load(Relaxed)
    }

    /// The limit of a packet from the peer, as things are now.
    pub(crate) fn message_limit(&self) -> usize {
        let limits = &self.shared.limits;
        if self.is_authenticated() { limits.message } else { limits.before_auth.min(limits.message) }
    }

    /// Decides what a packet is about to be sent as. `None`: nothing is to be sent (a v1 peer cannot be refused).
    pub(crate) fn prepare(self: &Arc<Self>, packet: Packet) -> Result<Option<Packet>, SendError> {
        let packet = self.resolve_echo(packet);
        let stack = &self.shared.middleware;
        if stack.is_empty() {
            return self.prepare_judged(packet);
        }
        let packet = stack.send(&Session::new(Arc::clone(self)), packet)?;
        self.prepare_judged(packet)
    }

    /// An echo becomes a response if it answers an open request.
    pub(crate) fn resolve_echo(&self, mut packet: Packet) -> Packet {
        if std::mem::take(&mut packet.is_echo) && self.open.lock().contains(packet.message_id) {
            packet.packet_type = PacketType::Response;
        }
        packet
    }

    /// As [`Core::prepare`], for what the middleware has let pass.
    pub(crate) fn prepare_judged(&self, mut packet: Packet) -> Result<Option<Packet>, SendError> {
        let limit = self.shared.limits.message;
        if packet.payload.len() > limit {
            return Err(SendError::TooLarge { size: packet.payload.len(), limit });
        }
        if packet.ext_header.len() > crate::packet::MAX_EXT_HEADER {
            return Err(crate::WireError::ExtHeader(packet.ext_header.len()).into());
        }
        let wire = self.wire();
        if packet.packet_type == PacketType::Response && wire == Wire::V1 {
            if packet.flags.contains(Flags::ERROR) {
                self.answered(packet.message_id);
                return Ok(None);
            }
            if packet.flags.contains(Flags::MORE) {
                return Err(SendError::NeedsV2("streamed replies"));
            }
        }
        if packet.packet_type == PacketType::OneWay && packet.message_id == 0 {
            packet.message_id = self.pending.lock().next_id();
        }
        if wire == Wire::V1 {
            packet.flags = packet.flags.for_v1();
        }
        packet.compression = self.compression_for(&packet, wire);
        if !packet.compression.is_available() {
            return Err(crate::WireError::NotCompiledIn(packet.compression).into());
        }
        Ok(Some(packet))
    }

    fn compression_for(&self, packet: &Packet, wire: Wire) -> Compression {
        let features = Features(self.peer_features.load(Relaxed));
        match (packet.compression, wire) {
            (Compression::None, Wire::V2) => match self.shared.compression {
                Some((how, from)) if packet.payload.len() >= from && features.inflates(how) => how,
                _ => Compression::None,
            },
            (Compression::None, Wire::V1) => Compression::None,
            // On v1 nobody can say what it inflates: who asks for it knows.
            (how, Wire::V1) => how,
            (how, Wire::V2) if features.inflates(how) => how,
            (_, Wire::V2) => Compression::None,
        }
    }

    /// What compression this connection would use for a packet that is encoded once for many.
    pub(crate) fn shared_compression(&self, packet: &Packet) -> (Wire, Compression) {
        let wire = self.wire();
        (wire, self.compression_for(packet, wire))
    }

    /// Appends a prepared packet, its payload compressed already, if there is room.
    pub(crate) fn try_append(&self, packet: &Packet) -> Result<(), SendError> {
        self.append(packet, 0).map(|_| ())
    }

    /// As [`Core::try_append`], into room of which `reserved` bytes are promised already. Tells where the packet ends in
    /// the output.
    pub(crate) fn append(&self, packet: &Packet, reserved: usize) -> Result<u64, SendError> {
        let header = encode::header(packet, self.wire())?;
        let size = self.framed_len(header.total());
        let (mark, wake) = {
            let mut out = self.out.lock();
            if let Some(reason) = closed(&out.state) {
                return Err(SendError::Closed(reason));
            }
            if reserved > 0 {
                out.release(reserved);
                self.shared.budget.give(reserved);
            } else if !self.has_room(&out, size) {
                return Err(SendError::Full { queued: out.queued() });
            }
            let droppable = packet.packet_type == PacketType::OneWay;
            let added = out.push(self.framing, header, &packet.ext_header, &packet.payload, droppable);
            self.shared.budget.take(added);
            (out.appended(), out.writer.take())
        };
        wake.into_iter().for_each(Waker::wake);
        self.sent(packet.packet_type, size);
        if packet.packet_type == PacketType::Response && !packet.flags.contains(Flags::MORE) {
            self.answered(packet.message_id);
        }
        Ok(mark)
    }

    pub(crate) fn framed_len(&self, total: usize) -> usize {
        total + self.framing.header_len(total)
    }

    pub(crate) fn has_room(&self, out: &Outbox, size: usize) -> bool {
        out.has_room(size) && (self.shared.budget.has_room(size) || out.queued() == 0)
    }

    /// Waits for room: call it when a packet was refused as full.
    pub(crate) fn wait_for_room(&self, size: usize, waker: &Waker) -> bool {
        let (has_room, wake) = {
            let mut out = self.out.lock();
            if closed(&out.state).is_some() || self.has_room(&out, size) {
                return true;
            }
            let first = out.wait_for_room(waker);
            if !self.shared.budget.has_room(size) {
                self.shared.budget.wake_on_room(waker);
            }
            // It may have been given back between the question and the registration.
            (self.has_room(&out, size), if first { out.writer.take() } else { None })
        };
        wake.into_iter().for_each(Waker::wake);
        has_room
    }

    /// Appends a packet for a peer that cannot be waited for, by the policy.
    pub(crate) fn append_shared(&self, frame: &SharedFrame) -> Appended {
        let size = frame.len();
        let (result, wake) = {
            let mut out = self.out.lock();
            if closed(&out.state).is_some() {
                return Appended::Closed;
            }
            let result = self.make_room(&mut out, size);
            if result == Appended::Queued {
                out.push_shared(frame);
                self.shared.budget.take(size);
            }
            let wakes =
                result == Appended::Queued || result == Appended::Disconnected || self.press(&mut out);
            (result, if wakes { out.writer.take() } else { None })
        };
        wake.into_iter().for_each(Waker::wake);
        match result {
            Appended::Queued => self.sent(PacketType::OneWay, size),
            Appended::Dropped => self.dropped(1, true),
            Appended::Disconnected | Appended::Closed => {}
        }
        result
    }

    /// As [`Core::append_shared`], for a prepared packet for this connection alone.
    pub(crate) fn append_by_policy(&self, packet: &Packet) -> Result<Appended, SendError> {
        let header = encode::header(packet, self.wire())?;
        let size = self.framed_len(header.total());
        let (result, wake) = {
            let mut out = self.out.lock();
            if let Some(reason) = closed(&out.state) {
                return Err(SendError::Closed(reason));
            }
            let result = self.make_room(&mut out, size);
            if result == Appended::Queued {
                let droppable = packet.packet_type == PacketType::OneWay;
                let added = out.push(self.framing, header, &packet.ext_header, &packet.payload, droppable);
                self.shared.budget.take(added);
            }
            let wakes =
                result == Appended::Queued || result == Appended::Disconnected || self.press(&mut out);
            (result, if wakes { out.writer.take() } else { None })
        };
        wake.into_iter().for_each(Waker::wake);
        match result {
            Appended::Queued => {
                self.sent(packet.packet_type, size);
                if packet.packet_type == PacketType::Response && !packet.flags.contains(Flags::MORE) {
                    self.answered(packet.message_id);
                }
            }
            Appended::Dropped => self.dropped(1, true),
            Appended::Disconnected | Appended::Closed => {}
        }
        Ok(result)
    }

    /// Appends a prepared packet in the place of the lane's last one, unless that has begun to be sent.
    pub(crate) fn append_latest(&self, packet: &Packet, lane: u8) -> Result<(), SendError> {
        let header = encode::header(packet, self.wire())?;
        let framed = Outbox::framed(self.framing, header, &packet.ext_header, &packet.payload);
        let size = framed.len();
        let (replaced, wake) = {
            let mut out = self.out.lock();
            if let Some(reason) = closed(&out.state) {
                return Err(SendError::Closed(reason));
            }
            (out.put_latest(lane, framed), out.writer.take())
        };
        self.shared.budget.take(size);
        if let Some(old) = replaced {
            self.shared.budget.give(old);
            self.stats.lane_replaced.fetch_add(1, Relaxed);
        }
        wake.into_iter().for_each(Waker::wake);
        self.sent(packet.packet_type, size);
        Ok(())
    }

    /// Sends a prepared packet as a datagram, or appends it if there is room, or drops it.
    pub(crate) fn append_unreliable(&self, packet: &Packet) -> Result<(), SendError> {
        let header = encode::header(packet, self.wire())?;
        let streams = self.streams.lock().clone();
        if let Some(streams) = streams.filter(|streams| streams.max_datagram_size() >= Some(header.total())) {
            let mut bytes = BytesMut::with_capacity(header.total());
            bytes.put_slice(&header.to_bytes());
            bytes.put_slice(&packet.ext_header);
            bytes.put_slice(&packet.payload);
            match streams.send_datagram(bytes.freeze()) {
                Ok(()) => {
                    self.stats.sent_datagrams.fetch_add(1, Relaxed);
                    self.sent(packet.packet_type, header.total());
                    return Ok(());
                }
                // The path has become smaller meanwhile: the stream takes it.
                Err(StreamError::Datagram(_) | StreamError::Unsupported) => {}
                Err(StreamError::ConnectionLost(why)) => {
                    return Err(SendError::Closed(CloseReason::Lost(why)));
                }
            }
        }
        match self.append(packet, 0) {
            Err(SendError::Full { .. }) => {
                self.stats.lane_dropped.fetch_add(1, Relaxed);
                Ok(())
            }
            appended => appended.map(|_| ()),
        }
    }

    /// Applies the policy of a full queue.
    fn make_room(&self, out: &mut Outbox, size: usize) -> Appended {
        if self.has_room(out, size) {
            return Appended::Queued;
        }
        match self.shared.slow_consumer {
            SlowConsumer::Wait(_) | SlowConsumer::DropNewest => Appended::Dropped,
            SlowConsumer::Disconnect => {
                out.state = State::Closing(CloseReason::Slow);
                Appended::Disconnected
            }
            SlowConsumer::DropOldest => {
                let (packets, bytes) = out.drop_oldest(size);
                self.shared.budget.give(bytes);
                self.dropped(packets, false);
                if self.has_room(out, size) { Appended::Queued } else { Appended::Dropped }
            }
        }
    }

    /// Notes that the queue was found full: true for the first time, when the driver has to start its clock.
    fn press(&self, out: &mut Outbox) -> bool {
        matches!(self.shared.slow_consumer, SlowConsumer::Wait(_))
            && !std::mem::replace(&mut out.is_pressed, true)
    }

    /// Queues a control packet, on v2 only. It never waits; beyond twice the limit it is given up, since then the peer
    /// takes nothing anyway.
    pub(crate) fn control(&self, packet: &ControlPacket) {
        if self.wire() == Wire::V2 {
            let bytes = packet.to_bytes();
            self.push_raw(&self.framing.frame(crate::FrameKind::Binary, &bytes));
        }
    }

    /// Queues bytes that are framed already.
    pub(crate) fn push_raw(&self, framed: &[u8]) {
        let wake = {
            let mut out = self.out.lock();
            if closed(&out.state).is_some() || !out.has_room_for_control() {
                return;
            }
            out.push_framed(framed);
            self.shared.budget.take(framed.len());
            out.writer.take()
        };
        wake.into_iter().for_each(Waker::wake);
    }

    /// Begins to close: what is queued is still sent. The first reason counts.
    pub(crate) fn close(&self, code: u16, reason: &str) {
        let reason = CloseReason::Closed { code, reason: reason.to_owned() };
        let wake = {
            let mut out = self.out.lock();
            if out.state != State::Open {
                return;
            }
            out.state = State::Closing(reason);
            out.writer.take()
        };
        wake.into_iter().for_each(Waker::wake);
    }

    /// Ends the connection without sending what is queued.
    pub(crate) fn cut(&self) {
        let wake = {
            let mut out = self.out.lock();
            if matches!(out.state, State::Closed(_)) {
                return;
            }
            out.state = State::Closing(CloseReason::CutOff);
            out.writer.take()
        };
        wake.into_iter().for_each(Waker::wake);
    }

    /// The driver has ended: everybody who waits is told.
    pub(crate) fn ended(self: &Arc<Self>, reason: &CloseReason) {
        if matches!(self.out.lock().state, State::Closed(_)) {
            return;
        }
        if *reason == CloseReason::Slow {
            self.stats.closed_slow.store(1, Relaxed);
        }
        self.shared.ended.add(&self.stats.snapshot());
        // Before anybody is told that it is over.
        drop(self.streams.lock().take());
        drop(self.udp.lock().take());
        let (queued, wake) = self.out.lock().end(reason.clone());
        self.shared.budget.give(queued);
        wake.into_iter().for_each(Waker::wake);
        self.finish_inbox(reason);
        let wake = self.pending.lock().disconnect(reason);
        wake.into_iter().for_each(Waker::wake);
        let wake = self.open.lock().disconnect();
        wake.into_iter().for_each(Waker::wake);
        self.shared.changed.notify_waiters();
    }

    /// Nothing more is received. The first reason counts, and is told behind everything that was received before.
    pub(crate) fn finish_inbox(self: &Arc<Self>, reason: &CloseReason) {
        if self.has_ended.swap(true, Relaxed) {
            return;
        }
        // Nobody has heard of a stranger, so nobody hears of his end.
        let is_told = self.is_evented && self.is_admitted();
        let (wake, announces) = {
            let mut inbox = self.inbox.lock();
            inbox.finish(reason.clone());
            (inbox.reader.take(), is_told && !std::mem::replace(&mut inbox.is_announced, true))
        };
        wake.into_iter().for_each(Waker::wake);
        if announces {
            self.shared.hub.announce(self);
        }
        if is_told {
            self.shared.hub.note_end();
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Relaxed)
    }

    /// Something was received.
    pub(crate) fn received(self: &Arc<Self>, item: Item) {
        let (wake, announces) = {
            let mut inbox = self.inbox.lock();
            inbox.push(item);
            (inbox.reader.take(), self.is_evented && !std::mem::replace(&mut inbox.is_announced, true))
        };
        wake.into_iter().for_each(Waker::wake);
        if announces {
            self.shared.hub.announce(self);
        }
    }

    /// A one-way packet or a request was received: false if the policy ends the connection. `driver` is the task that
    /// polls the handler next anyway, and need not be woken for it.
    pub(crate) fn received_packet(self: &Arc<Self>, packet: Packet, driver: &Waker) -> bool {
        let policy = if self.inbox.lock().has_room() { Overflow::Wait } else { overflow(self) };
        let cost = packet.cost();
        let (pushed, wake, announces) = {
            let mut inbox = self.inbox.lock();
            let pushed = inbox.push_packet(packet, policy);
            let announces = self.is_evented && !std::mem::replace(&mut inbox.is_announced, true);
            (pushed, inbox.reader.take(), announces)
        };
        match pushed {
            Pushed::Kept => self.shared.budget.take(cost),
            Pushed::Dropped { packets, bytes, requests } => {
                self.stats.dropped_received.fetch_add(packets, Relaxed);
                self.shared.budget.take(cost);
                self.shared.budget.give(bytes);
                let refuse = |message_id| self.refuse(message_id, codes::OVERLOADED, "too much is unread");
                requests.into_iter().for_each(refuse);
            }
            Pushed::Overflow => return false,
        }
        wake.into_iter().filter(|reader| !reader.will_wake(driver)).for_each(Waker::wake);
        if announces {
            self.shared.hub.announce(self);
        }
        true
    }

    /// The peer's request of this number has its answer.
    pub(crate) fn answered(&self, message_id: u32) {
        let wake = self.open.lock().end(message_id);
        wake.into_iter().flatten().for_each(Waker::wake);
    }

    /// The peer does not want the answer to its request of this number any more.
    pub(crate) fn cancelled(&self, message_id: u32) {
        let withdrawn = self.inbox.lock().withdraw(message_id);
        if let Some(bytes) = withdrawn {
            self.shared.budget.give(bytes);
            self.answered(message_id);
            return;
        }
        let wake = self.open.lock().cancel(message_id);
        wake.into_iter().for_each(Waker::wake);
    }

    /// A request is not handled: a v2 peer is told, best effort, and nobody waits for the answer.
    pub(crate) fn refuse(&self, message_id: u32, code: u16, reason: &str) {
        let refusal = Packet::request(message_id, "").reply_error(code, reason);
        if self.wire() == Wire::V1 || self.try_append(&refusal).is_err() {
            self.answered(message_id);
        }
    }

    pub(crate) fn wake_driver(&self) {
        let wake = self.out.lock().writer.take();
        wake.into_iter().for_each(Waker::wake);
    }

    fn sent(&self, packet_type: PacketType, bytes: usize) {
        self.stats.sent(packet_type, bytes);
    }

    fn dropped(&self, packets: u64, newest: bool) {
        let counter = if newest { &self.stats.dropped_newest } else { &self.stats.dropped_oldest };
        counter.fetch_add(packets, Relaxed);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // What nobody has read is given back when nobody can read it any more.
        self.shared.budget.give(self.inbox.get_mut().bytes());
    }
}

/// What became of a packet for a peer that cannot be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    Queued,
    /// The policy dropped it.
    Dropped,
    /// The policy closes the peer.
    Disconnected,
    /// The peer was closed before.
    Closed,
}

pub(crate) fn closed(state: &State) -> Option<CloseReason> {
    match state {
        State::Open => None,
        State::Closing(reason) | State::Closed(reason) => Some(reason.clone()),
    }
}

fn wire_number(wire: Wire) -> u8 {
    match wire {
        Wire::V1 => 1,
        Wire::V2 => 2,
    }
}

/// Compresses a prepared packet where the caller is: only for payloads up to [`INLINE_COMPRESSION`].
pub(crate) fn deflate_here(packet: Packet) -> Result<Packet, SendError> {
    if packet.compression == Compression::None {
        return Ok(packet);
    }
    Ok(encode::deflated(&packet)?)
}

/// Whether a prepared packet is to be compressed on another thread.
pub(crate) fn deflates_elsewhere(packet: &Packet) -> bool {
    packet.compression != Compression::None && packet.payload.len() > INLINE_COMPRESSION
}
