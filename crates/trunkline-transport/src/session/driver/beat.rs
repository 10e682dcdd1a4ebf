//! Heartbeats: when one goes out, when it is left out, and which connections' go out together.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::Driver;
use crate::{
    Framing, Wire,
    defaults::{MOMENTS, SILENT_HEARTBEATS, SPARED_HEARTBEATS, TOGETHER},
    packet::control::{ControlPacket, Features},
};

/// The heartbeats of a connection.
pub(super) struct Heart {
    /// When to look next whether one has to go out.
    pub(super) next: Instant,
    /// When that was looked at last, and how many packets had come and gone by then.
    looked: Instant,
    moved: (u64, u64),
    /// When the last one went out that the peer answers.
    pinged: Option<Instant>,
    /// The peer was heard since the last one, or the last that was left out. When exactly would cost a look at the clock for
    /// each packet.
    pub(super) was_heard: bool,
    /// For how many of them it was not.
    silent: u8,
    /// When it is gone if it is not heard until then.
    pub(super) gone_at: Option<Instant>,
    /// The connection is one of those that beat together.
    _beating: Beating,
}

impl Heart {
    pub(super) fn new(now: Instant, interval: Duration) -> Self {
        // The first one comes at a random moment, so that connections of one moment do not beat together.
        let first = interval.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        Self {
            next: together(now + first, interval),
            looked: now,
            moved: (0, 0),
            pinged: None,
            was_heard: true,
            silent: 0,
            gone_at: None,
            _beating: Beating::new(),
        }
    }

    /// None goes out until then. Only silence of a whole interval counts, or of nearly one.
    fn put_off(&mut self, now: Instant, until: Instant, interval: Duration) {
        self.next = together(until, interval);
        self.was_heard = until < now + interval * 19 / 20;
        self.silent = 0;
        self.gone_at = None;
    }
}

/// What two sides hear from each other at the least, where both leave heartbeats out: a little longer than the interval, so
/// that each can wait for the other's.
fn longer(interval: Duration) -> Duration {
    interval * 11 / 10
}

impl Driver {
    /// The time has come to look whether a heartbeat has to go out. On v2 it is a ping; towards a v1 peer a WebSocket ping, or
    /// nothing where the link watches itself.
    pub(super) fn beat(&mut self, now: Instant) {
        let v2 = self.core.wire() == Wire::V2;
        if v2 && self.packets_do(now) {
            return;
        }
        let interval = self.core.shared.heartbeat;
        self.heart.next = together(now + interval, interval);
        let is_answered = v2 || matches!(self.core.framing, Framing::WebSocket { .. });
        let is_silent = !std::mem::take(&mut self.heart.was_heard) && is_answered && self.hears();
        self.heart.silent = if is_silent { self.heart.silent.saturating_add(1) } else { 0 };
        if self.heart.silent >= SILENT_HEARTBEATS {
            self.heart.gone_at = Some(now + interval / 2);
        }
        if v2 {
            self.ping(now);
        } else if let Some(ping) = self.core.framing.ping(b"") {
            self.core.push_raw(&ping);
        }
    }

    /// Asks the peer for a sign of life, and says what we can do.
    pub(super) fn ping(&mut self, now: Instant) {
        self.heart.pinged = Some(now);
        let token = u64::try_from(self.core.born.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.core.control(&ControlPacket::Ping {
            token,
            features: Features::ours(self.core.shared.dictionary.as_ref()),
        });
    }

    /// Whether packets, which have come and gone since the last look, tell both sides and whatever is between them all that
    /// a heartbeat would. It is put off then.
    fn packets_do(&mut self, now: Instant) -> bool {
        let stats = &self.core.stats;
        let moved = (stats.received_packets.load(Relaxed), stats.sent_packets.load(Relaxed));
        let before = std::mem::replace(&mut self.heart.moved, moved);
        let looked = std::mem::replace(&mut self.heart.looked, now);
        let interval = self.core.shared.heartbeat;
        // They may all have come right after the last look.
        let next = looked + longer(interval);
        let is_enough = moved.0 != before.0 && moved.1 != before.1 && now < next && self.may_wait(next);
        if is_enough {
            self.heart.put_off(now, next, interval);
        }
        is_enough
    }

    /// Whether so many heartbeats have been left out that none can be until then.
    fn may_wait(&self, until: Instant) -> bool {
        let most = longer(self.core.shared.heartbeat) * (SPARED_HEARTBEATS + 1);
        self.heart.pinged.is_some_and(|pinged| until <= pinged + most)
    }

    /// The peer has sent its heartbeat, and has its answer: each has heard from the other, so that ours can wait. A little
    /// longer than until the peer's next, if it keeps our pace; but when it has waited often enough, a little shorter, so
    /// that the peer's waits for ours.
    pub(super) fn put_off_beat(&mut self) {
        let interval = self.core.shared.heartbeat;
        let now = Instant::now();
        let next = now + longer(interval);
        if !self.may_wait(next) {
            return;
        }
        let next = if self.may_wait(next + interval) { next } else { now + interval * 9 / 10 };
        self.heart.put_off(now, next, interval);
        self.is_timer_set = false;
    }
}

/// A heartbeat at about this time, not later, and together with others of the process: one waking of the processor, and
/// caches that are warm, then serve for many.
fn together(at: Instant, interval: Duration) -> Instant {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let step = (interval / moments(BEATING.load(Relaxed))).as_nanos().max(1);
    let beyond = at.saturating_duration_since(*FIRST).as_nanos() % step;
    at - Duration::from_nanos(u64::try_from(beyond).unwrap_or(0))
}

/// Connections of this process.
static BEATING: AtomicUsize = AtomicUsize::new(0);

/// One of them, until it is dropped.
struct Beating(());

impl Beating {
    fn new() -> Self {
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
