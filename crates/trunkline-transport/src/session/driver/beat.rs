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
    CloseReason, Framing, Wire,
    defaults::{LEAST_PROGRESS, MOMENTS, SILENT_HALF_INTERVALS, SPARED_HEARTBEATS, TOGETHER},
    packet::control::{ControlPacket, Features},
};

/// The heartbeats of a connection.
pub(super) struct Heart {
    /// When to look next how the peer is and whether a heartbeat has to go out.
    pub(super) next: Instant,
    /// It was not looked yet. When it will be is a matter of chance, so that connections of one moment do not beat together.
    is_new: bool,
    /// When it was looked last, and how many packets had come and gone by then.
    looked: Instant,
    moved: (u64, u64),
    /// Packets had come and gone then since the look before: they tell both sides, and whatever is between them, all that a
    /// heartbeat would.
    is_used: bool,
    /// Bytes of an unfinished packet when they were last enough to be heard by.
    held: usize,
    /// Bytes of batches that the link has taken, and how many they were when that was last enough.
    pub(super) written: u64,
    taken: u64,
    /// At the last look the link took nothing more.
    was_full: bool,
    /// When the last one went out that the peer answers.
    pinged: Option<Instant>,
    /// The peer was heard since the last look. When exactly would cost a look at the clock for each packet.
    pub(super) was_heard: bool,
    /// Until when it was heard, as far as is known.
    heard: Instant,
    /// The connection is one of those that beat together.
    _beating: Beating,
}

impl Heart {
    pub(super) fn new(now: Instant, interval: Duration) -> Self {
        let first = interval.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        Self {
            next: together(now + first, interval),
            is_new: true,
            looked: now,
            moved: (0, 0),
            is_used: false,
            held: 0,
            written: 0,
            taken: 0,
            was_full: false,
            pinged: None,
            was_heard: true,
            heard: now,
            _beating: Beating::new(),
        }
    }
}

/// The longest that nothing passes a connection on which both sides leave heartbeats out: a little more than the interval, so
/// that each can wait for the other's.
fn longest(interval: Duration) -> Duration {
    interval * 11 / 10
}

impl Driver {
    /// When the next look is due.
    pub(super) fn looks_at(&self) -> Instant {
        self.gone_at().map_or(self.heart.next, |gone| gone.min(self.heart.next))
    }

    /// When the peer is gone unless it is heard before. `None`: it is asked nothing, and the link watches itself.
    fn gone_at(&self) -> Option<Instant> {
        let is_asked = self.core.wire() == Wire::V2 || matches!(self.core.framing, Framing::WebSocket { .. });
        is_asked.then(|| self.heart.heard + self.core.shared.heartbeat * SILENT_HALF_INTERVALS / 2)
    }

    /// Looks how the peer is, and sends it a heartbeat unless that can wait: on v2 a ping; towards a v1 peer a WebSocket ping, or
    /// nothing where the link watches itself.
    pub(super) fn beat(&mut self, now: Instant) -> Result<(), CloseReason> {
        let has_moved_on = self.has_moved_on();
        if std::mem::take(&mut self.heart.was_heard) || has_moved_on || !self.hears() {
            self.heart.heard = now;
        } else if let Some(gone) = self.gone_at().filter(|gone| *gone <= now) {
            let interval = self.core.shared.heartbeat;
            if now - gone < interval / 2 {
                return Err(CloseReason::Silent);
            }
            // We were held up ourselves, and what has come meanwhile may not have been read: once more half an interval.
            self.heart.heard = now - interval * (SILENT_HALF_INTERVALS - 1) / 2;
        }
        if now < self.heart.next {
            return Ok(());
        }
        let interval = self.core.shared.heartbeat;
        let last = std::mem::replace(&mut self.heart.looked, now);
        let moved = self.packets();
        let before = std::mem::replace(&mut self.heart.moved, moved);
        let is_used = moved.0 != before.0 && moved.1 != before.1;
        (self.heart.is_new, self.heart.is_used) = (false, is_used);
        if self.core.wire() == Wire::V2 {
            let pause = if is_used { longest(interval) / 2 } else { interval };
            // All of it may have come right after the last look.
            let next = together((last + longest(interval)).min(now + pause), interval);
            if is_used && now < next && self.may_wait(next) {
                self.heart.next = next;
                return Ok(());
            }
            self.heart.next = together(now + pause, interval);
            self.ping(now);
        } else {
            self.heart.next = together(now + interval, interval);
            if let Some(ping) = self.core.framing.ping(b"") {
                self.core.push_raw(&ping);
            }
        }
        Ok(())
    }

    /// How many packets have come and gone.
    fn packets(&self) -> (u64, u64) {
        let stats = &self.core.stats;
        (stats.received_packets.load(Relaxed), stats.sent_packets.load(Relaxed))
    }

    /// Whether the peer sends a large packet, or takes one: nothing else comes from it by the same stream until then, and that
    /// can be longer than silence may last. A few bytes are not enough, or who sends one a minute could stay for ever.
    fn has_moved_on(&mut self) -> bool {
        let heart = &mut self.heart;
        heart.held = heart.held.min(self.held);
        let has_come = self.held - heart.held >= LEAST_PROGRESS;
        if has_come {
            heart.held = self.held;
        }
        // What the link takes while there is room in its buffers, nobody has read.
        let has_gone = heart.was_full && heart.written - heart.taken >= LEAST_PROGRESS as u64;
        if has_gone || !heart.was_full {
            heart.taken = heart.written;
        }
        heart.was_full = self.stalled.is_some();
        has_come || has_gone
    }

    /// While we do not read, the silence is ours.
    fn hears(&self) -> bool {
        !self.is_paused && self.stage.is_none() && self.listens()
    }

    /// Asks the peer for a sign of life, which tells the round-trip time as well, and says what we can do.
    pub(super) fn ping(&mut self, now: Instant) {
        self.heart.pinged = Some(now);
        let token = u64::try_from(self.core.born.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.core.control(&ControlPacket::Ping {
            token,
            features: Features::ours(self.core.shared.dictionary.as_ref()),
        });
    }

    /// Whether none of ours need go out until then: the last one that did is not too long ago.
    fn may_wait(&self, until: Instant) -> bool {
        let most = longest(self.core.shared.heartbeat) * (SPARED_HEARTBEATS + 1);
        self.heart.pinged.is_some_and(|pinged| until <= pinged + most)
    }

    /// The peer has sent its heartbeat, and has its answer. The first time we ask in turn, while the answer is written
    /// anyway, and both know the round-trip time from the beginning.
    pub(super) fn was_asked(&mut self) {
        let now = Instant::now();
        (self.heart.heard, self.heart.was_heard) = (now, false);
        if self.heart.pinged.is_none() {
            self.ping(now);
        } else if !self.heart.is_new && !self.heart.is_used {
            self.put_off_beat(now);
        }
    }

    /// Each has heard from the other, so that ours can wait. A little longer than until the peer's next, if it keeps our pace;
    /// but when it has waited often enough, a little shorter, so that the peer's waits for ours.
    fn put_off_beat(&mut self, now: Instant) {
        let interval = self.core.shared.heartbeat;
        let next = now + longest(interval);
        if !self.may_wait(next) {
            return;
        }
        let next = if self.may_wait(next + interval) { next } else { now + interval * 9 / 10 };
        self.heart.next = together(next, interval);
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
