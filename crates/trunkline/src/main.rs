//! The binary: reads arguments, environment and files, builds the rest from typed values, and runs one command.
//!
//! Nothing below this crate knows where a value came from, and nothing here knows a wire. The life of the process
//! is `main`: one TLS provider, one command, one exit status.

mod bench;
mod cli;
mod config;
mod data_dir;
mod descriptors;
mod exchange;
mod jwks;
mod keys;
mod logging;
mod malloc;
mod options;
mod parent;
mod process;
mod ready;
mod serve;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, output};

fn main() -> ExitCode {
    // Libraries look for a process-wide provider; with ring named here, none can bring another one.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return failed("TLS is set up twice in this process");
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too. A closed pipe is not worth a word.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<config::Problems>() {
            Some(problems) => {
                output::complain(&format!("the configuration is wrong:\n{problems}"));
                ExitCode::from(2)
            }
            None => failed(&format!("{error:#}")),
        },
    }
}

fn failed(what: &str) -> ExitCode {
    output::complain(what);
    ExitCode::FAILURE
}
