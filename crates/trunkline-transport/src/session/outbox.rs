//! The output of one connection: packets already encoded, in order, bounded in bytes.
//!
//! Many append, one task writes. While it sleeps, who appends may hand the link what that takes at once, and so may who
//! appends a packet that will be the only one of the task's turn. It is data behind a short lock: nothing here waits or
//! wakes by itself; the wakers to call are handed out so that they are called after the lock is gone. `lanes` is what lanes
//! with a stream of their own have to send, `parts` how packets lie in memory.

mod lanes;
mod parts;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    task::Waker,
};

use bytes::Bytes;

pub(crate) use self::lanes::LaneWay;
pub(crate) use self::parts::{Part, SharedFrame, advance, first_of_few, gathered};
use self::{
    lanes::LaneQueues,
    parts::{BATCH, has_tail, own, push, share, tail, take_parts, write},
};
use super::{pool, unsent::Unsent};
use crate::{CloseReason, Framing, defaults::COALESCE, packet::Header, sink::Direct};

/// What the writer's task writes under the lock: copying as much takes the kernel little beside the call itself.
const LITTLE: usize = 4 << 10;

/// Output that nobody has taken yet.
#[derive(Debug)]
pub(crate) struct Outbox {
    parts: VecDeque<Part>,
    /// What goes by streams of its own, once there is any.
    lanes: Option<Box<LaneQueues>>,
    pub(crate) lane_way: LaneWay,
    /// One packet for each lane of which only the newest counts, behind everything else. There are 256 lanes at most.
    latest: VecDeque<(u8, Vec<u8>)>,
    /// Bytes that are not written yet, those of all lanes and those that the writer has taken included.
    queued: usize,
    /// Bytes promised by permits.
    reserved: usize,
    limit: usize,
    /// One part per packet, so that whole packets can be dropped.
    keeps_apart: bool,
    /// Bytes ever appended, and ever written or dropped, but for lanes' own: `flushed` waits for one to reach the other.
    appended: u64,
    done: u64,
    pub(crate) state: State,
    /// The writer's task, while it sleeps.
    writer: Option<Waker>,
    /// The writer's task runs, and looks here again before it sleeps.
    is_awake: bool,
    /// Something has changed since it looked.
    has_news: bool,
    /// The link itself, where it takes bytes from whoever has some.
    pub(crate) link: Option<Direct>,
    /// Why it took nothing any more, for the writer's task.
    broken: Option<io::Error>,
    /// Somebody has written to it since the writer's task ran.
    was_written: bool,
    /// Packets that were appended since the writer's task last looked, as far as it matters: none, one, more.
    since_look: u8,
    /// The last time that anything was, it was one: so it will be again, and that one need not wait for the end of the turn.
    comes_alone: bool,
    /// Who waits for room, in which queue.
    room: Vec<(u8, Waker)>,
    /// Who waits until so many bytes are done, or for the end.
    flushing: Vec<(Mark, Waker)>,
    /// What was left when the connection ended, until somebody takes it or nobody can any more.
    pub(crate) unsent: Vec<Unsent>,
    /// Somebody found no room since the writer last made some.
    pub(crate) is_pressed: bool,
}

/// A place in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// A lane's own queue; 0 is the rest.
    queue: u8,
    /// Bytes appended to it until there.
    at: u64,
}

impl Mark {
    /// What is never reached: the end of the connection.
    pub(crate) const END: Self = Self { queue: 0, at: u64::MAX };
}

/// Whether packets may be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    /// What is queued is still sent; then the connection ends.
    Closing(CloseReason),
    Closed(CloseReason),
}

/// How often somebody other than the writer's task may write to the link while that sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Often {
    /// Once, which spares a single packet the way through the task; who has many more has them written together.
    OnceAsleep,
    /// Each time: to many peers, one packet each.
    Always,
}

