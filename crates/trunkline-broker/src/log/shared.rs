//! What all logs of an engine share: how many bytes they may keep together, and the engine's clock.
//!
//! The budget counts what is kept and what is encoded of it. It refuses to decide what goes: a log gives back what its
//! own limits no longer keep, and a publication that does not fit then is refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crate::broker::Detach;
use crate::clock::Clock;

/// What a channel may have of an engine's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Three quarters: any channel that clients may name.
    Ordinary,
    /// All of it: the channels that sessions cannot do without.
    Whole,
}

impl Share {
    /// Its part of a limit.
    pub(crate) fn of(self, limit: usize) -> usize {
        match self {
            Share::Ordinary => limit - limit / 4,
            Share::Whole => limit,
        }
    }
}

/// There is no room for a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the logs are full: they keep at most {limit} bytes")]
pub struct LogsFull {
    /// How much there may be.
    pub limit: usize,
}

/// See the module.
pub(crate) struct Shared {
    used: AtomicUsize,
    limit: usize,
    /// `None`: publications with a ttl of their own end when the log is told the time.
    clock: Option<Arc<dyn Clock>>,
    /// Whom attachments tell that they are dropped. Here rather than in each log, since there are very many.
    engine: OnceLock<Weak<dyn Detach>>,
}

impl Shared {
    pub(crate) fn new(limit: usize, clock: Arc<dyn Clock>) -> Self {
        Shared { used: AtomicUsize::new(0), limit, clock: Some(clock), engine: OnceLock::new() }
    }

    /// For a log of its own.
    pub(crate) fn unlimited() -> Self {
        Shared { used: AtomicUsize::new(0), limit: usize::MAX, clock: None, engine: OnceLock::new() }
    }

    /// These are the logs of this engine. It is said once.
    pub(crate) fn belongs_to(&self, engine: Weak<dyn Detach>) {
        self.engine.get_or_init(|| engine);
    }

    /// `None`: a log of its own, or the engine is gone.
    pub(crate) fn engine(&self) -> Option<Arc<dyn Detach>> {
        self.engine.get()?.upgrade()
    }

    pub(crate) fn uptime(&self) -> Option<Duration> {
        self.clock.as_ref().map(|clock| clock.uptime())
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes bytes for something new.
    pub(crate) fn take(&self, bytes: usize, share: Share) -> Result<(), LogsFull> {
        let limit = share.of(self.limit);
        let fits = |used: usize| used.checked_add(bytes).filter(|used| *used <= limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(_) => Err(LogsFull { limit }),
        }
    }

    /// What was counted as `from` bytes has `to` now.
    pub(crate) fn settle(&self, from: usize, to: usize) {
        // Nothing has changed for most readers, and who reads elsewhere counts in the same place.
        if to == from {
            return;
        }
        if to > from {
            self.used.fetch_add(to - from, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(from - to, Ordering::Relaxed);
        }
    }

    /// Is so much used that what can be made again should not be kept?
    pub(crate) fn is_tight(&self) -> bool {
        self.used() > Share::Ordinary.of(self.limit)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("used", &self.used())
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
