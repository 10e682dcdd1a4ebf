//! An open loop: things begin when their time has come, whatever became of those before.
//!
//! Who waits for answers before it asks again measures its own patience (Tene, "How not to measure latency"); here a
//! time counts from when a thing was due.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

/// When things are due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub(super) first: Instant,
    pub(super) every: Duration,
    pub(super) end: Instant,
}

/// What the loop tells.
pub(super) enum Paced<T> {
    /// One began so long after it was due.
    Began { late: Duration },
    /// One ended.
    Ended(T),
}

impl Schedule {
    /// The share of one of `of` equal generators in `rate` things a second.
    pub(super) fn share(start: Instant, lasting: Duration, rate: u32, at: usize, of: usize) -> Self {
        let rate = f64::from(rate.max(1));
        #[expect(clippy::cast_precision_loss, reason = "there are thousands of clients, not 2^52")]
        let (at, of) = (at as f64, of as f64);
        Schedule {
            first: start + Duration::from_secs_f64(at / rate),
            every: Duration::from_secs_f64(of / rate),
            end: start + lasting,
        }
    }

    /// Begins one thing each time one is due, and ends when all have ended. While `most` run, the next waits and is
    /// late. `begin` is told when it was due.
    pub(super) async fn run<F: Future>(
        self,
        most: usize,
        mut begin: impl FnMut(Instant) -> F,
        mut told: impl FnMut(Paced<F::Output>),
    ) {
        let mut running = FuturesUnordered::new();
        let mut due = self.first;
        loop {
            let more = due < self.end;
            if !more && running.is_empty() {
                return;
            }
            tokio::select! {
                // What has ended makes room for what is due.
                biased;
                Some(output) = running.next(), if !running.is_empty() => told(Paced::Ended(output)),
                () = sleep_until(due), if more && running.len() < most => {
                    told(Paced::Began { late: Instant::now().saturating_duration_since(due) });
                    running.push(begin(due));
                    due += self.every;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shares_add_up_to_the_rate_and_what_waits_is_late() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut began = 0;
        for at in 0..4 {
            let schedule = Schedule::share(start, second, 100, at, 4);
            let schedule = Schedule {
                first: Instant::now() + (schedule.first - start),
                end: Instant::now() + second,
                ..schedule
            };
            schedule
                .run(
                    1,
                    |_| std::future::ready(()),
                    |paced| began += u32::from(matches!(paced, Paced::Began { .. })),
                )
                .await;
        }
        assert_eq!(began, 100);

        let mut latest = Duration::ZERO;
        let slow = |_| tokio::time::sleep(Duration::from_millis(500));
        Schedule::share(Instant::now(), second, 10, 0, 1)
            .run(1, slow, |paced| {
                if let Paced::Began { late } = paced {
                    latest = latest.max(late);
                }
            })
            .await;
        assert!(latest >= second, "the tenth was only {latest:?} late");
    }
}
