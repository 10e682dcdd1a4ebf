//! `trunkline serve`: the flags of a node, each the equal of a key of the configuration.

use std::path::PathBuf;

use clap::Args;

use super::Place;
use crate::config::{AuthMode, Flag};

/// Runs a node until it is told to stop (Ctrl-C or SIGTERM).
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    place: Place,
    /// Host of HTTP, TCP and QUIC: 0.0.0.0 opens the three to the network
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// HTTP and WebSocket: an address, a port, or off (these four likewise; port 0 takes any free one)
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// TCP
    #[arg(long, value_name = "ADDRESS")]
    tcp: Option<String>,
    /// QUIC and WebTransport
    #[arg(long, value_name = "ADDRESS")]
    quic: Option<String>,
    /// gRPC for upstreams
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<String>,
    /// Metrics and administration
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
    /// Believe every client that it is who it says: for trying out, and for old clients without tokens
    #[arg(long)]
    anonymous: bool,
    /// Write the bound addresses to this file once everything serves
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// End when the process with this id does, which started this one
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<u32>,
}

impl Serve {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        crate::malloc::give_back();
        if let Some(parent) = self.parent {
            crate::parent::end_with(parent)?;
        }
        let loaded = self.place.load(self.flags())?;
        let sources = self.place.sources(self.flags());
        crate::serve::run(loaded, sources, self.ready_file)
    }

    /// The keys that the flags set.
    fn flags(&self) -> Vec<Flag> {
        let texts = [
            ("--host", "listen.host", &self.host),
            ("--http", "listen.http", &self.http),
            ("--tcp", "listen.tcp", &self.tcp),
            ("--quic", "listen.quic", &self.quic),
            ("--grpc", "listen.grpc", &self.grpc),
            ("--metrics", "listen.metrics", &self.metrics),
        ];
        let set = |(flag, path, text): (&'static str, &'static str, &Option<String>)| {
            text.clone().map(|value| Flag { flag, path, value })
        };
        let mut flags: Vec<Flag> = texts.into_iter().filter_map(set).collect();
        if self.anonymous {
            flags.push(Flag { flag: "--anonymous", path: "auth.mode", value: AuthMode::FLAG.to_owned() });
        }
        flags
    }
}
