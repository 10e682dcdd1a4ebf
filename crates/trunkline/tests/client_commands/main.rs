//! The client commands as a person runs them, against a node of the same binary: what they print, how they end,
//! and what they say when something is wrong.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

mod bench;
mod bench_processes;
mod bench_transport;
mod call;
mod doctor;
mod listen;
mod push;

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;
use trunkline_testkit::{DEADLINE, ServerBuilder, TestServer};

const BINARY: &str = env!("CARGO_BIN_EXE_trunkline");

/// What a command did.
struct Ran {
    status: Option<i32>,
    printed: String,
    said: String,
}

impl Ran {
    /// The lines that it printed as JSON objects.
    fn objects(&self) -> Vec<Value> {
        self.printed.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

/// A node with a namespace whose channels have a history.
fn server() -> ServerBuilder {
    TestServer::builder(BINARY).config("[namespaces.room]\nhistory_count = 1000\n")
}

/// A command of the binary, with nothing of this process's environment.
fn command(arguments: &[&str], data_dir: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .arg("--data-dir")
        .arg(data_dir)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run(arguments: &[&str], data_dir: &Path) -> Result<Ran> {
    ended(command(arguments, data_dir)).await
}

async fn ended(mut command: Command) -> Result<Ran> {
    let output = timeout(DEADLINE, command.output()).await.context("the command hangs")??;
    Ok(Ran {
        status: output.status.code(),
        printed: String::from_utf8(output.stdout)?,
        said: String::from_utf8(output.stderr)?,
    })
}
