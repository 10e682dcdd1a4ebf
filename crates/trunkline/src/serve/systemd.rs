//! What a service manager is told (sd_notify(3)): that the node serves, reloads and stops, and that it lives.
//!
//! Without `NOTIFY_SOCKET` in the environment nobody is told, and nothing here does anything.

use std::convert::Infallible;
use std::time::Duration;

use sd_notify::NotifyState;

/// Everything serves.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload begins; [`ready`] ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
    }
}

/// The node drains.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that the node lives, as often as the service manager wants to hear it, for as long as it is polled. Where tasks
/// do not run any more it is not polled, and the manager restarts the node.
pub(super) async fn watchdog() -> Infallible {
    let Some(within) = sd_notify::watchdog_enabled().filter(|within| *within >= SHORTEST) else {
        return std::future::pending().await;
    };
    loop {
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep(within / 2).await;
    }
}

/// A manager that wants to hear more often than a timer of ours can tell is not one.
const SHORTEST: Duration = Duration::from_millis(2);

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager (NOTIFY_SOCKET) cannot be told");
    }
}
