//! What a connection's task reads: frames become packets, and packets go to whom they are for.

use std::{
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, Waker},
};

use tokio::time::Instant;

use super::{
    Driver, Phase, READS, frame_limit,
    intake::{Parted, Raw, Stage},
};
use crate::{
    CloseReason, Flags, FrameKind, Incoming, Overflow, Packet, PacketType, ReadError, Wire, codes,
    packet::{
        Kind,
        control::{ControlPacket, Features},
        encode, stream,
    },
    session::{events::overflow, inbox::Item, requests::Delivered},
};

impl Driver {
    /// Reads what is there: whether there is more to do than wait for a waker.
    pub(super) fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if let Some(unproven) = &mut self.unproven
            && unproven.complete.as_mut().poll(cx).is_ready()
        {
            self.unproven = None;
        }
        let mut again = self.poll_stage(cx)?;
        if self.stage.is_some() {
            return Ok(again);
        }
        self.learn_limit();
        self.heart.was_heard |= again;
        self.read_frames(cx, &mut again)?;
        if matches!(self.phase, Phase::Open) && !self.is_paused {
            again |= self.read_datagrams(cx)?;
        }
        if self.listens() && !self.is_paused {
            again |= self.read_lanes(cx)?;
        }
        if self.stage.is_none()
            && !self.is_paused
            && self.lanes.as_ref().is_none_or(|lanes| lanes.is_drained())
            && let Some(reason) = self.ending.take()
        {
            again = true;
            self.peer_ended(reason);
        }
        let of_lanes = self.lanes.as_ref().map_or(0, |lanes| lanes.held());
        let held = self.reader.held() + of_lanes + self.stage.as_ref().map_or(0, Stage::size);
        if held != self.held {
            self.core.shared.budget.take(held);
            self.core.shared.budget.give(std::mem::replace(&mut self.held, held));
        }
        Ok(again)
    }

    /// The limit of packets changes when the peer has proved itself.
    fn learn_limit(&mut self) {
        let limit = self.core.message_limit();
        if limit != self.limit {
            self.limit = limit;
            self.reader.set_max_frame(frame_limit(self.core.framing, limit));
            if let Some(lanes) = &mut self.lanes {
                lanes.set_limit(limit);
            }
        }
    }

    /// The connection's own stream. `again` becomes true if there is more to do than wait for a waker.
    fn read_frames(&mut self, cx: &mut Context<'_>, again: &mut bool) -> Result<(), CloseReason> {
        let mut reads = 0..READS;
        while self.listens() {
            if self.ending.is_some() {
                self.is_paused = false;
                break;
            }
            self.is_paused = self.should_pause(cx.waker());
            if self.is_paused {
                break;
            }
            if reads.next().is_none() {
                *again = true;
                break;
            }
            match self.reader.poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(incoming))) => {
                    self.heart.was_heard = true;
                    self.incoming(incoming, cx)?;
                    if self.stage.is_some() {
                        *again = true;
                        break;
                    }
                }
                Poll::Ready(Ok(None)) => {
                    *again = true;
                    let reason = match (self.going_away.take(), &self.broken) {
                        (Some(reason), _) => CloseReason::Peer { code: codes::GOING_AWAY, reason },
                        (None, Some(broken)) => CloseReason::Lost(broken.error.clone()),
                        (None, None) => CloseReason::Ended,
                    };
                    self.peer_ends(reason);
                    break;
                }
                Poll::Ready(Err(ReadError::Io(error))) => {
                    return Err(self.lost(error.to_string()));
                }
                Poll::Ready(Err(error)) => {
                    *again = true;
                    self.broke_protocol(&error);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether anything is still read. While the rest is sent, responses and credit for it may still arrive, and a peer that
    /// ends must be noticed.
    pub(super) fn listens(&self) -> bool {
        match self.phase {
            Phase::Open => true,
            Phase::Closing { .. } => !self.core.has_ended(),
            Phase::PeerEnded(..) => false,
        }
    }

    pub(super) fn should_pause(&mut self, waker: &Waker) -> bool {
        if !self.core.shared.budget.has_room(0) && self.core.inbox.lock().bytes() > 0 {
            self.core.shared.budget.wake_on_room(waker);
            return !self.core.shared.budget.has_room(0);
        }
        self.is_inbox_full = self.is_inbox_full && !self.core.inbox.lock().has_room();
        if !self.is_inbox_full || overflow(&self.core) != Overflow::Wait {
            return false;
        }
        let mut inbox = self.core.inbox.lock();
        inbox.pause(waker);
        !inbox.has_room()
    }

    fn incoming(&mut self, incoming: Incoming, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        match incoming {
            Incoming::Frame(frame) if frame.kind == FrameKind::Binary => self.frame(frame.bytes, cx),
            Incoming::Frame(_) => {
                let error = ReadError::Protocol { close_code: 1002, reason: "packets are binary messages" };
                self.broke_protocol(&error);
                Ok(())
            }
            Incoming::Ping(payload) => {
                if let Some(pong) = self.core.framing.pong(&payload) {
                    self.core.push_raw(&pong);
                }
                Ok(())
            }
            Incoming::Pong(_) => Ok(()),
            Incoming::Close { code, reason } => {
                let code = code.unwrap_or(codes::NORMAL);
                self.peer_ends(CloseReason::Peer { code, reason });
                Ok(())
            }
        }
    }

    fn frame(&mut self, bytes: bytes::Bytes, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let Some(parted) = self.split(bytes) else { return Ok(()) };
        self.core.learn_wire(parted.header.wire);
        self.first_packet = None;
        self.parted(parted, cx)
    }

    /// Splits a packet into its parts. `None`: it is none, and the peer has broken the protocol.
    pub(super) fn split(&mut self, bytes: bytes::Bytes) -> Option<Parted> {
        let size = bytes.len();
        match encode::split(bytes, self.limit) {
            Ok((header, ext, payload)) => Some(Parted { header, ext, payload, size }),
            Err(error) => {
                self.broke_protocol(&stream::refused(&error));
                None
            }
        }
    }

    /// A packet is split into its parts.
    pub(super) fn parted(&mut self, parted: Parted, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        if self.unproven.is_some() {
            if !parted.may_be_early() {
                self.stage = Some(Stage::Unproven(Box::new(parted)));
                return Ok(());
            }
            self.core.stats.received_early.fetch_add(1, Relaxed);
        }
        let Parted { header, ext, payload, size } = parted;
        match header.kind {
            Kind::Control(control) => {
                match ControlPacket::parse(&header, control, &payload) {
                    Ok(packet) => self.control(packet),
                    Err(error) => self.broke_protocol(&stream::refused(&error)),
                }
                Ok(())
            }
            // As most do, without being carried from hand to hand.
            Kind::Data(packet_type) if self.passes(&header) => {
                let packet = encode::assemble(&header, packet_type, ext, payload);
                self.packet(packet, size, cx.waker())
            }
            Kind::Data(packet_type) => self.arrived(Raw { header, packet_type, ext, payload, size }, cx),
        }
    }

    /// A packet is through.
    pub(super) fn packet(&mut self, packet: Packet, size: usize, waker: &Waker) -> Result<(), CloseReason> {
        self.core.stats.received(packet.packet_type, size);
        match packet.packet_type {
            PacketType::Response => self.response(packet, waker),
            PacketType::Request => {
                let is_refused = {
                    let mut open = self.core.open.lock();
                    if open.is_draining && self.core.wire() == Wire::V2 {
                        true
                    } else {
                        open.begin(packet.message_id);
                        false
                    }
                };
                if is_refused {
                    // Best effort: the peer was told before that new requests are refused.
                    let refusal = packet.reply_error(codes::GOING_AWAY, "draining");
                    drop(self.core.try_append(&refusal));
                    return Ok(());
                }
                self.deliver(packet, waker);
                Ok(())
            }
            PacketType::OneWay => {
                self.deliver(packet, waker);
                Ok(())
            }
        }
    }

    fn deliver(&mut self, packet: Packet, waker: &Waker) {
        match self.core.received_packet(packet, waker) {
            Some(has_room) => self.is_inbox_full = !has_room,
            None => self.stop(CloseReason::Overflow),
        }
    }

    fn response(&mut self, packet: Packet, driver: &Waker) -> Result<(), CloseReason> {
        let message_id = packet.message_id;
        let has_more = packet.flags.contains(Flags::MORE);
        let delivered = {
            let mut pending = self.core.pending.lock();
            if has_more {
                pending.extend(message_id, Instant::now());
            }
            pending.deliver(packet)
        };
        match delivered {
            // The handler is polled next.
            Delivered::To(wake) => {
                wake.into_iter().filter(|asks| !asks.will_wake(driver)).for_each(Waker::wake)
            }
            Delivered::Stale => {
                self.core.stats.stale_responses.fetch_add(1, Relaxed);
            }
            Delivered::OverWindow(wake) => {
                self.core.control(&ControlPacket::Cancel { message_id });
                wake.into_iter().for_each(Waker::wake);
            }
        }
        Ok(())
    }

    fn control(&mut self, packet: ControlPacket) {
        match packet {
            ControlPacket::Ping { token, features } => {
                self.learn_features(features);
                let features = Features::ours(self.core.shared.dictionary.as_ref());
                self.core.control(&ControlPacket::Pong { token, features });
                self.was_asked();
            }
            ControlPacket::Pong { token, features } => {
                self.learn_features(features);
                let now = u64::try_from(self.core.born.elapsed().as_micros()).unwrap_or(u64::MAX);
                // A token from the future is not one of ours.
                if let Some(rtt) = now.checked_sub(token) {
                    self.core.stats.rtt.store(rtt.max(1), Relaxed);
                }
            }
            ControlPacket::GoAway { code: codes::GOING_AWAY, reason } => {
                let wake = self.core.pending.lock().go_away();
                wake.into_iter().for_each(Waker::wake);
                self.core.shared.changed.notify_waiters();
                self.going_away = Some(reason.clone());
                self.core.received(Item::GoingAway { code: codes::GOING_AWAY, reason });
            }
            ControlPacket::GoAway { code, reason } => {
                self.peer_ends(CloseReason::Peer { code, reason });
            }
            ControlPacket::Cancel { message_id } => self.core.cancelled(message_id),
            ControlPacket::Window { message_id, bytes } => {
                let wake = self.core.open.lock().grant(message_id, bytes);
                wake.into_iter().for_each(Waker::wake);
            }
        }
    }

    #[cold]
    pub(super) fn broke_protocol(&mut self, error: &ReadError) {
        self.stop(CloseReason::Protocol(error.to_string()));
    }

    fn learn_features(&mut self, features: Features) {
        if self.core.learn_features(features) {
            self.learn_lanes(features);
        }
    }

    /// The peer has ended its frames. What it sent by lanes is here by then, as far as the end is in order, and is read first.
    fn peer_ends(&mut self, reason: CloseReason) {
        match &mut self.lanes {
            Some(lanes) => {
                lanes.look_again();
                self.ending.get_or_insert(reason);
            }
            None => self.peer_ended(reason),
        }
    }

    /// The peer will send nothing more. Without a handler the rest is sent and that is it; a handler may finish.
    fn peer_ended(&mut self, reason: CloseReason) {
        self.core.finish_inbox(&reason);
        let wake = self.core.pending.lock().disconnect(&reason);
        wake.into_iter().for_each(Waker::wake);
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        if self.handler.is_some() && self.core.is_admitted() {
            self.phase = Phase::PeerEnded(reason, Instant::now() + self.core.shared.close_timeout);
        } else {
            self.begin_close(reason);
        }
    }

    pub(super) fn peer_reason(&self) -> Option<CloseReason> {
        match &self.phase {
            Phase::PeerEnded(reason, _) | Phase::Closing { reason, .. } => Some(reason.clone()),
            Phase::Open => self.ending.clone(),
        }
    }
}
