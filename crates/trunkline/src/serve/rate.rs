//! How many requests come in a second, over the last ten of them.
//!
//! It looks at a counter once a second and remembers ten looks. It is a figure for people; no limit depends on it.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// As GateSvr's default window.
const WINDOW: usize = 10;

const LOOK: Duration = Duration::from_secs(1);

/// The rate of a counter.
#[derive(Default)]
pub(super) struct Rate {
    looks: Mutex<VecDeque<(Instant, u64)>>,
}

impl Rate {
    /// Looks at the counter every second until cancelled.
    pub(super) async fn follow(&self, cancel: CancellationToken, count: impl Fn() -> u64) {
        let mut ticks = interval(LOOK);
        // After a pause one look is as good as many.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
            self.look(count());
        }
    }

    fn look(&self, count: u64) {
        let mut looks = self.looks.lock();
        looks.push_back((Instant::now(), count));
        if looks.len() > WINDOW + 1 {
            looks.pop_front();
        }
    }

    /// In each second, on average since the oldest look.
    pub(super) fn per_second(&self, count: u64) -> f64 {
        let Some((at, before)) = self.looks.lock().front().copied() else { return 0.0 };
        let seconds = at.elapsed().as_secs_f64().max(LOOK.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "no node has 2^52 requests in ten seconds")]
        let more = count.saturating_sub(before) as f64;
        more / seconds
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_the_average_of_the_last_ten_seconds() {
        let (rate, count, cancel) = (Rate::default(), AtomicU64::new(0), CancellationToken::new());
        assert_eq!(rate.per_second(0), 0.0);
        let load = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            for second in 0..30 {
                // Nothing for ten seconds, then 7 a second.
                count.fetch_add(if second < 10 { 0 } else { 7 }, Relaxed);
                let now = rate.per_second(count.load(Relaxed));
                match second {
                    0..10 => assert_eq!(now, 0.0),
                    15 => assert!((3.0..5.0).contains(&now), "{now}"),
                    21.. => assert!((6.5..7.5).contains(&now), "{now}"),
                    _ => {}
                }
                tokio::time::sleep(LOOK).await;
            }
            cancel.cancel();
        };
        tokio::join!(rate.follow(cancel.clone(), || count.load(Relaxed)), load);
    }
}
