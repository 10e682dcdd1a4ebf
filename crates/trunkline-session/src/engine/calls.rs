//! The memory of calls (protocol.md section 6): the window of 64 numbers, what runs, what waits, what was answered.
//!
//! A number runs once. What is sent again is answered from here, or told `RESULT_UNKNOWN`; only a number that was
//! refused for load runs when it comes again. This file decides; the frames are built in `replies`, the cached
//! bytes are counted in `cache`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use trunkline_proto::wire::BusinessRequest;
use trunkline_proto::{Dialect, DownFrame, ErrorCode};

use super::Outputs;
use super::cache::Cache;
use super::io::{
    BindAnswer, BindHint, BoundPush, CallHistory, CallOutcome, CallRequest, CallStage, GiveUp, Output,
    Pressure,
};
use super::numbers::Numbers;
use super::refused;
use super::replies::{self, Answered, Fate};
use crate::budget::ReplyBudget;
use crate::config::{Protocol, SessionConfig};
use crate::defaults::CALL_WINDOW;
use crate::gate::{Place, RequestRefusal, TurnedAway};
use crate::ids::{ClientSeq, Fence, SessionId};

/// The connection that is live now, as far as replies care.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplyTo {
    pub(crate) fence: Fence,
    pub(crate) protocol: Protocol,
}

/// A call as it arrived.
pub(crate) struct Arrival {
    pub(crate) seq: ClientSeq,
    pub(crate) msg_id: u32,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) request: BusinessRequest,
    /// The session sends too fast: come back then.
    pub(crate) limited: Option<Duration>,
}

impl Arrival {
    /// What its request holds on to while it waits and runs.
    fn bytes(&self) -> usize {
        request_bytes(&self.request, &self.headers)
    }
}

/// What a call's request holds on to while it waits and runs: what [`CallGate::enter`](crate::CallGate::enter) is asked
/// for.
pub fn request_bytes(request: &BusinessRequest, headers: &HashMap<String, String>) -> usize {
    let text = |(name, value): (&String, &String)| name.len() + value.len();
    let map = |map: &HashMap<String, String>| -> usize {
        if map.is_empty() { 0 } else { map.iter().map(text).sum() }
    };
    request.action.len() + request.data.len() + map(&request.params) + map(headers)
}

/// Asks the node for a place, for a call of so many bytes.
pub(crate) type Enter<'a> = &'a dyn Fn(usize) -> Result<Place, TurnedAway>;

/// What a session remembers of its calls.
#[derive(Debug)]
pub(crate) struct Calls {
    slots: Numbers<Slot>,
    /// The highest number seen; the next expected is one more.
    highest: Option<ClientSeq>,
    /// The highest number that came on a connection of this session: what a client need not send again.
    received: ClientSeq,
    /// When this session began, its client had sent calls up to this number to a former one.
    sent_before: ClientSeq,
    waiting: VecDeque<ClientSeq>,
    /// Outstanding calls with `x-order: request`, by number.
    ordered: BTreeSet<ClientSeq>,
    running: usize,
    outstanding: usize,
    cache: Cache,
    budget: ReplyBudget,
    pressure: Pressure,
    /// When the last call ended.
    replied_at: Duration,
    /// Protocol 0: ended while nobody was connected, in that order.
    unsent: VecDeque<ClientSeq>,
}

/// One number. What is answered and forgotten keeps only its hash: 16 bytes, so an idle session stays small.
#[derive(Debug)]
enum Slot {
    Open(Box<Open>),
    Ended(u64, Box<Answered>),
    /// Refused for load before it ran.
    Refused(u64),
    /// Ended well, and nobody wanted the reply.
    Done(u64),
    /// Ended; its reply was freed or evicted.
    Forgotten(u64),
}

/// An outstanding call.
#[derive(Debug)]
struct Open {
    hash: u64,
    answered: Answered,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Waiting(Box<CallRequest>),
    Running,
    /// Ended, waiting for an earlier one (`x-order: request`).
    Held,
}

