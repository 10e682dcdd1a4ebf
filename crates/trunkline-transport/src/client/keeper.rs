//! Keeps as many connections as a client wants: replaces lost ones, adds when they are busy, closes idle ones.
//!
//! One task per client that asked for it (`reconnect`, `pool`), between its first `connect` and its end. It holds no
//! connection open and no client alive.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Inner, RetryConfig};
use crate::{accept::sleep_until, defaults::STABLE_CONNECTION};

/// How many connections, and how hard to try for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeping {
    pub(super) min: usize,
    pub(super) max: usize,
    /// Of a pool: after how long one beyond `min` is closed. A pool also replaces those that the server ends in order.
    pub(super) idle: Option<Duration>,
    pub(super) retry: RetryConfig,
}

/// Runs until the client is gone.
pub(super) async fn keep(client: Weak<Inner>, keeping: Keeping, end: CancellationToken) {
    let Some(shared) = client.upgrade().map(|inner| Arc::clone(&inner.shared)) else { return };
    let mut pace = Pace::new(keeping.retry);
    let mut wanted_before = None;
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        // Registered before the look, so that no change between the two is missed.
        changed.as_mut().enable();
        let now = Instant::now();
        let Some(inner) = client.upgrade() else { return };
        let (wanted, usable) = inner.links.reap(now, keeping);
        if wanted_before.replace(wanted).is_some_and(|before| before != wanted) {
            // Whoever waits for a connection may wait in vain now.
            shared.changed.notify_waiters();
        }
        let lacks = wanted > usable;
        if lacks && pace.may_try(usable, now) {
            // While it connects it keeps the client alive: at most for the time of an attempt.
            let attempt = inner.connect_once().await;
            match attempt {
                Ok(()) => pace.succeeded(inner.links.usable()),
                Err(error) => {
                    if !(error.is_retryable() && pace.failed()) {
                        tracing::warn!(%error, "no further attempts to connect");
                        inner.links.want(inner.links.usable());
                        shared.changed.notify_waiters();
                        pace = Pace::new(keeping.retry);
                    }
                }
            }
            continue;
        }
        drop(inner);
        let looks_again = keeping.idle.map(|idle| now + (idle / 2).max(Duration::from_millis(10)));
        let next = if lacks { Some(pace.not_before) } else { None };
        let next = [looks_again, next].into_iter().flatten().min();
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            () = changed => {}
            () = sleep_until(next) => {}
        }
    }
}

/// When the next attempt may begin.
#[derive(Debug)]
struct Pace {
    retry: RetryConfig,
    failures: u32,
    not_before: Instant,
    /// How many connections there were after the last success, and when that was.
    had: Option<(usize, Instant)>,
}

impl Pace {
    fn new(retry: RetryConfig) -> Self {
        Self { retry, failures: 0, not_before: Instant::now(), had: None }
    }

    /// Whether to try now. A connection that is lost as soon as it is there counts as a failure, else a server that
    /// drops everybody would be tried without a pause.
    fn may_try(&mut self, usable: usize, now: Instant) -> bool {
        if let Some((had, since)) = self.had
            && usable < had
        {
            self.had = None;
            if now.duration_since(since) >= STABLE_CONNECTION {
                self.failures = 0;
            } else {
                self.failed();
            }
        }
        self.not_before <= now
    }

    fn succeeded(&mut self, usable: usize) {
        self.had = Some((usable, Instant::now()));
    }

    /// Whether there is a further attempt.
    fn failed(&mut self) -> bool {
        self.failures += 1;
        let pause = self.retry.pause(self.failures, rand::random());
        if let Some(pause) = pause {
            self.not_before = Instant::now() + pause;
        }
        pause.is_some()
    }
}
