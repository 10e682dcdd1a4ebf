//! Load on a node and what came of it: the parts of `trunkline bench`.
//!
//! The generator is in this process, or in several others (`generators`); the node is another process, so that the two can
//! be told apart when one of them is the limit. Where the client is what is measured too (resume) it is the one of
//! `trunkline-client`; where only the node is, sessions are raw ones that cost next to nothing. Every run is bounded in
//! count and time.

mod audience;
mod bar;
mod callers;
mod calls;
mod cast;
mod child;
mod clock;
mod connect;
mod direct;
mod fanout;
mod figures;
mod generators;
mod idle;
mod latency;
mod link;
mod listeners;
mod machine;
mod node;
mod pace;
mod peer;
mod publisher;
mod push;
mod raw;
mod report;
mod resume;
mod share;
mod transport;
mod upstream;
mod usage;
mod wire;

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use trunkline_client::{Client, Options};

pub(crate) use audience::STAMP as FANOUT_SMALLEST;
pub(crate) use calls::Calls;
pub(crate) use cast::Cast;
pub(crate) use connect::Connect;
pub(crate) use fanout::Fanout;
pub(crate) use generators::{Role, as_part};
pub(crate) use idle::Idle;
pub(crate) use peer::Peer;
pub(crate) use publisher::WINDOW as FANOUT_WINDOW;
pub(crate) use push::Push;
pub(crate) use report::Report;
pub(crate) use resume::Resume;
pub(crate) use share::Share;
pub(crate) use transport::{
    Compare, Over, Pace, Pattern, Plan, Stack, Stage, load as load_transport, pace as pace_transport,
    serve as serve_transport,
};
pub(crate) use upstream::{IN_FLIGHT as UPSTREAM_IN_FLIGHT, Like as UpstreamLike, serve as serve_upstream};

use crate::cli::reach::{self, Reach, Way};
use crate::config::May;
use crate::descriptors::raise_limit;
use bar::{Bar, progress, shown};
use node::OwnNode;
use raw::{RawSession, Sockets};
use trunkline_service::grpc::GatewayAddress;
use upstream::OwnUpstream;
use usage::Usage;

/// Handshakes under way at once: enough to keep two cores busy, few enough for nobody to time out, not even with
/// WebTransport and a debug build on a machine that does much else.
const CONNECTING: usize = 16;

/// Descriptors beside those of the clients.
const OTHER_DESCRIPTORS: usize = 64;

/// Ports that an address surely has for connections to one other: Linux gives 28,232, of which some are still closing.
const PORTS: usize = 25_000;

/// A schedule that is so far behind when its time is over is given up: what it asks for is more than can be had.
const OVERTIME: Duration = Duration::from_secs(10);

/// Channels that a bench may use.
const CHANNELS: &str = "bench:*";

/// The namespace of `CHANNELS` on a bench's own node keeps what a whole run publishes, and no session is slowed down or
/// refused by the limits that protect a node from its clients.
const OWN_CONFIG: &str = "\
[session]
frames_per_second = 0

[limits]
connections = 200000

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
    /// What this process makes of the load.
    share: Share,
}

/// Clients that are not connected yet, each a user of its own.
struct Crowd {
    options: Vec<Options>,
    sockets: Sockets,
}