impl Outbox {
    pub(crate) fn new(limit: usize, keeps_apart: bool) -> Self {
        Self {
            parts: VecDeque::new(),
            lanes: None,
            lane_way: LaneWay::Shared,
            latest: VecDeque::new(),
            queued: 0,
            reserved: 0,
            limit,
            keeps_apart,
            appended: 0,
            done: 0,
            state: State::Open,
            writer: None,
            is_awake: false,
            has_news: false,
            link: None,
            broken: None,
            was_written: false,
            since_look: 0,
            comes_alone: false,
            room: Vec::new(),
            flushing: Vec::new(),
            is_pressed: false,
            unsent: Vec::new(),
        }
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    pub(crate) fn appended(&self) -> u64 {
        self.appended
    }

    /// Where everything that was appended to this queue ends.
    pub(crate) fn mark(&self, queue: u8) -> Mark {
        if queue == 0 { Mark { queue, at: self.appended } } else { self.lane_mark(queue) }
    }

    /// Whether a packet of this size may be appended to this queue. One that is over the limit may be alone. Where lanes have
    /// queues of their own, each takes more only while it holds less than is free: one that is held up leaves room for the
    /// others, however many there are.
    pub(crate) fn has_room(&self, queue: u8, size: usize) -> bool {
        let used = self.queued + self.reserved;
        if used == 0 {
            return true;
        }
        let is_fair = self.lanes.is_none() || self.own(queue, used) < self.limit.saturating_sub(used);
        used + size <= self.limit && is_fair
    }

    /// Whether what is not in a lane's own queue is down to its low-water mark, at which who waits for room is woken.
    pub(crate) fn is_low(&self) -> bool {
        let used = self.queued + self.reserved;
        let share = if self.lanes.is_some() { self.limit.saturating_sub(used) } else { self.limit };
        self.own(0, used) <= share / 2
    }

    /// Whether a control packet may still be appended: a bounded lot beyond the limit, since it must not wait.
    pub(crate) fn has_room_for_control(&self) -> bool {
        self.queued <= self.limit.saturating_mul(2)
    }

    /// Something has changed that concerns the writer's task: whom to wake, unless it runs and sees it anyway.
    pub(crate) fn rouse(&mut self) -> Option<Waker> {
        self.has_news = true;
        self.rouse_to_write()
    }

    /// As [`Outbox::rouse`], where the change is nothing but output: who has some unwritten already goes on with it anyway.
    pub(crate) fn rouse_to_write(&mut self) -> Option<Waker> {
        if self.is_awake { None } else { self.writer.take() }
    }

    /// The writer's task runs, and is about to look at everything: whether something has changed besides output, and whether
    /// lanes have something new for their streams.
    pub(crate) fn look(&mut self) -> (bool, bool) {
        self.is_awake = true;
        self.was_written = false;
        match std::mem::take(&mut self.since_look) {
            0 => {}
            some => self.comes_alone = some == 1,
        }
        (std::mem::take(&mut self.has_news), self.take_lane_news())
    }

    /// The writer's task has nothing to do: whether it may sleep, since nothing has changed while it looked.
    pub(crate) fn sleep(&mut self, waker: &Waker) -> bool {
        if self.has_news {
            return false;
        }
        self.is_awake = false;
        match &mut self.writer {
            Some(old) if old.will_wake(waker) => {}
            other => *other = Some(waker.clone()),
        }
        true
    }

    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.reserved += bytes;
    }

