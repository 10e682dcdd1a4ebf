//! What stands between a frame and its packet: its turn by the rate limits, inflation, and the middleware's verdict.
//!
//! One packet at a time. While it waits for one of them nothing behind it is read, so that order stays and a peer that is
//! held up cannot make us hold more.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::{task::JoinHandle, time::Instant};

use super::Driver;
use crate::{
    BoxFuture, CloseReason, Compression, Flags, Packet, PacketType, Refusal, Session, Verdict, Wire,
    WireError, codes, compress,
    defaults::INLINE_COMPRESSION,
    packet::{Header, Kind, encode, stream},
    rate_limit::Turn,
    session::send::send_if_room,
};

/// A packet as it came.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) header: Header,
    pub(super) packet_type: PacketType,
    pub(super) ext: Bytes,
    pub(super) payload: Bytes,
    /// What was received for it.
    pub(super) size: usize,
}

/// The parts of a packet that came.
#[derive(Debug)]
pub(super) struct Parted {
    pub(super) header: Header,
    pub(super) ext: Bytes,
    pub(super) payload: Bytes,
    /// What was received for it.
    pub(super) size: usize,
}

impl Parted {
    /// Whether it is taken from a peer whose handshake is not complete: it asks for nothing that may not be done twice.
    pub(super) fn may_be_early(&self) -> bool {
        self.header.wire == Wire::V2
            && self.header.kind == Kind::Data(PacketType::Request)
            && self.header.flags.contains(Flags::IDEMPOTENT)
    }
}

/// A packet that is not through.
pub(super) enum Stage {
    /// It came before the handshake was complete, and is not for that.
    Unproven(Box<Parted>),
    /// It came too fast.
    Waiting { until: Instant, raw: Box<Raw> },
    /// A large compressed payload, on another thread.
    Inflating { raw: Box<Raw>, task: JoinHandle<Result<Bytes, WireError>> },
    /// The middleware before `next` has not decided.
    Judging { verdict: BoxFuture<'static, Verdict>, next: usize, size: usize, request: Option<Packet> },
}

impl Stage {
    /// What it holds of what was received.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Unproven(parted) => parted.size,
            Self::Waiting { raw, .. } | Self::Inflating { raw, .. } => raw.size,
            Self::Judging { size, .. } => *size,
        }
    }
}

impl Driver {
    /// Whether nothing stands between a packet with this header and whom it is for.
    pub(super) fn passes(&self, header: &Header) -> bool {
        self.limiter.is_none()
            && header.compression == Compression::None
            && self.core.shared.middleware.is_empty()
    }

    /// A packet has come.
    pub(super) fn arrived(&mut self, raw: Raw, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let Some(limiter) = &mut self.limiter else { return self.inflate(raw, cx) };
        let is_answer = raw.packet_type == PacketType::Response
            && self.core.pending.lock().is_waiting(raw.header.message_id);
        let turn =
            if is_answer { Turn::Now } else { limiter.packet(raw.header.biz_type, raw.size, Instant::now()) };
        match turn {
            Turn::Now => self.inflate(raw, cx),
            Turn::At(until) => {
                self.core.stats.rate_delayed.fetch_add(1, Relaxed);
                self.stage = Some(Stage::Waiting { until, raw: Box::new(raw) });
                Ok(())
            }
            Turn::Drop => {
                self.core.stats.rate_dropped.fetch_add(1, Relaxed);
                if raw.packet_type == PacketType::Request {
                    self.core.refuse(raw.header.message_id, codes::OVERLOADED, "too fast");
                }
                Ok(())
            }
            Turn::Close => {
                self.core.stats.rate_closed.store(1, Relaxed);
                self.stop(CloseReason::TooFast);
                Ok(())
            }
        }
    }

    /// Moves on the packet that is not through, as far as it goes: whether it moved.
    pub(super) fn poll_stage(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let Some(stage) = self.stage.take() else { return Ok(false) };
        match stage {
            Stage::Unproven(parted) if self.unproven.is_some() => {
                self.stage = Some(Stage::Unproven(parted));
                return Ok(false);
            }
            Stage::Unproven(parted) => self.parted(*parted, cx)?,
            Stage::Waiting { until, raw } if until > Instant::now() => {
                // The clock comes back.
                self.stage = Some(Stage::Waiting { until, raw });
                return Ok(false);
            }
            Stage::Waiting { raw, .. } => self.inflate(*raw, cx)?,
            Stage::Inflating { raw, mut task } => match Pin::new(&mut task).poll(cx) {
                Poll::Ready(Ok(Ok(payload))) => self.assembled(*raw, payload, cx)?,
                Poll::Ready(Ok(Err(error))) => self.broke_protocol(&stream::refused(&error)),
                // The runtime is going down, or a decoder has panicked: nothing can be told about the payload.
                Poll::Ready(Err(error)) => return Err(CloseReason::Protocol(error.to_string())),
                Poll::Pending => {
                    self.stage = Some(Stage::Inflating { raw, task });
                    return Ok(false);
                }
            },
            Stage::Judging { mut verdict, next, size, request } => {
                match catch_unwind(AssertUnwindSafe(|| verdict.as_mut().poll(cx))) {
                    Ok(Poll::Ready(verdict)) => self.judged(verdict, next, size, request, cx)?,
                    Ok(Poll::Pending) => {
                        self.stage = Some(Stage::Judging { verdict, next, size, request });
                        return Ok(false);
                    }
                    Err(_) => self.stop(CloseReason::HandlerPanicked),
                }
            }
        }
        Ok(true)
    }

