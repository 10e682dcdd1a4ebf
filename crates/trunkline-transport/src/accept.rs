//! What accept loops of every protocol share: whether there is a place left, and a sleep that may last for ever.

use std::{fmt, sync::Arc};

use tokio::time::Instant;

/// A question that listeners ask before they let somebody in: whether there is no place left. Cheap to clone.
#[derive(Clone)]
pub struct IsFull(Arc<dyn Fn() -> bool + Send + Sync>);

impl IsFull {
    /// Asks `full` for each newcomer.
    pub fn new(full: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(full))
    }

    #[cfg_attr(
        not(any(feature = "websocket", feature = "quic")),
        allow(dead_code, reason = "only they have a word for it")
    )]
    pub(crate) fn get(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for IsFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IsFull(..)")
    }
}

/// Sleeps until `instant`; for ever without one.
pub(crate) async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
