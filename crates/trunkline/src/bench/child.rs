//! A peer in a process of its own, spoken to by lines: it says what it has to say, is told when to go on, and ends when
//! its input does.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child as Process, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// What a client says when it is connected, and what it is told then.
pub(super) const READY: &str = "ready";
pub(super) const GO: &str = "go";

/// Lines that a peer has said and nobody has read: it says one at a time.
const LINES: usize = 8;

/// A running peer. Dropping it ends the process.
pub(super) struct Child {
    process: Process,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Child {
    pub(super) fn start(
        program: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = command.spawn().with_context(|| format!("{} does not start", program.display()))?;
        let (say, lines) = mpsc::channel(LINES);
        let output = process.stdout.take().map(BufReader::new);
        let read = move || {
            for line in output.into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
                if say.blocking_send(line).is_err() {
                    break;
                }
            }
        };
        let input = process.stdin.take();
        let child = Child { process, input, lines };
        // A thread of its own, which ends with the peer's output.
        std::thread::Builder::new().name("peer".to_owned()).spawn(read)?;
        Ok(child)
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The next line that it says, within this time.
    pub(super) async fn line(&mut self, within: Duration) -> anyhow::Result<String> {
        let line = timeout(within, self.lines.recv()).await;
        let line = line.with_context(|| format!("a peer has said nothing for {} s", within.as_secs()))?;
        line.context("a peer has ended: its errors stand above")
    }

    pub(super) fn tell(&mut self, what: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("a peer has no input")?;
        writeln!(input, "{what}").context("a peer does not listen")
    }

    /// Tells it and waits for its answer.
    pub(super) async fn ask(&mut self, what: &str, within: Duration) -> anyhow::Result<String> {
        self.tell(what)?;
        self.line(within).await
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a peer is told, line by line, until its input ends.
pub(super) fn told() -> anyhow::Result<mpsc::Receiver<String>> {
    let (say, lines) = mpsc::channel(LINES);
    let read = move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if say.blocking_send(line).is_err() {
                break;
            }
        }
    };
    // A thread of its own: the runtime's would keep the process alive.
    std::thread::Builder::new().name("input".to_owned()).spawn(read)?;
    Ok(lines)
}
