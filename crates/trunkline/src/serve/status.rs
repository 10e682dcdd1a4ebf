//! What a node says of itself: the figures behind the status page, `/stats`, `/performance` and `/metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::time::Instant;
use trunkline_gateway::upstream::{Upstreams, UpstreamsSnapshot};
use trunkline_gateway::{Gateway, Snapshot};

use super::certificate::NodeCertificate;

/// How far the node is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    Starting,
    Ready,
    Stopping,
}

/// Reads the node's figures. Clones read the same node.
#[derive(Clone)]
pub(super) struct StatusSource {
    shared: Arc<Shared>,
}

struct Shared {
    gateway: Gateway,
    upstreams: Arc<Upstreams>,
    certificate: NodeCertificate,
    started: Instant,
    phase: AtomicU8,
    surfaces: OnceLock<BTreeMap<String, SocketAddr>>,
}

/// The node at one moment.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Status {
    pub(super) version: &'static str,
    pub(super) phase: &'static str,
    pub(super) uptime_seconds: u64,
    pub(super) timestamp: u64,
    pub(super) memory_bytes: u64,
    pub(super) certificate_sha256: String,
    /// Where each surface listens; empty until everything serves.
    pub(super) surfaces: BTreeMap<String, SocketAddr>,
    pub(super) gateway: Snapshot,
    pub(super) upstreams: UpstreamsSnapshot,
}

impl StatusSource {
    pub(super) fn new(gateway: Gateway, upstreams: Arc<Upstreams>, certificate: &NodeCertificate) -> Self {
        let shared = Shared {
            gateway,
            upstreams,
            certificate: certificate.clone(),
            started: Instant::now(),
            phase: AtomicU8::new(Phase::Starting as u8),
            surfaces: OnceLock::new(),
        };
        StatusSource { shared: Arc::new(shared) }
    }

    /// Everything serves, at these addresses.
    pub(super) fn ready(&self, surfaces: &BTreeMap<String, SocketAddr>) {
        self.shared.surfaces.get_or_init(|| surfaces.clone());
        self.shared.phase.store(Phase::Ready as u8, Relaxed);
    }

    /// The node drains.
    pub(super) fn stopping(&self) {
        self.shared.phase.store(Phase::Stopping as u8, Relaxed);
    }

    /// Is the node serving?
    pub(super) fn phase(&self) -> Phase {
        match self.shared.phase.load(Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Stopping,
        }
    }

    pub(super) fn certificate_sha256(&self) -> String {
        self.shared.certificate.sha256()
    }

    pub(super) fn read(&self) -> Status {
        let shared = &self.shared;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            phase: match self.phase() {
                Phase::Starting => "starting",
                Phase::Ready => "ready",
                Phase::Stopping => "stopping",
            },
            uptime_seconds: shared.started.elapsed().as_secs(),
            timestamp: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            memory_bytes: resident_bytes(),
            certificate_sha256: self.certificate_sha256(),
            surfaces: shared.surfaces.get().cloned().unwrap_or_default(),
            gateway: shared.gateway.snapshot(),
            upstreams: shared.upstreams.snapshot(),
        }
    }
}

/// Resident memory of this process; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let Ok(statm) = std::fs::read_to_string("/proc/self/statm") else { return 0 };
    let pages: u64 = statm.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or_default();
    // Linux counts in pages of 4 KiB on every machine that this runs on.
    pages * 4096
}
