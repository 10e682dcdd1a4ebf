//! What a connection still has to write (protocol.md section 7): the begun frame, the outbox of control frames and
//! replies, and the cursors of its channels. There is no queue per subscriber.
//!
//! Protocol 0 numbers its frames here, at the edge (`numbered`). Everything that reaches a client goes through this one value, behind one short lock.
//! It decides what is written next, never what a frame means.

mod live;
mod numbered;
mod outbox;
mod tracer;

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use trunkline_broker::{Cursor, Log, Piece, ReadOutcome, Unpark};
use trunkline_proto::{Dialect, DownFrame};
use trunkline_session::engine::Pressure;
use trunkline_session::protocol0::{LedgerError, answers, down_for_protocol0, is_numbered};
use trunkline_session::{Ledger, Position, Protocol, Seq};
use trunkline_transport::Framing;

use crate::encode::WireForm;
use crate::limits::ReplyQueue;
use crate::session::to_session;
use crate::stats::Stats;
use crate::trace;
use live::{Counting, Cut, Live, cut, gap_frame};
use outbox::{Numbering, Outbox, Outgoing};
pub(crate) use tracer::Tracer;

/// One vectored write takes at most this much: what a default socket buffer takes at once, so that more would only
/// be gathered in vain.
const MAX_GATHER_BYTES: usize = 256 * 1024;

/// And at most so many slices: the kernel's UIO_MAXIOV is 1,024, and beyond some hundred there is nothing to win.
const MAX_GATHER_SLICES: usize = 256;

/// A channel takes its turn with this much, so that a busy channel can't starve the others of its connection.
const TURN_BYTES: usize = 64 * 1024;

/// Who is woken by the publications of a parked channel.
pub(crate) type Unparks<'a> = &'a dyn Fn() -> Arc<dyn Unpark>;

/// Bytes gathered for a write, and what is true once they are begun.
struct Gathered {
    bytes: Bytes,
    source: Source,
}

enum Source {
    Begun,
    Outbox,
    /// Up to `last` the channel is written once these bytes are; no entry: they tell a gap.
    Channel {
        index: usize,
        last: Cursor,
        entries: u32,
    },
}

/// What [`WriteState::gather`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    /// There are bytes to write.
    Bytes,
    /// Nothing; every channel is parked at its head.
    Nothing,
    /// A seed client acks too little: it is to be closed with 4001.
    Unacked,
    /// Nothing can be numbered before the next block of numbers is reserved.
    NotReserved,
}

/// How much was begun, for counters.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) deliveries: u64,
    pub(crate) gaps: u64,
    /// Publications that were made into bytes here first.
    pub(crate) encoded: u64,
}

impl Written {
    pub(crate) fn count(self, stats: &Stats) {
        stats.deliveries.add(self.deliveries);
        stats.gaps_told.add(self.gaps);
        stats.publications_encoded.add(self.encoded);
    }
}

/// See the module.
pub(crate) struct WriteState {
    form: WireForm,
    /// Whether frames still get numbers here (protocol 0).
    is_numbering: bool,
    /// Somebody found the outbox full and waits for room in it.
    room_wanted: bool,
    /// The link takes nothing, and the connection's task waits until it does.
    is_blocked: bool,
    /// Every channel was parked at its head when they were looked at last, so that there is nothing to look for until
    /// one of them is unparked. Protocol 1 only.
    is_parked: bool,
    /// What the session's engine was last told of the outbox.
    told: Pressure,
    channels: Vec<Live>,
    /// The channel whose turn it is.
    turn: usize,
    ledger: Option<Arc<Mutex<Ledger>>>,
    /// What counts all connections' outboxes together.
    all: Arc<ReplyQueue>,
    /// `None` while there is nothing to write, which is most of the time.
    work: Option<Box<Work>>,
}

/// What a connection with something to write holds.
struct Work {
    /// The rest of what the socket has the beginning of; in protocol 0 also what is numbered already.
    begun: Bytes,
    outbox: Outbox,
    gathered: Vec<Gathered>,
    written: Written,
}

