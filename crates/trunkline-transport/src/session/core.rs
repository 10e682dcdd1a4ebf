//! The shared state of one connection: what its handles append to and its driver writes from.
//!
//! Every method is short and takes one lock at a time; wakers are called when no lock is held.

mod append;
mod prepare;
mod room;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use http::Extensions;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use self::room::RoomWatch;
pub(crate) use self::{
    append::Appended,
    prepare::{deflates_elsewhere, judge_compression},
};
use super::{
    events::{Hub, overflow},
    inbox::{Inbox, Item, Pushed},
    outbox::{Outbox, State},
    requests::{Open, Pending},
    stats::{Counters, Stats},
};
use crate::{
    CloseReason, Compression, ConnectionInfo, Framing, Limits, MiddlewareStack, Overflow, Packet, SessionId,
    SlowConsumer, Streams, Wire, budget::Budget, codes, compress::Dictionary, packet::control::Features,
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
    /// What peers may have too.
    pub(crate) dictionary: Option<Dictionary>,
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
    pub(crate) ended: Mutex<Counters>,
    pub(crate) hub: Hub,
    /// A connection has come, is going away, or has gone: for a client's keeper, and who waits for a connection.
    pub(crate) changed: Notify,
}

impl Shared {
    /// The figures of these connections and of all that have ended, each counted once.
    pub(crate) fn sum<'a>(&self, living: impl Iterator<Item = &'a Arc<Core>>) -> Stats {
        let sum = Counters::default();
        let ended = self.ended.lock();
        sum.add(&ended.snapshot());
        living.filter(|core| !core.is_counted.load(Relaxed)).for_each(|core| sum.add(&core.stats.snapshot()));
        sum.snapshot()
    }
}

/// In the high byte of a peer's features: it has said them, and its dictionary is ours.
const SAID: u16 = 1 << 8;
const SHARES_DICTIONARY: u16 = 1 << 9;

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
    /// What the peer says that it can do, and [`SAID`] once it has.
    peer_features: AtomicU16,
    is_authenticated: AtomicBool,
    /// The server's user knows of it.
    is_admitted: AtomicBool,
    /// Datagrams to the peer and a client's UDP socket, where the protocol has them, until the connection ends.
    pub(crate) streams: Mutex<Option<Streams>>,
    /// What middleware and handlers keep for it.
    pub(crate) extensions: Mutex<Extensions>,
    has_ended: AtomicBool,
    /// Its figures are among those of the connections that have ended.
    is_counted: AtomicBool,
    /// Received packets are events rather than a handler's.
    pub(crate) is_evented: bool,
    /// Once somebody was refused as full: what tells the events of room.
    room_watch: OnceLock<Arc<RoomWatch>>,
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
            peer_features: AtomicU16::new(0),
            is_authenticated: AtomicBool::new(shared.auth_within.is_none()),
            is_admitted: AtomicBool::new(!shared.hides_strangers),
            streams: Mutex::new(None),
            extensions: Mutex::default(),
            has_ended: AtomicBool::new(false),
            is_counted: AtomicBool::new(false),
            is_evented,
            room_watch: OnceLock::new(),
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

    /// The peer says what it can do: whether it is the first time.
    pub(crate) fn learn_features(&self, features: Features) -> bool {
        let ours = self.shared.dictionary.as_ref().map(Dictionary::id);
        let shares = if ours.is_some() && features.dictionary() == ours { SHARES_DICTIONARY } else { 0 };
        self.peer_features.swap(SAID | shares | u16::from(features.bits()), Relaxed) & SAID == 0
    }

    /// What a peer inflates of what is to be compressed so: that, or what comes next to it, or nothing.
    fn inflated(&self, how: Compression) -> Compression {
        let said = self.peer_features.load(Relaxed);
        let features = Features::from_bits(said.to_be_bytes()[1]);
        match how {
            Compression::ZstdDictionary if said & SHARES_DICTIONARY != 0 => how,
            Compression::ZstdDictionary if features.inflates(Compression::Zstd) => Compression::Zstd,
            how if features.inflates(how) => how,
            _ => Compression::None,
        }
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

    /// Begins to close: what is queued is still sent. The first reason counts.
    pub(crate) fn close(&self, code: u16, reason: &str) {
        self.close_for(CloseReason::Closed { code, reason: reason.to_owned() });
    }

    /// As [`Core::close`], for any reason.
    pub(crate) fn close_for(&self, reason: CloseReason) {
        let wake = {
            let mut out = self.out.lock();
            if out.state != State::Open {
                return;
            }
            out.state = State::Closing(reason);
            out.rouse()
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
            out.rouse()
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
        {
            let ended = self.shared.ended.lock();
            ended.add(&self.stats.snapshot());
            self.is_counted.store(true, Relaxed);
        }
        // Before anybody is told that it is over.
        *self.streams.lock() = None;
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
            self.shared.hub.note_end(self);
        }
    }

    /// Packets were dropped unread, perhaps after the figures of this connection were added to those of the ended ones.
    pub(crate) fn lost_received(&self, packets: u64) {
        let ended = self.shared.ended.lock();
        self.stats.dropped_received.fetch_add(packets, Relaxed);
        if self.is_counted.load(Relaxed) {
            ended.dropped_received.fetch_add(packets, Relaxed);
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

    /// A one-way packet or a request was received: whether there is room for more, or `None` if the policy ends the
    /// connection. `driver` is the task that polls the handler next anyway, and need not be woken for it.
    pub(crate) fn received_packet(self: &Arc<Self>, packet: Packet, driver: &Waker) -> Option<bool> {
        let cost = packet.cost();
        let (pushed, wake, announces, has_room) = {
            let mut inbox = self.inbox.lock();
            let policy = if inbox.has_room() {
                Overflow::Wait
            } else {
                drop(inbox);
                let policy = overflow(self);
                inbox = self.inbox.lock();
                policy
            };
            let pushed = inbox.push_packet(packet, policy);
            let announces = self.is_evented && !std::mem::replace(&mut inbox.is_announced, true);
            (pushed, inbox.reader.take(), announces, inbox.has_room())
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
            Pushed::Overflow => return None,
        }
        wake.into_iter().filter(|reader| !reader.will_wake(driver)).for_each(Waker::wake);
        if announces {
            self.shared.hub.announce(self);
        }
        Some(has_room)
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
        let wake = self.out.lock().rouse();
        wake.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // What nobody has read is given back when nobody can read it any more.
        self.shared.budget.give(self.inbox.get_mut().bytes());
    }
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
