//! Load on a node and what came of it: the parts of `trunkline bench`.
//!
//! The generator is in this process; the node is another process, so that the two can be told apart when one of them is
//! the limit. Where the client is what is measured too (calls, resume) it is the one of `trunkline-client`; where only
//! the node is, sessions are raw ones that cost next to nothing. Every run is bounded in count and time.

mod audience;
mod callers;
mod calls;
mod cast;
mod child;
mod clock;
mod connect;
mod fanout;
mod idle;
mod latency;
mod link;
mod listeners;
mod machine;
mod node;
mod pace;
mod peer;
mod push;
mod raw;
mod report;
mod resume;
mod transport;
mod upstream;
mod usage;
mod wire;

use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use trunkline_client::{Client, Options};

pub(crate) use audience::STAMP as FANOUT_SMALLEST;
pub(crate) use calls::Calls;
pub(crate) use cast::Cast;
pub(crate) use connect::Connect;
pub(crate) use fanout::{Fanout, WINDOW as FANOUT_WINDOW};
pub(crate) use idle::Idle;
pub(crate) use peer::Peer;
pub(crate) use push::Push;
pub(crate) use report::Report;
pub(crate) use resume::Resume;
pub(crate) use transport::{
    Compare, Over, Pace, Pattern, Plan, Stack, Stage, load as load_transport, pace as pace_transport,
    serve as serve_transport,
};
pub(crate) use upstream::{IN_FLIGHT as UPSTREAM_IN_FLIGHT, Like as UpstreamLike, serve as serve_upstream};

use crate::cli::reach::{self, Reach, Way};
use crate::config::May;
use crate::descriptors::raise_limit;
use node::OwnNode;
use raw::{RawSession, Sockets};
use trunkline_service::grpc::GatewayAddress;
use upstream::OwnUpstream;

/// Handshakes under way at once: enough to keep two cores busy, few enough for nobody to time out, not even with
/// WebTransport and a debug build on a machine that does much else.
const CONNECTING: usize = 16;

/// Descriptors beside those of the clients.
const OTHER_DESCRIPTORS: usize = 64;

/// A schedule that is so far behind when its time is over is given up: what it asks for is more than can be had.
const OVERTIME: Duration = Duration::from_secs(10);

/// Channels that a bench may use.
const CHANNELS: &str = "bench:*";

/// The namespace of `CHANNELS` on a bench's own node keeps what a whole run publishes, and no session is slowed down by
/// the limits that protect a node from one client.
const OWN_CONFIG: &str = "\
[session]
frames_per_second = 0

[namespaces.bench]
history_count = 100000
history_bytes = \"256MiB\"
presence = false
";

/// The node under load, and how it is reached.
pub(crate) struct Rig {
    reach: Reach,
    /// The server's process, where it is on this machine.
    server: Option<u32>,
    /// Dropping it ends the process.
    upstream: Option<OwnUpstream>,
    /// Dropping it ends the node.
    own: Option<OwnNode>,
}

impl Rig {
    /// Takes the node that was named, or starts one.
    pub(crate) async fn new(reach: &Reach) -> anyhow::Result<Self> {
        // TCP, where nobody chooses: a race would measure the race.
        let reach = reach.clone().by_default(Way::Tcp);
        if !reach.names_nothing() {
            let server = reach.node()?.map(|node| node.pid);
            return Ok(Rig { reach, server, upstream: None, own: None });
        }
        let own = OwnNode::start(OWN_CONFIG).await?;
        let server = Some(own.pid());
        Ok(Rig { reach: reach.at(own.data_dir()), server, upstream: None, own: Some(own) })
    }

    /// The same, with an upstream in a process of its own, which the node knows.
    pub(crate) async fn with_upstream(mut self) -> anyhow::Result<Self> {
        let gateway = self.gateway()?;
        self.upstream = Some(OwnUpstream::start(gateway.as_str()).await?);
        Ok(self)
    }

    /// The node's gRPC surface.
    fn gateway(&self) -> anyhow::Result<GatewayAddress> {
        self.reach.gateway()
    }

    /// Another server in a node's place, of which only the process is known, if that.
    pub(crate) fn of_peer(reach: &Reach, server: Option<u32>) -> Self {
        Rig { reach: reach.clone(), server, upstream: None, own: None }
    }

    /// Options of so many clients, each a user of its own, if this process may have so many connections.
    fn crowd(&self, count: usize) -> anyhow::Result<Vec<Options>> {
        descriptors(count)?;
        self.reach.crowd(count, CHANNELS, &[May::Subscribe, May::Publish, May::History])
    }

    /// Starts so many raw sessions, each a user of its own.
    async fn sessions(&self, count: usize) -> anyhow::Result<Vec<RawSession>> {
        let options = self.crowd(count)?;
        let sockets = Sockets::open(&options[0], count)?;
        let bar = progress(count as u64, "connecting {pos}/{len} {bar:30}");
        let started = stream::iter(options.iter().enumerate()).map(async |(at, options)| {
            let session = RawSession::start(options, &sockets, at).await?;
            bar.inc(1);
            anyhow::Ok(session)
        });
        let started = started.buffered(CONNECTING).try_collect().await;
        bar.finish_and_clear();
        started.context("not every session could start")
    }

    /// Connects so many clients, each a user of its own.
    async fn clients(&self, count: usize) -> anyhow::Result<Vec<Client>> {
        let options = self.crowd(count)?;
        let bar = progress(count as u64, "connecting {pos}/{len} {bar:30}");
        let connected = stream::iter(options).map(|options: Options| {
            let bar = bar.clone();
            async move {
                let client = reach::connect(options).await?;
                bar.inc(1);
                anyhow::Ok(client)
            }
        });
        let clients = connected.buffered(CONNECTING).try_collect().await;
        bar.finish_and_clear();
        clients.context("not every client could connect")
    }

    /// Ends the clients' sessions; those of an own node end with it.
    async fn stop(&self, clients: Vec<Client>) {
        if self.own.is_none() {
            let stopped = stream::iter(clients).map(|client| async move { client.stop().await });
            stopped.buffer_unordered(CONNECTING).collect::<()>().await;
        }
    }

    fn way(&self) -> String {
        self.reach.way_named()
    }
}

/// The user of one client: no other bench's, so that several can load one node.
pub(crate) fn user(at: usize) -> String {
    format!("bench-{}-{at}", std::process::id())
}

/// Says whether this process may open so many connections.
fn descriptors(count: usize) -> anyhow::Result<()> {
    let limit = raise_limit();
    if count + OTHER_DESCRIPTORS > limit {
        bail!(
            "{count} clients need more files than this process may open ({limit}): fewer, or raise `ulimit -Hn`"
        );
    }
    Ok(())
}

/// A bar on a terminal, nothing elsewhere.
fn progress(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    // A template that does not parse leaves the default one.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Runs a load of about this time beside a bar that shows how far it is.
async fn shown<T>(lasting: Duration, load: impl Future<Output = T>) -> T {
    const TICK: Duration = Duration::from_millis(200);
    let ticks = u64::try_from(lasting.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX);
    let bar = progress(ticks, "measuring {bar:30} {elapsed}");
    let mut interval = tokio::time::interval(TICK);
    tokio::pin!(load);
    let result = loop {
        tokio::select! {
            result = &mut load => break result,
            _ = interval.tick() => bar.inc(1),
        }
    };
    bar.finish_and_clear();
    result
}