impl Work {
    fn new(all: Arc<ReplyQueue>) -> Box<Self> {
        let outbox = Outbox::new(all);
        Box::new(Work { begun: Bytes::new(), outbox, gathered: Vec::new(), written: Written::default() })
    }
}

impl WriteState {
    /// Before START nothing is known of the client: it is told what there is to tell in our protocol.
    pub(crate) fn new(framing: Framing, all: Arc<ReplyQueue>) -> Self {
        WriteState {
            form: WireForm { protocol: Protocol::Trunkline, dialect: Dialect::Protobuf, framing },
            all,
            is_numbering: true,
            channels: Vec::new(),
            turn: 0,
            ledger: None,
            room_wanted: false,
            is_blocked: false,
            is_parked: false,
            told: Pressure::Room,
            work: None,
        }
    }

    fn work(&mut self) -> &mut Work {
        self.work.get_or_insert_with(|| Work::new(Arc::clone(&self.all)))
    }

    pub(crate) fn form(&self) -> WireForm {
        self.form
    }

    /// From here on frames are written so.
    pub(crate) fn set_form(&mut self, form: WireForm) {
        self.form = form;
    }

    /// Numbers what is written from here on: protocol 0.
    pub(crate) fn set_ledger(&mut self, ledger: Arc<Mutex<Ledger>>) {
        self.ledger = Some(ledger);
        self.is_numbering = true;
    }

    /// Queues a control frame or a reply. What bounds the outbox is that the connection stops reading while
    /// [`WriteState::is_full`].
    pub(crate) fn send(&mut self, frame: &DownFrame) {
        match self.form.protocol {
            Protocol::Trunkline => self.queue(self.form.frame(frame), None, trace::answers(frame)),
            Protocol::Seed if !self.is_numbering => self.park(frame),
            Protocol::Seed => {
                for frame in down_for_protocol0(frame.clone()) {
                    let numbered = is_numbered(&frame) && self.ledger.is_some();
                    let next = Numbering::Next { answers: answers(&frame) };
                    let numbering = if numbered { next } else { Numbering::Fixed(Seq(0)) };
                    self.queue(
                        self.form.dialect.encode_down(&frame).into(),
                        Some(numbering),
                        answers(&frame),
                    );
                }
            }
        }
    }

    /// Queues a protocol 0 body that bears its number already.
    pub(crate) fn send_again(&mut self, seq: Seq, body: Bytes) {
        self.queue(body, Some(Numbering::Fixed(seq)), 0);
    }

    /// Queues bytes that are complete as they are: a WebSocket pong, or its close frame.
    pub(crate) fn send_raw(&mut self, bytes: Bytes) {
        self.queue(bytes, None, 0);
    }

    fn queue(&mut self, bytes: Bytes, numbering: Option<Numbering>, answers: u32) {
        self.work().outbox.push(Outgoing { bytes, numbering, answers });
    }

