//! Session events on their way to services: one queue, one task, so that each session's events stay in order.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use trunkline_service::{Caller, SessionEvent};

use crate::gateway::Node;

/// Services that fall so far behind lose the newest events, counted and logged: the queue must not grow with them.
const CAPACITY: usize = 65_536;

#[derive(Default)]
pub(crate) struct Events {
    queue: Mutex<VecDeque<(Arc<Caller>, SessionEvent)>>,
    added: Notify,
}

impl Events {
    /// Queues an event. Overflow policy: drop the newest.
    pub(crate) fn tell(&self, caller: Arc<Caller>, event: SessionEvent) {
        {
            let mut queue = self.queue.lock();
            if queue.len() >= CAPACITY {
                tracing::warn!(session = %caller.session, "a session event was dropped: services are too slow");
                return;
            }
            queue.push_back((caller, event));
        }
        self.added.notify_one();
    }
}

/// Runs until the node stops.
pub(crate) async fn deliver(node: Arc<Node>) {
    loop {
        let next = node.events.queue.lock().pop_front();
        match next {
            Some((caller, event)) => node.services.session_event(&caller, event).await,
            None => tokio::select! {
                () = node.stopping() => return,
                () = node.events.added.notified() => {}
            },
        }
    }
}
