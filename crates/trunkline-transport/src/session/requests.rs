//! Requests of one connection, in both directions. Data behind short locks, as the outbox.
//!
//! [`Pending`] are ours: each waits for one response, or for the parts of a streamed one. [`Open`] are the peer's
//! that have no response yet: a shutdown waits for them.

use std::{collections::VecDeque, task::Waker};

use tokio::time::Instant;

use super::numbers::ByNumber;
use crate::{
    CloseReason, Packet, RequestError,
    defaults::OPEN_REQUESTS,
    packet::{Flags, HEADER},
};

/// Our requests.
#[derive(Debug)]
pub(crate) struct Pending {
    waiting: ByNumber<Slot>,
    next_id: u32,
    limit: usize,
    /// Who waits for a place.
    queue: Vec<(Instant, Waker)>,
    /// When the driver's timer is to look here next.
    pub(crate) armed: Option<Instant>,
    end: Option<RequestError>,
}

#[derive(Debug)]
struct Slot {
    deadline: Instant,
    timeout: std::time::Duration,
    waker: Option<Waker>,
    answer: Option<Packet>,
    /// Nothing more comes, and why if it failed.
    end: Option<Result<(), RequestError>>,
    /// A streamed reply has this instead of an answer.
    stream: Option<Box<StreamedReply>>,
}

/// What has come of a streamed reply, and how much of it may come. Each part counts its payload and its header.
#[derive(Debug)]
struct StreamedReply {
    parts: VecDeque<Packet>,
    /// What the peer may have sent at once.
    window: usize,
    /// What it has sent beyond what it was granted anew.
    outstanding: usize,
    /// What was taken and not granted yet.
    taken: usize,
}

impl StreamedReply {
    fn new(window: usize) -> Box<Self> {
        Box::new(Self { parts: VecDeque::new(), window, outstanding: 0, taken: 0 })
    }

    /// The next part, and how much the peer is to be granted anew.
    fn take(&mut self) -> Option<(Packet, u32)> {
        let packet = self.parts.pop_front()?;
        self.taken += part_cost(&packet);
        // At half a window: one word for many parts, and the peer never has to stop for it.
        if self.taken * 2 < self.window {
            return Some((packet, 0));
        }
        let grant = u32::try_from(std::mem::take(&mut self.taken)).unwrap_or(u32::MAX);
        self.outstanding = self.outstanding.saturating_sub(grant as usize);
        Some((packet, grant))
    }
}

/// What has come for a request.
#[derive(Debug)]
pub(crate) enum Taken {
    /// All there is. Its place is free: whom to wake, who waits for one.
    Answer(Packet, Option<Waker>),
    /// A part of a streamed reply, and how much of it the peer is to be granted anew.
    Part(Packet, u32),
    /// Nothing more.
    End(Result<(), RequestError>),
}

/// What to do about a response.
#[derive(Debug)]
pub(crate) enum Delivered {
    /// It was expected: wake who waits.
    To(Option<Waker>),
    /// Nobody waits for it.
    Stale,
    /// More of a stream than was allowed: tell the peer to stop, and wake who waits.
    OverWindow(Option<Waker>),
}

