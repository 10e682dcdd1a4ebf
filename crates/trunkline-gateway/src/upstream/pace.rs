//! How long calls of an action usually take, over all instances: what "slow" means for each.
//!
//! Without it a report that takes 5 s by nature would look like an instance that hangs. It judges nothing; it
//! remembers a bounded number of actions, those that upstreams have answered with success.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

/// Actions remembered; calls of any other are never slow before their deadline. 1,024 of 128 bytes are 128 KiB.
const MAX_ACTIONS: usize = 1_024;
/// Longer names are not remembered, clients choose them.
const MAX_ACTION: usize = 128;
/// A call is slow beyond so many times the usual.
const TIMES: u32 = 4;
/// Each call moves the average by a sixteenth of its difference: some dozens of calls to follow a change.
const SHARE: u64 = 16;

/// See the module.
#[derive(Default)]
pub(super) struct Pace {
    /// Averages in microseconds.
    actions: RwLock<HashMap<String, AtomicU64>>,
}

impl Pace {
    /// How long a call of this action may run before it is slow; `None` where nothing is known.
    pub(super) fn patience(&self, action: &str) -> Option<Duration> {
        let actions = self.actions.read();
        let average = actions.get(action)?.load(Ordering::Relaxed);
        Some(Duration::from_micros(average) * TIMES)
    }

    /// A call of this action was answered with success.
    pub(super) fn saw(&self, action: &str, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(average) = self.actions.read().get(action) {
            let old = average.load(Ordering::Relaxed);
            // Two at once may lose one's share, which an average survives.
            average.store(old - old / SHARE + took / SHARE, Ordering::Relaxed);
            return;
        }
        let mut actions = self.actions.write();
        if actions.len() < MAX_ACTIONS && action.len() <= MAX_ACTION {
            actions.insert(action.to_owned(), AtomicU64::new(took));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_what_an_action_usually_takes() {
        let pace = Pace::default();
        assert_eq!(pace.patience("report"), None);
        pace.saw("report", Duration::from_secs(5));
        assert_eq!(pace.patience("report"), Some(Duration::from_secs(20)));
        for _ in 0..200 {
            pace.saw("report", Duration::from_secs(1));
        }
        let now = pace.patience("report").unwrap();
        assert!(now > Duration::from_secs(3) && now < Duration::from_secs(5), "{now:?}");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let pace = Pace::default();
        for at in 0..2 * MAX_ACTIONS {
            pace.saw(&format!("a{at}"), Duration::from_millis(1));
        }
        pace.saw(&"x".repeat(MAX_ACTION + 1), Duration::from_millis(1));
        assert_eq!(pace.actions.read().len(), MAX_ACTIONS);
    }
}
