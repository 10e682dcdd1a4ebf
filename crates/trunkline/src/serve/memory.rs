//! Tells the gateway how much memory the process has: rarely while there is enough, often near the limit.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use trunkline_gateway::Gateway;

use crate::config::{MEMORY_PERCENT, MemoryLimit};
use crate::process;

/// A network of 1.6 Gbit/s brings 100 MB in half a second: a tenth of what a small machine has, which is the tenth that
/// the limit leaves free.
const LOOK: Duration = Duration::from_millis(500);

/// The same from three quarters of the limit on: one read of /proc costs some microseconds.
const LOOK_NEAR: Duration = Duration::from_millis(50);

/// Never ends, for as long as it is polled. The limit may change meanwhile.
pub(super) async fn watch(gateway: &Gateway, mut limit: watch::Receiver<MemoryLimit>) -> Infallible {
    loop {
        let bytes = bytes(*limit.borrow_and_update());
        // A system that does not say how much it is cannot be short of it.
        let used = bytes.and_then(|_| process::own_resident()).unwrap_or_default();
        gateway.memory(used, bytes.unwrap_or_default());
        let look = async {
            match bytes {
                Some(bytes) if used >= bytes / 4 * 3 => tokio::time::sleep(LOOK_NEAR).await,
                Some(_) => tokio::time::sleep(LOOK).await,
                None => pending().await,
            }
        };
        let change = async {
            // Who could change it is gone when the node stops: then it stays.
            if limit.changed().await.is_err() {
                pending().await
            }
        };
        tokio::select! {
            () = look => {}
            () = change => {}
        }
    }
}

/// The most that the process may have, where there is a limit and it is known.
pub(super) fn bytes(limit: MemoryLimit) -> Option<u64> {
    match limit {
        MemoryLimit::Off => None,
        MemoryLimit::Bytes(bytes) => Some(bytes),
        MemoryLimit::Auto => Some(process::available_memory()? / 100 * MEMORY_PERCENT),
    }
}