impl Rig {
    /// Takes the node that was named, or starts one.
    pub(crate) async fn new(reach: &Reach, share: Share) -> anyhow::Result<Self> {
        // TCP, where nobody chooses: a race would measure the race.
        let reach = reach.clone().by_default(Way::Tcp);
        if !reach.names_nothing() {
            let server = reach.node()?.map(|node| node.pid);
            return Ok(Rig { reach, server, upstream: None, own: None, share });
        }
        let own = OwnNode::start(OWN_CONFIG).await?;
        let server = Some(own.pid());
        Ok(Rig { reach: reach.at(own.data_dir()), server, upstream: None, own: Some(own), share })
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
    pub(crate) fn of_peer(reach: &Reach, server: Option<u32>, share: Share) -> Self {
        Rig { reach: reach.clone(), server, upstream: None, own: None, share }
    }

    /// This share of so many clients, if this process may have so many connections, and the node too.
    fn crowd(&self, whole: usize) -> anyhow::Result<Crowd> {
        let count = self.share_of(whole);
        descriptors(count)?;
        self.can_serve(whole)?;
        let options = self.reach.crowd(count, CHANNELS, &[May::Subscribe, May::Publish, May::History])?;
        let first = options.first().context("there are no clients")?;
        let sockets = Sockets::open(first, count)?.coming_from(source(self.share, whole));
        Ok(Crowd { options, sockets })
    }

    fn share_of(&self, whole: usize) -> usize {
        // A share is no more than the whole.
        usize::try_from(self.share.count(whole as u64)).unwrap_or(whole)
    }

    /// Says whether the server may have so many connections, as far as that is known: over TCP each is a file of its
    /// one process.
    fn can_serve(&self, count: usize) -> anyhow::Result<()> {
        let limit =
            self.server.filter(|_| !self.reach.is_over_udp()).and_then(crate::process::descriptor_limit_of);
        match limit {
            Some(limit) if (count + OTHER_DESCRIPTORS) as u64 > limit => bail!(
                "{count} clients need more files than the server may open, which is one process ({limit}): fewer, or raise \
                 its `ulimit -Hn`"
            ),
            _ => Ok(()),
        }
    }

    /// Starts this share of so many raw sessions, each a user of its own.
    async fn sessions(&self, whole: usize) -> anyhow::Result<Vec<RawSession>> {
        let Crowd { options, sockets } = self.crowd(whole)?;
        let bar = self.bar(options.len());
        let started = stream::iter(options.iter().enumerate()).map(async |(at, options)| {
            let session = RawSession::start(options, &sockets, at).await?;
            bar.inc();
            anyhow::Ok(session)
        });
        let started = started.buffered(CONNECTING).try_collect().await;
        bar.finish();
        started.context("not every session could start")
    }

    /// Of connections that are being made.
    fn bar(&self, length: usize) -> Bar {
        match self.share.is_whole() {
            true => Bar::Shown(progress(length as u64, "connecting {pos}/{len} {bar:30}")),
            false => Bar::Told(std::cell::Cell::default()),
        }
    }

    /// Runs a load of about this time, beside a bar where this is all of it.
    async fn shown<T>(&self, lasting: Duration, load: impl Future<Output = T>) -> T {
        if self.share.is_whole() { shown(lasting, load).await } else { load.await }
    }

    /// Processor time from now on, of generators of one thread each and of what they load.
    fn usage(&self, generators: &[u32]) -> Usage {
        let helper = self.upstream.as_ref().map(OwnUpstream::pid);
        Usage::of(generators, self.server.as_slice()).of_one_thread().beside(helper)
    }

    /// Connects so many clients, each a user of its own.
    async fn clients(&self, count: usize) -> anyhow::Result<Vec<Client>> {
        let Crowd { options, .. } = self.crowd(count)?;
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
            "{count} clients need more files than this process may open ({limit}): fewer, in more processes where the \
             bench has --processes, or raise `ulimit -Hn`"
        );
    }
    Ok(())
}

/// Where the connections of a share come from: with more of them than one address has ports, each share that is not the
/// first has a loopback address of its own. All of 127.0.0.0/8 is this machine's on Linux.
fn source(share: Share, whole: usize) -> Option<Ipv4Addr> {
    let at = u8::try_from(share.at()).ok().filter(|at| *at > 0 && whole > PORTS)?;
    Some(Ipv4Addr::new(127, 0, 0, at.checked_add(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_crowd_that_one_address_has_no_ports_for_has_several() {
        let sources = |whole| Share::all(3).map(|share| source(share, whole)).collect::<Vec<_>>();
        assert_eq!(sources(PORTS), [None, None, None]);
        let [second, third] = [2, 3].map(|last| Some(Ipv4Addr::new(127, 0, 0, last)));
        assert_eq!(sources(PORTS + 1), [None, second, third]);
    }
}
