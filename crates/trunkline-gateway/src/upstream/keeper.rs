//! Keeps one instance connected and probed, for as long as anything is registered at its address: by one connection,
//! and by more while its calls are more than the instance takes on those that are there.
//!
//! One task for each peer. It never runs a call and decides nothing about service: it tells the peer what it
//! sees, and the peer's judgement draws the conclusions.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use trunkline_proto::wire;

use super::link::{Dial, Link};
use super::options::UpstreamOptions;
use super::peer::Peer;
use super::signal::Changes;
use super::unary::GET_STATUS;

/// The first pause after a failed connection; short, since whoever registers listens a moment later.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
/// The longest: a returning instance is back within check U2's 2 s.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// Late probes in a row after which a connection is given up for a new one: it may lead to a host that is gone.
const LATE_PROBES: u32 = 2;
/// How often it is looked whether the last of several connections has calls. One that is missed is opened again within a
/// round trip.
const IDLE_CHANNEL: Duration = Duration::from_secs(30);
/// What is shown of an instance's own words.
const SHOWN: usize = 64;
/// What `GetStatus` may say for good, in any case.
const GOOD: [&str; 4] = ["healthy", "ok", "serving", "running"];

/// See the module.
pub(super) struct Keeper {
    pub(super) peer: Arc<Peer>,
    /// For `GetStatus`.
    pub(super) service: String,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) options: Arc<UpstreamOptions>,
    pub(super) tasks: TaskTracker,
    /// Cuts off connections. The peer's own end does not: calls that run there may finish.
    pub(super) cut: CancellationToken,
    pub(super) changes: Changes,
}

/// What a probe showed.
enum Probe {
    Passed,
    Failed(String),
    Late,
}

impl Keeper {
    /// Runs until the peer is cancelled.
    pub(super) async fn run(self) {
        let cancel = self.peer.cancel.clone();
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = self.keep() => {}
            () = self.widen() => {}
        }
        self.peer.channels.give_up();
    }

    async fn keep(&self) {
        let mut back_off = BACK_OFF_MIN;
        loop {
            if self.connect().await {
                self.changes.tell();
                let opened = Instant::now();
                if self.watch_over().await {
                    back_off = BACK_OFF_MIN;
                    // A connection that served is replaced at once: the instance may only have said good-bye to
                    // it. One that serves a single probe, again and again, must not keep us busy.
                    if opened.elapsed() >= self.options.health.probe_interval {
                        continue;
                    }
                }
            }
            tokio::time::sleep(jittered(back_off)).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    /// Opens a connection if there is none. The peer is unreachable if there still is none after it.
    async fn connect(&self) -> bool {
        let channels = &self.peer.channels;
        channels.forget_closed();
        if channels.is_open() {
            return true;
        }
        match self.open().await {
            Ok(link) => channels.add(link),
            Err(error) if !channels.is_open() => self.peer.unreachable(&error.to_string()),
            Err(_) => {}
        }
        channels.is_open()
    }

    async fn open(&self) -> io::Result<Link> {
        let (timeout, max_response) = (self.options.connect_timeout, self.options.max_response);
        let (dial, address) = (self.dial.as_ref(), &self.peer.address);
        let siblings = Arc::downgrade(&self.peer.channels);
        Link::open(dial, address, timeout, max_response, siblings, &self.tasks, self.cut.clone()).await
    }

    /// Opens further connections when calls find no room on those that are there, one after the other, and gives up
    /// what is not needed any more. Never ends.
    async fn widen(&self) {
        let channels = &self.peer.channels;
        loop {
            tokio::select! {
                biased;
                () = channels.wanted() => {}
                () = tokio::time::sleep(IDLE_CHANNEL) => {
                    channels.shrink();
                    continue;
                }
            }
            let opened = self.open().await;
            let serves = match &opened {
                // Calls would wait for it that others may take meanwhile.
                Ok(link) => link.spoken().await,
                Err(error) => {
                    tracing::debug!(address = %self.peer.address, %error, "no further connection to an upstream");
                    false
                }
            };
            if let Ok(link) = opened
                && serves
            {
                channels.add(link.clone());
                self.changes.tell();
                tokio::time::sleep(jittered(BACK_OFF_MIN)).await;
                if !link.is_closed() {
                    continue;
                }
            }
            // It takes no more than there are, and must not be asked with every call.
            tokio::time::sleep(jittered(BACK_OFF_MAX)).await;
        }
    }

    /// Probes the connections in turn, until the last of them is lost or given up. Answers whether the last probe
    /// passed.
    async fn watch_over(&self) -> bool {
        let channels = &self.peer.channels;
        let (mut turn, mut late, mut passed) = (0, 0, false);
        loop {
            channels.forget_closed();
            let links = channels.all().to_vec();
            let Some(link) = links.get(turn % links.len().max(1)) else { return passed };
            match self.probe(link).await {
                Probe::Passed => {
                    (late, passed) = (0, true);
                    turn = turn.wrapping_add(1);
                    self.peer.probe_passed();
                }
                // The connection ended, so that the probe says nothing about what answers on the next one.
                Probe::Failed(_) if passed && link.is_closed() => {}
                Probe::Failed(why) => {
                    passed = false;
                    turn = turn.wrapping_add(1);
                    self.peer.probe_failed(&why);
                }
                Probe::Late => {
                    (late, passed) = (late + 1, false);
                    self.peer.probe_failed(&format!(
                        "GetStatus took over {:?}",
                        self.options.health.probe_timeout
                    ));
                    if late >= LATE_PROBES {
                        // They lead to one host. Calls that still run keep their connection open.
                        channels.give_up();
                    }
                }
            }
            if !channels.is_open() {
                return passed;
            }
            tokio::select! {
                biased;
                _ = select_all(links.iter().map(|link| Box::pin(link.closed()))) => {}
                () = tokio::time::sleep(jittered(self.options.health.probe_interval)) => {}
            }
        }
    }

    async fn probe(&self, link: &Link) -> Probe {
        let timeout = self.options.health.probe_timeout;
        let request = wire::StatusRequest { service_name: self.service.clone() };
        let answer = link.probe(GET_STATUS.request(&request, timeout));
        match tokio::time::timeout(timeout, answer)
            .await
            .map(|answer| answer.map_err(|failure| failure.status))
        {
            Err(_) => Probe::Late,
            Ok(Ok(wire::StatusResponse { status, .. })) => {
                if GOOD.iter().any(|good| status.trim().eq_ignore_ascii_case(good)) {
                    Probe::Passed
                } else {
                    Probe::Failed(format!("its status is {:?}", shown(&status)))
                }
            }
            // It speaks gRPC, which is all that one without GetStatus can show.
            Ok(Err(status)) if status.code() == Code::Unimplemented => Probe::Passed,
            Ok(Err(status)) if status.code() == Code::DeadlineExceeded => Probe::Late,
            Ok(Err(status)) => {
                Probe::Failed(format!("GetStatus failed: {:?}, {:?}", status.code(), shown(status.message())))
            }
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Within a quarter of it, so that the gateways and instances of a fleet do not tick together.
pub(super) fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::random_range(0.75..1.25))
}
