//! Sessions that call: raw ones, whose replies one task each matches with when their calls were due.
//!
//! They keep to what protocol.md asks of a client: call numbers without holes, at most 63 above the oldest without an
//! answer, and now and then an ack that lets the node forget replies. A refused call is counted, not sent again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use trunkline_proto::wire::{BusinessRequest, ClientAck, HeartbeatRequest};
use trunkline_proto::{Dialect, DownBody, UpBody, UpFrame};

use super::OVERTIME;
use super::clock::{Moment, Timer};
use super::figures::{Figures, counts};
use super::latency::Latencies;
use super::link::{Link, LinkReader, LinkWriter};
use super::raw::RawSession;
use super::share::Dues;

/// A call that takes longer has failed: it bounds the end of a run.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls of one session without an answer: one below what it may have outstanding (64).
const OUTSTANDING: usize = 63;

/// A run lasts an hour at the most, and some seconds.
const MOST_TENTHS: usize = 40_000;

/// Replies that a session has before it says so. The node keeps them until then.
const ACK_EVERY: u64 = 16;

/// What a good reply is: code 200, and
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// as many bytes as were sent.
    Echo,
    /// whatever the action answers.
    Any,
}

/// The sessions.
pub(super) struct Callers {
    shared: Rc<Shared>,
    sessions: Vec<Session>,
    _readers: JoinSet<()>,
    /// Whose turn it is.
    turn: usize,
    /// When the silent ones were last looked for.
    looked: Moment,
}

struct Session {
    writer: LinkWriter,
    line: Rc<Line>,
    /// Type and payload of the call, which are the same each time.
    call: Rc<Vec<u8>>,
    heartbeat: Duration,
    acked: u64,
    last_sent: Moment,
}

/// The calls of one session.
#[derive(Default)]
struct Line {
    /// When each was due, from the oldest without an answer; `None` is answered.
    pending: RefCell<VecDeque<Option<Moment>>>,
    /// The number of the first of them.
    first: Cell<u64>,
    is_gone: Cell<bool>,
    came: Notify,
}

/// What all sessions tell.
pub(super) struct Shared {
    /// Bytes of a right reply, where it is known.
    size: Option<usize>,
    /// When the first and the last error came.
    failing: Cell<Option<(Moment, Moment)>>,
    done: Cell<u64>,
    /// Calls without an answer.
    waiting: Cell<u64>,
    latencies: RefCell<Rc<Latencies>>,
    errors: RefCell<BTreeMap<String, u64>>,
    began: Cell<Moment>,
    /// Replies that came in each tenth of a second since the beginning.
    tenths: RefCell<Vec<u32>>,
    came: Notify,
}

impl Shared {
    fn ended(&self, who: usize, due: Moment, result: Result<(), String>) {
        self.waiting.set(self.waiting.get() - 1);
        match result {
            Ok(()) => {
                self.done.set(self.done.get() + 1);
                self.count_tenth();
                self.latencies.borrow().record(who, Moment::now().since(due));
            }
            Err(failed) => self.fail(failed, 1),
        }
    }

    /// Tenths of a second count from here.
    pub(super) fn begin(&self, start: Moment) {
        self.began.set(start);
        self.tenths.borrow_mut().clear();
    }

    /// What became of all calls; it is forgotten here.
    pub(super) fn figures(&self) -> Figures {
        let errors = self.errors.take();
        Figures {
            counts: counts([("done", self.done.take()), ("failed", errors.values().sum())]),
            errors,
            tenths: self.tenths.take(),
            failing: self.failing.take(),
            ..Figures::default()
        }
    }

    fn count_tenth(&self) {
        let at = Moment::now().since(self.began.get()).as_millis() / 100;
        let mut tenths = self.tenths.borrow_mut();
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(MOST_TENTHS - 1);
        if tenths.len() <= at {
            tenths.resize(at + 1, 0);
        }
        tenths[at] += 1;
    }

    fn fail(&self, why: String, times: u64) {
        let now = Moment::now();
        self.failing.set(Some((self.failing.get().map_or(now, |(first, _)| first), now)));
        *self.errors.borrow_mut().entry(why).or_default() += times;
    }
}

