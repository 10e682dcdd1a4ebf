//! `trunkline check`: the whole configuration, what is wrong with it or what is in force. Binds nothing.

use clap::Args;

use super::{Place, output};
use crate::config;

/// Checks the configuration and prints what is in force and where it was set.
#[derive(Debug, Clone, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    place: Place,
}

impl Check {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let loaded = self.place.load(Vec::new())?;
        output::result(&config::in_force(&loaded));
        Ok(())
    }
}
