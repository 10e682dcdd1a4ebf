//! A peer or a generator in a process of its own, spoken to by lines: it says what it has to say, is told when to go on,
//! and ends when its input does.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child as Process, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What a client says when it is connected, and what it is told then.
pub(super) const READY: &str = "ready";
pub(super) const GO: &str = "go";

/// Lines that a process has said and nobody has read: it says one at a time.
const LINES: usize = 8;

/// A running process. Dropping it ends it.
pub(super) struct Child {
    process: Process,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Child {
    /// Starts a program with nothing of this process's environment.
    pub(super) fn start(
        program: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).env_clear();
        Child::run(command)
    }

    pub(super) fn run(mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let program = command.get_program().to_owned();
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
        // A thread of its own, which ends with the process's output.
        std::thread::Builder::new().name("peer".to_owned()).spawn(read)?;
        Ok(child)
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The next line that it says, within this time. Cancel safe.
    pub(super) async fn line(&mut self, within: Duration) -> anyhow::Result<String> {
        let line = timeout(within, self.lines.recv()).await;
        let pid = self.pid();
        let line =
            line.with_context(|| format!("process {pid} has said nothing for {} s", within.as_secs()))?;
        line.with_context(|| ended(pid))
    }

    pub(super) fn tell(&mut self, what: &str) -> anyhow::Result<()> {
        let pid = self.pid();
        let input = self.input.as_mut().with_context(|| format!("process {pid} has no input"))?;
        writeln!(input, "{what}").with_context(|| ended(pid))
    }

    /// Tells it and waits for its answer.
    pub(super) async fn ask(&mut self, what: &str, within: Duration) -> anyhow::Result<String> {
        self.tell(what)?;
        self.line(within).await
    }
}

fn ended(pid: u32) -> String {
    format!("process {pid} has ended: if it said why, that stands above")
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What this process is told by the one that has started it.
pub(super) struct Told {
    lines: mpsc::Receiver<String>,
    ended: CancellationToken,
}

impl Told {
    /// The next line; `None`: there will be no more. Cancel safe.
    pub(super) async fn line(&mut self) -> Option<String> {
        self.lines.recv().await
    }

    /// Cancelled when there will be no more, whether or not somebody waits for a line.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}

/// Begins to read what this process is told, line by line, until its input ends.
pub(super) fn told() -> anyhow::Result<Told> {
    let (say, lines) = mpsc::channel(LINES);
    let ended = CancellationToken::new();
    // However the thread ends.
    let over = ended.clone().drop_guard();
    let read = move || {
        let _over = over;
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if say.blocking_send(line).is_err() {
                break;
            }
        }
    };
    // A thread of its own: the runtime's would keep the process alive.
    std::thread::Builder::new().name("input".to_owned()).spawn(read)?;
    Ok(Told { lines, ended })
}