impl Callers {
    /// Takes started sessions; each call is this action with so many bytes.
    pub(super) fn new(
        started: Vec<RawSession>,
        action: &str,
        size: usize,
        answer: Answer,
    ) -> anyhow::Result<Self> {
        let request = BusinessRequest {
            action: action.to_owned(),
            data: vec![b'x'; size].into(),
            ..Default::default()
        };
        // Without numbers only type and payload are left, which follow the numbers on the wire.
        let call = Rc::new(Dialect::Protobuf.encode_up(&UpFrame::new(0, 0, UpBody::Business(request))));
        let shared = Rc::new(Shared {
            size: (answer == Answer::Echo).then_some(size),
            failing: Cell::new(None),
            done: Cell::new(0),
            waiting: Cell::new(0),
            latencies: RefCell::new(Rc::new(Latencies::new()?)),
            errors: RefCell::default(),
            began: Cell::new(Moment::now()),
            tenths: RefCell::default(),
            came: Notify::new(),
        });
        let mut readers = JoinSet::new();
        let sessions = started.into_iter().enumerate().map(|(at, session)| {
            let heartbeat = session.heartbeat();
            let Link { reader, writer } = session.link;
            let line = Rc::new(Line { first: Cell::new(1), ..Line::default() });
            readers.spawn_local(Rc::clone(&line).read(at, reader, Rc::clone(&shared)));
            let (call, last_sent) = (Rc::clone(&call), Moment::now());
            Session { writer, line, call, heartbeat, acked: 0, last_sent }
        });
        let sessions = sessions.collect();
        Ok(Callers { shared, sessions, _readers: readers, turn: 0, looked: Moment::now() })
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Latencies go here from now on.
    pub(super) fn record_to(&self, latencies: &Rc<Latencies>) {
        self.shared.latencies.replace(Rc::clone(latencies));
    }

    /// A call each time one is due, whatever became of those before. One is late only where every session has as
    /// many calls outstanding as it may.
    pub(super) async fn open(&mut self, dues: Dues, late: &Latencies) -> anyhow::Result<()> {
        let (mut timer, mut bytes) = (Timer::new()?, Vec::new());
        for begun in 0_u64.. {
            let Some(due) = dues.next(begun) else { break };
            timer.until(due).await?;
            if Moment::now() >= dues.end().after(OVERTIME) {
                let why = "never begun, since all sessions had 64 calls under way";
                self.shared.fail(why.to_owned(), dues.count() - begun);
                break;
            }
            let at = loop {
                match self.next_with_room() {
                    Some(at) => break at,
                    None if self.sessions.iter().all(|session| session.line.is_gone.get()) => {
                        bail!("every session has ended: {:?}", self.shared.errors.borrow())
                    }
                    None => timeout(CALL_TIMEOUT, self.shared.came.notified())
                        .await
                        .context("no call is answered any more")?,
                }
            };
            late.record(0, Moment::now().since(due));
            self.sessions[at].call(&self.shared, due, &mut bytes).await?;
            self.beat().await;
        }
        self.all_answered().await;
        Ok(())
    }

    /// Each session's next call follows its last reply, until this moment.
    pub(super) async fn closed(&mut self, end: Moment) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for mut session in self.sessions.drain(..) {
            let shared = Rc::clone(&self.shared);
            tasks.spawn_local(async move {
                let mut bytes = Vec::new();
                while Moment::now() < end && !session.line.is_gone.get() {
                    session.call(&shared, Moment::now(), &mut bytes).await?;
                    while !session.line.pending.borrow().is_empty() && !session.line.is_gone.get() {
                        timeout(CALL_TIMEOUT, session.line.came.notified())
                            .await
                            .context("a call is not answered")?;
                    }
                }
                anyhow::Ok(session)
            });
        }
        while let Some(ended) = tasks.join_next().await {
            self.sessions.push(ended??);
        }
        Ok(())
    }

    fn next_with_room(&mut self) -> Option<usize> {
        for _ in 0..self.sessions.len() {
            let at = self.turn;
            self.turn = (self.turn + 1) % self.sessions.len();
            if self.sessions[at].line.has_room() {
                return Some(at);
            }
        }
        None
    }

    /// Sessions that are called rarely tell once in a while that they live.
    async fn beat(&mut self) {
        let now = Moment::now();
        if now.since(self.looked) < Duration::from_secs(1) {
            return;
        }
        self.looked = now;
        let beat = UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 1 });
        let payload = Dialect::Protobuf.encode_up(&UpFrame::new(1 << 31, 0, beat));
        for session in &mut self.sessions {
            if now.since(session.last_sent) >= session.heartbeat {
                session.last_sent = now;
                // Who is gone is told by its reader.
                let _ = session.writer.send(&payload).await;
            }
        }
    }

    /// Waits for the last replies; what is not answered in time has failed.
    async fn all_answered(&self) {
        let answered = async {
            while self.shared.waiting.get() > 0 {
                self.shared.came.notified().await;
            }
        };
        if timeout(CALL_TIMEOUT, answered).await.is_err() {
            self.shared.fail("no answer within 10 s".to_owned(), self.shared.waiting.get());
        }
    }
}

impl Session {
    async fn call(&mut self, shared: &Shared, due: Moment, bytes: &mut Vec<u8>) -> anyhow::Result<()> {
        let number = self.line.begin(due);
        shared.waiting.set(shared.waiting.get() + 1);
        bytes.clear();
        let answered = self.line.first.get() - 1;
        if answered >= self.acked + ACK_EVERY {
            self.acked = answered;
            let ack = ClientAck { replied_client_seq: answered, ..ClientAck::default() };
            let ack = Dialect::Protobuf.encode_up(&UpFrame::new(0, 0, UpBody::Ack(ack)));
            self.writer.frame(&ack, bytes);
        }
        let mut payload = Vec::with_capacity(self.call.len() + 20);
        numbered(msg_id(number), number, &self.call, &mut payload);
        self.writer.frame(&payload, bytes);
        self.last_sent = Moment::now();
        // Who is gone is told by its reader, which also counts what was lost with it.
        let _ = self.writer.write(bytes).await;
        Ok(())
    }
}

