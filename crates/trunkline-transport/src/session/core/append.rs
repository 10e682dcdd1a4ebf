//! Into the output: with a wait for room, by the policy of slow consumers, by a lane's rule, or beyond the limit for control
//! packets. Each takes the outbox's lock once.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Waker,
};

use bytes::{BufMut, BytesMut};
use parking_lot::MutexGuard;

use super::{Core, closed};
use crate::{
    CloseReason, Flags, Packet, PacketType, SendError, SlowConsumer, StreamError, Wire,
    packet::{HEADER, control::ControlPacket, encode},
    session::outbox::{Mark, Often, Outbox, SharedFrame, State},
};

/// What became of a packet for a peer that cannot be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    Queued,
    /// The policy dropped it.
    Dropped,
    /// The policy closes the peer.
    Disconnected,
    /// The peer was closed before.
    Closed,
}

impl Core {
    /// Appends a prepared packet, its payload compressed already, if there is room.
    pub(crate) fn try_append(&self, packet: &Packet) -> Result<(), SendError> {
        self.append(packet, 0, 0).map(|_| ())
    }

    /// As [`Core::try_append`], by a lane (0: by none), into room of which `reserved` bytes are promised already; what the
    /// budget has promised is the caller's to give back. Tells where the packet ends in the output.
    pub(crate) fn append(&self, packet: &Packet, lane: u8, reserved: usize) -> Result<Mark, SendError> {
        let header = encode::header(packet, self.wire())?;
        let size = self.framed_len(header.total());
        let (mark, wake) = {
            let mut out = self.out.lock();
            if let Some(reason) = closed(&out.state) {
                return Err(SendError::Closed(reason));
            }
            let queue = if lane == 0 { 0 } else { out.queue_of(lane) };
            if reserved > 0 {
                out.release(reserved);
            } else if !self.has_room(&out, queue, size) {
                return Err(SendError::Full { queued: out.queued() });
            }
            let wake = if queue == 0 {
                let droppable = packet.packet_type == PacketType::OneWay;
                let (ext, payload) = (&packet.ext_header, &packet.payload);
                let left = out.append(self.framing, header, ext, payload, droppable, Often::OnceAsleep);
                self.rouse_for(&mut out, left)
            } else {
                let added = out.push_lane(queue, self.framing, header, &packet.ext_header, &packet.payload);
                self.shared.budget.take(added);
                out.rouse_to_write()
            };
            self.sent(&out, packet.packet_type, size);
            (out.mark(queue), wake)
        };
        wake.into_iter().for_each(Waker::wake);
        if packet.packet_type == PacketType::Response && !packet.flags.contains(Flags::MORE) {
            self.answered(packet.message_id);
        }
        Ok(mark)
    }

    pub(crate) fn framed_len(&self, total: usize) -> usize {
        total + self.framing.header_len(total)
    }

    /// What a prepared packet takes of the output.
    pub(crate) fn packet_len(&self, packet: &Packet) -> usize {
        self.framed_len(HEADER + packet.ext_header.len() + packet.payload.len())
    }

    pub(crate) fn has_room(&self, out: &Outbox, queue: u8, size: usize) -> bool {
        out.has_room(queue, size) && (self.shared.budget.has_room(size) || out.queued() == 0)
    }

    /// Waits for room: call it when a packet by this lane (0: by none) was refused as full.
    pub(crate) fn wait_for_room(&self, lane: u8, size: usize, waker: &Waker) -> bool {
        let (has_room, wake) = {
            let mut out = self.out.lock();
            let queue = out.queue_of(lane);
            if out.state != State::Open || self.has_room(&out, queue, size) {
                return true;
            }
            let first = out.wait_for_room(queue, waker);
            if !self.shared.budget.has_room(size) {
                self.shared.budget.wake_on_room(waker);
            }
            // It may have been given back between the question and the registration.
            (self.has_room(&out, queue, size), if first { out.rouse() } else { None })
        };
        wake.into_iter().for_each(Waker::wake);
        has_room
    }

