//! `trunkline bench`: load on a node, percentiles, and who was the limit.

use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand, value_parser};

use super::output;
use super::reach::{Reach, block_on};
use crate::bench::{Calls, Fanout, Idle, Report, Resume, Rig};

/// Measures a node: one of its own in a child process, or one that is named.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

const EXAMPLES: &str = "Without --data-dir or --url a node of its own is started and ended. A line says whether the generator or the server
was the limit; figures of a debug build say nothing.

Examples:
  trunkline bench calls --clients 100 --seconds 10
  trunkline bench calls --clients 100 --rate 5000 --transport quic --json
  trunkline bench fanout --subscribers 1000 --rate 100
  trunkline bench resume --clients 1000
  trunkline bench idle --sessions 9000 --transport websocket";

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// How many calls a second, and how long each takes.
    Calls {
        #[command(flatten)]
        common: Common,
        /// Clients
        #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=20_000))]
        clients: u32,
        /// Calls a second over all clients; 0: each client's next call follows its last reply
        #[arg(long, default_value_t = 0, value_parser = value_parser!(u32).range(0..=1_000_000))]
        rate: u32,
        /// Bytes of each call's data
        #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(0..=1_000_000))]
        size: u32,
    },
    /// How fast one channel reaches its subscribers.
    Fanout {
        #[command(flatten)]
        common: Common,
        /// Clients that are subscribed
        #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=20_000))]
        subscribers: u32,
        /// Publications a second
        #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=100_000))]
        rate: u32,
        /// Bytes of each publication
        #[arg(long, default_value_t = 128, value_parser = value_parser!(u32).range(8..=1_000_000))]
        size: u32,
    },
    /// What idle sessions cost the node, in memory and in processor time.
    Idle {
        #[command(flatten)]
        common: Common,
        /// Sessions
        #[arg(long, default_value_t = 5_000, value_parser = value_parser!(u32).range(1..=100_000))]
        sessions: u32,
    },
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

impl Bench {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let common = self.common();
        let report = block_on(async {
            let rig = Rig::new(&common.reach).await?;
            self.measure(&rig, Duration::from_secs(common.seconds.into())).await
        })?;
        output::result(&if common.json { report.json()? } else { report.to_string() });
        match report.failure() {
            Some(failure) => bail!("{failure}"),
            None => Ok(()),
        }
    }

    fn common(&self) -> &Common {
        match &self.what {
            What::Calls { common, .. }
            | What::Fanout { common, .. }
            | What::Idle { common, .. }
            | What::Resume { common, .. } => common,
        }
    }

    async fn measure(&self, rig: &Rig, lasting: Duration) -> anyhow::Result<Report> {
        match &self.what {
            What::Calls { clients, rate, size, .. } => {
                let (clients, size) = (*clients as usize, *size as usize);
                Calls { clients, rate: *rate, lasting, size }.run(rig).await
            }
            What::Fanout { subscribers, rate, size, .. } => {
                let (subscribers, size) = (*subscribers as usize, *size as usize);
                Fanout { subscribers, rate: *rate, lasting, size }.run(rig).await
            }
            What::Idle { sessions, .. } => Idle { sessions: *sessions as usize, lasting }.run(rig).await,
            What::Resume { clients, rate, .. } => {
                Resume { clients: *clients as usize, rate: *rate, lasting }.run(rig).await
            }
        }
    }
}