impl Calls {
    pub(crate) fn new(budget: ReplyBudget, pressure: Pressure) -> Self {
        Calls {
            slots: Numbers::default(),
            highest: None,
            received: ClientSeq(0),
            sent_before: ClientSeq(0),
            waiting: VecDeque::new(),
            ordered: BTreeSet::new(),
            running: 0,
            outstanding: 0,
            cache: Cache::default(),
            budget,
            pressure,
            replied_at: Duration::ZERO,
            unsent: VecDeque::new(),
        }
    }

    /// `StartResponse.last_client_seq`.
    pub(crate) fn last_client_seq(&self) -> u64 {
        self.received.0
    }

    /// The session is new: calls up to this number went to a former one, if anywhere.
    pub(crate) fn begin_after(&mut self, last_sent: ClientSeq) {
        if self.highest.is_none() {
            self.sent_before = self.sent_before.max(last_sent);
        }
    }

    pub(crate) fn stage(&self, seq: ClientSeq) -> CallStage {
        match self.slots.get(seq) {
            Some(Slot::Open(open)) => match open.stage {
                Stage::Waiting(_) => CallStage::Waiting,
                Stage::Running => CallStage::Running,
                Stage::Held => CallStage::Held,
            },
            Some(Slot::Ended(_, answered)) => CallStage::Kept { msg_id: answered.msg_id },
            Some(Slot::Refused(_)) => CallStage::Refused,
            Some(Slot::Done(_)) => CallStage::Done,
            Some(Slot::Forgotten(_)) => CallStage::Forgotten,
            None if self.highest.is_some_and(|highest| seq <= highest) => CallStage::TooOld,
            None => CallStage::Unknown,
        }
    }

    pub(crate) fn runs(&self, seq: ClientSeq) -> bool {
        matches!(self.slots.get(seq), Some(Slot::Open(_)))
    }

    pub(crate) fn receive(&mut self, cx: &mut Cx<'_>, arrival: Arrival, enter: Enter<'_>) {
        let hash = replies::content_hash(&arrival.request);
        if self.highest.is_none_or(|highest| arrival.seq.0 <= highest.0.saturating_add(1)) {
            self.received = self.received.max(arrival.seq);
        }
        match self.slots.get(arrival.seq) {
            Some(slot) if slot.hash() != hash => {
                let error = ErrorCode::SeqReused.message("this call number was used with other content");
                cx.send(replies::error_frame(arrival.msg_id, arrival.seq, error));
            }
            Some(slot) => {
                // A limited frame changes nothing: the number keeps its state and is asked for again.
                if let (Some(wait), false) = (arrival.limited, matches!(slot, Slot::Refused(_))) {
                    return cx.refuse(
                        arrival.msg_id,
                        arrival.seq,
                        cx.later(RequestRefusal::FrameRate, wait, arrival.seq),
                    );
                }
                self.receive_again(cx, arrival, hash, enter);
            }
            None => self.receive_new(cx, arrival, hash, enter),
        }
    }

    fn receive_again(&mut self, cx: &mut Cx<'_>, arrival: Arrival, hash: u64, enter: Enter<'_>) {
        let seq = arrival.seq;
        match self.slots.get_mut(seq) {
            Some(Slot::Open(open)) => open.answered.asked_on(cx.to, arrival.msg_id),
            Some(Slot::Ended(_, answered)) => {
                answered.asked_on(cx.to, arrival.msg_id);
                if let Some(frame) = answered.frame(seq, cx.config, cx.dialect) {
                    answered.left = true;
                    cx.send(frame);
                }
            }
            Some(Slot::Done(_)) if arrival.msg_id == 0 => {}
            Some(Slot::Done(_) | Slot::Forgotten(_)) => {
                let error =
                    ErrorCode::ResultUnknown.message("the call has ended, its reply is no longer kept");
                cx.send(replies::error_frame(arrival.msg_id, seq, error));
            }
            // Whatever it was in a former session, this one has refused it unrun; the mark stays by its number.
            Some(Slot::Refused(_)) | None => self.admit(cx, arrival, hash, enter),
        }
    }

