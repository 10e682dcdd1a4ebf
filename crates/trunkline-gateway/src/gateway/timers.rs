//! When connections are looked at again without input: one queue and one task for all of a node's, since a timer of the
//! runtime's own for each would cost more than everything else that an idle connection waits with.
//!
//! It knows moments and ids, not what they are for. A connection that needs a later moment than the one that it has
//! waits for that one and asks again, so a busy connection costs the queue nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline_session::ConnectionId;

use super::Node;

/// A moment of the node's clock in whole milliseconds: 8 bytes, also where there may be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(NonZeroU64);

impl Moment {
    /// Not before this time of the node.
    pub(crate) fn not_before(at: Duration) -> Self {
        Moment::of(at.as_nanos().div_ceil(1_000_000))
    }

    /// The last one that has passed by this time of the node.
    pub(crate) fn passed_by(at: Duration) -> Self {
        Moment::of(at.as_millis())
    }

    pub(crate) fn after(self, time: Duration) -> Self {
        Moment::of(u128::from(self.0.get()) + time.as_nanos().div_ceil(1_000_000))
    }

    fn of(millis: u128) -> Self {
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        Moment(NonZeroU64::new(millis).unwrap_or(NonZeroU64::MIN))
    }

    fn time(self) -> Duration {
        Duration::from_millis(self.0.get())
    }
}

/// The queue, and the end of its task.
#[derive(Default)]
pub(crate) struct Timers {
    due: Mutex<BinaryHeap<Reverse<(Moment, ConnectionId)>>>,
    changed: Notify,
    finished: CancellationToken,
    task: TaskTracker,
}

impl Timers {
    /// Begins to wake connections.
    pub(super) fn begin(&self, node: &Arc<Node>) {
        self.task.spawn(run(Arc::clone(node)));
    }

    /// Ends the task: no connection is left that could wait for it.
    pub(super) async fn finish(&self, end: Instant) {
        self.finished.cancel();
        self.task.close();
        // It waits for nothing but the token, so it is late only where the runtime is.
        drop(timeout_at(end, self.task.wait()).await);
    }

    /// Wakes the connection at this moment, unless it is gone by then.
    pub(crate) fn add(&self, at: Moment, connection: ConnectionId) {
        let mut due = self.due.lock();
        let is_first = due.peek().is_none_or(|Reverse((first, _))| at < *first);
        due.push(Reverse((at, connection)));
        drop(due);
        if is_first {
            self.changed.notify_one();
        }
    }

    fn next(&self) -> Option<Moment> {
        self.due.lock().peek().map(|Reverse((at, _))| *at)
    }

    fn take_due(&self, now: Moment) -> Vec<ConnectionId> {
        let mut due = self.due.lock();
        let mut taken = Vec::new();
        while due.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            taken.extend(due.pop().map(|Reverse((_, connection))| connection));
        }
        // A storm's room is given back.
        if due.len() < due.capacity() / 4 {
            due.shrink_to_fit();
        }
        taken
    }
}

async fn run(node: Arc<Node>) {
    let timers = &node.timers;
    loop {
        let next = timers.next();
        let due = async {
            match next {
                Some(at) => sleep_until(node.instant(at.time())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timers.finished.cancelled() => return,
            () = timers.changed.notified() => {}
            () = due => {}
        }
        for connection in timers.take_due(Moment::passed_by(node.uptime())) {
            node.connections.wake(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_moment_is_never_taken_before_its_time() {
        let timers = Timers::default();
        let at = |micros| Moment::not_before(Duration::from_micros(micros));
        timers.add(at(5_000), ConnectionId(5));
        timers.add(at(2_001), ConnectionId(2));
        let due = |micros| timers.take_due(Moment::passed_by(Duration::from_micros(micros)));
        assert_eq!(due(2_999), []);
        assert_eq!(due(3_000), [ConnectionId(2)]);
        assert_eq!(timers.next(), Some(at(5_000)));
        assert_eq!(due(9_000_000), [ConnectionId(5)]);
        assert_eq!((timers.next(), timers.due.lock().capacity()), (None, 0));
    }

    #[test]
    fn the_task_hears_of_an_earlier_moment_only() {
        let timers = Timers::default();
        let at = |millis| Moment::not_before(Duration::from_millis(millis));
        let mut rung = |millis| {
            timers.add(at(millis), ConnectionId(millis));
            timers.changed.notified().now_or_never().is_some()
        };
        assert_eq!([50, 60, 50, 40, 45].map(&mut rung), [true, false, false, true, false]);
        let due = timers.take_due(at(50));
        assert_eq!(due, [40, 45, 50, 50].map(ConnectionId), "a moment may be waited for more than once");
        assert!(rung(70).eq(&false) && rung(55), "60 is the first one now");
    }

    #[test]
    fn a_storm_of_connections_leaves_no_room_behind() {
        let timers = Timers::default();
        let at = |millis| Moment::not_before(Duration::from_millis(millis));
        for id in 0..100_000 {
            timers.add(at(10 + id % 7), ConnectionId(id));
        }
        timers.add(at(1_000), ConnectionId(0));
        assert_eq!(timers.take_due(at(500)).len(), 100_000);
        assert!(timers.due.lock().capacity() < 10);
    }
}
