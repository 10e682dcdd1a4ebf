//! hyper's tasks, tracked and cancellable: the socket itself is in one of them, so a connection's work ends with
//! what began it, and can be waited for.

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Runs what hyper spawns in a tracker, until `cancel` fires.
#[derive(Clone)]
pub(crate) struct Tracked {
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
}

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.tasks.spawn(self.cancel.clone().run_until_cancelled_owned(future));
    }
}