impl Pending {
    pub(crate) fn new(limit: usize) -> Self {
        Self { waiting: ByNumber::default(), next_id: 1, limit, queue: Vec::new(), armed: None, end: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no request can be begun any more.
    pub(crate) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Whether a response to this number is expected.
    pub(crate) fn is_waiting(&self, id: u32) -> bool {
        self.waiting.get(id).is_some_and(|slot| slot.end.is_none())
    }

    /// The next number that no request in flight has; 0 is nobody's.
    pub(crate) fn next_id(&mut self) -> u32 {
        loop {
            let id = self.next_id;
            self.next_id = id.checked_add(1).unwrap_or(1);
            if !self.waiting.contains(id) {
                return id;
            }
        }
    }

    /// Takes a place, or waits for one: the request's number, of whose answer the waker will hear. Its `Err` is final.
    pub(crate) fn begin(
        &mut self,
        deadline: Instant,
        timeout: std::time::Duration,
        stream_window: Option<usize>,
        waker: &Waker,
    ) -> Option<Result<u32, RequestError>> {
        if let Some(error) = &self.end {
            return Some(Err(error.clone()));
        }
        if self.waiting.len() >= self.limit {
            if !self.queue.iter().any(|(_, other)| other.will_wake(waker)) {
                self.queue.push((deadline, waker.clone()));
            }
            return None;
        }
        let id = self.next_id();
        self.waiting.insert(
            id,
            Slot {
                deadline,
                timeout,
                waker: Some(waker.clone()),
                answer: None,
                end: None,
                stream: stream_window.map(StreamedReply::new),
            },
        );
        Some(Ok(id))
    }

    /// Whether the driver's timer must be set earlier for this deadline.
    pub(crate) fn arms(&mut self, deadline: Instant) -> bool {
        if self.armed.is_some_and(|armed| armed <= deadline) {
            return false;
        }
        self.armed = Some(deadline);
        true
    }

    /// What has come for a request; otherwise it waits.
    pub(crate) fn take(&mut self, id: u32, waker: &Waker) -> Option<Taken> {
        let Some(slot) = self.waiting.get_mut(id) else {
            // It ended and was taken already.
            return Some(Taken::End(Ok(())));
        };
        if let Some(packet) = slot.answer.take() {
            self.waiting.discard(id);
            return Some(Taken::Answer(packet, self.next_waiting()));
        }
        if let Some((packet, grant)) = slot.stream.as_mut().and_then(|stream| stream.take()) {
            return Some(Taken::Part(packet, grant));
        }
        if let Some(end) = slot.end.clone() {
            return Some(Taken::End(end));
        }
        match &mut slot.waker {
            Some(old) if old.will_wake(waker) => {}
            other => *other = Some(waker.clone()),
        }
        None
    }

    /// Gives a request's place back: who may take it. `true` if it was still going on.
    pub(crate) fn end(&mut self, id: u32) -> (bool, Option<Waker>) {
        let was_going_on = self.waiting.remove(id).is_some_and(|slot| slot.end.is_none());
        (was_going_on, self.next_waiting())
    }

    /// Who has waited longest for a place.
    fn next_waiting(&mut self) -> Option<Waker> {
        if self.queue.is_empty() { None } else { Some(self.queue.remove(0).1) }
    }

    /// A response has come.
    pub(crate) fn deliver(&mut self, packet: Packet) -> Delivered {
        let Some(slot) = self.waiting.get_mut(packet.message_id) else { return Delivered::Stale };
        if slot.end.is_some() {
            return Delivered::Stale;
        }
        let has_more = packet.flags.contains(Flags::MORE);
        if packet.flags.contains(Flags::ERROR) {
            let (code, reason) = crate::packet::control::decode_coded(&packet.payload)
                .unwrap_or((crate::codes::PROTOCOL, "malformed refusal".to_owned()));
            slot.end = Some(Err(RequestError::Refused { code, reason }));
            return Delivered::To(slot.waker.take());
        }
        if let Some(stream) = &mut slot.stream {
            if stream.outstanding >= stream.window {
                let error = RequestError::Refused {
                    code: crate::codes::OVERLOADED,
                    reason: "the peer sent more of the stream than was allowed".to_owned(),
                };
                slot.end = Some(Err(error));
                return Delivered::OverWindow(slot.waker.take());
            }
            // An empty last part only says that the stream has ended.
            if has_more || !packet.payload.is_empty() {
                stream.outstanding += part_cost(&packet);
                stream.parts.push_back(packet);
            }
            if !has_more {
                slot.end = Some(Ok(()));
            }
        } else {
            // The first part of a stream is the answer to a plain request, and the end of its interest.
            slot.answer = Some(packet);
            slot.end = Some(Ok(()));
        }
        Delivered::To(slot.waker.take())
    }

    /// Ends what is due: who to wake, the numbers that the peer need not answer, and the next deadline is armed.
    pub(crate) fn expire(&mut self, now: Instant) -> (Vec<Waker>, Vec<u32>) {
        let (mut wake, mut expired) = (Vec::new(), Vec::new());
        let mut next: Option<Instant> = None;
        let mut see = |deadline: Instant| next = Some(next.map_or(deadline, |next| next.min(deadline)));
        for (id, slot) in self.waiting.iter_mut() {
            if slot.end.is_some() {
                continue;
            }
            if slot.deadline <= now {
                slot.end = Some(Err(RequestError::TimedOut(slot.timeout)));
                wake.extend(slot.waker.take());
                expired.push(id);
            } else {
                see(slot.deadline);
            }
        }
        wake.extend(self.queue.extract_if(.., |(deadline, _)| *deadline <= now).map(|(_, waker)| waker));
        self.queue.iter().for_each(|(deadline, _)| see(*deadline));
        self.armed = next;
        (wake, expired)
    }

    /// A streamed reply has moved: its deadline counts from here.
    pub(crate) fn extend(&mut self, id: u32, now: Instant) {
        if let Some(slot) = self.waiting.get_mut(id) {
            slot.deadline = now + slot.timeout;
        }
    }

    /// No new requests from now on.
    pub(crate) fn go_away(&mut self) -> Vec<Waker> {
        self.end.get_or_insert(RequestError::GoingAway);
        std::mem::take(&mut self.queue).into_iter().map(|(_, waker)| waker).collect()
    }

    /// The connection has ended: everybody is told.
    pub(crate) fn disconnect(&mut self, reason: &CloseReason) -> Vec<Waker> {
        self.end = Some(RequestError::Disconnected(reason.clone()));
        let mut wake: Vec<Waker> =
            std::mem::take(&mut self.queue).into_iter().map(|(_, waker)| waker).collect();
        for (_, slot) in self.waiting.iter_mut() {
            if slot.end.is_none() {
                slot.end = Some(Err(RequestError::Disconnected(reason.clone())));
            }
            wake.extend(slot.waker.take());
        }
        wake
    }
}

/// What a part of a streamed reply costs of its window, on both sides.
pub(crate) fn part_cost(packet: &Packet) -> usize {
    HEADER + packet.payload.len()
}

/// The peer's requests.
#[derive(Debug, Default)]
pub(crate) struct Open {
    requests: ByNumber<OpenRequest>,
    /// No new ones are taken: the connection is being drained.
    pub(crate) is_draining: bool,
    /// Who waits until there are none.
    drained: Option<Waker>,
}

/// One request of the peer that has no response yet.
#[derive(Debug, Default)]
struct OpenRequest {
    /// How many bytes of a streamed reply may still be sent.
    credit: usize,
    is_cancelled: bool,
    /// Who answers it, waiting for credit or for its cancellation.
    waker: Option<Waker>,
}

/// Whether a streamed reply may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credit {
    Granted,
    Cancelled,
    /// The request is not open: answered, or never asked.
    Gone,
}

impl Open {
    /// A request has come. Beyond what is remembered it is handled all the same, but no shutdown waits for it.
    pub(crate) fn begin(&mut self, message_id: u32) {
        if self.requests.len() < OPEN_REQUESTS {
            self.requests.insert(message_id, OpenRequest::default());
        }
    }

