//! The output of lanes that have a stream of their own, beside everything else's. Data, as the outbox that holds it.
//!
//! A lane gets its queue with its first packet and keeps it, so that its order never depends on two streams. Whether there
//! are streams is known once the peer has said so; until then the queue waits, and without them it joins the rest.

use std::{collections::VecDeque, task::Waker};

use super::{Mark, Outbox, Part, push, take_parts};
use crate::{
    Framing,
    defaults::LANE_STREAMS,
    packet::Header,
    session::{pool, unsent::Unsent},
};

/// Where lanes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneWay {
    /// All on the one stream of the connection.
    Shared,
    /// It depends on what the peer has yet to say.
    Undecided,
    /// The first few have a stream each.
    Own,
}

/// The queues of lanes, in the order in which they began: the writer has their streams in the same.
#[derive(Debug, Default)]
pub(super) struct LaneQueues {
    queues: Vec<LaneQueue>,
    /// Bytes in all of them.
    queued: usize,
    /// Something was appended since the writer looked.
    has_news: bool,
}

#[derive(Debug)]
struct LaneQueue {
    id: u8,
    parts: VecDeque<Part>,
    /// The newest of those of which only that counts, and how many bytes it has replaced.
    latest: Option<(Vec<u8>, u64)>,
    queued: usize,
    appended: u64,
    done: u64,
    is_pressed: bool,
    /// There is no stream for it: where the rest stood when it joined.
    joined: Option<u64>,
}

impl LaneQueues {
    fn find(&self, id: u8) -> Option<&LaneQueue> {
        self.queues.iter().find(|queue| queue.id == id)
    }

    fn find_mut(&mut self, id: u8) -> Option<&mut LaneQueue> {
        self.queues.iter_mut().find(|queue| queue.id == id)
    }
}

impl Outbox {
    /// Which queue this lane's packets go to: its own, or 0, the rest's.
    pub(crate) fn queue_of(&mut self, lane: u8) -> u8 {
        // Lane 0 is what packets without a lane have.
        if self.lane_way == LaneWay::Shared || lane == 0 {
            return 0;
        }
        let lanes = self.lanes.get_or_insert_default();
        if lanes.find(lane).is_some() {
            return lane;
        }
        // Who comes later shares the stream of the rest, for as long as the connection lives.
        if lanes.queues.len() >= LANE_STREAMS as usize {
            return 0;
        }
        lanes.queues.push(LaneQueue {
            id: lane,
            parts: VecDeque::new(),
            latest: None,
            queued: 0,
            appended: 0,
            done: 0,
            is_pressed: false,
            joined: None,
        });
        lane
    }

    /// Appends a packet to a lane's own queue and says how many bytes it takes.
    pub(crate) fn push_lane(
        &mut self,
        lane: u8,
        framing: Framing,
        header: Header,
        ext: &[u8],
        payload: &bytes::Bytes,
    ) -> usize {
        let Some(lanes) = &mut self.lanes else { return 0 };
        let Some(queue) = lanes.find_mut(lane) else { return 0 };
        let added = push(&mut queue.parts, framing, header, ext, payload, false);
        queue.queued += added;
        queue.appended += added as u64;
        lanes.queued += added;
        lanes.has_news = true;
        self.queued += added;
        added
    }

    /// As [`Outbox::put_latest`], in a lane's own queue.
    pub(crate) fn put_lane_latest(&mut self, lane: u8, framed: Vec<u8>) -> Option<usize> {
        let lanes = self.lanes.as_mut()?;
        let queue = lanes.find_mut(lane)?;
        let size = framed.len();
        queue.appended += size as u64;
        let old = queue.latest.take();
        let replaced = old.map(|(bytes, before)| {
            let len = bytes.len();
            pool::give(bytes);
            (len, before)
        });
        let (len, before) = replaced.unwrap_or_default();
        // What is replaced is done when its place in the order is reached, and not before what stands in front of it.
        queue.latest = Some((framed, before + len as u64));
        queue.queued = queue.queued + size - len;
        lanes.queued = lanes.queued + size - len;
        lanes.has_news = true;
        self.queued = self.queued + size - len;
        replaced.map(|(len, _)| len)
    }

    /// Whether something was appended to lanes since this was asked.
    pub(super) fn take_lane_news(&mut self) -> bool {
        self.lanes.as_mut().is_some_and(|lanes| std::mem::take(&mut lanes.has_news))
    }

