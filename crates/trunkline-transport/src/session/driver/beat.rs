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
};

impl Driver {
    /// On v2 a ping; towards a v1 peer a WebSocket ping, or nothing where the link watches itself.
    pub(super) fn beat(&mut self, now: Instant) {
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
