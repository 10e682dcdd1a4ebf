//! What the rest of the node holds of a connection: its facts, its write side, and the way to end it.
//!
//! A handle never blocks and never fails: once the connection is ending, what is sent goes nowhere. Dropping handles
//! does not end a connection; its actor does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use trunkline_broker::{Cursor, Log, Unpark};
use trunkline_proto::codes::Advice;
use trunkline_proto::wire::CloseNotice;
use trunkline_proto::{CloseCode, DownBody, DownFrame};
use trunkline_session::engine::Pressure;
use trunkline_session::{ConnectionId, Ledger, Position, Protocol, Seq};
use trunkline_transport::{ByteWriter, ConnectionInfo, Direct, Protocol as TransportProtocol};

use super::flusher::Flusher;
use super::pace::Reading;
use super::write_state::{Gathering, Pending, Tracer, WriteState};
use crate::encode::WireForm;
use crate::gateway::Node;
use crate::words::cut;

/// Writes in a row to one connection before its actor goes on: who has more to write was not waiting for it.
const WRITES: usize = 4;

/// Why a connection ends, as its client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) code: CloseCode,
    pub(crate) reason: String,
    pub(crate) reconnect_after_ms: u32,
}

impl Ending {
    pub(crate) fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        Ending { code, reason: cut(reason.into()), reconnect_after_ms: 0 }
    }

    /// As an engine says it.
    pub(crate) fn from_notice(notice: &CloseNotice) -> Self {
        Ending {
            code: CloseCode::from_number(notice.code).unwrap_or(CloseCode::Internal),
            reason: cut(notice.reason.clone()),
            reconnect_after_ms: notice.reconnect_after_ms,
        }
    }

    /// The client comes back no earlier than this.
    pub(crate) fn after_ms(self, reconnect_after_ms: u32) -> Self {
        Ending { reconnect_after_ms, ..self }
    }
}

/// One live connection.
pub(crate) struct Handle {
    pub(crate) id: ConnectionId,
    /// Its place among [`TransportProtocol::ALL`]: what a library's own protocols need would be 16 bytes.
    protocol: u8,
    /// The client's address, `None` in memory.
    pub(crate) peer: Option<SocketAddr>,
    /// The actor's own. It is here because the actor's task has no room: tasks come in steps of 128 B.
    reading: Reading,
    write: Mutex<Writing>,
    /// A channel was unparked. It is set before the actor is woken.
    news: AtomicBool,
    waker: AtomicWaker,
    /// Who writes to it where many are unparked together, if its link lets anybody but the actor write.
    flusher: Option<Arc<Flusher>>,
}

/// The write side, and why nothing more is queued there.
struct Writing {
    state: WriteState,
    /// Boxed, since most connections do not end yet.
    ending: Option<Box<Ending>>,
    /// The link, for the flusher.
    direct: Option<Direct>,
}

/// A gateway's connections come by no protocol that is not listed; one that did would count as memory.
fn place(protocol: TransportProtocol) -> u8 {
    let place = TransportProtocol::ALL.iter().position(|one| *one == protocol);
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
}

impl Handle {
    /// Of what the transport knows only this is kept: what a request asked for is of no use behind its handshake.
    pub(crate) fn new(
        id: ConnectionId,
        info: &ConnectionInfo,
        writer: &ByteWriter,
        node: &Node,
    ) -> Arc<Self> {
        let queue = Arc::clone(&node.limits.reply_queue);
        let state = WriteState::new(writer.framing(), queue);
        let direct = writer.direct();
        let flusher = direct.is_some().then(|| Arc::clone(node.flusher(id)));
        Arc::new(Handle {
            id,
            protocol: place(info.protocol),
            peer: info.peer,
            reading: Reading::new(node, info),
            write: Mutex::new(Writing { state, ending: None, direct }),
            news: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            flusher,
        })
    }

    pub(crate) fn protocol(&self) -> TransportProtocol {
        TransportProtocol::ALL.get(usize::from(self.protocol)).copied().unwrap_or(TransportProtocol::Memory)
    }

    /// The client's address, empty in memory.
    pub(crate) fn remote(&self) -> String {
        self.peer.map(|peer| peer.to_string()).unwrap_or_default()
    }