    /// When the packet that waits for its turn has it.
    pub(super) fn turn_at(&self) -> Option<Instant> {
        match &self.stage {
            Some(Stage::Waiting { until, .. }) => Some(*until),
            _ => None,
        }
    }

    fn inflate(&mut self, mut raw: Raw, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let payload = std::mem::take(&mut raw.payload);
        let how = raw.header.compression;
        if how == Compression::None {
            return self.assembled(raw, payload, cx);
        }
        let dictionary = self.core.shared.dictionary.as_ref();
        // Most inflate to little. What turns out to be larger starts again on another thread.
        match compress::inflate(how, &payload, INLINE_COMPRESSION.min(self.limit), dictionary) {
            Ok(payload) => self.assembled(raw, payload, cx),
            Err(WireError::TooLarge { .. }) if self.limit > INLINE_COMPRESSION => {
                let (limit, dictionary) = (self.limit, dictionary.cloned());
                let inflate = move || compress::inflate(how, &payload, limit, dictionary.as_ref());
                let task = tokio::task::spawn_blocking(inflate);
                self.stage = Some(Stage::Inflating { raw: Box::new(raw), task });
                self.poll_stage(cx).map(|_| ())
            }
            Err(error) => {
                self.broke_protocol(&stream::refused(&error));
                Ok(())
            }
        }
    }

    fn assembled(&mut self, raw: Raw, payload: Bytes, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let packet = encode::assemble(&raw.header, raw.packet_type, raw.ext, payload);
        if self.core.shared.middleware.is_empty() {
            return self.packet(packet, raw.size, cx.waker());
        }
        self.judge(packet, 0, raw.size, cx)
    }

    /// Asks the middleware from `next` on.
    fn judge(
        &mut self,
        mut packet: Packet,
        next: usize,
        size: usize,
        cx: &mut Context<'_>,
    ) -> Result<(), CloseReason> {
        let stack = self.core.shared.middleware.clone();
        let session = Session::new(self.core.clone());
        for index in next..stack.len() {
            // Without its payload: only to refuse it by.
            let request = packet.is_request().then(|| Packet::request(packet.message_id, Bytes::new()));
            let request = request.map(|request| request.with_biz_type(packet.biz_type));
            match catch_unwind(AssertUnwindSafe(|| stack.packet(index, &session, packet))) {
                Ok(Verdict::Pass(passed)) => packet = passed,
                Ok(verdict) => return self.judged(verdict, index + 1, size, request, cx),
                Err(_) => {
                    self.stop(CloseReason::HandlerPanicked);
                    return Ok(());
                }
            }
        }
        self.packet(packet, size, cx.waker())
    }

    fn judged(
        &mut self,
        verdict: Verdict,
        next: usize,
        size: usize,
        request: Option<Packet>,
        cx: &mut Context<'_>,
    ) -> Result<(), CloseReason> {
        match verdict {
            Verdict::Pass(packet) => return self.judge(packet, next, size, cx),
            Verdict::Later(verdict) => {
                self.stage = Some(Stage::Judging { verdict, next, size, request });
                return self.poll_stage(cx).map(|_| ());
            }
            // Best effort, as every refusal: a peer that takes nothing cannot be told anything.
            Verdict::Answer(answer) => drop(send_if_room(&self.core, answer)),
            Verdict::Drop => {}
            Verdict::Refuse(refusal) => self.refused(request.as_ref(), &refusal),
            Verdict::Close(refusal) => {
                self.refused(request.as_ref(), &refusal);
                self.stop(CloseReason::Closed { code: refusal.code, reason: refusal.reason });
            }
        }
        Ok(())
    }

    fn refused(&self, request: Option<&Packet>, refusal: &Refusal) {
        self.core.stats.refused_packets.fetch_add(1, Relaxed);
        if let Some(request) = request {
            self.core.refuse(request.message_id, refusal.code, &refusal.reason);
        }
    }

    /// Nothing more is received, and the connection closes once the rest is sent.
    #[cold]
    pub(super) fn stop(&mut self, reason: CloseReason) {
        self.core.finish_inbox(&reason);
        self.begin_close(reason);
    }
}