    pub(crate) fn release(&mut self, bytes: usize) {
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// Appends a packet, of which the link takes what it can at once if it may be asked: how many bytes wait.
    pub(crate) fn append(
        &mut self,
        framing: Framing,
        header: Header,
        ext: &[u8],
        payload: &Bytes,
        is_droppable: bool,
        often: Often,
    ) -> usize {
        let may_write = self.queued == 0 && self.may_write_now(often);
        self.since_look = self.since_look.saturating_add(1);
        let apart = self.keeps_apart && is_droppable;
        if !may_write || payload.len() > COALESCE {
            let added = push(&mut self.parts, framing, header, ext, payload, apart);
            self.queued += added;
            self.appended += added as u64;
            if !may_write {
                return added;
            }
            let taken =
                self.hand_over(|link, parts| gathered(parts, 0, |slices| link.write_vectored(slices)));
            self.wrote(taken);
            return added - taken;
        }
        let framed = Self::framed(framing, header, ext, payload);
        let size = framed.len();
        let taken = self.hand_over(|link, _| link.write_vectored(&[IoSlice::new(&framed)]));
        self.appended += size as u64;
        if taken == size {
            self.done += size as u64;
            pool::give(framed);
            return 0;
        }
        own(&mut self.parts, framed, apart);
        self.queued += size;
        self.wrote(taken);
        size - taken
    }

    /// A packet as one framed piece.
    pub(crate) fn framed(framing: Framing, header: Header, ext: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut out = pool::take(header.total() + Framing::MAX_HEADER);
        write(framing, header, ext, payload, &mut out);
        out
    }

    /// Puts a framed packet in the place of its lane's last one: how many bytes that had, if it was still there. It keeps
    /// its predecessor's turn, and is taken whether there is room or not: each lane holds one.
    pub(crate) fn put_latest(&mut self, lane: u8, framed: Vec<u8>) -> Option<usize> {
        self.queued += framed.len();
        self.appended += framed.len() as u64;
        let Some((_, old)) = self.latest.iter_mut().find(|(other, _)| *other == lane) else {
            self.latest.push_back((lane, framed));
            return None;
        };
        let old = std::mem::replace(old, framed);
        let size = old.len();
        pool::give(old);
        self.queued -= size;
        self.done += size as u64;
        Some(size)
    }

    /// Appends bytes that are framed already: control frames.
    pub(crate) fn push_framed(&mut self, bytes: &[u8]) {
        tail(&mut self.parts, bytes.len(), false).extend_from_slice(bytes);
        self.queued += bytes.len();
        self.appended += bytes.len() as u64;
    }

    /// Appends a packet that many connections share, of which the link takes what it can at once: how many bytes wait.
    pub(crate) fn append_shared(&mut self, frame: &SharedFrame) -> usize {
        let mut taken = 0;
        if self.queued == 0 && self.may_write_now(Often::Always) {
            taken = self.hand_over(|link, _| match &frame.body[..] {
                [] => link.write_vectored(&[IoSlice::new(&frame.head)]),
                body => link.write_vectored(&[IoSlice::new(&frame.head), IoSlice::new(body)]),
            });
        }
        if taken == frame.len() {
            self.appended += taken as u64;
            self.done += taken as u64;
            return 0;
        }
        self.push_shared(frame);
        self.wrote(taken);
        frame.len() - taken
    }

    fn push_shared(&mut self, frame: &SharedFrame) {
        let apart = self.keeps_apart;
        let parts = &mut self.parts;
        if frame.body.is_empty()
            && frame.head.len() <= COALESCE
            && !apart
            && has_tail(parts, frame.head.len())
        {
            tail(parts, frame.head.len(), false).extend_from_slice(&frame.head);
        } else {
            share(parts, frame.head.clone(), false, apart);
            if !frame.body.is_empty() {
                share(parts, frame.body.clone(), true, apart);
            }
        }
        self.queued += frame.len();
        self.appended += frame.len() as u64;
    }

    /// Why somebody else could not write to the link.
    pub(crate) fn take_broken(&mut self) -> Option<io::Error> {
        self.broken.take()
    }

    /// Whether the link may be asked by whoever appends, where nothing is unwritten; else the writer's task does it.
    fn may_write_now(&self, often: Often) -> bool {
        let may_write = match self.is_awake {
            // What follows at once is better written together.
            true => self.comes_alone && self.since_look == 0,
            // A task that was woken will write at once, and much in one piece.
            false => self.writer.is_some() && (often == Often::Always || !self.was_written),
        };
        // Who waits for room is told by the task, once it has written.
        may_write && self.room.is_empty() && self.link.is_some()
    }

    /// Writes for the writer's task, which hears of an error when it looks here: how many bytes the link took.
    fn hand_over(&mut self, write: impl FnOnce(&Direct, &VecDeque<Part>) -> io::Result<usize>) -> usize {
        let Some(link) = &self.link else { return 0 };
        match write(link, &self.parts) {
            Ok(written) => {
                self.was_written = true;
                written
            }
            Err(error) => {
                self.broken = Some(error);
                self.link = None;
                0
            }
        }
    }

    /// Hands the link what waits, from where it is: the writer's task calls it while it has taken no batch. Whether nothing
    /// is left to do then, and how many bytes it took. Only a little, in one piece: others wait for the lock meanwhile.
    pub(crate) fn write_little(&mut self) -> io::Result<(bool, usize)> {
        let Some(link) = self.link.as_ref().filter(|_| self.state == State::Open && self.lanes.is_none())
        else {
            return Ok((false, 0));
        };
        if self.queued == 0 {
            return Ok((true, 0));
        }
        if self.parts.len() != 1 || self.queued > LITTLE {
            return Ok((false, 0));
        }
        let written = gathered(&self.parts, 0, |slices| link.write_vectored(slices))?;
        self.wrote(written);
        Ok((self.queued == 0, written))
    }

    /// So many bytes of the parts, taken by nobody yet, are written.
    fn wrote(&mut self, written: usize) {
        let begun = advance(&mut self.parts, 0, written);
        if let Some(first) = self.parts.front_mut().filter(|_| begun > 0) {
            first.begin(begun);
        }
        self.queued -= written;
        self.done += written as u64;
    }

    /// Drops the oldest droppable packets until `size` fits: how many, and how many bytes.
    pub(crate) fn drop_oldest(&mut self, size: usize) -> (u64, usize) {
        let (mut packets, mut bytes) = (0, 0);
        let mut at = 0;
        while !self.has_room(0, size) && at < self.parts.len() {
            if !self.parts[at].begins_droppable() {
                at += 1;
                continue;
            }
            packets += 1;
            loop {
                let Some(part) = self.parts.remove(at) else { break };
                bytes += part.bytes().len();
                self.queued -= part.bytes().len();
                if !self.parts.get(at).is_some_and(Part::continues) {
                    break;
                }
            }
        }
        self.done += bytes as u64;
        (packets, bytes)
    }

    /// Gives the writer its next batch; `false` if there is none.
    pub(crate) fn take_batch(&mut self, into: &mut VecDeque<Part>) -> bool {
        let mut taken = take_parts(&mut self.parts, into);
        while taken < BATCH
            && let Some((_, bytes)) = self.latest.pop_front()
        {
            taken += bytes.len();
            into.push_back(Part::whole(bytes));
        }
        taken > 0
    }

    /// Bytes were written: who is to be woken now.
    pub(crate) fn written(&mut self, bytes: usize, wake: &mut Vec<Waker>) {
        self.queued -= bytes;
        self.done += bytes as u64;
        self.wake_ready(wake);
    }

    /// Who can go on, as things are now.
    pub(crate) fn wake_ready(&mut self, wake: &mut Vec<Waker>) {
        // Half is the low-water mark: waking at every packet would make the queue a ping-pong of one packet.
        if self.lanes.is_some() {
            self.wake_for_room_of_lanes(wake);
        } else if self.queued + self.reserved <= self.limit / 2 {
            self.is_pressed = false;
            wake.extend(self.room.drain(..).map(|(_, waker)| waker));
        }
        if self.flushing.is_empty() {
            return;
        }
        let mut flushing = std::mem::take(&mut self.flushing);
        wake.extend(flushing.extract_if(.., |(mark, _)| self.is_flushed(*mark)).map(|(_, waker)| waker));
        self.flushing = flushing;
    }

    /// Waits for room in a queue: true if the writer is to be woken, since nobody had found it full before.
    pub(crate) fn wait_for_room(&mut self, queue: u8, waker: &Waker) -> bool {
        if !self.room.iter().any(|(at, other)| *at == queue && other.will_wake(waker)) {
            self.room.push((queue, waker.clone()));
        }
        if queue == 0 { !std::mem::replace(&mut self.is_pressed, true) } else { self.press_lane(queue) }
    }

    pub(crate) fn is_flushed(&self, mark: Mark) -> bool {
        if mark.queue == 0 { self.done >= mark.at } else { self.is_lane_flushed(mark) }
    }

    pub(crate) fn wait_for_flush(&mut self, mark: Mark, waker: &Waker) {
        if !self.flushing.iter().any(|(at, other)| *at == mark && other.will_wake(waker)) {
            self.flushing.push((mark, waker.clone()));
        }
    }

    /// Nothing more will be written: keeps what is left behind `batch`, of whose first part `taken` bytes are gone.
    pub(crate) fn keep_unsent(&mut self, mut batch: VecDeque<Part>, taken: usize) {
        batch.append(&mut self.parts);
        let latest = std::mem::take(&mut self.latest).into_iter();
        batch.extend(latest.map(|(_, bytes)| Part::whole(bytes)));
        self.unsent.push(Unsent::new(batch, taken));
    }

    /// Nothing more will be written. Gives back what was queued, and everybody who waited.
    pub(crate) fn end(&mut self, reason: CloseReason) -> (usize, Vec<Waker>) {
        self.state = State::Closed(reason);
        self.link = None;
        self.parts = VecDeque::new();
        self.latest = VecDeque::new();
        self.end_lanes();
        let mut wake: Vec<Waker> =
            std::mem::take(&mut self.room).into_iter().map(|(_, waker)| waker).collect();
        wake.extend(std::mem::take(&mut self.flushing).into_iter().map(|(_, waker)| waker));
        wake.extend(self.writer.take());
        (std::mem::take(&mut self.queued), wake)
    }
}
