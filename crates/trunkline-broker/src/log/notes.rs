//! What an engine notes of a channel: how often it is attached, and when it was used last.
//!
//! It lies in the log, since a log has room for it and a table would have it for its empty places too. The engine reads
//! and writes it under a lock of its own, which is what orders it; the log never looks at it.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    attachments: AtomicU32,
    last_used_s: AtomicU32,
}

impl Notes {
    pub(crate) fn attachments(&self) -> u32 {
        self.attachments.load(Relaxed)
    }

    /// One more.
    pub(crate) fn attached(&self) {
        self.attachments.fetch_add(1, Relaxed);
    }

    /// One less; how many are left.
    pub(crate) fn detached(&self) -> u32 {
        self.attachments.fetch_sub(1, Relaxed).saturating_sub(1)
    }

    /// When the channel was used last, in seconds of the engine's uptime.
    pub(crate) fn last_used_s(&self) -> u32 {
        self.last_used_s.load(Relaxed)
    }

    pub(crate) fn used(&self, now_s: u32) {
        self.last_used_s.store(now_s, Relaxed);
    }
}
