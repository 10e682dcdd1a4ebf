//! A session's channel operations, one after the other: what a client published first has the lower offset. A new
//! token comes before them all.
//!
//! The queue is bounded by the engine, which refuses operations beyond its limit, by the node in the bytes that they hold,
//! and in time: what has waited for as long as a call may take is answered 503 and not begun. One task works while there
//! is something to do; an idle session has none.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use trunkline_proto::ErrorCode;
use trunkline_proto::wire::BusinessResponse;
use trunkline_session::Channel;
use trunkline_session::engine::{BindTarget, Input, Operation, OperationId};

use super::{Session, operations};
use crate::defaults::RETRY_AFTER;
use crate::gateway::Node;
use crate::limits::jittered_ms;

/// One piece of work, in the order in which the engine asked for it.
pub(super) enum Job {
    /// And when the client asked, by the node's clock.
    Operation(OperationId, Operation, Duration),
    Publish(BindTarget, Box<BusinessResponse>),
    /// The session is no longer a member.
    Leave(Channel),
}

/// Without room for jobs while there is none.
#[derive(Default)]
pub(super) struct Jobs {
    queue: Mutex<Option<Box<Queue>>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    is_worked: bool,
}

impl Jobs {
    pub(super) fn add(&self, node: &Arc<Node>, session: &Arc<Session>, job: Job) {
        let mut slot = self.queue.lock();
        let queue = slot.get_or_insert_default();
        // A new token has 60 s to be good, and an upstream that hangs may take that of what waits before it.
        if matches!(job, Job::Operation(_, Operation::Refresh { .. }, _)) {
            queue.waiting.push_front(job);
        } else {
            queue.waiting.push_back(job);
        }
        drop(slot);
        self.resume(node, session);
    }

    /// Goes on with what waits: there is something to do, or the connection has room for answers again.
    pub(super) fn resume(&self, node: &Arc<Node>, session: &Arc<Session>) {
        {
            let mut queue = self.queue.lock();
            let Some(queue) = queue.as_mut().filter(|queue| !queue.waiting.is_empty()) else { return };
            if std::mem::replace(&mut queue.is_worked, true) {
                return;
            }
        }
        node.spawn(work(Arc::clone(node), Arc::clone(session)));
    }

    /// The next piece of work. None is begun while the connection's reply queue is full: its answers would only make
    /// it longer, and the connection says when it has room.
    fn next(&self, session: &Session) -> Option<Job> {
        let mut slot = self.queue.lock();
        let queue = slot.as_mut()?;
        if session.wait_while_full() {
            queue.is_worked = false;
            return None;
        }
        let next = queue.waiting.pop_front();
        if next.is_none() {
            *slot = None;
        }
        next
    }
}

fn waited_too_long(node: &Node, since: Duration) -> bool {
    node.uptime().saturating_sub(since) > node.session_config.call_timeout
}

async fn work(node: Arc<Node>, session: Arc<Session>) {
    while let Some(job) = session.jobs.next(&session) {
        match job {
            // A new token is put first and bounded by its session's time; without it that would end.
            Job::Operation(id, operation, since)
                if waited_too_long(&node, since) && !matches!(operation, Operation::Refresh { .. }) =>
            {
                let mut error =
                    ErrorCode::Overloaded.message("it has waited too long for its turn in the session");
                error.retry_after_ms = jittered_ms(RETRY_AFTER);
                session.apply(&node, Input::Answer { id, result: Err(error) });
            }
            Job::Operation(id, operation, _) => operations::operate(&node, &session, id, operation).await,
            Job::Publish(target, push) => operations::publish_bound(&node, &session, target, *push).await,
            Job::Leave(channel) => session.leave(&node, &channel).await,
        }
    }
}