    /// Is the outbox so full that the connection should read no further?
    pub(crate) fn is_full(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.outbox.is_full())
    }

    /// Is the outbox full? Then whoever asks waits for room in it, and [`WriteState::take_room`] says when. Both are
    /// one step under one lock, so that room which comes and goes between two looks of the actor is not missed.
    pub(crate) fn wait_while_full(&mut self) -> bool {
        let full = self.is_full();
        self.room_wanted |= full;
        full
    }

    /// Is there room that somebody waits for?
    pub(crate) fn is_room_wanted(&self) -> bool {
        self.room_wanted && !self.is_full()
    }

    /// The same, and says so once.
    pub(crate) fn take_room(&mut self) -> bool {
        self.is_room_wanted() && std::mem::take(&mut self.room_wanted)
    }

    fn pressure(&self) -> Pressure {
        if self.is_full() { Pressure::Full } else { Pressure::Room }
    }

    /// Does the session's engine have to hear of the outbox?
    pub(crate) fn is_pressure_new(&self) -> bool {
        self.told != self.pressure()
    }

    /// What it has to hear, once.
    pub(crate) fn take_pressure(&mut self) -> Option<Pressure> {
        let pressure = self.pressure();
        (std::mem::replace(&mut self.told, pressure) != pressure).then_some(pressure)
    }

    /// Does a frame that answers the call with this `msg_id` wait here?
    pub(crate) fn has_queued(&self, msg_id: u32) -> bool {
        self.work.as_ref().is_some_and(|work| work.outbox.iter().any(|outgoing| outgoing.answers == msg_id))
    }

    /// Frames and bytes that wait here: the outbox, and the rest of the frame that is begun.
    pub(crate) fn queued(&self) -> (u64, u64) {
        let Some(work) = &self.work else { return (0, 0) };
        let begun = u64::from(!work.begun.is_empty());
        (work.outbox.frames() as u64 + begun, (work.outbox.bytes() + work.begun.len()) as u64)
    }

    /// Follows a channel from a cursor. A channel that is followed already goes on from the new cursor.
    pub(crate) fn follow(&mut self, log: &Arc<Log>, cursor: Cursor) {
        let name = log.channel().as_shared();
        self.unfollow(name);
        if let Some(ledger) = &self.ledger {
            ledger.lock().attached(name, to_session(cursor.position()));
        }
        self.channels.push(Live { subscription: log.subscribe(), cursor });
        self.is_parked = false;
    }

    /// Stops at once; a frame that is begun is finished.
    pub(crate) fn unfollow(&mut self, channel: &str) {
        let before = self.channels.len();
        self.channels.retain(|live| **live.name() != *channel);
        self.forget_gathered();
        if self.channels.len() < before
            && let Some(ledger) = &self.ledger
        {
            ledger.lock().left(channel);
        }
    }

    /// Drops every channel: the connection is ending.
    pub(crate) fn unfollow_all(&mut self) {
        self.channels.clear();
        self.forget_gathered();
    }

    /// What was gathered names channels by their place, so it goes when one goes.
    fn forget_gathered(&mut self) {
        if let Some(work) = &mut self.work {
            work.gathered.clear();
        }
    }

    /// Protocol 0: nothing more is numbered here, since the connection ends or another one has taken over. What is
    /// queued, and what is sent from here on, is kept for the session's next connection, so that this one shows no
    /// hole.
    pub(crate) fn stop_numbering(&mut self) {
        let Some(ledger) = &self.ledger else { return };
        self.is_numbering = false;
        let Some(Work { outbox, .. }) = self.work.as_deref_mut() else { return };
        let mut ledger = ledger.lock();
        for outgoing in outbox.take(|outgoing| matches!(outgoing.numbering, Some(Numbering::Next { .. }))) {
            let Some(Numbering::Next { answers }) = outgoing.numbering else { continue };
            // Where nothing more is kept for it, the client's next START is told so.
            let _: Result<Seq, LedgerError> = ledger.park(outgoing.bytes, answers);
        }
    }

    /// A frame for a connection that takes none any more: in protocol 0 the session's next one has it.
    pub(crate) fn park(&mut self, frame: &DownFrame) {
        let Some(ledger) = &self.ledger else { return };
        let mut ledger = ledger.lock();
        for frame in down_for_protocol0(frame.clone()).iter().filter(|frame| is_numbered(frame)) {
            // As above.
            let body = self.form.dialect.encode_down(frame).into();
            let _: Result<Seq, LedgerError> = ledger.park(body, answers(frame));
        }
    }

    /// Forgets everything: nobody will write it. A numbered client finds its queued frames again on a resume.
    pub(crate) fn abandon(&mut self) {
        self.stop_numbering();
        *self = WriteState { form: self.form, ..WriteState::new(self.form.framing, Arc::clone(&self.all)) };
    }

    /// How far a channel was written.
    pub(crate) fn sent(&self, channel: &str) -> Option<Position> {
        self.channels
            .iter()
            .find(|live| **live.name() == *channel)
            .map(|live| to_session(live.cursor.position()))
    }

    /// Does the connection's task wait until the link takes something?
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// The connection's task waits for the link from here on, or no longer.
    pub(crate) fn set_blocked(&mut self, is_blocked: bool) {
        self.is_blocked = is_blocked;
    }

    /// A channel was unparked.
    pub(crate) fn unparked(&mut self) {
        self.is_parked = false;
    }

    /// Chooses what is written next, in order: the begun frame, the outbox, then the channels in turn by bytes.
    /// Channels at their head are parked, so that the next publication wakes this connection once.
    pub(crate) fn gather(&mut self, unparks: Unparks<'_>, tracer: Tracer<'_>) -> Pending {
        if self.form.protocol == Protocol::Seed {
            return self.gather_numbered(unparks, tracer);
        }
        let mut gathered =
            self.work.as_mut().map(|work| std::mem::take(&mut work.gathered)).unwrap_or_default();
        gathered.clear();
        let mut room = Room { bytes: MAX_GATHER_BYTES, slices: MAX_GATHER_SLICES };
        let encode = Counting::new(self.form);
        if let Some(work) = &self.work {
            if !work.begun.is_empty() {
                room.take(&mut gathered, Gathered { bytes: work.begun.clone(), source: Source::Begun });
            }
            for outgoing in work.outbox.iter() {
                if room.is_used() {
                    break;
                }
                room.take(&mut gathered, Gathered { bytes: outgoing.bytes.clone(), source: Source::Outbox });
            }
        }
        let unlooked = if self.is_parked { 0 } else { self.channels.len() };
        let before = gathered.len();
        for step in 0..unlooked {
            if room.is_used() {
                break;
            }
            let index = (self.turn + step) % self.channels.len();
            self.gather_channel(index, &mut room, &mut gathered, &encode, unparks);
        }
        // What was gathered is read again if it cannot be written.
        self.is_parked = gathered.len() == before && !room.is_used();
        self.count_encoded(&encode);
        if gathered.is_empty() {
            self.give_room_back();
            return Pending::Nothing;
        }
        self.work().gathered = gathered;
        Pending::Bytes
    }

    /// Protocol 0: what is numbered is begun, and nothing else is written.
    fn gather_numbered(&mut self, unparks: Unparks<'_>, tracer: Tracer<'_>) -> Pending {
        self.forget_gathered();
        let stopped = self.number_frames(unparks, tracer);
        match self.work.as_deref_mut() {
            Some(work) if !work.begun.is_empty() => {
                let bytes = work.begun.clone();
                work.gathered.push(Gathered { bytes, source: Source::Begun });
                Pending::Bytes
            }
            _ => {
                self.give_room_back();
                stopped
            }
        }
    }

    fn gather_channel(
        &self,
        index: usize,
        room: &mut Room,
        gathered: &mut Vec<Gathered>,
        encode: &Counting,
        unparks: Unparks<'_>,
    ) {
        let live = &self.channels[index];
        let mut cursor = live.cursor;
        let mut budget = TURN_BYTES;
        let mut pieces = Vec::new();
        while budget > 0 && !room.is_used() {
            let most = budget.min(room.bytes);
            let outcome = live.log().read(&mut cursor, self.form.variant(), encode, most, &mut pieces);
            for Piece { bytes, last, entries } in pieces.drain(..) {
                budget = budget.saturating_sub(bytes.len());
                let source = Source::Channel { index, last: Cursor::at(last), entries };
                room.take(gathered, Gathered { bytes, source });
            }
            match outcome {
                ReadOutcome::Gap { from, next } => {
                    let bytes = self.form.frame(&gap_frame(live.name(), from, next));
                    let source = Source::Channel { index, last: Cursor::at(next), entries: 0 };
                    room.take(gathered, Gathered { bytes, source });
                }
                ReadOutcome::AtHead if live.subscription.park(&cursor, unparks) => return,
                ReadOutcome::AtHead | ReadOutcome::More => {}
            }
        }
    }

    /// What [`WriteState::gather`] chose, for one vectored write.
    pub(crate) fn slices(&self) -> Vec<IoSlice<'_>> {
        let gathered = self.work.iter().flat_map(|work| &work.gathered);
        gathered.map(|frame| IoSlice::new(&frame.bytes)).collect()
    }

    /// Records that `written` bytes of what was gathered are on their way. A frame of which only the beginning is
    /// becomes the begun frame: its tail is copied, so that a slow reader pins nothing of the log.
    pub(crate) fn advance(&mut self, mut written: usize, tracer: Tracer<'_>) {
        let mut gathered = std::mem::take(&mut self.work().gathered);
        for Gathered { bytes, source } in gathered.drain(..) {
            if written == 0 {
                break;
            }
            let now = written.min(bytes.len());
            written -= now;
            let is_cut = now < bytes.len();
            match source {
                Source::Begun => self.work().begun = bytes.slice(now..),
                Source::Outbox => {
                    let work = self.work();
                    if let Some(outgoing) = work.outbox.pop() {
                        tracer.written(outgoing.answers);
                    }
                    work.begun = if is_cut { Bytes::copy_from_slice(&bytes[now..]) } else { Bytes::new() };
                }
                Source::Channel { index, last, entries } => {
                    let encode = Counting::new(self.form);
                    let cut = is_cut.then(|| cut(&self.channels[index], &encode, now)).flatten();
                    self.count_encoded(&encode);
                    let cut = cut.unwrap_or_else(|| Cut {
                        cursor: last,
                        entries,
                        tail: Bytes::copy_from_slice(&bytes[now..]),
                    });
                    self.begin(index, cut, tracer);
                }
            }
        }
        self.work().gathered = gathered;
    }

    /// Drops what was gathered and not written, with its references into the logs.
    pub(crate) fn give_back(&mut self) {
        if let Some(work) = &mut self.work {
            work.gathered = Vec::new();
        }
    }

    /// Nothing is to be written: most connections are idle most of the time, and hold no room for frames then.
    fn give_room_back(&mut self) {
        self.give_back();
        let is_done = |work: &Work| {
            work.begun.is_empty() && work.outbox.frames() == 0 && work.written == Written::default()
        };
        if self.work.as_deref().is_some_and(is_done) {
            self.work = None;
        }
    }

    /// What was begun since the last time.
    pub(crate) fn take_written(&mut self) -> Written {
        self.work.as_mut().map(|work| std::mem::take(&mut work.written)).unwrap_or_default()
    }

    fn count_encoded(&mut self, encode: &Counting) {
        let encoded = encode.take();
        if encoded > 0 {
            self.work().written.encoded += encoded;
        }
    }

    fn begin(&mut self, index: usize, cut: Cut, tracer: Tracer<'_>) {
        let live = &self.channels[index];
        let (from, up_to) = (live.cursor.position(), cut.cursor.position());
        if cut.entries == 0 {
            tracer.gap(live.name(), from, up_to);
        } else {
            tracer.delivered(live.name(), from, up_to);
        }
        self.channels[index].cursor = cut.cursor;
        self.turn = index + 1;
        let work = self.work();
        work.begun = cut.tail;
        work.written.deliveries += u64::from(cut.entries);
        work.written.gaps += u64::from(cut.entries == 0);
    }
}

/// What is left of one vectored write while it is gathered.
struct Room {
    bytes: usize,
    slices: usize,
}

impl Room {
    fn is_used(&self) -> bool {
        self.bytes == 0 || self.slices == 0
    }

    fn take(&mut self, gathered: &mut Vec<Gathered>, frame: Gathered) {
        self.bytes = self.bytes.saturating_sub(frame.bytes.len());
        self.slices = self.slices.saturating_sub(1);
        gathered.push(frame);
    }
}
