//! `trunkline bench`: load on a node, percentiles, and who was the limit.

mod transport;

use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand, value_parser};

use super::output;
use super::reach::{Reach, block_on, block_on_one_thread};
use crate::bench::{
    self, Calls, Cast, Connect, FANOUT_SMALLEST, FANOUT_WINDOW, Fanout, Idle, Peer, Push, Report, Resume,
    Rig, Role, Share, UPSTREAM_IN_FLIGHT, UpstreamLike,
};

/// Measures a node: one of its own in a child process, or one that is named.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

const EXAMPLES: &str = "Without --data-dir or --url a node of its own is started and ended. A line says whether the generator or the server
was the limit; figures of a debug build say nothing. A generator is one thread: where it is the limit and the machine has
more cores, or where there are more clients than one process may have files, take --processes.

Examples:
  trunkline bench calls --clients 100 --seconds 10
  trunkline bench calls --clients 100 --rate 5000 --transport quic --json
  trunkline bench fanout --subscribers 1000 --rate 100
  trunkline bench fanout --subscribers 100 --rate 0 --transport websocket
  trunkline bench calls --clients 1000 --rate 5000 --upstream --direct
  trunkline bench cast --sessions 50
  trunkline bench calls --clients 20000 --rate 100000 --processes 4 --url tcp://gateway.example:9001
  trunkline bench push --sessions 1000 --rate 2000
  trunkline bench connect --transport tls
  trunkline bench resume --clients 1000
  trunkline bench idle --sessions 9000 --transport websocket
  trunkline bench transport --protocol quic --connections 64";

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// How many calls a second, and how long each takes.
    Calls {
        #[command(flatten)]
        common: Common,
        /// Clients
        #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=200_000))]
        clients: u32,
        /// Calls a second over all clients; 0: each client's next call follows its last reply
        #[arg(long, default_value_t = 0, value_parser = value_parser!(u32).range(0..=1_000_000))]
        rate: u32,
        /// Bytes of each call's data
        #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(0..=1_000_000))]
        size: u32,
        /// Call this action, whatever it answers [default: one that every node answers]
        #[arg(long)]
        action: Option<String>,
        /// Call an upstream in a process of the bench's own, through the node
        #[arg(long, conflicts_with = "action")]
        upstream: bool,
        /// Call the upstream without the node too, in turns of a second, and say what the node adds
        #[arg(long, requires = "upstream", requires = "rate", conflicts_with = "processes")]
        direct: bool,
        #[command(flatten)]
        generators: Generators,
    },
    /// How many one-way calls a second a service in the node takes.
    Cast {
        #[command(flatten)]
        common: Common,
        /// Sessions that send
        #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=200_000))]
        sessions: u32,
        /// Bytes of each call's data
        #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(0..=1_000_000))]
        size: u32,
        #[command(flatten)]
        generators: Generators,
    },
    /// How fast pushes of an upstream reach the users they are for.
    Push {
        #[command(flatten)]
        common: Common,
        /// Sessions, each of a user of its own
        #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=20_000))]
        sessions: u32,
        /// Pushes a second, to one session after the other
        #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=100_000))]
        rate: u32,
        /// Bytes of each push's data
        #[arg(long, default_value_t = 128, value_parser = value_parser!(u32).range(i64::from(FANOUT_SMALLEST)..=1_000_000))]
        size: u32,
    },
    /// How many sessions a second can be started, handshakes included.
    Connect {
        #[command(flatten)]
        common: Common,
        /// Handshakes under way at once
        #[arg(long, default_value_t = 32, value_parser = value_parser!(u32).range(1..=1_000))]
        at_once: u32,
        /// Handshakes a second over all of these; 0 begins each when the one before has ended
        #[arg(long, default_value_t = 0)]
        rate: u32,
        #[command(flatten)]
        generators: Generators,
    },
    /// The upstream of `calls --upstream`.
    #[command(hide = true)]
    Upstream {
        #[arg(long)]
        gateway: String,
        /// How long it takes over each call, in milliseconds
        #[arg(long, default_value_t = 0)]
        delay_ms: u32,
        /// Calls that it takes at once
        #[arg(long, default_value_t = UPSTREAM_IN_FLIGHT)]
        in_flight: u32,
    },
    /// How fast one channel reaches its subscribers.
    Fanout {
        #[command(flatten)]
        common: Common,
        /// Clients that are subscribed
        #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=200_000))]
        subscribers: u32,
        /// Publications a second; 0: as many as arrive, with a window of them under way
        #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(0..=100_000))]
        rate: u32,
        /// Publications under way at once, where the rate is 0
        #[arg(long, default_value_t = FANOUT_WINDOW, value_parser = value_parser!(u32).range(1..=i64::from(FANOUT_WINDOW)))]
        window: u32,
        /// Bytes of each publication
        #[arg(long, default_value_t = 128, value_parser = value_parser!(u32).range(i64::from(FANOUT_SMALLEST)..=1_000_000))]
        size: u32,
        /// Another server instead of a node, for comparison: redis://host:port, or ws://host:port where what is sent
        /// to /publish comes to /subscribe
        #[arg(long, value_name = "URL", conflicts_with_all = ["data_dir", "url", "transport"])]
        peer: Option<Peer>,
        /// The peer's process, to read its processor time
        #[arg(long, value_name = "PID", requires = "peer")]
        peer_pid: Option<u32>,
        #[command(flatten)]
        generators: Generators,
    },
    /// What idle sessions cost the node, in memory and in processor time.
    Idle {
        #[command(flatten)]
        common: Common,
        /// Sessions
        #[arg(long, default_value_t = 5_000, value_parser = value_parser!(u32).range(1..=200_000))]
        sessions: u32,
        #[command(flatten)]
        generators: Generators,
    },
    /// What the transport library costs beside bare sockets, tokio-tungstenite and quinn; no node.
    Transport(transport::Transport),
    /// A peer of `transport`.
    #[command(hide = true, subcommand)]
    TransportPeer(transport::Peer),
    /// How long clients take to come back when all are cut, and whether anything was lost.
    Resume {
        #[command(flatten)]
        common: Common,
        /// Clients
        #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=20_000))]
        clients: u32,
        /// Publications a second meanwhile
        #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=10_000))]
        rate: u32,
    },
}