    fn receive_new(&mut self, cx: &mut Cx<'_>, arrival: Arrival, hash: u64, enter: Enter<'_>) {
        let seq = arrival.seq;
        match self.highest {
            // The first may be any number. Those that went to the former session count as seen there.
            None => self.highest = Some(seq.max(self.sent_before)),
            Some(highest) if highest.0.checked_add(1) == Some(seq.0) => self.highest = Some(seq),
            Some(highest) if seq > highest => {
                let error = ErrorCode::BadRequest
                    .message(format!("call number {seq} jumps: {} is next", highest.0.saturating_add(1)));
                return cx.send(replies::error_frame(arrival.msg_id, seq, error));
            }
            Some(_) => {}
        }
        // Answered calls of the former session leave holes among those sent again, so a retry need not be the
        // next; but what lies below the window, or was never sent before, cannot be told from a call that ran.
        let top = self.highest.unwrap_or(seq);
        let below = seq < top && (!self.is_retry(seq) || top.0 - seq.0 >= CALL_WINDOW);
        if below {
            let error = ErrorCode::ResultUnknown.message("this call number is no longer remembered");
            return cx.send(replies::error_frame(arrival.msg_id, seq, error));
        }
        self.trim();
        self.admit(cx, arrival, hash, enter);
    }

    /// Was it sent to a former session, if anywhere? Such a client counts from 1, so 0 is never a retry.
    fn is_retry(&self, seq: ClientSeq) -> bool {
        seq > ClientSeq(0) && seq <= self.sent_before
    }

    /// Lets a call in, or refuses it so that its number can come again.
    fn admit(&mut self, cx: &mut Cx<'_>, arrival: Arrival, hash: u64, enter: Enter<'_>) {
        let seq = arrival.seq;
        let place = match self.place(cx, &arrival, enter) {
            Ok(place) => place,
            Err(turned) => {
                self.slots.insert(seq, Slot::Refused(hash));
                return cx.refuse(arrival.msg_id, seq, turned);
            }
        };
        let history = if self.is_retry(seq) { CallHistory::MayHaveRun } else { CallHistory::New };
        let ordered = arrival.headers.get("x-order").is_some_and(|order| order == "request");
        let timeout = replies::timeout(&arrival.headers, cx.config.call_timeout);
        let call =
            CallRequest { seq, request: arrival.request, headers: arrival.headers, timeout, history, place };
        let open = Open {
            hash,
            answered: Answered::new(arrival.msg_id, cx.to.map(|to| to.fence)),
            stage: Stage::Waiting(Box::new(call)),
        };
        self.slots.insert(seq, Slot::Open(Box::new(open)));
        self.outstanding += 1;
        if ordered {
            self.ordered.insert(seq);
        }
        self.waiting.push_back(seq);
        self.start_waiting(cx);
    }

    /// The session's own limits first: what they refuse takes nothing from others.
    fn place(&self, cx: &Cx<'_>, arrival: &Arrival, enter: Enter<'_>) -> Result<Place, TurnedAway> {
        if let Some(wait) = arrival.limited {
            Err(cx.later(RequestRefusal::FrameRate, wait, arrival.seq))
        } else if self.outstanding >= cx.config.outstanding_calls {
            Err(cx.later(RequestRefusal::Session, cx.config.retry_after, arrival.seq))
        } else if !self.budget.has_room() {
            Err(cx.later(RequestRefusal::ReplyCache, cx.config.retry_after, arrival.seq))
        } else {
            enter(arrival.bytes())
        }
    }

    pub(crate) fn set_pressure(&mut self, cx: &mut Cx<'_>, pressure: Pressure) {
        self.pressure = pressure;
        self.start_waiting(cx);
    }