    /// Appends a packet for a peer that cannot be waited for, by the policy. What that drops has found the queue full.
    pub(crate) fn append_shared(self: &Arc<Self>, frame: &SharedFrame) -> Appended {
        let size = frame.len();
        let (result, wake) = {
            let mut out = self.out.lock();
            if out.state != State::Open {
                return Appended::Closed;
            }
            let result = self.make_room(&mut out, size);
            let wake = if result == Appended::Queued {
                self.sent(&out, PacketType::OneWay, size);
                let left = out.append_shared(frame);
                self.rouse_for(&mut out, left)
            } else {
                self.rouse_unless_queued(result, &mut out)
            };
            (result, wake)
        };
        wake.into_iter().for_each(Waker::wake);
        if result == Appended::Dropped {
            self.dropped(1, true);
            self.found_full(size);
        }
        result
    }

    /// As [`Core::append_shared`], for a prepared packet for this connection alone.
    pub(crate) fn append_by_policy(self: &Arc<Self>, packet: &Packet) -> Result<Appended, SendError> {
        let header = encode::header(packet, self.wire())?;
        let size = self.framed_len(header.total());
        let (result, wake) = {
            let mut out = self.out.lock();
            if let Some(reason) = closed(&out.state) {
                return Err(SendError::Closed(reason));
            }
            let result = self.make_room(&mut out, size);
            if let Some(reason) = closed(&out.state).filter(|_| result == Appended::Closed) {
                return Err(SendError::Closed(reason));
            }
            let wake = if result == Appended::Queued {
                self.sent(&out, packet.packet_type, size);
                let droppable = packet.packet_type == PacketType::OneWay;
                let (ext, payload) = (&packet.ext_header, &packet.payload);
                let left = out.append(self.framing, header, ext, payload, droppable, Often::Always);
                self.rouse_for(&mut out, left)
            } else {
                self.rouse_unless_queued(result, &mut out)
            };
            (result, wake)
        };
        wake.into_iter().for_each(Waker::wake);
        match result {
            Appended::Queued => {
                if packet.packet_type == PacketType::Response && !packet.flags.contains(Flags::MORE) {
                    self.answered(packet.message_id);
                }
            }
            Appended::Dropped => {
                self.dropped(1, true);
                self.found_full(size);
            }
            Appended::Disconnected | Appended::Closed => {}
        }
        Ok(result)
    }

