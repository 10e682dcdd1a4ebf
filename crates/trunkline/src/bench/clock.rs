//! Time for load: a clock that all processes of this machine share, and a timer that does not round to milliseconds as
//! the runtime's does.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

/// A moment, in nanoseconds of the machine's monotonic clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Moment(pub(super) u64);

impl Moment {
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
        Moment(seconds.unwrap_or_default() * 1_000_000_000 + nanos.unwrap_or_default())
    }

    pub(super) fn after(self, time: Duration) -> Self {
        Moment(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// What this process knows as that instant.
    pub(super) fn of(instant: Instant) -> Self {
        let (now, moment) = (Instant::now(), Moment::now());
        match now.checked_duration_since(instant) {
            Some(ago) => Moment(moment.0.saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX))),
            None => moment.after(instant - now),
        }
    }

    /// What this process knows it as.
    pub(super) fn instant(self) -> Instant {
        let (now, moment) = (Instant::now(), Moment::now());
        match moment.since(self) {
            Duration::ZERO => now + self.since(moment),
            // This machine did not run before its clock began.
            ago => now.checked_sub(ago).unwrap_or(now),
        }
    }

    /// Nothing where `earlier` is later.
    pub(super) fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Waits for moments, to some microseconds.
pub(super) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; what both ask for holds: the descriptor lives as long"
        )]
        Ok(Timer(AsyncFd::new(timer)?))
    }

    /// Returns at this moment, at once if it has been.
    pub(super) async fn until(&mut self, moment: Moment) -> io::Result<()> {
        if Moment::now() >= moment {
            return Ok(());
        }
        let (seconds, nanos) = (moment.0 / 1_000_000_000, moment.0 % 1_000_000_000);
        let at = Timespec {
            tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanos).unwrap_or_default(),
        };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: never, it_value: at };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &spec)?;
        while Moment::now() < moment {
            let mut ready = self.0.readable().await?;
            // Reading clears it; when nothing is to be read, the wait was for an earlier setting.
            let mut count = [0; 8];
            match rustix::io::read(ready.get_inner(), &mut count) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_an_instant_to_some_microseconds() {
        let (hour, now) = (Duration::from_secs(3_600), Instant::now());
        let near = |one: Instant, other: Instant| {
            one.saturating_duration_since(other) + other.saturating_duration_since(one)
                < Duration::from_secs(1)
        };
        for instant in [now, now + hour, now.checked_sub(Duration::from_secs(5)).unwrap()] {
            assert!(near(Moment::of(instant).instant(), instant));
        }
        let later = Moment::of(now + hour).since(Moment::of(now));
        assert!(later > hour / 2 && later < hour * 2, "{later:?}");
    }

    #[tokio::test]
    async fn a_timer_waits_for_its_moment_and_not_for_one_that_has_been() {
        let mut timer = Timer::new().unwrap();
        let begun = Moment::now();
        for wait in [2_500, 0, 300, 1_000] {
            let due = begun.after(Duration::from_micros(wait));
            timer.until(due).await.unwrap();
            assert!(Moment::now() >= due);
        }
        assert!(Moment::now().since(begun) >= Duration::from_micros(2_500));
    }
}
