//! Telling peers no before they are served: at most so many at once, so that a flood of them uses up no descriptors.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Peers that are told at once. Each may hold its place for seconds, by not reading.
const PLACES: usize = 256;

/// When a peer that came too fast may come again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Clones share their places.
#[derive(Clone)]
pub(super) struct Refusals {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Refusals {
    pub(super) fn new(tasks: &TaskTracker) -> Self {
        Refusals { places: Arc::new(Semaphore::new(PLACES)), tasks: tasks.clone() }
    }

    /// Runs what tells a peer. Without a place it is dropped, and the peer's connection with it.
    pub(super) fn tell(&self, telling: impl Future<Output = ()> + Send + 'static) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return };
        self.tasks.spawn(async move {
            telling.await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beyond_its_places_nobody_is_told_until_one_is_free() {
        let tasks = TaskTracker::new();
        let refusals = Refusals::new(&tasks);
        let told = Arc::new(Semaphore::new(0));
        let telling = || {
            let told = Arc::clone(&told);
            async move {
                tokio::time::sleep(RETRY_AFTER).await;
                told.add_permits(1);
            }
        };
        (0..PLACES + 10).for_each(|_| refusals.tell(telling()));
        assert_eq!(tasks.len(), PLACES);
        tasks.close();
        tasks.wait().await;
        refusals.tell(telling());
        tasks.wait().await;
        assert_eq!(told.available_permits(), PLACES + 1);
    }
}
