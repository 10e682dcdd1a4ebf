//! A node, from its configuration to its end.

use std::path::PathBuf;

use crate::cli::output;
use crate::config::{Loaded, in_force};
use crate::logging;

/// Runs a node.
pub(crate) fn run(loaded: Loaded, _ready_file: Option<PathBuf>) -> anyhow::Result<()> {
    logging::start(&loaded.config.log)?;
    output::complain(&in_force(&loaded));
    Ok(())
}
