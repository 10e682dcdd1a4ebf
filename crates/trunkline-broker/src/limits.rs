//! How much a channel keeps.

use std::time::Duration;

/// A channel's history: the newest publications that satisfy all three. A zero in any of them means no history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Publications at most.
    pub count: usize,
    /// Bytes of payload and sender at most; a publication larger than this leaves no history.
    pub bytes: usize,
    /// Age at most.
    pub ttl: Duration,
}

impl HistoryLimits {
    /// Nothing is kept beyond the live window.
    pub const NONE: HistoryLimits = HistoryLimits { count: 0, bytes: 0, ttl: Duration::ZERO };

    /// Whether nothing is kept.
    pub fn is_none(&self) -> bool {
        self.count == 0 || self.bytes == 0 || self.ttl.is_zero()
    }
}

impl Default for HistoryLimits {
    fn default() -> Self {
        HistoryLimits::NONE
    }
}