    /// Appends a prepared packet in the place of the lane's last one, unless that has begun to be sent.
    pub(crate) fn append_latest(&self, packet: &Packet, lane: u8) -> Result<(), SendError> {
        let header = encode::header(packet, self.wire())?;
        let framed = Outbox::framed(self.framing, header, &packet.ext_header, &packet.payload);
        let size = framed.len();
        let (replaced, wake) = {
            let mut out = self.out.lock();
            if let Some(reason) = closed(&out.state) {
                return Err(SendError::Closed(reason));
            }
            let replaced = match out.queue_of(lane) {
                0 => out.put_latest(lane, framed),
                lane => out.put_lane_latest(lane, framed),
            };
            self.sent(&out, packet.packet_type, size);
            (replaced, out.rouse_to_write())
        };
        self.shared.budget.take(size);
        if let Some(old) = replaced {
            self.shared.budget.give(old);
            self.stats.lane_replaced.fetch_add(1, Relaxed);
        }
        wake.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Sends a prepared packet as a datagram, or appends it if there is room, or drops it.
    pub(crate) fn append_unreliable(&self, packet: &Packet) -> Result<(), SendError> {
        let header = encode::header(packet, self.wire())?;
        let streams = self.streams.lock().clone();
        if let Some(streams) = streams.filter(|streams| streams.max_datagram_size() >= Some(header.total())) {
            let mut bytes = BytesMut::with_capacity(header.total());
            bytes.put_slice(&header.to_bytes());
            bytes.put_slice(&packet.ext_header);
            bytes.put_slice(&packet.payload);
            match streams.send_datagram(bytes.freeze()) {
                Ok(()) => {
                    self.stats.sent_datagrams.fetch_add(1, Relaxed);
                    self.sent(&self.out.lock(), packet.packet_type, header.total());
                    return Ok(());
                }
                // The path has become smaller meanwhile: the stream takes it.
                Err(StreamError::Datagram(_) | StreamError::Unsupported) => {}
                Err(StreamError::ConnectionLost(why)) => {
                    return Err(SendError::Closed(CloseReason::Lost(why)));
                }
            }
        }
        match self.append(packet, 0, 0) {
            Err(SendError::Full { .. }) => {
                self.stats.lane_dropped.fetch_add(1, Relaxed);
                Ok(())
            }
            appended => appended.map(|_| ()),
        }
    }

    /// Applies the policy of a full queue, which may be let go of meanwhile.
    fn make_room(&self, out: &mut MutexGuard<'_, Outbox>, size: usize) -> Appended {
        if self.has_room(out, 0, size) {
            return Appended::Queued;
        }
        match self.shared.slow_consumer {
            SlowConsumer::Wait(_) | SlowConsumer::DropNewest => Appended::Dropped,
            SlowConsumer::Disconnect => {
                out.state = State::Closing(CloseReason::Slow);
                Appended::Disconnected
            }
            SlowConsumer::DropOldest => {
                let (packets, bytes) = out.drop_oldest(size);
                // Who waits for the budget is woken, perhaps to look at this very output.
                MutexGuard::unlocked(out, || self.shared.budget.give(bytes));
                self.dropped(packets, false);
                match out.state {
                    State::Open if self.has_room(out, 0, size) => Appended::Queued,
                    State::Open => Appended::Dropped,
                    State::Closing(_) | State::Closed(_) => Appended::Closed,
                }
            }
        }
    }

    /// So many bytes more wait in the output: whom to wake for them.
    fn rouse_for(&self, out: &mut Outbox, left: usize) -> Option<Waker> {
        if left == 0 {
            return None;
        }
        self.shared.budget.take(left);
        out.rouse_to_write()
    }

    /// Whom to wake for what has become of a packet for one of many.
    fn rouse_unless_queued(&self, result: Appended, out: &mut Outbox) -> Option<Waker> {
        match result {
            // The task may be about to sleep behind what does not get away.
            Appended::Disconnected => out.rouse(),
            Appended::Dropped if self.press(out) => out.rouse(),
            Appended::Queued | Appended::Dropped | Appended::Closed => None,
        }
    }

    /// Notes that the queue was found full: true for the first time, when the driver has to start its clock.
    fn press(&self, out: &mut Outbox) -> bool {
        matches!(self.shared.slow_consumer, SlowConsumer::Wait(_))
            && !std::mem::replace(&mut out.is_pressed, true)
    }

    /// Queues a control packet, on v2 only. It never waits; beyond twice the limit it is given up, since then the peer
    /// takes nothing anyway.
    pub(crate) fn control(&self, packet: &ControlPacket) {
        if self.wire() == Wire::V2 {
            let bytes = packet.to_bytes();
            self.push_raw(&self.framing.frame(crate::FrameKind::Binary, &bytes));
        }
    }

    /// Queues bytes that are framed already.
    pub(crate) fn push_raw(&self, framed: &[u8]) {
        let wake = {
            let mut out = self.out.lock();
            if out.state != State::Open || !out.has_room_for_control() {
                return;
            }
            out.push_framed(framed);
            self.shared.budget.take(framed.len());
            out.rouse_to_write()
        };
        wake.into_iter().for_each(Waker::wake);
    }

    /// Counts a packet on its way out, under the output's lock.
    fn sent(&self, _: &Outbox, packet_type: PacketType, bytes: usize) {
        self.stats.sent(packet_type, bytes);
    }

    fn dropped(&self, packets: u64, newest: bool) {
        let counter = if newest { &self.stats.dropped_newest } else { &self.stats.dropped_oldest };
        counter.fetch_add(packets, Relaxed);
    }
}