    /// From here on frames are written in this form.
    pub(crate) fn set_form(&self, form: WireForm) {
        self.write_state().set_form(form);
    }

    /// Numbers what is written from here on: protocol 0.
    pub(crate) fn set_ledger(&self, ledger: Arc<Mutex<Ledger>>) {
        self.write_state().set_ledger(ledger);
    }

    pub(crate) fn form(&self) -> WireForm {
        self.write_state().form()
    }

    /// Protocol 0: nothing more is numbered here. What is queued, and what is sent from here on, waits in the ledger
    /// for the session's next connection.
    pub(crate) fn stop_numbering(&self) {
        self.write_state().stop_numbering();
    }

    /// Queues a frame and wakes the actor. Behind a connection's last frame nothing is queued.
    pub(crate) fn send(&self, frame: &DownFrame) {
        {
            let Writing { state, ending, .. } = &mut *self.write.lock();
            if ending.is_none() {
                state.send(frame);
            } else {
                state.park(frame);
            }
        }
        self.waker.wake();
    }

    /// Queues what a seed client has not acked, with the numbers that it knows.
    pub(crate) fn send_again(&self, frames: Vec<(Seq, Bytes)>) {
        let mut write = self.write_state();
        for (seq, body) in frames {
            write.send_again(seq, body);
        }
        drop(write);
        self.waker.wake();
    }

    /// Wakes the actor, which looks at everything again.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Queues bytes that are complete as they are.
    pub(crate) fn send_raw(&self, bytes: Bytes) {
        self.write_state().send_raw(bytes);
        self.waker.wake();
    }

    /// Delivers a channel to this connection from a cursor on.
    pub(crate) fn follow(&self, log: &Arc<Log>, cursor: Cursor) {
        {
            let Writing { state, ending, .. } = &mut *self.write.lock();
            if ending.is_none() {
                state.follow(log, cursor);
            }
        }
        self.waker.wake();
    }

    /// Stops delivering a channel at once.
    pub(crate) fn unfollow(&self, channel: &str) {
        self.write_state().unfollow(channel);
    }

    /// How far a channel was written to this connection.
    pub(crate) fn sent(&self, channel: &str) -> Option<Position> {
        self.write_state().sent(channel)
    }

    /// Ends the connection: its channels stop, what is queued is still written, then the client is told why. The
    /// first reason counts.
    pub(crate) fn end(&self, ending: Ending) {
        {
            let Writing { state: write, ending: slot, .. } = &mut *self.write.lock();
            if slot.is_some() {
                return;
            }
            write.unfollow_all();
            if ending.code.advice() == Advice::Resume {
                write.stop_numbering();
            }
            let form = write.form();
            if form.protocol == Protocol::Trunkline {
                let mut notice = ending.code.notice(ending.reason.clone());
                notice.reconnect_after_ms = ending.reconnect_after_ms;
                write.send(&DownFrame::new(0, DownBody::Close(notice)));
            }
            let code = u16::try_from(ending.code.number()).unwrap_or(1011);
            if let Some(close) = form.framing.close(code, &ending.reason) {
                write.send_raw(close);
            }
            *slot = Some(Box::new(ending));
        }
        self.waker.wake();
    }

    /// The peer ends the connection: what is queued is still written, and WebSocket's closing handshake is answered
    /// with the peer's own code.
    pub(super) fn answer_close(&self, code: Option<u16>) {
        let Writing { state: write, ending: slot, .. } = &mut *self.write.lock();
        if slot.is_some() {
            return;
        }
        write.unfollow_all();
        write.stop_numbering();
        // Without a code the answer has none either, which is what 1005 stands for.
        if let Some(close) = write.form().framing.close(code.unwrap_or(1005), "") {
            write.send_raw(close);
        }
        let ending = Ending::new(CloseCode::GoingAway, "the peer closed the connection");
        *slot = Some(Box::new(ending));
    }

    /// The actor is gone: nothing is followed or kept for it any more.
    pub(super) fn abandon(&self) {
        let Writing { state, ending, direct } = &mut *self.write.lock();
        ending.get_or_insert_with(|| Box::new(Ending::new(CloseCode::GoingAway, "the connection is gone")));
        state.abandon();
        // It would keep the socket open.
        *direct = None;
    }