    /// Starts what may run now.
    fn start_waiting(&mut self, cx: &mut Cx<'_>) {
        while self.running < cx.config.running_calls && self.pressure == Pressure::Room {
            let Some(seq) = self.waiting.pop_front() else { return };
            // Others may have filled the node's cache while it waited. It has not run, so it can be refused.
            if !self.budget.has_room() {
                let turned = cx.later(RequestRefusal::ReplyCache, cx.config.retry_after, seq);
                cx.outputs.push_back(Output::CallRefused(seq, turned.why));
                self.close_call(cx, seq, Fate::Error(refused::message(turned.why, turned.retry_after)));
                continue;
            }
            let Some(Slot::Open(open)) = self.slots.get_mut(seq) else { continue };
            if let Stage::Waiting(call) = std::mem::replace(&mut open.stage, Stage::Running) {
                self.running += 1;
                cx.outputs.push_back(Output::Call(call));
            }
        }
    }

    pub(crate) fn ended(&mut self, cx: &mut Cx<'_>, now: Duration, seq: ClientSeq, outcome: CallOutcome) {
        self.replied_at = now;
        let Some(Slot::Open(open)) = self.slots.get(seq) else { return };
        if !matches!(open.stage, Stage::Running) {
            return;
        }
        self.running -= 1;
        let fate = match outcome {
            CallOutcome::Error(error) => Fate::Error(error),
            CallOutcome::Reply(mut reply) => {
                let bound = std::mem::take(&mut reply.bound);
                self.bind_all(cx, seq, bound, Fate::Reply(reply))
            }
        };
        self.close_call(cx, seq, fate);
        self.start_waiting(cx);
    }

    /// Binds what the answer itself brought. They share its fate: if they do not fit, neither does the answer.
    fn bind_all(&mut self, cx: &Cx<'_>, seq: ClientSeq, bound: Vec<BoundPush>, fate: Fate) -> Fate {
        let Some(Slot::Open(open)) = self.slots.get_mut(seq) else { return fate };
        let before = open.answered.bound_count();
        for push in bound {
            if !open.answered.bind(push, cx.config, cx.dialect) {
                open.answered.unbind_to(before);
                return Fate::Error(replies::cannot_be_delivered());
            }
        }
        fate
    }

    /// A running or waiting call has its fate; it leaves now, or waits for the earlier ones of its order.
    fn close_call(&mut self, cx: &mut Cx<'_>, seq: ClientSeq, fate: Fate) {
        let Some(Slot::Open(open)) = self.slots.get_mut(seq) else { return };
        let refused = fate.is_refusal();
        open.stage = Stage::Held;
        open.answered.fate = Some(fate);
        if !self.ordered.contains(&seq) {
            return self.release(cx, seq);
        }
        if refused {
            // It will come again, so it cannot hold up those behind it, nor wait for those before it.
            self.ordered.remove(&seq);
            self.release(cx, seq);
        }
        while let Some(first) = self.ordered.first().copied() {
            let Some(Slot::Open(open)) = self.slots.get(first) else { break };
            if !matches!(open.stage, Stage::Held) {
                break;
            }
            self.ordered.remove(&first);
            self.release(cx, first);
        }
    }

