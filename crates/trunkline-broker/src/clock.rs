//! Time as an input: the only clocks this crate reads are values of [`Clock`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Two readings of time. Wall time names things (epochs, timestamps); uptime ends things (ttl, leases), so that
/// a corrected wall clock neither kills a lease nor keeps it.
pub trait Clock: Send + Sync + 'static {
    /// Microseconds since 1970. It may jump.
    fn unix_us(&self) -> u64;
    /// Time since some fixed moment. It never falls.
    fn uptime(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn unix_us(&self) -> u64 {
        // A machine whose clock stands before 1970 reads 0: the incarnation then comes from the data directory.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A clock that moves only when told: for tests.
#[derive(Debug)]
pub struct ManualClock {
    unix_us: AtomicU64,
    uptime_us: AtomicU64,
}

impl ManualClock {
    /// A clock that shows this wall time and an uptime of zero.
    pub fn at(unix_us: u64) -> Self {
        ManualClock { unix_us: AtomicU64::new(unix_us), uptime_us: AtomicU64::new(0) }
    }

    /// Lets both readings advance.
    pub fn advance(&self, by: Duration) {
        let us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.unix_us.fetch_add(us, Ordering::Relaxed);
        self.uptime_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Sets the wall time alone, forwards or back, as a corrected clock does.
    pub fn set_unix_us(&self, unix_us: u64) {
        self.unix_us.store(unix_us, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn unix_us(&self) -> u64 {
        self.unix_us.load(Ordering::Relaxed)
    }

    fn uptime(&self) -> Duration {
        Duration::from_micros(self.uptime_us.load(Ordering::Relaxed))
    }
}
