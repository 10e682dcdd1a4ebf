//! Session events on their way to services: one queue, one task, so that each session's events stay in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline_service::{Caller, SessionEvent};

use crate::gateway::Node;

/// Services that fall so far behind lose the newest events, counted and logged: the queue must not grow with them.
const CAPACITY: usize = 65_536;

#[derive(Default)]
pub(crate) struct Events {
    queue: Mutex<Queue>,
    added: Notify,
    /// No further event comes.
    finished: CancellationToken,
    task: TaskTracker,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Arc<Caller>, SessionEvent)>,
}

impl Events {
    /// Begins to deliver.
    pub(crate) fn begin(&self, node: &Arc<Node>) {
        self.task.spawn(deliver(Arc::clone(node)));
    }

    /// Delivers what is queued, at most until `end`. The node's other tasks are done: nothing is queued any more.
    pub(crate) async fn finish(&self, end: Instant) {
        self.finished.cancel();
        self.task.close();
        if timeout_at(end, self.task.wait()).await.is_err() {
            tracing::warn!("services did not take all session events before the node's end");
        }
    }

    /// Queues an event. `told` is the session's own note whether services know of it: of others they do not hear the
    /// end. Overflow policy: drop the newest.
    pub(crate) fn tell(&self, told: &AtomicBool, caller: Arc<Caller>, event: SessionEvent) {
        if self.queue.lock().add(told, caller, event) {
            self.added.notify_one();
        }
    }

    fn next(&self) -> Option<(Arc<Caller>, SessionEvent)> {
        self.queue.lock().waiting.pop_front()
    }
}

impl Queue {
    /// False: services are not told.
    fn add(&mut self, told: &AtomicBool, caller: Arc<Caller>, event: SessionEvent) -> bool {
        // A session that was kicked, or whose START failed, before it began is nothing to services.
        if let SessionEvent::Ended(_) = event
            && !told.swap(false, Relaxed)
        {
            return false;
        }
        if self.waiting.len() >= CAPACITY {
            tracing::warn!(session = %caller.session, "a session event was dropped: services are too slow");
            return false;
        }
        if let SessionEvent::Started | SessionEvent::Resumed = event {
            told.store(true, Relaxed);
        }
        self.waiting.push_back((caller, event));
        true
    }
}

/// Runs until the node's other tasks are done and all that they said is told.
async fn deliver(node: Arc<Node>) {
    loop {
        let next = node.events.next();
        match next {
            Some((caller, event)) => node.services.session_event(&caller, event).await,
            None if node.events.finished.is_cancelled() => return,
            None => tokio::select! {
                () = node.events.finished.cancelled() => {}
                () = node.events.added.notified() => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(session: &str) -> Arc<Caller> {
        Arc::new(Caller { session: session.to_owned(), ..Caller::default() })
    }

    #[test]
    fn services_hear_no_end_of_a_session_that_never_began() {
        let mut queue = Queue::default();
        let (a, b) = (AtomicBool::new(false), AtomicBool::new(false));
        assert!(queue.add(&a, of("a"), SessionEvent::Started));
        assert!(!queue.add(&b, of("b"), SessionEvent::Ended(4005)));
        assert!(queue.add(&a, of("a"), SessionEvent::Ended(4304)));
        assert!(!queue.add(&a, of("a"), SessionEvent::Ended(4304)), "it ends once");
        assert_eq!(queue.waiting.len(), 2);
    }
}