    pub(crate) fn ending(&self) -> Option<Ending> {
        self.write.lock().ending.as_deref().cloned()
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.write.lock().ending.is_some()
    }

    pub(super) fn reading(&self) -> &Reading {
        &self.reading
    }

    pub(crate) fn waker(&self) -> &AtomicWaker {
        &self.waker
    }

    pub(super) fn write_state(&self) -> MappedMutexGuard<'_, WriteState> {
        MutexGuard::map(self.write.lock(), |writing| &mut writing.state)
    }

    /// The same, for who looks what there is to write next. Whatever was unparked until now is looked at.
    pub(super) fn write_next(&self) -> MappedMutexGuard<'_, WriteState> {
        // Before the logs are looked at: what is unparked behind this look says so again.
        let news = self.news.swap(false, SeqCst);
        let mut state = self.write_state();
        if news {
            state.unparked();
        }
        state
    }

    /// Frames and bytes that wait to be written, without those in channels' logs.
    pub(crate) fn queued(&self) -> (u64, u64) {
        self.write_state().queued()
    }

    /// Does a frame that answers the call with this `msg_id` wait to be written?
    pub(crate) fn has_queued(&self, msg_id: u32) -> bool {
        self.write_state().has_queued(msg_id)
    }

    /// Is so much queued that the connection should read no further and start no call?
    pub(crate) fn is_full(&self) -> bool {
        self.write_state().is_full()
    }

    /// Has the outbox filled up, or emptied, since [`Handle::take_pressure`] said so last?
    pub(super) fn is_pressure_new(&self) -> bool {
        self.write_state().is_pressure_new()
    }

    /// What the session's engine is to be told of the outbox, once.
    pub(super) fn take_pressure(&self) -> Option<Pressure> {
        self.write_state().take_pressure()
    }

    /// The same as [`Handle::is_full`], for who stops until there is room: the actor then tells the session
    /// ([`Self::take_room`]).
    pub(crate) fn wait_while_full(&self) -> bool {
        self.write_state().wait_while_full()
    }

    /// Is there room that the session waits for? Says so once.
    pub(super) fn take_room(&self) -> bool {
        self.write_state().take_room()
    }
}

impl Handle {
    /// Writes what there is, in the place of the actor, as far as the link takes it at once. The actor is woken for the
    /// rest, and for everything that is not just written.
    pub(super) fn flush(self: &Arc<Self>, node: &Node) {
        if !self.is_flushed(node) {
            self.waker.wake();
        }
    }

    /// Whether the actor has nothing to do.
    fn is_flushed(self: &Arc<Self>, node: &Node) -> bool {
        let Writing { state, ending: None, direct: Some(link) } = &mut *self.write.lock() else {
            return false;
        };
        if state.is_blocked() {
            // When the link takes something again the actor looks at all that was unparked until then.
            return true;
        }
        // What is traced is told with its session, which the actor knows.
        if node.trace.is_on() {
            return false;
        }
        let tracer = Tracer { trace: &node.trace, session: None };
        Gathering::lend(&node.stats, |gathering| {
            for _ in 0..WRITES {
                // What comes while one publication is written goes with the next.
                if self.news.swap(false, SeqCst) {
                    state.unparked();
                }
                match state.gather(gathering, &|| Arc::clone(self) as Arc<dyn Unpark>, tracer) {
                    Pending::Bytes => {}
                    Pending::Nothing => return !state.is_pressure_new() && !state.is_room_wanted(),
                    Pending::Unacked | Pending::NotReserved => return false,
                }
                // Where it is lost the actor hears of it as well, or reads the end.
                let taken = gathering.write(|slices| link.write_vectored(slices)).unwrap_or(0);
                state.advance(gathering, taken, tracer);
                node.stats.bytes_out.add(taken as u64);
                if taken == 0 {
                    return false;
                }
            }
            false
        })
    }
}

impl Unpark for Handle {
    fn unpark(&self) {
        self.news.store(true, SeqCst);
        self.waker.wake();
    }

    fn unpark_among_many(self: Arc<Self>) {
        match self.flusher.clone() {
            Some(flusher) => {
                self.news.store(true, SeqCst);
                flusher.push(self);
            }
            None => self.unpark(),
        }
    }
}
