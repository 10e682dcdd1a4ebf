//! `trunkline bench transport`, and the peers that it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, value_parser};
use trunkline_transport::Wire;

use super::super::output;
use super::super::reach::{block_on, block_on_one_thread};
use super::print;
use crate::bench::{
    Compare, Over, Pace, Pattern, Plan, Stack, Stage, load_transport, pace_transport, serve_transport,
};

/// What is compared.
#[derive(Debug, Clone, Args)]
pub(super) struct Transport {
    /// The protocol below
    #[arg(long, value_enum, default_value_t = Over::Tcp)]
    protocol: Over,
    /// What each connection does
    #[arg(long, value_enum, default_value_t = Pattern::Request)]
    pattern: Pattern,
    /// Connections
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// Bytes of each payload
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=1_000_000))]
    size: u32,
    /// How long each turn lasts
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// How often each has its turn
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Broadcasts a second
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Who takes turns
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Stack::Ours, Stack::Bare])]
    stacks: Vec<Stack>,
    /// The msgtrans peer program, which takes turns too
    #[arg(long, value_name = "PROGRAM")]
    msgtrans: Option<PathBuf>,
    /// No comparison, but one of the stages of msgtrans' plan: 1,000 connections and 10,000 messages a second, half
    /// of them echoes, there and back within 10 ms; 10,000 and 100,000 within 5 ms; 100,000 and a million within 1 ms
    #[arg(long, value_parser = value_parser!(u8).range(1..=3), conflicts_with_all = STAGED)]
    stage: Option<u8>,
    /// The stage's server is tokio's TCP as it is: what the machine and the clients have in the times is in those too
    #[arg(long, requires = "stage")]
    bare_server: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a stage says by itself.
const STAGED: [&str; 6] = ["protocol", "pattern", "connections", "rounds", "rate", "stacks"];

/// A peer of a comparison, for its parent.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Peer {
    /// Serves until its input ends.
    Serve {
        #[command(flatten)]
        how: How,
        #[arg(long)]
        at: SocketAddr,
        /// On this thread alone
        #[arg(long)]
        one_thread: bool,
    },
    /// Connects, waits for the word, and sends at a pace.
    Pace {
        #[arg(long)]
        server: SocketAddr,
        #[arg(long)]
        connections: u32,
        #[arg(long)]
        rate: u32,
        #[arg(long)]
        size: u32,
        #[arg(long)]
        seconds: u32,
        /// The server is a bare one, which knows version 1 of the wire alone
        #[arg(long)]
        bare_server: bool,
    },
    /// Connects, waits for the word, and does its part.
    Load {
        #[command(flatten)]
        how: How,
        #[arg(long)]
        server: SocketAddr,
        #[arg(long)]
        connections: u32,
        #[arg(long)]
        size: u32,
        #[arg(long, default_value_t = 1)]
        seconds: u32,
        /// On each connection, in place of a time
        #[arg(long)]
        count: Option<u64>,
    },
}

/// What both sides must know.
#[derive(Debug, Clone, Args)]
pub(super) struct How {
    #[arg(long, value_enum)]
    stack: Stack,
    #[arg(long, value_enum)]
    protocol: Over,
    #[arg(long, value_enum)]
    pattern: Pattern,
    /// The folder with the certificate
    #[arg(long)]
    tls: Option<PathBuf>,
}

impl Transport {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let lasting = Duration::from_secs(self.seconds.into());
        if let Some(number) = self.stage {
            let server = if self.bare_server { Stack::Bare } else { Stack::Ours };
            let stage = Stage::new(number, server, self.size, lasting);
            return print(Some(block_on(stage.run())?), self.json);
        }
        let mut stacks = self.stacks;
        if self.msgtrans.is_some() && !stacks.contains(&Stack::Msgtrans) {
            stacks.push(Stack::Msgtrans);
        }
        let compare = Compare {
            over: self.protocol,
            pattern: self.pattern,
            connections: self.connections,
            size: self.size,
            lasting,
            rounds: self.rounds,
            rate: self.rate,
            stacks,
            msgtrans: self.msgtrans,
        };
        let report = block_on(compare.run())?;
        output::result(&if self.json { report.json()? } else { report.to_string() });
        Ok(())
    }
}

impl Peer {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Peer::Serve { how, at, one_thread } => {
                let serve = serve_transport(how.stack, how.protocol, how.pattern, at, how.tls.as_deref());
                if one_thread { block_on_one_thread(serve) } else { block_on(serve) }
            }
            Peer::Pace { server, connections, rate, size, seconds, bare_server } => {
                let lasting = Duration::from_secs(seconds.into());
                let wire = if bare_server { Wire::V1 } else { Wire::V2 };
                let pace = Pace { server, wire, connections, rate, size: size as usize, lasting };
                block_on_one_thread(pace_transport(pace))
            }
            Peer::Load { how, server, connections, size, seconds, count } => block_on(load_transport(Plan {
                stack: how.stack,
                over: how.protocol,
                pattern: how.pattern,
                server,
                connections: connections as usize,
                size: size as usize,
                lasting: Duration::from_secs(seconds.into()),
                count,
                tls: how.tls,
            })),
        }
    }
}
