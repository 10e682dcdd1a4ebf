//! "Something about the upstreams has changed": what waiting calls wake up on.
//!
//! It carries no news itself. Whoever waits subscribes first, looks then, and sleeps after, so that no change
//! falls between.

use std::sync::Arc;

use tokio::sync::watch;

/// The sending side. Clones are the same signal.
#[derive(Clone)]
pub(super) struct Changes(Arc<watch::Sender<u64>>);

impl Default for Changes {
    fn default() -> Self {
        Changes(Arc::new(watch::Sender::new(0)))
    }
}

impl Changes {
    pub(super) fn tell(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn subscribe(&self) -> Listening {
        Listening(self.0.subscribe())
    }
}

/// The waiting side; hears everything after it was made.
pub(super) struct Listening(watch::Receiver<u64>);

impl Listening {
    /// Waits for the next change. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The sender lives in the router that the waiting call borrows; without it nothing ever changes.
            std::future::pending::<()>().await;
        }
    }
}
