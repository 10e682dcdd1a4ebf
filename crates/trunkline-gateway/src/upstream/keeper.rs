//! Keeps one instance connected and probed, for as long as anything is registered at its address.
//!
//! One task for each peer. It never runs a call and decides nothing about service: it tells the peer what it
//! sees, and the peer's judgement draws the conclusions.

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
        }
        self.peer.set_links(Vec::new());
    }

    async fn keep(&self) {
        let mut links = Vec::new();
        let mut back_off = BACK_OFF_MIN;
        loop {
            self.connect(&mut links).await;
            self.peer.set_links(links.clone());
            if !links.is_empty() {
                self.changes.tell();
                let opened = Instant::now();
                if self.watch_over(&mut links).await {
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

    /// Opens what is missing. The peer is unreachable if nothing is open after it.
    async fn connect(&self, links: &mut Vec<Link>) {
        links.retain(|link| !link.is_closed());
        while links.len() < self.options.channels.max(1) {
            let timeout = self.options.connect_timeout;
            let cancel = self.cut.clone();
            let max_response = self.options.max_response;
            let link = Link::open(
                self.dial.as_ref(),
                &self.peer.address,
                timeout,
                max_response,
                &self.tasks,
                cancel,
            );
            match link.await {
                Ok(link) => links.push(link),
                Err(error) => {
                    if links.is_empty() {
                        self.peer.unreachable(&error.to_string());
                    }
                    return;
                }
            }
        }
    }

    /// Probes until a connection is lost or given up. Answers whether the last probe passed.
    async fn watch_over(&self, links: &mut Vec<Link>) -> bool {
        let mut late = 0;
        let mut passed = false;
        loop {
            match self.probe().await {
                Probe::Passed => {
                    (late, passed) = (0, true);
                    self.peer.probe_passed();
                }
                // The connection ended, so that the probe says nothing about what answers on the next one.
                Probe::Failed(_) if passed && links.iter().any(Link::is_closed) => return true,
                Probe::Failed(why) => {
                    passed = false;
                    self.peer.probe_failed(&why);
                }
                Probe::Late => {
                    (late, passed) = (late + 1, false);
                    self.peer.probe_failed(&format!(
                        "GetStatus took over {:?}",
                        self.options.health.probe_timeout
                    ));
                    if late >= LATE_PROBES {
                        // Calls that still run keep their connection open.
                        links.clear();
                        return false;
                    }
                }
            }
            tokio::select! {
                biased;
                _ = select_all(links.iter().map(|link| Box::pin(link.closed()))) => return passed,
                () = tokio::time::sleep(jittered(self.options.health.probe_interval)) => {}
            }
        }
    }

    async fn probe(&self) -> Probe {
        let Some(link) = self.peer.link() else {
            return Probe::Failed("the connection was closed".to_owned());
        };
        let timeout = self.options.health.probe_timeout;
        let request = wire::StatusRequest { service_name: self.service.clone() };
        let answer = link.call(GET_STATUS.request(&request, timeout));
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
