//! The node's budget for cached replies: one counter that all engines of a node share.
//!
//! It is asked before a call runs and charged when it ended, so that no call ever runs in vain for want of room;
//! the calls that run at that moment may exceed it. It holds bytes, no replies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of cached replies of all sessions of a node. Clones are one budget.
#[derive(Debug, Clone)]
pub struct ReplyBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: u64,
    used: AtomicU64,
}

impl ReplyBudget {
    /// A budget of so many bytes.
    pub fn new(limit: u64) -> Self {
        ReplyBudget(Arc::new(Shared { limit, used: AtomicU64::new(0) }))
    }

    /// May another call run?
    pub fn has_room(&self) -> bool {
        self.used() < self.0.limit
    }

    /// Is so much cached that room should be made, before calls have to be refused?
    pub fn is_short(&self) -> bool {
        self.used() > self.0.limit - self.0.limit / 8
    }

    /// Has enough room been made? Half as much again as [`ReplyBudget::is_short`] leaves, so that it lasts a while.
    pub fn is_relaxed(&self) -> bool {
        self.used() <= self.0.limit - self.0.limit / 4
    }

    /// Bytes that may be cached.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Bytes that are cached now.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        self.0.used.fetch_add(bytes as u64, Ordering::Relaxed);
        Charge { budget: self.clone(), bytes }
    }
}

impl Default for ReplyBudget {
    fn default() -> Self {
        ReplyBudget::new(crate::defaults::REPLY_CACHE_PER_NODE)
    }
}

/// Bytes taken from a budget; drop gives them back, so that no way out of an engine can leak them.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: ReplyBudget,
    bytes: usize,
}

impl Charge {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}
