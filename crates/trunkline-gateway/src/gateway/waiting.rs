//! Sessions without a connection: one task looks at each when its resume window ends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use trunkline_session::SessionId;

use super::Node;
use crate::session::Session;

/// When to look at whom. A session that was resumed in the meantime has nothing to do then.
#[derive(Default)]
pub(super) struct Waiting {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    due: BinaryHeap<Reverse<(Instant, SessionId)>>,
    sessions: std::collections::HashMap<SessionId, Weak<Session>>,
}

impl Waiting {
    pub(super) fn add(&self, session: &Arc<Session>, at: Instant) {
        {
            let mut queue = self.queue.lock();
            // One entry a session, however often it loses its connection: the task asks it again when it is due.
            if queue.sessions.insert(session.id, Arc::downgrade(session)).is_some() {
                return;
            }
            queue.due.push(Reverse((at, session.id)));
        }
        self.changed.notify_one();
    }

    fn next(&self) -> Option<Instant> {
        self.queue.lock().due.peek().map(|Reverse((at, _))| *at)
    }

    fn take_due(&self, now: Instant) -> Vec<Arc<Session>> {
        let mut queue = self.queue.lock();
        let mut due = Vec::new();
        while queue.due.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            if let Some(Reverse((_, id))) = queue.due.pop() {
                due.extend(queue.sessions.remove(&id).and_then(|session| session.upgrade()));
            }
        }
        due
    }
}

/// Runs until the node stops.
pub(super) async fn sweep(node: Arc<Node>) {
    loop {
        let next = node.waiting.next();
        let due = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = node.stopping() => return,
            () = node.waiting.changed.notified() => {}
            () = due => {}
        }
        for session in node.waiting.take_due(Instant::now()) {
            session.timeout(&node);
            if !session.is_live()
                && let Some(at) = session.next_timeout()
            {
                node.waiting.add(&session, node.instant(at));
            }
        }
    }
}
