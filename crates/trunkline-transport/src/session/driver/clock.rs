//! What a connection's task does at its time: heartbeats, time-outs of requests, slow peers, the end of closing.

use std::{
    future::Future,
    pin::pin,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Waker},
    time::Duration,
};

use tokio::{
    task::unconstrained,
    time::{Instant, sleep_until},
};

use super::{Driver, Phase};
use crate::{
    CloseReason, Framing, SlowConsumer, Wire, codes,
    defaults::{MOMENTS, SILENT_HEARTBEATS, SPARED_HEARTBEATS, TOGETHER},
    packet::control::ControlPacket,
};

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
        let mut next = self.next_beat;
        if let Some(armed) = self.core.pending.lock().armed {
            next = next.min(armed);
        }
        next = self.slow_at().map_or(next, |slow| next.min(slow));
        let unproven = self.unproven.as_ref().map(|unproven| unproven.until);
        let others = [self.turn_at(), self.first_packet, self.proof, unproven, self.gone_at];
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
        if self.gone_at.take_if(|at| *at <= now).is_some() && !self.was_heard && self.hears() {
            return Err(CloseReason::Silent);
        }
        if self.next_beat <= now {
            let interval = self.core.shared.heartbeat;
            self.next_beat = together(now + interval, interval);
            self.beat(now);
        }
        Ok(())
    }

    /// While we do not read, the silence is ours.
    fn hears(&self) -> bool {
        !self.is_paused && self.stage.is_none()
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

    /// On v2 a ping; towards a v1 peer a WebSocket ping, or nothing where the link watches itself.
    fn beat(&mut self, now: Instant) {
        let v2 = self.core.wire() == Wire::V2;
        let is_answered = v2 || matches!(self.core.framing, Framing::WebSocket { .. });
        let is_silent = !std::mem::take(&mut self.was_heard) && is_answered && self.hears();
        self.silent_beats = if is_silent { self.silent_beats.saturating_add(1) } else { 0 };
        if self.silent_beats >= SILENT_HEARTBEATS {
            self.gone_at = Some(now + self.core.shared.heartbeat / 2);
        }
        if v2 {
            self.pinged = Some(now);
            self.ping();
        } else if let Some(ping) = self.core.framing.ping(b"") {
            self.core.push_raw(&ping);
        }
    }

    /// The peer has sent its heartbeat, and has its answer: each has heard from the other, so that ours can wait. A little
    /// longer than until the peer's next, if it keeps our pace; but when it has waited often enough, a little shorter, so
    /// that the peer's waits for ours.
    pub(super) fn put_off_beat(&mut self) {
        let Some(pinged) = self.pinged else { return };
        let interval = self.core.shared.heartbeat;
        let (now, longer) = (Instant::now(), interval * 11 / 10);
        let latest = pinged + longer * (SPARED_HEARTBEATS + 1);
        if now + longer > latest {
            return;
        }
        let is_last = now + interval + longer > latest;
        self.next_beat = together(now + if is_last { interval * 9 / 10 } else { longer }, interval);
        // Only a whole interval of silence counts.
        self.was_heard = is_last;
        self.silent_beats = 0;
        self.is_timer_set = false;
    }
}

/// A heartbeat at about this time, not later, and together with others of the process: one waking of the processor, and
/// caches that are warm, then serve for many.
pub(super) fn together(at: Instant, interval: Duration) -> Instant {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let step = (interval / moments(BEATING.load(Relaxed))).as_nanos().max(1);
    let beyond = at.saturating_duration_since(*FIRST).as_nanos() % step;
    at - Duration::from_nanos(u64::try_from(beyond).unwrap_or(0))
}

/// Connections of this process.
static BEATING: AtomicUsize = AtomicUsize::new(0);

/// One of them, until it is dropped.
pub(super) struct Beating(());

impl Beating {
    pub(super) fn new() -> Self {
        BEATING.fetch_add(1, Relaxed);
        Self(())
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        BEATING.fetch_sub(1, Relaxed);
    }
}

/// At how many moments in each interval the heartbeats of so many connections come.
fn moments(connections: usize) -> u32 {
    let [.., most] = MOMENTS;
    let suffices = |moments: &u32| connections <= TOGETHER * *moments as usize;
    MOMENTS.into_iter().find(suffices).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_connections_beat_at_more_moments_and_stay_together() {
        assert_eq!([0, 2_500, 2_501, 10_000, 100_000].map(moments), [25, 25, 50, 100, 200]);
        for pair in MOMENTS.windows(2) {
            assert_eq!(pair[1], 2 * pair[0], "a moment of the one is one of the other");
        }
    }
}
