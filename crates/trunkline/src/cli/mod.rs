//! The commands: one file each, which parses nothing twice and does nothing that a library could do.
//!
//! `serve` is also what runs without a command. A command that prints a result prints it alone on standard output;
//! everything for the person goes to standard error.

mod admin;
mod bench;
mod call;
mod check;
mod doctor;
pub(crate) mod heard;
mod init;
mod listen;
pub(crate) mod output;
mod push;
pub(crate) mod reach;
mod serve;
mod shown;
mod token;
mod trace;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::config::{self, Flag, Loaded, Sources};
use crate::data_dir::DataDir;

/// The file that is read when nobody names one, where it exists.
const USUAL_FILE: &str = "trunkline.toml";

/// A gateway that holds live connections for other programs.
///
/// Without a command it serves. Everything it needs is made at the first start.
#[derive(Debug, Parser)]
#[command(name = "trunkline", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Serve,
}

const EXAMPLES: &str = "Examples:
  trunkline                                   serve on this machine only, with the defaults
  trunkline serve --host 0.0.0.0              serve the network: HTTP, TCP and QUIC
  trunkline token --user alice --ttl 1h       a token for one user
  trunkline call --user alice trunkline.echo --data hello
  trunkline listen --user alice --cut-every 3s
  trunkline push --to user:alice --type mail --title hello
  trunkline doctor
  trunkline bench calls --clients 100
  trunkline init > trunkline.toml             a file with every key, commented
  trunkline check --config trunkline.toml     what is wrong with it, and what is in force";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node (also without a command).
    Serve(serve::Serve),
    /// Print a token for a user.
    Token(token::Token),
    /// Call an action and print the reply.
    Call(call::Call),
    /// Print what is pushed and published, over lost connections.
    Listen(listen::Listen),
    /// Push to users, groups, zones or all, or publish to a channel.
    Push(push::Push),
    /// Measure a node.
    Bench(bench::Bench),
    /// Say what became of one message.
    Trace(trace::Trace),
    /// Check this machine and the node on it.
    Doctor(doctor::Doctor),
    /// Check the configuration and print what is in force, without serving.
    Check(check::Check),
    /// Print a configuration file with every key, commented.
    Init(init::Init),
}

/// Runs the command.
pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        None => cli.serve.run(),
        Some(Command::Serve(command)) => command.run(),
        Some(Command::Token(command)) => command.run(),
        Some(Command::Call(command)) => command.run(),
        Some(Command::Listen(command)) => command.run(),
        Some(Command::Push(command)) => command.run(),
        Some(Command::Bench(command)) => command.run(),
        Some(Command::Trace(command)) => command.run(),
        Some(Command::Doctor(command)) => command.run(),
        Some(Command::Check(command)) => command.run(),
        Some(Command::Init(command)) => command.run(),
    }
}

/// Where the configuration and the state are: flags that most commands share.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Place {
    /// Configuration file [default: $TRUNKLINE_CONFIG, else trunkline.toml where it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder with keys, certificate and state [default: trunkline-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

impl Place {
    /// Loads the configuration with further flags above it. Warnings are printed once, here.
    pub(crate) fn load(&self, flags: Vec<Flag>) -> anyhow::Result<Loaded> {
        let loaded = config::load(&self.sources(flags))?;
        for warning in &loaded.warnings {
            output::complain(&format!("warning: {warning}"));
        }
        Ok(loaded)
    }

    /// What a configuration would be loaded from.
    pub(crate) fn sources(&self, mut flags: Vec<Flag>) -> Sources {
        if let Some(data_dir) = &self.data_dir {
            flags.push(Flag { flag: "--data-dir", path: "data_dir", value: data_dir.display().to_string() });
        }
        // An empty variable names no file: that is how many service managers say "not set".
        let variable = || std::env::var_os("TRUNKLINE_CONFIG").filter(|file| !file.is_empty());
        let named = self.config.clone().or_else(|| variable().map(PathBuf::from));
        let usual = || Some(PathBuf::from(USUAL_FILE)).filter(|file| file.exists());
        // A variable that is not UTF-8 cannot be one of ours; `vars` would panic on it.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .collect();
        Sources { file: named.or_else(usual), environment, flags }
    }

    /// The data directory, made if need be.
    pub(crate) fn data_dir(&self) -> anyhow::Result<DataDir> {
        let loaded = self.load(Vec::new())?;
        DataDir::open(&loaded.config.node.data_dir).context("no data directory")
    }
}

/// A duration above zero, as a flag says it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match config::parse_duration(text) {
        Some(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("wanted a duration with its unit, such as 30s, 15m or 1h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_and_is_not_nothing() {
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3_600)));
        assert!(duration("0s").is_err());
        assert!(duration("60").is_err());
    }
}
