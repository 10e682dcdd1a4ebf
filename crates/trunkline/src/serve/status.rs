//! What a node says of itself: the figures behind the status page, `/stats`, `/performance` and `/metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trunkline_gateway::upstream::{Upstreams, UpstreamsSnapshot};
use trunkline_gateway::{Counters, Gateway, Snapshot};

use super::certificate::NodeCertificate;
use super::rate::Rate;
use super::reload::{ReloadFigures, Reloads};
use crate::logging::{LogHandle, LostLines};
use crate::process::Process;

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
    started_unix: Duration,
    requests: Rate,
    log: LogHandle,
    reloads: Arc<Reloads>,
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
    // What follows is for operators: the public page does not have it.
    #[serde(skip)]
    pub(super) uptime: Duration,
    /// In Unix time.
    #[serde(skip)]
    pub(super) started: Duration,
    /// Tasks that live.
    #[serde(skip)]
    pub(super) tasks: usize,
    /// Threads that run them.
    #[serde(skip)]
    pub(super) workers: usize,
    #[serde(skip)]
    pub(super) requests_per_second: f64,
    #[serde(skip)]
    pub(super) process: Process,
    #[serde(skip)]
    pub(super) log: LostLines,
    #[serde(skip)]
    pub(super) reloads: ReloadFigures,
}

/// What `/performance` says, cheap enough for every visitor of the public page: nothing looks at each session.
pub(super) struct Performance {
    pub(super) uptime: Duration,
    pub(super) timestamp: u64,
    pub(super) tasks: usize,
    pub(super) connections: u64,
    pub(super) counters: Counters,
    pub(super) process: Process,
}

impl Phase {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Stopping => "stopping",
        }
    }
}

impl StatusSource {
    pub(super) fn new(
        gateway: Gateway,
        upstreams: Arc<Upstreams>,
        certificate: &NodeCertificate,
        log: LogHandle,
        reloads: Arc<Reloads>,
    ) -> Self {
        let shared = Shared {
            gateway,
            upstreams,
            certificate: certificate.clone(),
            started: Instant::now(),
            started_unix: unix_time(),
            requests: Rate::default(),
            log,
            reloads,
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

    /// Counts requests a second until cancelled.
    pub(super) async fn follow(self, cancel: CancellationToken) {
        let gateway = &self.shared.gateway;
        self.shared.requests.follow(cancel, || gateway.counters().requests()).await;
    }

    /// Everything. It looks at each connection and session.
    pub(super) fn read(&self) -> Status {
        let shared = &self.shared;
        let (uptime, process, gateway) =
            (shared.started.elapsed(), Process::read(), shared.gateway.snapshot());
        let (tasks, workers) = tasks();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            phase: self.phase().as_str(),
            uptime_seconds: uptime.as_secs(),
            timestamp: u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX),
            memory_bytes: process.resident.unwrap_or_default(),
            certificate_sha256: self.certificate_sha256(),
            surfaces: shared.surfaces.get().cloned().unwrap_or_default(),
            requests_per_second: shared.requests.per_second(gateway.counters.requests()),
            gateway,
            upstreams: shared.upstreams.snapshot(),
            uptime,
            started: shared.started_unix,
            tasks,
            workers,
            process,
            log: shared.log.lost(),
            reloads: shared.reloads.read(),
        }
    }

    /// The sums that everybody may see.
    pub(super) fn performance(&self) -> Performance {
        let shared = &self.shared;
        Performance {
            uptime: shared.started.elapsed(),
            timestamp: unix_time().as_secs(),
            tasks: tasks().0,
            connections: shared.gateway.connections(),
            counters: shared.gateway.counters(),
            process: Process::read(),
        }
    }

    /// Where the metrics surface listens, if it does.
    pub(super) fn metrics_address(&self) -> Option<SocketAddr> {
        self.shared.surfaces.get()?.get("metrics").copied()
    }
}

/// Now, in Unix time.
pub(super) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Tasks that live, and threads that run them. For who runs in a runtime.
fn tasks() -> (usize, usize) {
    let metrics = tokio::runtime::Handle::current().metrics();
    (metrics.num_alive_tasks(), metrics.num_workers())
}
