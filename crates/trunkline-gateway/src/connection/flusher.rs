//! Who writes what was published to many connections: one flusher for each worker thread.
//!
//! A publication for a thousand subscribers would wake a thousand tasks, each to look at all of its connection and to write
//! one frame. Instead their connections stand in the flushers' queues, and each flusher writes to one after the other. It
//! does nothing else: what a link does not take at once, and whatever there is to say beside the writing, is for the
//! connection's own task, which is woken. A connection is in a queue at most once for each time that it has parked.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use trunkline_broker::Unpark;

use super::Handle;
use crate::gateway::Node;

/// Connections that are written to before other tasks of the thread have their turn.
const AT_ONCE: usize = 16;

/// The queue of one flusher.
pub(crate) struct Flusher {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Queue {
    handles: Vec<Arc<Handle>>,
    /// Nobody looks here any more.
    is_over: bool,
}

impl Flusher {
    /// One for each thread of the runtime, each with a task that ends when the node begins to stop.
    pub(crate) fn for_each_worker() -> Box<[Arc<Flusher>]> {
        let workers = tokio::runtime::Handle::current().metrics().num_workers();
        let flusher = || Arc::new(Flusher { queue: Mutex::default(), waker: AtomicWaker::new() });
        (0..workers.max(1)).map(|_| flusher()).collect()
    }

    /// Flushes until the node stops; from then on connections are woken.
    pub(crate) async fn run(self: Arc<Self>, node: Arc<Node>) {
        let mut batch = Vec::new();
        let flushing = std::future::poll_fn(|cx| self.poll_flush(&mut batch, &node, cx));
        tokio::select! {
            never = flushing => match never {},
            () = node.stopping() => {}
        }
        let rest = {
            let mut queue = self.queue.lock();
            queue.is_over = true;
            std::mem::take(&mut queue.handles)
        };
        batch.into_iter().chain(rest).for_each(|handle| handle.unpark());
    }

    /// A connection has something to write.
    pub(super) fn push(&self, handle: Arc<Handle>) {
        let is_first = {
            let mut queue = self.queue.lock();
            if queue.is_over {
                drop(queue);
                return handle.wake();
            }
            queue.handles.push(handle);
            queue.handles.len() == 1
        };
        if is_first {
            self.waker.wake();
        }
    }

    fn poll_flush(
        &self,
        batch: &mut Vec<Arc<Handle>>,
        node: &Node,
        cx: &Context<'_>,
    ) -> Poll<std::convert::Infallible> {
        // Before the queue is looked at, so that what comes behind the look wakes this task again.
        self.waker.register(cx.waker());
        if batch.is_empty() {
            std::mem::swap(batch, &mut self.queue.lock().handles);
        }
        let left = batch.len().saturating_sub(AT_ONCE);
        for handle in batch.drain(left..) {
            handle.flush(node);
        }
        // Who came while this batch was written has woken this task already, and nobody does so again.
        if !batch.is_empty() || !self.queue.lock().handles.is_empty() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
