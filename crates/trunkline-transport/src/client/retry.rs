//! How often and how soon a client tries again. Plain values; whether it is worth trying, the error says.

use std::time::Duration;

use crate::defaults::{LONGEST, RETRY_CAP};

/// Attempts with growing pauses: before the n-th further one a random time of up to `initial × 2ⁿ⁻¹` and at most the cap
/// ("full jitter", so that clients that lost the same server do not come back together). Only errors that may pass are
/// worth one: [`crate::ConnectError::is_retryable`]. Names are looked up anew each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// `None`: without end.
    retries: Option<u32>,
    initial: Duration,
    cap: Duration,
}

impl RetryConfig {
    /// At most so many further attempts; the cap is 30 s.
    #[must_use]
    pub fn exponential_backoff(max_retries: u32, initial: Duration) -> Self {
        Self { retries: Some(max_retries), initial, cap: RETRY_CAP }
    }

    /// Attempts without end; the cap is 30 s.
    #[must_use]
    pub fn forever(initial: Duration) -> Self {
        Self { retries: None, initial, cap: RETRY_CAP }
    }

    /// The longest pause.
    #[must_use]
    pub fn max_delay(self, cap: Duration) -> Self {
        Self { cap: cap.min(LONGEST), ..self }
    }

    /// The pause before the further attempt number `n`, from 1; `None` if there is none. `random` is from 0 to 1.
    pub(crate) fn pause(self, n: u32, random: f64) -> Option<Duration> {
        if self.retries.is_some_and(|retries| n > retries) {
            return None;
        }
        let longest = self.initial.saturating_mul(1_u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX));
        Some(longest.min(self.cap).mul_f64(random.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_end() {
        let retry = RetryConfig::exponential_backoff(4, Duration::from_millis(100))
            .max_delay(Duration::from_millis(500));
        let pauses: Vec<_> = (1..6).map(|n| retry.pause(n, 1.0).map(|pause| pause.as_millis())).collect();
        assert_eq!(pauses, [Some(100), Some(200), Some(400), Some(500), None]);
        assert_eq!(retry.pause(4, 0.0), Some(Duration::ZERO), "full jitter begins at nothing");
        let forever = RetryConfig::forever(Duration::from_secs(1));
        assert_eq!(forever.pause(u32::MAX, 1.0), Some(RETRY_CAP));
    }
}
