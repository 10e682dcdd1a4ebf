//! What a connection's task writes: batches of the outbox, and the last word at the end.

use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::{Driver, Phase};
use crate::{
    CloseReason, FrameKind, Wire, codes,
    packet::control::ControlPacket,
    session::{
        core::closed,
        outbox::{advance, gathered},
    },
};

impl Driver {
    /// Writes what there is if it is little, as an answer is, nobody has closed the connection and the link takes it at once:
    /// whether that is all there was to do, and whether it lets the handler go on, as [`Driver::write`] says.
    pub(super) fn write_little(&mut self, driver: &Waker) -> std::io::Result<(bool, bool)> {
        if !self.batch.is_empty() {
            return Ok((false, false));
        }
        let mut wake = Vec::new();
        let (is_all, written) = {
            let mut out = self.core.out.lock();
            let little = out.write_little()?;
            if little.1 > 0 {
                out.wake_ready(&mut wake);
            }
            little
        };
        if written == 0 {
            return Ok((is_all, false));
        }
        self.stalled = None;
        Ok((is_all, self.give_back(written, wake, driver)))
    }

    /// Writes until the link takes no more or there is nothing: whether that lets the handler go on, which is to be polled
    /// again then.
    pub(super) fn write(&mut self, cx: &mut Context<'_>) -> std::io::Result<bool> {
        let Some(lanes) = &mut self.lanes else { return self.write_frames(cx) };
        // By turns, so that neither takes all that the connection may have on its way. The last word comes last.
        let go_first = lanes.go_first() || matches!(self.phase, Phase::Closing { .. });
        let mut lets_go_on = go_first && self.write_lanes(cx.waker())?;
        lets_go_on |= self.write_frames(cx)?;
        lets_go_on |= !go_first && self.write_lanes(cx.waker())?;
        Ok(lets_go_on)
    }

    /// The connection's own stream.
    fn write_frames(&mut self, cx: &mut Context<'_>) -> std::io::Result<bool> {
        let mut lets_go_on = false;
        loop {
            if self.batch.is_empty() {
                lets_go_on |= self.settle(cx.waker());
                if !self.core.out.lock().take_batch(&mut self.batch) {
                    if !self.begin_closing() {
                        break;
                    }
                    continue;
                }
            }
            let written =
                gathered(&self.batch, self.offset, |slices| self.writer.poll_write_vectored(cx, slices));
            match written {
                Poll::Ready(Ok(n)) => {
                    self.stalled = None;
                    self.unaccounted += n;
                    self.heart.written += n as u64;
                    self.offset = advance(&mut self.batch, self.offset, n);
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.stalled.get_or_insert_with(Instant::now);
                    lets_go_on |= self.settle(cx.waker());
                    break;
                }
            }
        }
        // What TLS holds back is moved on; if the socket does not take it, its waker comes back here.
        match self.writer.poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(lets_go_on),
        }
    }

    /// Tells the outbox and the budget what was written, and wakes who waited for it. True if the handler is among them: it
    /// is not woken, since it is polled by the task that calls this.
    pub(super) fn settle(&mut self, driver: &Waker) -> bool {
        let written = std::mem::take(&mut self.unaccounted);
        if written == 0 {
            return false;
        }
        let mut wake = Vec::new();
        self.core.out.lock().written(written, &mut wake);
        self.give_back(written, wake, driver)
    }

    /// So many bytes are written, and the outbox knows: gives them back to the budget and wakes who waited, as
    /// [`Driver::settle`] says.
    pub(super) fn give_back(&self, written: usize, mut wake: Vec<Waker>, driver: &Waker) -> bool {
        self.core.shared.budget.give(written);
        let all = wake.len();
        wake.retain(|waiting| !waiting.will_wake(driver));
        let lets_go_on = wake.len() < all;
        wake.into_iter().for_each(Waker::wake);
        lets_go_on
    }

    /// Learns that the connection is to close: nothing is received any more, and the clock runs. A slow peer is cut at
    /// once, since what is queued is what it does not take; so is whom a shutdown cuts.
    pub(super) fn observe_close(&mut self) -> Option<CloseReason> {
        let reason = closed(&self.core.out.lock().state)?;
        if matches!(reason, CloseReason::Slow | CloseReason::CutOff) {
            return Some(reason);
        }
        if matches!(self.phase, Phase::Closing { .. }) {
            return None;
        }
        self.core.finish_inbox(&reason);
        self.core.out.lock().no_lanes_to_come();
        let until = Instant::now() + self.core.shared.close_timeout;
        self.phase = Phase::Closing { reason, until, said_goodbye: false };
        None
    }

    /// The queue is empty: if the connection is to close, the last word is said now. True if it was.
    fn begin_closing(&mut self) -> bool {
        if !matches!(self.phase, Phase::Closing { said_goodbye: false, .. }) || !self.lanes_are_done() {
            return false;
        }
        let Phase::Closing { reason, said_goodbye, .. } = &mut self.phase else { return false };
        *said_goodbye = true;
        let (code, text) = match reason {
            CloseReason::Closed { code, reason } => (*code, reason.clone()),
            CloseReason::Protocol(text) => (codes::PROTOCOL, text.clone()),
            CloseReason::TooFast => (codes::POLICY, reason.to_string()),
            CloseReason::Slow | CloseReason::Overflow => (codes::OVERLOADED, reason.to_string()),
            CloseReason::HandlerFailed(_) | CloseReason::HandlerPanicked => {
                (codes::INTERNAL, "the handler failed".to_owned())
            }
            // The peer's own last word is answered in kind, as RFC 6455 §5.5.1 asks.
            CloseReason::Peer { code, .. } => (*code, String::new()),
            _ => (codes::NORMAL, String::new()),
        };
        let ended_by_peer = matches!(reason, CloseReason::Peer { .. } | CloseReason::Ended);
        let mut out = self.core.out.lock();
        let before = out.appended();
        if self.core.wire() == Wire::V2 && !ended_by_peer && code != codes::GOING_AWAY {
            let bytes = ControlPacket::GoAway { code, reason: text.clone() }.to_bytes();
            out.push_framed(&self.core.framing.frame(FrameKind::Binary, &bytes));
        }
        if let Some(frame) = self.core.framing.close(code, &text) {
            out.push_framed(&frame);
        }
        let added = usize::try_from(out.appended() - before).unwrap_or(0);
        self.core.shared.budget.take(added);
        added > 0
    }

    /// Whether everything is said and the handler has had its time.
    pub(super) fn finished(&self) -> Option<CloseReason> {
        let Phase::Closing { reason, said_goodbye: true, .. } = &self.phase else { return None };
        let is_served = self.handler.is_none() || !self.core.is_admitted();
        let is_done = is_served && self.batch.is_empty() && self.core.out.lock().queued() == 0;
        is_done.then(|| reason.clone())
    }
}