    /// The reply leaves: it goes to the connection that asked last, and into the cache.
    fn release(&mut self, cx: &mut Cx<'_>, seq: ClientSeq) {
        let Some(slot) = self.slots.get_mut(seq) else { return };
        let Slot::Open(open) = slot else { return };
        let done = Slot::Done(open.hash);
        let Slot::Open(open) = std::mem::replace(slot, done) else { return };
        let Open { hash, mut answered, .. } = *open;
        self.outstanding -= 1;
        if answered.msg_id == 0 && answered.bound_count() > 0 {
            // Nothing to share a fate with: both go out when the call ends.
            for bound in answered.take_bound() {
                cx.outputs.push_back(Output::Publish(bound.target, bound.push.into()));
            }
        }
        let frame = answered.frame(seq, cx.config, cx.dialect);
        let connected =
            cx.to.is_some_and(|to| to.protocol == Protocol::Seed || answered.on == Some(to.fence));
        let refused = answered.fate.as_ref().is_some_and(Fate::is_refusal);
        answered.left = connected;
        let Some(frame) = frame else { return self.trim() };
        let keep_for_seed = !connected && cx.protocol == Protocol::Seed;
        let bytes = replies::cost(&frame);
        if connected {
            cx.send(frame);
        }
        if refused {
            // Its error is not kept, even if nobody heard it: whoever asks again runs it.
            self.slots.insert(seq, Slot::Refused(hash));
            return self.trim();
        }
        if keep_for_seed {
            self.unsent.push_back(seq);
        }
        self.slots.insert(seq, Slot::Ended(hash, Box::new(answered)));
        self.cache.keep(seq, self.budget.charge(bytes));
        self.evict(cx.config);
        self.trim();
    }

    fn evict(&mut self, config: &SessionConfig) {
        while self.cache.bytes() > config.reply_cache {
            let Some(oldest) = self.cache.oldest() else { return };
            self.forget(oldest);
        }
    }

    fn forget(&mut self, seq: ClientSeq) {
        self.cache.drop_reply(seq);
        if let Some(slot) = self.slots.get_mut(seq)
            && let Slot::Ended(hash, _) = slot
        {
            *slot = Slot::Forgotten(*hash);
        }
    }

    /// May a client say that it has the replies up to this number?
    pub(crate) fn knows_up_to(&self, seq: ClientSeq) -> bool {
        seq <= self.highest.unwrap_or_default().max(self.sent_before)
    }

    /// `replied_client_seq`: the client has these replies. What still runs is not touched.
    pub(crate) fn replied(&mut self, up_to: ClientSeq) {
        // Most acks do not tell of replies.
        if up_to == ClientSeq(0) {
            return;
        }
        let ended = self.slots.iter().filter(|(seq, slot)| *seq <= up_to && matches!(slot, Slot::Ended(..)));
        for seq in ended.map(|(seq, _)| seq).collect::<Vec<_>>() {
            self.forget(seq);
        }
    }

    /// Protocol 0: the client has acked what answered these `msg_id`s. Replies come in the order in which they left, so
    /// of several calls with one `msg_id` the first is meant.
    pub(crate) fn acked(&mut self, msg_ids: &[u32]) {
        for msg_id in msg_ids {
            let answered = self.slots.iter().find(|(_, slot)| match slot {
                Slot::Ended(_, answered) => answered.left && answered.msg_id == *msg_id,
                _ => false,
            });
            if let Some((seq, _)) = answered {
                self.forget(seq);
            }
        }
    }

    /// Gives the cached replies' room back: of those that left, or of all.
    pub(crate) fn give_up(&mut self, which: GiveUp) {
        let given = self.slots.iter().filter(|(_, slot)| match slot {
            Slot::Ended(_, answered) => which == GiveUp::All || answered.left,
            _ => false,
        });
        for seq in given.map(|(seq, _)| seq).collect::<Vec<_>>() {
            self.forget(seq);
        }
    }

    /// See `Engine::cached_since`.
    pub(crate) fn cached_since(&self) -> Option<Duration> {
        (self.cache.bytes() > 0).then_some(self.replied_at)
    }

    /// Forgets numbers that left the window. What is outstanding is never forgotten.
    fn trim(&mut self) {
        let Some(highest) = self.highest else { return };
        let Some(oldest) = highest.0.saturating_add(1).checked_sub(CALL_WINDOW) else { return };
        let Calls { slots, cache, .. } = self;
        let is_open = |slot: &Slot| matches!(slot, Slot::Open(_));
        slots.trim(ClientSeq(oldest), is_open, |seq, slot| {
            if let Slot::Ended(..) = slot {
                cache.drop_reply(seq);
            }
        });
    }

