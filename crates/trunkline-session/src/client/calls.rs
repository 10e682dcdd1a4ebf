//! A client's calls: their numbers, what is sent again after a cut or a refusal, and how each ends.
//!
//! A number is given when a call is first sent, and never to another content. A call without final answer is kept
//! until there is one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use trunkline_proto::wire::ErrorMessage;
use trunkline_proto::{ErrorCode, UpBody, UpFrame};

use super::io::{CallEnd, CallId, ClientCall, ClientOutput, WantReply};
use crate::defaults::CALL_WINDOW;
use crate::ids::ClientSeq;

/// The calls of one client.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Not sent yet: they have no number.
    queue: VecDeque<(CallId, ClientCall)>,
    /// Sent, without final answer.
    open: BTreeMap<ClientSeq, Open>,
    by_msg_id: HashMap<u32, ClientSeq>,
    /// `ErrorsOnly` calls that the gateway has: their errors may still come.
    received: BTreeMap<ClientSeq, CallId>,
    last_sent: u64,
    next_id: u64,
    /// Sent before the heartbeat that is under way: its answer says that they have arrived.
    before_heartbeat: Option<ClientSeq>,
}

#[derive(Debug)]
struct Open {
    /// `None`: abandoned. It keeps its place in the window until it is answered.
    id: Option<CallId>,
    msg_id: u32,
    call: ClientCall,
    /// Refused for load: not before that.
    retry_at: Option<Duration>,
}

/// A frame answered a call, or nothing that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Matched {
    Yes,
    No,
}

impl Calls {
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn last_sent(&self) -> ClientSeq {
        ClientSeq(self.last_sent)
    }

    /// Replies up to this number have arrived: `ClientAck.replied_client_seq`.
    pub(super) fn replied(&self) -> u64 {
        self.open.keys().next().map_or(self.last_sent, |oldest| oldest.0 - 1)
    }

    pub(super) fn add(&mut self, call: ClientCall) -> CallId {
        let id = CallId(self.next_id);
        self.next_id += 1;
        self.queue.push_back((id, call));
        id
    }

    /// Nobody waits for it any more. If it was sent it may still run.
    pub(super) fn abandon(&mut self, id: CallId) {
        self.queue.retain(|(queued, _)| *queued != id);
        self.received.retain(|_, received| *received != id);
        let refused = self.open.iter_mut().find(|(_, open)| open.id == Some(id)).and_then(|(seq, open)| {
            open.id = None;
            open.retry_at.is_some().then_some(*seq)
        });
        // Refused and not sent again: its number needs no answer.
        if let Some(open) = refused.and_then(|seq| self.open.remove(&seq)) {
            self.by_msg_id.remove(&open.msg_id);
        }
    }

    /// Sends what the window lets through. A number is at most 63 above the oldest without final answer.
    pub(super) fn send_queued(
        &mut self,
        outputs: &mut VecDeque<ClientOutput>,
        next_msg_id: &mut impl FnMut() -> u32,
    ) {
        while let Some(seq) = self.next_in_window() {
            let Some((id, call)) = self.queue.pop_front() else { return };
            let msg_id = match call.reply {
                WantReply::Yes => next_msg_id(),
                WantReply::ErrorsOnly => 0,
            };
            self.last_sent = seq.0;
            if msg_id != 0 {
                self.by_msg_id.insert(msg_id, seq);
            }
            let open = Open { id: Some(id), msg_id, call, retry_at: None };
            outputs.push_back(ClientOutput::Send(open.frame(seq)));
            self.open.insert(seq, open);
        }
    }

    fn next_in_window(&self) -> Option<ClientSeq> {
        let next = self.last_sent + 1;
        let oldest = self.open.keys().next().map_or(next, |oldest| oldest.0);
        (!self.queue.is_empty() && next - oldest < CALL_WINDOW).then_some(ClientSeq(next))
    }

    /// A session began or goes on: everything without final answer is sent again, in order. What the node has
    /// already seen it answers from its cache.
    pub(super) fn send_again(&mut self, seen: ClientSeq, outputs: &mut VecDeque<ClientOutput>) {
        self.before_heartbeat = None;
        self.confirm_received(seen, outputs);
        for (seq, open) in &mut self.open {
            open.retry_at = None;
            outputs.push_back(ClientOutput::Send(open.frame(*seq)));
        }
    }

    /// The window is full behind calls that want no reply: only a heartbeat can tell that they have arrived.
    pub(super) fn needs_heartbeat(&self) -> bool {
        let blocked = !self.queue.is_empty() && self.next_in_window().is_none();
        let first_is_quiet = self.open.values().next().is_some_and(|open| open.msg_id == 0);
        blocked && first_is_quiet && self.before_heartbeat.is_none()
    }

