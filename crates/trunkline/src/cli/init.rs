//! `trunkline init`: a configuration file to start from, made from the declarations of the keys themselves.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;

use super::output;
use crate::config;

/// Prints a TOML file with every key commented out at its default, or writes it to a new file.
#[derive(Debug, Clone, Args)]
pub(crate) struct Init {
    /// Write to this new file instead of standard output
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Init {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let text = config::init_file();
        let Some(file) = self.file else {
            output::result(&text);
            return Ok(());
        };
        // Somebody's settings are never overwritten.
        let mut new = OpenOptions::new().write(true).create_new(true).open(&file).map_err(|error| {
            let shown = file.display();
            let next = match error.kind() {
                ErrorKind::AlreadyExists => {
                    "nothing in it was changed: name another file, or move it away first"
                }
                ErrorKind::NotFound => "make its folder first",
                _ => "name a file that this user may write",
            };
            anyhow!("{shown} was not written: {error}: {next}")
        })?;
        new.write_all(text.as_bytes())
            .with_context(|| format!("{} was not written whole", file.display()))?;
        output::complain(&format!(
            "wrote {}: change it, then run `trunkline check --config {0}`",
            file.display()
        ));
        Ok(())
    }
}
