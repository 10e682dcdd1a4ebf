//! The log: lines on standard error, for people or as JSON. Set up once, by the command that serves.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Sets up logging for the process.
///
/// # Errors
/// The level is no level and no list of directives, or logging is set up already.
pub(crate) fn start(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&log.level).with_context(|| {
        format!("log.level: {:?} is no level such as \"info\" and no list of directives", log.level)
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Colours are for people: in a file or a journal they are noise.
        .with_ansi(std::io::stderr().is_terminal());
    let started = match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("the log cannot be set up: {error}"))
}
