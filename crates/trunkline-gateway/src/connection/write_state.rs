//! What a connection still has to write (protocol.md section 7): the begun frame, the outbox of control frames and
//! replies, and the cursors of its channels. There is no queue per subscriber.
//!
//! Protocol 0 numbers its frames here, at the edge (`numbered`). Everything that reaches a client goes through this one value, behind one short lock.
//! It decides what is written next, never what a frame means.

mod gathering;
mod live;
mod numbered;
mod outbox;
mod tracer;

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
use crate::trace;
pub(crate) use gathering::Gathering;
use gathering::{Gathered, Source, Written};
use live::{Counting, Cut, Live, cut, gap_frame};
use outbox::{Numbering, Outbox, Outgoing};
pub(crate) use tracer::Tracer;

/// A channel takes its turn with this much, so that a busy channel can't starve the others of its connection.
const TURN_BYTES: usize = 64 * 1024;

/// Who is woken by the publications of a parked channel.
pub(crate) type Unparks<'a> = &'a dyn Fn() -> Arc<dyn Unpark>;

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
}

impl Work {
    fn new(all: Arc<ReplyQueue>) -> Box<Self> {
        Box::new(Work { begun: Bytes::new(), outbox: Outbox::new(all) })
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
        if self.channels.len() < before
            && let Some(ledger) = &self.ledger
        {
            ledger.lock().left(channel);
        }
    }

    /// Drops every channel: the connection is ending.
    pub(crate) fn unfollow_all(&mut self) {
        self.channels.clear();
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
    /// Channels at their head are parked, so that the next publication wakes this connection once. `gathering` is to be
    /// written and told of by [`WriteState::advance`] before anything else happens here.
    pub(crate) fn gather(
        &mut self,
        gathering: &mut Gathering,
        unparks: Unparks<'_>,
        tracer: Tracer<'_>,
    ) -> Pending {
        gathering.clear();
        if self.form.protocol == Protocol::Seed {
            return self.gather_numbered(gathering, unparks, tracer);
        }
        if let Some(work) = &self.work {
            if !work.begun.is_empty() {
                gathering.push(work.begun.clone(), Source::Begun);
            }
            for outgoing in work.outbox.iter() {
                if gathering.room() == 0 {
                    break;
                }
                gathering.push(outgoing.bytes.clone(), Source::Outbox);
            }
        }
        if !self.is_parked {
            let encode = Counting::new(self.form);
            let mut are_parked = true;
            for step in 0..self.channels.len() {
                let index = (self.turn + step) % self.channels.len();
                are_parked &= gathering.room() > 0 && self.gather_channel(index, gathering, &encode, unparks);
            }
            self.is_parked = are_parked;
            gathering.written.encoded += encode.take();
        }
        if gathering.frames.is_empty() {
            self.give_room_back();
            return Pending::Nothing;
        }
        Pending::Bytes
    }

    /// Protocol 0: what is numbered is begun, and nothing else is written.
    fn gather_numbered(
        &mut self,
        gathering: &mut Gathering,
        unparks: Unparks<'_>,
        tracer: Tracer<'_>,
    ) -> Pending {
        let stopped = self.number_frames(&mut gathering.written, unparks, tracer);
        match &self.work {
            Some(work) if !work.begun.is_empty() => {
                gathering.push(work.begun.clone(), Source::Begun);
                Pending::Bytes
            }
            _ => {
                self.give_room_back();
                stopped
            }
        }
    }

    /// Whether all of the channel is gathered, and it is parked.
    fn gather_channel(
        &self,
        index: usize,
        gathering: &mut Gathering,
        encode: &Counting,
        unparks: Unparks<'_>,
    ) -> bool {
        let live = &self.channels[index];
        let mut cursor = live.cursor;
        let mut budget = TURN_BYTES;
        let mut pieces = std::mem::take(&mut gathering.pieces);
        let mut is_parked = false;
        while !is_parked && budget > 0 && gathering.room() > 0 {
            let (variant, most) = (self.form.variant(), budget.min(gathering.room()));
            let outcome;
            (outcome, is_parked) =
                live.subscription.read_or_park(&mut cursor, variant, encode, most, &mut pieces, unparks);
            for Piece { bytes, last, entries } in pieces.drain(..) {
                budget = budget.saturating_sub(bytes.len());
                gathering.push(bytes, Source::Channel { index, last: Cursor::at(last), entries });
            }
            if let ReadOutcome::Gap { from, next } = outcome {
                let bytes = self.form.frame(&gap_frame(live.name(), from, next));
                gathering.push(bytes, Source::Channel { index, last: Cursor::at(next), entries: 0 });
            }
        }
        gathering.pieces = pieces;
        is_parked
    }

    /// Records that `written` bytes of what was gathered are on their way; 0: the link takes nothing. A frame of which only
    /// the beginning is becomes the begun frame: its tail is copied, so that a slow reader pins nothing of the log.
    pub(crate) fn advance(&mut self, gathering: &mut Gathering, mut written: usize, tracer: Tracer<'_>) {
        let Gathering { frames, written: counted, .. } = gathering;
        for Gathered { bytes, source } in frames.drain(..) {
            let now = written.min(bytes.len());
            let is_cut = now < bytes.len();
            // The rest is read again, from where the channel is parked no more.
            self.is_parked &= !is_cut;
            if is_cut && now == 0 {
                break;
            }
            written -= now;
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
                    counted.encoded += encode.take();
                    let cut = cut.unwrap_or_else(|| Cut {
                        cursor: last,
                        entries,
                        tail: Bytes::copy_from_slice(&bytes[now..]),
                    });
                    self.begin(index, cut, counted, tracer);
                }
            }
        }
    }

    /// Nothing is to be written: most connections are idle most of the time, and hold no room for frames then.
    fn give_room_back(&mut self) {
        let is_done = |work: &Work| work.begun.is_empty() && work.outbox.frames() == 0;
        if self.work.as_deref().is_some_and(is_done) {
            self.work = None;
        }
    }

    fn begin(&mut self, index: usize, cut: Cut, counted: &mut Written, tracer: Tracer<'_>) {
        let live = &self.channels[index];
        let (from, up_to) = (live.cursor.position(), cut.cursor.position());
        if cut.entries == 0 {
            tracer.gap(live.name(), from, up_to);
        } else {
            tracer.delivered(live.name(), from, up_to);
        }
        self.channels[index].cursor = cut.cursor;
        self.turn = index + 1;
        if !cut.tail.is_empty() || self.work.is_some() {
            self.work().begun = cut.tail;
        }
        counted.deliveries += u64::from(cut.entries);
        counted.gaps += u64::from(cut.entries == 0);
    }
}
