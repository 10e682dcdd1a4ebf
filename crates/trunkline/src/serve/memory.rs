//! Tells the gateway how much memory the process has: rarely while there is enough, often near the limit.

use std::convert::Infallible;
use std::time::Duration;

use trunkline_gateway::Gateway;

use crate::config::{MEMORY_PERCENT, MemoryLimit};
use crate::process;

/// A network of 1.6 Gbit/s brings 100 MB in half a second: a tenth of what a small machine has, which is the tenth that
/// the limit leaves free.
const LOOK: Duration = Duration::from_millis(500);

/// The same from three quarters of the limit on: one read of /proc costs some microseconds.
const LOOK_NEAR: Duration = Duration::from_millis(50);

/// Never ends, for as long as it is polled.
pub(super) async fn watch(gateway: &Gateway, limit: MemoryLimit) -> Infallible {
    let Some(limit) = bytes(limit) else { return std::future::pending().await };
    tracing::debug!(limit, "above so many bytes of memory no session begins and no call starts");
    loop {
        // A system that does not say how much it is cannot be short of it.
        let used = process::own_resident().unwrap_or_default();
        gateway.memory(used, limit);
        let near = used >= limit / 4 * 3;
        tokio::time::sleep(if near { LOOK_NEAR } else { LOOK }).await;
    }
}

fn bytes(limit: MemoryLimit) -> Option<u64> {
    match limit {
        MemoryLimit::Off => None,
        MemoryLimit::Bytes(bytes) => Some(bytes),
        MemoryLimit::Auto => Some(process::available_memory()? / 100 * MEMORY_PERCENT),
    }
}