    pub(crate) fn contains(&self, message_id: u32) -> bool {
        self.requests.contains(message_id)
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(crate) fn numbers(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.requests.numbers().collect();
        numbers.sort_unstable();
        numbers
    }

    /// It is answered, or will never be.
    pub(crate) fn end(&mut self, message_id: u32) -> [Option<Waker>; 2] {
        let own = self.requests.remove(message_id).and_then(|request| request.waker);
        let drained = if self.requests.is_empty() { self.drained.take() } else { None };
        [own, drained]
    }

    /// The peer wants no answer any more.
    pub(crate) fn cancel(&mut self, message_id: u32) -> Option<Waker> {
        let request = self.requests.get_mut(message_id)?;
        request.is_cancelled = true;
        request.waker.take()
    }

    pub(crate) fn is_cancelled(&self, message_id: u32) -> bool {
        self.requests.get(message_id).is_some_and(|request| request.is_cancelled)
    }

    /// The peer allows more of a streamed reply.
    pub(crate) fn grant(&mut self, message_id: u32, bytes: u32) -> Option<Waker> {
        let request = self.requests.get_mut(message_id)?;
        request.credit = request.credit.saturating_add(bytes as usize);
        request.waker.take()
    }

    /// Takes credit for a part of a streamed reply; `None` waits for it.
    pub(crate) fn spend(&mut self, message_id: u32, bytes: usize, waker: &Waker) -> Option<Credit> {
        let Some(request) = self.requests.get_mut(message_id) else { return Some(Credit::Gone) };
        if request.is_cancelled {
            return Some(Credit::Cancelled);
        }
        // One part may be larger than what is left, so that every part passes some day.
        if request.credit > 0 {
            request.credit = request.credit.saturating_sub(bytes);
            return Some(Credit::Granted);
        }
        request.waker = Some(waker.clone());
        None
    }

    /// Whether the request is given up; otherwise the waker is called when it is.
    pub(crate) fn poll_cancelled(&mut self, message_id: u32, waker: &Waker) -> bool {
        let Some(request) = self.requests.get_mut(message_id) else { return false };
        if !request.is_cancelled {
            request.waker = Some(waker.clone());
        }
        request.is_cancelled
    }

    /// Whether none is open; otherwise the waker is called when none is.
    pub(crate) fn poll_drained(&mut self, waker: &Waker) -> bool {
        if self.requests.is_empty() {
            return true;
        }
        self.drained = Some(waker.clone());
        false
    }

    /// The connection has ended.
    pub(crate) fn disconnect(&mut self) -> Vec<Waker> {
        let mut requests = std::mem::take(&mut self.requests);
        requests
            .iter_mut()
            .filter_map(|(_, request)| request.waker.take())
            .chain(self.drained.take())
            .collect()
    }
}