    pub(crate) fn has_lane_news(&self) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lanes.has_news)
    }

    /// How many lanes have a queue of their own.
    pub(crate) fn lane_count(&self) -> usize {
        self.lanes.as_ref().map_or(0, |lanes| lanes.queues.len())
    }

    /// Bytes of all lanes with a queue of their own.
    pub(crate) fn lanes_queued(&self) -> usize {
        self.lanes.as_ref().map_or(0, |lanes| lanes.queued)
    }

    /// The next batch of the lane at this place; false if there is none. Only when its former batch is written.
    pub(crate) fn take_lane_batch(&mut self, at: usize, into: &mut VecDeque<Part>) -> bool {
        let Some(queue) = self.lanes.as_mut().and_then(|lanes| lanes.queues.get_mut(at)) else {
            return false;
        };
        let taken = take_parts(&mut queue.parts, into);
        if taken > 0 {
            return true;
        }
        let Some((bytes, replaced)) = queue.latest.take() else { return false };
        queue.done += replaced;
        into.push_back(Part::whole(bytes));
        true
    }

    /// Bytes of the lane at this place were written: who is to be woken now.
    pub(crate) fn lane_written(&mut self, at: usize, bytes: usize, wake: &mut Vec<Waker>) {
        if let Some(lanes) = &mut self.lanes
            && let Some(queue) = lanes.queues.get_mut(at)
        {
            queue.queued -= bytes;
            queue.done += bytes as u64;
            lanes.queued -= bytes;
            self.queued -= bytes;
        }
        self.wake_ready(wake);
    }

    /// Whether somebody waits for room in the lane at this place.
    pub(crate) fn is_lane_pressed(&self, at: usize) -> bool {
        self.lanes.as_ref().and_then(|lanes| lanes.queues.get(at)).is_some_and(|queue| queue.is_pressed)
    }

    /// There are no streams for lanes: what waits for one joins the rest, each lane in its order. Only before any has one.
    pub(crate) fn share_lanes(&mut self) {
        self.lane_way = LaneWay::Shared;
        let Some(lanes) = &mut self.lanes else { return };
        lanes.queued = 0;
        for queue in &mut lanes.queues {
            self.appended += queue.queued as u64;
            self.parts.append(&mut queue.parts);
            self.latest.extend(queue.latest.take().map(|(bytes, _)| (queue.id, bytes)));
            queue.queued = 0;
            queue.joined = Some(self.appended);
            for (mark, _) in self.flushing.iter_mut().filter(|(mark, _)| mark.queue == queue.id) {
                *mark = Mark { queue: 0, at: self.appended };
            }
            for (waits_for, _) in self.room.iter_mut().filter(|(waits_for, _)| *waits_for == queue.id) {
                *waits_for = 0;
            }
        }
    }

    /// The connection is about to end: whoever still waits to hear of streams for lanes does without.
    pub(crate) fn no_lanes_to_come(&mut self) {
        if self.lane_way == LaneWay::Undecided {
            self.share_lanes();
        }
    }

    /// Where everything that was appended ends in each lane's own queue.
    pub(crate) fn lane_marks(&self) -> Vec<Mark> {
        let Some(lanes) = &self.lanes else { return Vec::new() };
        lanes.queues.iter().map(|queue| Mark { queue: queue.id, at: queue.appended }).collect()
    }

    pub(super) fn lane_mark(&self, lane: u8) -> Mark {
        let appended =
            self.lanes.as_ref().and_then(|lanes| lanes.find(lane)).map_or(0, |queue| queue.appended);
        Mark { queue: lane, at: appended }
    }

    pub(super) fn is_lane_flushed(&self, mark: Mark) -> bool {
        let queue = self.lanes.as_ref().and_then(|lanes| lanes.find(mark.queue));
        queue.is_none_or(|queue| queue.done >= mark.at || queue.joined.is_some_and(|at| self.done >= at))
    }

    /// What one queue holds of so many bytes in use.
    pub(super) fn own(&self, queue: u8, used: usize) -> usize {
        let Some(lanes) = &self.lanes else { return used };
        match queue {
            0 => used - lanes.queued,
            lane => lanes.find(lane).map_or(0, |queue| queue.queued),
        }
    }

    /// Notes that this queue was found full: whether it was not before.
    pub(super) fn press_lane(&mut self, lane: u8) -> bool {
        let queue = self.lanes.as_mut().and_then(|lanes| lanes.find_mut(lane));
        queue.is_some_and(|queue| !std::mem::replace(&mut queue.is_pressed, true))
    }

    /// As [`Outbox::wake_ready`] does for the one queue: those whose queue has room again.
    pub(super) fn wake_for_room_of_lanes(&mut self, wake: &mut Vec<Waker>) {
        let used = self.queued + self.reserved;
        let free = self.limit.saturating_sub(used);
        let Self { lanes: Some(lanes), room, is_pressed, .. } = self else { return };
        let own = |queue: u8| match queue {
            0 => used - lanes.queued,
            lane => lanes.find(lane).map_or(0, |queue| queue.queued),
        };
        wake.extend(room.extract_if(.., |(queue, _)| own(*queue) <= free / 2).map(|(_, waker)| waker));
        *is_pressed &= used - lanes.queued > free / 2;
        for queue in &mut lanes.queues {
            queue.is_pressed &= queue.queued > free / 2;
        }
    }

    /// Adds what is left behind these batches, of whose first parts so many bytes are gone, to what is given back.
    pub(crate) fn keep_lanes_unsent(&mut self, mut batches: Vec<(VecDeque<Part>, usize)>) {
        let Some(lanes) = &mut self.lanes else { return };
        batches.resize_with(lanes.queues.len(), Default::default);
        for (queue, (mut parts, taken)) in lanes.queues.iter_mut().zip(batches) {
            parts.append(&mut queue.parts);
            parts.extend(queue.latest.take().map(|(bytes, _)| Part::whole(bytes)));
            self.unsent.push(Unsent::new(parts, taken));
        }
    }

    /// Nothing more will be written.
    pub(super) fn end_lanes(&mut self) {
        self.lane_way = LaneWay::Shared;
        let Some(lanes) = &mut self.lanes else { return };
        lanes.queued = 0;
        for queue in &mut lanes.queues {
            (queue.parts, queue.latest, queue.queued) = (VecDeque::new(), None, 0);
        }
    }
}

#[cfg(test)]
mod tests;
