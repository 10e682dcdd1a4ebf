//! What a connection's task does at its time: heartbeats, time-outs of requests, slow peers, the end of closing.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Waker},
};

use tokio::{
    task::unconstrained,
    time::{Instant, sleep_until},
};

use super::{Driver, Phase};
use crate::{CloseReason, SlowConsumer, codes, packet::control::ControlPacket};

impl Driver {
    /// Does what is due and sets the timer for the next of it: true if anything was done.
    pub(super) fn keep_time(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let has_own = !matches!(self.phase, Phase::Open)
            || self.stage.is_some()
            || self.stalled.is_some()
            || self.lanes.as_ref().is_some_and(|lanes| lanes.stalled().next().is_some());
        if self.is_timer_set && !has_own && self.timer_waits(cx.waker()) {
            return Ok(false);
        }
        let mut moved = false;
        loop {
            if self.turn_at().is_some_and(|turn| turn <= Instant::now()) {
                return Ok(true);
            }
            let next = self.next_deadline();
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(next)));
            if timer.deadline() != next || timer.is_elapsed() {
                timer.as_mut().reset(next);
            }
            // Without the task's budget, whose end would look as if the timer had heard of the waker.
            if pin!(unconstrained(timer.as_mut())).poll(cx).is_pending() {
                match &mut self.timer_wakes {
                    Some(old) if old.will_wake(cx.waker()) => {}
                    other => *other = Some(cx.waker().clone()),
                }
                self.is_timer_set = true;
                return Ok(moved);
            }
            moved = true;
            self.due(Instant::now())?;
        }
    }

    /// Whether the timer has yet to wake this task, and will: it need not be asked at every turn.
    fn timer_waits(&self, waker: &Waker) -> bool {
        self.timer.as_ref().is_some_and(|timer| !timer.is_elapsed())
            && self.timer_wakes.as_ref().is_some_and(|waits| waits.will_wake(waker))
    }

    fn next_deadline(&self) -> Instant {
        let mut next = self.looks_at();
        if let Some(armed) = self.core.pending.lock().armed {
            next = next.min(armed);
        }
        next = self.slow_at().map_or(next, |slow| next.min(slow));
        let unproven = self.unproven.as_ref().map(|unproven| unproven.until);
        let others = [self.turn_at(), self.first_packet, self.proof, unproven];
        for until in others.into_iter().flatten() {
            next = next.min(until);
        }
        match &self.phase {
            Phase::Open => next,
            Phase::PeerEnded(_, until) | Phase::Closing { until, .. } => next.min(*until),
        }
    }

    fn due(&mut self, now: Instant) -> Result<(), CloseReason> {
        match &self.phase {
            Phase::Closing { until, reason, .. } if *until <= now => {
                let is_empty = self.core.out.lock().queued() == 0;
                return Err(if is_empty { reason.clone() } else { CloseReason::CutOff });
            }
            Phase::PeerEnded(reason, until) if *until <= now => return Err(reason.clone()),
            _ => {}
        }
        if self.slow_at().is_some_and(|slow| slow <= now) {
            return Err(CloseReason::Slow);
        }
        if self.core.pending.lock().armed.is_some_and(|armed| armed <= now) {
            let (wake, expired) = self.core.pending.lock().expire(now);
            for message_id in expired {
                self.core.control(&ControlPacket::Cancel { message_id });
            }
            wake.into_iter().for_each(Waker::wake);
        }
        self.judge_newcomer(now)?;
        if self.looks_at() <= now {
            self.beat(now)?;
        }
        Ok(())
    }

    /// When the peer is slow, unless it takes something before: of the frames or of a lane, where somebody waits for room.
    fn slow_at(&self) -> Option<Instant> {
        let SlowConsumer::Wait(limit) = self.core.shared.slow_consumer else { return None };
        let mut lanes = self.lanes.iter().flat_map(|lanes| lanes.stalled()).peekable();
        if self.stalled.is_none() && lanes.peek().is_none() {
            return None;
        }
        let out = self.core.out.lock();
        let since = self.stalled.filter(|_| out.is_pressed);
        let since =
            since.into_iter().chain(lanes.filter(|(at, _)| out.is_lane_pressed(*at)).map(|(_, since)| since));
        since.min().map(|since| since + limit)
    }

    /// Ends who has not spoken in time, or not proved itself.
    fn judge_newcomer(&mut self, now: Instant) -> Result<(), CloseReason> {
        if self.first_packet.is_some_and(|until| until <= now) {
            return Err(CloseReason::Silent);
        }
        if self.unproven.as_ref().is_some_and(|unproven| unproven.until <= now) {
            return Err(CloseReason::Lost("the handshake took too long".to_owned()));
        }
        if self.proof.is_some_and(|until| until <= now) {
            self.proof = None;
            if !self.core.is_authenticated() {
                // Whoever still judges a first packet is not waited for.
                self.stage = None;
                self.stop(CloseReason::Closed {
                    code: codes::POLICY,
                    reason: "no proof of identity in time".to_owned(),
                });
            }
        }
        Ok(())
    }
}