    /// A heartbeat leaves: its answer comes after the gateway has taken what was sent before.
    pub(super) fn heartbeat_sent(&mut self) {
        self.before_heartbeat.get_or_insert(ClientSeq(self.last_sent));
    }

    pub(super) fn heartbeat_answered(&mut self, outputs: &mut VecDeque<ClientOutput>) {
        if let Some(seq) = self.before_heartbeat.take() {
            self.confirm_received(seq, outputs);
        }
    }

    /// The node has everything up to `seen`; who wants no reply is done with it.
    fn confirm_received(&mut self, seen: ClientSeq, outputs: &mut VecDeque<ClientOutput>) {
        let quiet = self.open.range(..=seen).filter(|(_, open)| open.msg_id == 0 && open.retry_at.is_none());
        for seq in quiet.map(|(seq, _)| *seq).collect::<Vec<_>>() {
            let Some(id) = self.open.remove(&seq).and_then(|open| open.id) else { continue };
            self.received.insert(seq, id);
            outputs.push_back(ClientOutput::CallEnded(id, CallEnd::Received));
        }
        // A window's worth is enough: nothing older can still be running.
        while self.received.len() > CALL_WINDOW as usize {
            self.received.pop_first();
        }
    }

    /// Is this the number of an outstanding call?
    pub(super) fn expects(&self, msg_id: u32) -> bool {
        self.by_msg_id.contains_key(&msg_id)
    }

    pub(super) fn reply(
        &mut self,
        msg_id: u32,
        end: CallEnd,
        outputs: &mut VecDeque<ClientOutput>,
    ) -> Matched {
        let Some(seq) = self.by_msg_id.remove(&msg_id) else { return Matched::No };
        if let Some(Open { id: Some(id), .. }) = self.open.remove(&seq) {
            outputs.push_back(ClientOutput::CallEnded(id, end));
        }
        Matched::Yes
    }

    pub(super) fn error(
        &mut self,
        now: Duration,
        msg_id: u32,
        error: ErrorMessage,
        outputs: &mut VecDeque<ClientOutput>,
    ) -> Matched {
        let seq = match self.by_msg_id.get(&msg_id) {
            Some(seq) => *seq,
            None if msg_id == 0 && error.client_seq != 0 => ClientSeq(error.client_seq),
            None => return Matched::No,
        };
        let Some(open) = self.open.get_mut(&seq) else {
            let Some(id) = self.received.remove(&seq) else { return Matched::No };
            outputs.push_back(ClientOutput::LateError(id, error));
            return Matched::Yes;
        };
        if let (429 | 503, Some(id)) = (error.error_code, open.id) {
            let wait = Duration::from_millis(u64::from(error.retry_after_ms.max(1)));
            open.retry_at = Some(now + wait);
            outputs.push_back(ClientOutput::CallRefused(id, error));
            return Matched::Yes;
        }
        let unknown = error.name == ErrorCode::ResultUnknown.name() || error.error_code == 520;
        self.by_msg_id.remove(&msg_id);
        if let Some(Open { id: Some(id), .. }) = self.open.remove(&seq) {
            let end = if unknown { CallEnd::ResultUnknown(error) } else { CallEnd::Error(error) };
            outputs.push_back(ClientOutput::CallEnded(id, end));
        }
        Matched::Yes
    }

    pub(super) fn next_retry(&self) -> Option<Duration> {
        self.open.values().filter_map(|open| open.retry_at).min()
    }

    pub(super) fn retry(&mut self, now: Duration, outputs: &mut VecDeque<ClientOutput>) {
        for (seq, open) in &mut self.open {
            if open.retry_at.is_some_and(|at| at <= now) {
                open.retry_at = None;
                outputs.push_back(ClientOutput::Send(open.frame(*seq)));
            }
        }
    }

    /// The client stays away. What was sent may have run; what was not has not.
    pub(super) fn end_all(&mut self, why: &str, outputs: &mut VecDeque<ClientOutput>) {
        self.by_msg_id.clear();
        self.received.clear();
        for (_, open) in std::mem::take(&mut self.open) {
            let Some(id) = open.id else { continue };
            let end = match open.retry_at {
                Some(_) => CallEnd::NotSent,
                None => CallEnd::ResultUnknown(ErrorCode::ResultUnknown.message(why)),
            };
            outputs.push_back(ClientOutput::CallEnded(id, end));
        }
        for (id, _) in std::mem::take(&mut self.queue) {
            outputs.push_back(ClientOutput::CallEnded(id, CallEnd::NotSent));
        }
    }
}

impl Open {
    fn frame(&self, seq: ClientSeq) -> UpFrame {
        UpFrame {
            msg_id: self.msg_id,
            seq_id: seq.0,
            headers: self.call.headers.clone(),
            body: UpBody::Business(self.call.request.clone()),
        }
    }
}