/// What every bench takes.
#[derive(Debug, Clone, Args)]
struct Common {
    #[command(flatten)]
    reach: Reach,
    /// How long to measure
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Who makes a load that can be shared.
#[derive(Debug, Clone, Default, Args)]
struct Generators {
    /// Make the load in so many processes of one thread each, which share clients and rate, instead of in this one; a
    /// fan-out's publisher stays here
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(u32).range(1..=64))]
    processes: Option<u32>,
    /// The share of one of them.
    #[arg(long, hide = true, value_name = "AT/OF")]
    part: Option<Share>,
}

impl Bench {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let common = match &self.what {
            What::Transport(transport) => return transport.clone().run(),
            What::TransportPeer(peer) => return peer.clone().run(),
            What::Upstream { gateway, delay_ms, in_flight } => {
                let delay = Duration::from_millis((*delay_ms).into());
                let like = UpstreamLike { delay, in_flight: *in_flight };
                return block_on(bench::serve_upstream(gateway, like));
            }
            What::Calls { common, .. }
            | What::Cast { common, .. }
            | What::Connect { common, .. }
            | What::Fanout { common, .. }
            | What::Idle { common, .. }
            | What::Push { common, .. }
            | What::Resume { common, .. } => common,
        };
        let Common { reach, seconds, json } = common;
        let lasting = Duration::from_secs((*seconds).into());
        let Generators { processes, part } = self.generators().cloned().unwrap_or_default();
        if let Some(share) = part {
            return self.on_its_runtime(bench::as_part(async |role| {
                let rig = self.rig(reach, share).await?;
                self.measure(&rig, lasting, role).await
            }));
        }
        let report = self.on_its_runtime(async {
            let rig = self.rig(reach, Share::WHOLE).await?;
            let rig = if self.has_upstream() { rig.with_upstream().await? } else { rig };
            // One is this one.
            let others = processes.filter(|processes| *processes > 1);
            self.measure(&rig, lasting, others.map_or(Role::Alone, Role::Several)).await
        });
        print(report?, *json)
    }

    /// Who makes the load, where it can be shared.
    fn generators(&self) -> Option<&Generators> {
        match &self.what {
            What::Calls { generators, .. }
            | What::Cast { generators, .. }
            | What::Connect { generators, .. }
            | What::Fanout { generators, .. }
            | What::Idle { generators, .. } => Some(generators),
            _ => None,
        }
    }

    fn has_upstream(&self) -> bool {
        matches!(self.what, What::Calls { upstream: true, .. })
    }

    async fn rig(&self, reach: &Reach, share: Share) -> anyhow::Result<Rig> {
        match &self.what {
            What::Fanout { peer: Some(_), peer_pid, .. } => Ok(Rig::of_peer(reach, *peer_pid, share)),
            _ => Rig::new(reach, share).await,
        }
    }

    /// Where only the node is measured the generator is one thread, which costs least, and each of several is.
    fn on_its_runtime<T>(&self, run: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let is_part = self.generators().is_some_and(|generators| generators.part.is_some());
        match self.what {
            What::Idle { .. } | What::Resume { .. } if !is_part => block_on(run),
            _ => block_on_one_thread(run),
        }
    }

    /// What was found; a part has told it to who asked.
    async fn measure(&self, rig: &Rig, lasting: Duration, role: Role) -> anyhow::Result<Option<Report>> {
        match &self.what {
            What::Calls { clients, rate, size, action, upstream, direct, .. } => {
                let (clients, size, action) = (*clients as usize, *size as usize, action.clone());
                let (rate, upstream, direct) = (*rate, *upstream, *direct);
                Calls { clients, rate, lasting, size, action, upstream, direct }.run(rig, role).await
            }
            What::Cast { sessions, size, .. } => {
                Cast { sessions: *sessions as usize, lasting, size: *size as usize }.run(rig, role).await
            }
            What::Push { sessions, rate, size, .. } => {
                let (sessions, size) = (*sessions as usize, *size as usize);
                Push { sessions, rate: *rate, lasting, size }.run(rig).await.map(Some)
            }
            What::Connect { at_once, rate, .. } => {
                Connect { at_once: *at_once as usize, rate: *rate, lasting }.run(rig, role).await
            }
            What::Upstream { .. } | What::Transport(_) | What::TransportPeer(_) => {
                bail!("this loads no node")
            }
            What::Fanout { subscribers, rate, window, size, peer, .. } => {
                let (subscribers, size, peer) = (*subscribers as usize, *size as usize, peer.clone());
                Fanout { subscribers, rate: *rate, window: *window, lasting, size, peer }.run(rig, role).await
            }
            What::Idle { sessions, .. } => {
                Idle { sessions: *sessions as usize, lasting }.run(rig, role).await
            }
            What::Resume { clients, rate, .. } => {
                Resume { clients: *clients as usize, rate: *rate, lasting }.run(rig).await.map(Some)
            }
        }
    }
}

/// Prints what was found; what makes it worthless, or does not reach what was asked, is an error then.
fn print(report: Option<Report>, json: bool) -> anyhow::Result<()> {
    let Some(report) = report.map(Report::settled) else { return Ok(()) };
    output::result(&if json { report.json()? } else { report.to_string() });
    match report.failure() {
        Some(failure) => bail!("{failure}"),
        None => Ok(()),
    }
}