    /// Joins a push to a call; see `Engine::bind`.
    pub(crate) fn bind(
        &mut self,
        config: &SessionConfig,
        dialect: Dialect,
        seq: ClientSeq,
        push: BoundPush,
    ) -> BindAnswer {
        let hint = push.hint;
        let answered = match self.slots.get_mut(seq) {
            Some(Slot::Open(open)) => &mut open.answered,
            // Ended, but nobody was there to hear it: the reply has not left.
            Some(Slot::Ended(_, answered)) if !answered.left && answered.msg_id != 0 => answered,
            Some(_) => return late(hint),
            None if self.highest.is_some_and(|highest| seq <= highest) => return late(hint),
            None => return BindAnswer::NoSuchCall,
        };
        if !answered.bind(push, config, dialect) {
            return BindAnswer::TooLarge;
        }
        if let Some(Slot::Ended(_, answered)) = self.slots.get(seq) {
            let bytes = answered.frame(seq, config, dialect).map_or(0, |frame| replies::cost(&frame));
            self.cache.recharge(seq, self.budget.charge(bytes));
            self.evict(config);
        }
        BindAnswer::Bound
    }

    /// Protocol 0, connected again: what ended in between, in that order.
    pub(crate) fn send_unsent(&mut self, cx: &mut Cx<'_>) {
        while let Some(seq) = self.unsent.pop_front() {
            match self.slots.get_mut(seq) {
                Some(Slot::Ended(_, answered)) => {
                    answered.left = true;
                    if let Some(frame) = answered.frame(seq, cx.config, cx.dialect) {
                        cx.send(frame);
                    }
                }
                // Evicted before anybody heard of it: told, since a seed client does not ask again.
                _ => cx.send(replies::error_frame(
                    0,
                    seq,
                    ErrorCode::ResultUnknown.message("the call has ended, its reply is no longer kept"),
                )),
            }
        }
    }

    /// The session is over: nothing that waits will run, nothing is kept.
    pub(crate) fn clear(&mut self) {
        let (highest, received) = (self.highest, self.received);
        *self = Calls { highest, received, ..Calls::new(self.budget.clone(), Pressure::Room) };
    }
}

impl Slot {
    fn hash(&self) -> u64 {
        match self {
            Slot::Open(open) => open.hash,
            Slot::Ended(hash, _) | Slot::Refused(hash) | Slot::Done(hash) | Slot::Forgotten(hash) => *hash,
        }
    }
}

/// What the calls need of their engine.
pub(crate) struct Cx<'a> {
    pub(crate) config: &'a SessionConfig,
    pub(crate) to: Option<ReplyTo>,
    /// Of the last connection, where there is none now.
    pub(crate) protocol: Protocol,
    pub(crate) dialect: Dialect,
    pub(crate) session: SessionId,
    pub(crate) outputs: &'a mut Outputs,
}

impl Cx<'_> {
    fn send(&mut self, frame: DownFrame) {
        self.outputs.push_back(Output::Send(frame.into()));
    }

    /// A call does not run, and its number can come again.
    fn refuse(&mut self, msg_id: u32, seq: ClientSeq, turned: TurnedAway) {
        self.outputs.push_back(Output::CallRefused(seq, turned.why));
        let error = refused::message(turned.why, turned.retry_after);
        self.send(replies::error_frame(msg_id, seq, error));
    }

    /// A refusal of the session's own.
    fn later(&self, why: RequestRefusal, after: Duration, seq: ClientSeq) -> TurnedAway {
        TurnedAway { why, retry_after: refused::spread(after, self.session, seq.0) }
    }
}

fn late(hint: BindHint) -> BindAnswer {
    match hint {
        BindHint::Before => BindAnswer::TooLate,
        BindHint::After => BindAnswer::PublishNow,
    }
}
