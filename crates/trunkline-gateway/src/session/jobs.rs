//! A session's channel operations, one after the other: what a client published first has the lower offset.
//!
//! The queue is bounded by the engine, which refuses operations beyond its limit. One task works while there is
//! something to do; an idle session has none.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use trunkline_proto::wire::BusinessResponse;
use trunkline_session::engine::{BindTarget, Operation, OperationId};

use super::{Session, operations};
use crate::gateway::Node;

/// One piece of work, in the order in which the engine asked for it.
pub(super) enum Job {
    Operation(OperationId, Operation),
    Publish(BindTarget, BusinessResponse),
}

#[derive(Default)]
pub(super) struct Jobs {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    is_worked: bool,
}

impl Jobs {
    pub(super) fn add(&self, node: &Arc<Node>, session: &Arc<Session>, job: Job) {
        {
            let mut queue = self.queue.lock();
            queue.waiting.push_back(job);
            if std::mem::replace(&mut queue.is_worked, true) {
                return;
            }
        }
        node.spawn(work(Arc::clone(node), Arc::clone(session)));
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        let next = queue.waiting.pop_front();
        if next.is_none() {
            *queue = Queue::default();
        }
        next
    }
}

async fn work(node: Arc<Node>, session: Arc<Session>) {
    while let Some(job) = session.jobs.next() {
        match job {
            Job::Operation(id, operation) => operations::operate(&node, &session, id, operation).await,
            Job::Publish(target, push) => operations::publish_bound(&node, &session, target, push).await,
        }
    }
}