impl Line {
    fn has_room(&self) -> bool {
        !self.is_gone.get() && self.pending.borrow().len() < OUTSTANDING
    }

    fn begin(&self, due: Moment) -> u64 {
        let mut pending = self.pending.borrow_mut();
        pending.push_back(Some(due));
        self.first.get() + pending.len() as u64 - 1
    }

    /// When an answered call was due, if it waited.
    fn answered(&self, number: u64) -> Option<Moment> {
        let mut pending = self.pending.borrow_mut();
        let at = usize::try_from(number.checked_sub(self.first.get())?).ok()?;
        let due = pending.get_mut(at)?.take();
        while let Some(None) = pending.front() {
            pending.pop_front();
            self.first.set(self.first.get() + 1);
        }
        due
    }

    /// The number of a call from its `msg_id`: the one that waits.
    fn number(&self, id: u32) -> u64 {
        let first = self.first.get();
        let ahead = id.wrapping_sub(msg_id(first)) & ID_MASK;
        first + u64::from(ahead)
    }

    async fn read(self: Rc<Self>, at: usize, mut reader: LinkReader, shared: Rc<Shared>) {
        loop {
            let came = reader.some(&mut |frame| self.take(at, frame, &shared)).await;
            if let Err(error) = came {
                self.is_gone.set(true);
                let lost = self.pending.borrow().iter().flatten().count() as u64;
                shared.waiting.set(shared.waiting.get() - lost);
                shared.fail(format!("a session ended: {error}"), lost.max(1));
            }
            self.came.notify_one();
            shared.came.notify_one();
            if self.is_gone.get() {
                return;
            }
        }
    }

    fn take(&self, at: usize, frame: &[u8], shared: &Shared) {
        let frame = match Dialect::Protobuf.decode_down(&Bytes::copy_from_slice(frame)) {
            Ok(frame) => frame,
            Err(error) => return shared.fail(error.to_string(), 1),
        };
        let result = match frame.body {
            DownBody::BusinessData(reply)
                if reply.code == 200 && shared.size.is_none_or(|size| reply.data.len() == size) =>
            {
                Ok(())
            }
            DownBody::BusinessData(reply) => {
                Err(format!("code {} with {} bytes", reply.code, reply.data.len()))
            }
            DownBody::Error(error) => Err(error.name),
            // Heartbeat answers and the like.
            _ => return,
        };
        if let Some(due) = self.answered(self.number(frame.msg_id)) {
            shared.ended(at, due, result);
        }
    }
}

/// `msg_id` is never 0 for a call that wants its reply, and has 32 bits.
const ID_MASK: u32 = (1 << 30) - 1;

fn msg_id(number: u64) -> u32 {
    u32::try_from(number & u64::from(ID_MASK)).unwrap_or_default() | (1 << 30)
}

/// Appends a frame with these numbers whose type and payload are encoded already: fields 1 and 2 of ClientRequest.
pub(super) fn numbered(msg_id: u32, seq: u64, rest: &[u8], out: &mut Vec<u8>) {
    for (tag, value) in [(0x08, u64::from(msg_id)), (0x10, seq)] {
        if value == 0 {
            continue;
        }
        out.push(tag);
        let mut value = value;
        while value >= 0x80 {
            out.push(seven_bits(value) | 0x80);
            value >>= 7;
        }
        out.push(seven_bits(value));
    }
    out.extend_from_slice(rest);
}

fn seven_bits(value: u64) -> u8 {
    u8::try_from(value & 0x7f).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_before_an_encoded_rest_are_the_frame_itself() {
        let body = || UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 7 });
        let rest = Dialect::Protobuf.encode_up(&UpFrame::new(0, 0, body()));
        for (id, seq) in [(0, 0), (1, 1), (msg_id(300), 300), (u32::MAX, u64::MAX), (127, 128)] {
            let mut framed = Vec::new();
            numbered(id, seq, &rest, &mut framed);
            assert_eq!(framed, Dialect::Protobuf.encode_up(&UpFrame::new(id, seq, body())));
        }
    }

    #[test]
    fn replies_find_their_calls_in_any_order() {
        let line = Line { first: Cell::new(u64::from(ID_MASK) - 2), ..Line::default() };
        let first = line.first.get();
        let numbers: Vec<_> = (0..OUTSTANDING as u64).map(|at| line.begin(Moment(at))).collect();
        assert!(!line.has_room());
        for at in [3, 0, 62, 1, 2] {
            let number = line.number(msg_id(numbers[at]));
            assert_eq!((number, line.answered(number)), (numbers[at], Some(Moment(at as u64))));
            assert_eq!(line.answered(number), None);
        }
        assert_eq!(line.first.get(), first + 4);
        assert!(line.has_room());
    }
}
