//! The parent of a comparison: it starts a server and a client for each turn, gives the word, and reads what each side
//! took.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use super::load::Told;
use super::report::{TransportReport, Turn};
use super::stack::{Certificate, Over, Pattern, Stack, word};
use super::times::quantiles;
use crate::bench::child::{Child, GO, READY};
use crate::bench::progress;
use crate::bench::usage::Usage;
use crate::process::resident;

/// Whatever a peer does beside its load: to start, to connect ten thousand times, to count.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Compare {
    pub(crate) over: Over,
    pub(crate) pattern: Pattern,
    pub(crate) connections: u32,
    /// Bytes of each payload.
    pub(crate) size: u32,
    /// Of each turn.
    pub(crate) lasting: Duration,
    pub(crate) rounds: u32,
    /// Broadcasts a second.
    pub(crate) rate: u32,
    /// In the order of their turns.
    pub(crate) stacks: Vec<Stack>,
    /// The peer program.
    pub(crate) msgtrans: Option<PathBuf>,
}

/// What starts peers.
struct Peers {
    own: PathBuf,
    /// With the certificate.
    folder: TempDir,
}

impl Compare {
    pub(crate) async fn run(self) -> anyhow::Result<TransportReport> {
        self.check()?;
        let own = std::env::current_exe().context("this program's own file is not known")?;
        let peers = Peers { own, folder: tempfile::tempdir().context("no place for a certificate")? };
        Certificate::make(peers.folder.path())?;
        let mut report = TransportReport::new(self.asked());
        let turns = u64::from(self.rounds) * self.stacks.len() as u64;
        let bar = progress(turns, "turn {pos}/{len} {bar:30}");
        for _ in 0..self.rounds {
            for stack in &self.stacks {
                let turn = self.turn(&peers, *stack).await;
                report.add(*stack, turn.with_context(|| format!("the turn of {}", word(*stack)))?);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(report)
    }

    fn check(&self) -> anyhow::Result<()> {
        let has = |stack| self.stacks.contains(&stack);
        if has(Stack::Msgtrans) && self.msgtrans.is_none() {
            bail!(
                "name the msgtrans peer program with --msgtrans: cargo build --release in tests/peers/msgtrans makes it"
            );
        }
        if has(Stack::BareBatched) && self.pattern != Pattern::Oneway {
            bail!("bare-batched is for --pattern oneway: everything else waits for answers");
        }
        if self.pattern.reconnects() && (self.over != Over::Quic || has(Stack::Msgtrans)) {
            bail!("handshakes are compared over quic, with bare");
        }
        if self.pattern == Pattern::Broadcast && (self.over != Over::Tcp || has(Stack::Msgtrans)) {
            bail!("broadcasts are compared over tcp, with bare");
        }
        Ok(())
    }

    fn asked(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut asked = serde_json::Map::new();
        asked.insert("protocol".to_owned(), json!(self.over));
        asked.insert("pattern".to_owned(), json!(self.pattern));
        asked.insert("connections".to_owned(), json!(self.connections));
        asked.insert("size".to_owned(), json!(self.size));
        asked.insert("seconds".to_owned(), json!(self.lasting.as_secs_f64()));
        asked.insert("rounds".to_owned(), json!(self.rounds));
        if self.pattern == Pattern::Broadcast {
            asked.insert("rate".to_owned(), json!(self.rate));
        }
        asked
    }

    async fn turn(&self, peers: &Peers, stack: Stack) -> anyhow::Result<Turn> {
        let mut server = self.server(peers, stack)?;
        let address = server.line(PATIENCE).await?;
        let before = resident(server.pid());
        let mut client = self.client(peers, stack, &address)?;
        let line = client.line(PATIENCE).await?;
        ensure!(line == READY, "the client says {line:?}");
        if self.pattern == Pattern::Idle {
            return self.weighed(&mut server, before).await;
        }
        let usage = Usage::of(&[client.pid()], &[server.pid()]);
        let begun = Instant::now();
        client.tell(GO)?;
        if self.pattern == Pattern::Broadcast {
            let every = 1_000_000 / self.rate.max(1);
            let told = format!("broadcast {} {every} {}", self.size, self.broadcasts());
            let taken = server.ask(&told, self.lasting + PATIENCE).await?;
            let all = u64::from(self.connections) * self.broadcasts();
            ensure!(taken == all.to_string(), "{taken} of {all} messages were handed over");
        }
        let told = client.line(self.lasting + PATIENCE).await?;
        let (used, wall) = (usage.end(), begun.elapsed());
        let told: Told = serde_json::from_str(&told).context("the client's words are not understood")?;
        ensure!(told.count > 0, "nothing was done");
        let [p50, p99] = quantiles(std::slice::from_ref(&told.times), [0.5, 0.99])?;
        Ok(Turn::of(&told, wall, used).timed(self.pattern.is_timed().then_some([p50, p99])))
    }

    /// What the connections cost that are there now.
    async fn weighed(&self, server: &mut Child, before: Option<u64>) -> anyhow::Result<Turn> {
        let both = resident(server.pid()).zip(before);
        let (after, before) = both.context("the server's memory cannot be read")?;
        let tasks: u32 = server.ask("tasks", PATIENCE).await?.parse().context("the server's tasks")?;
        let each = |all: f64| all / f64::from(self.connections);
        #[expect(clippy::cast_precision_loss, reason = "memory is below 2^52 bytes")]
        let bytes = after.saturating_sub(before) as f64;
        Ok(Turn::idle(each(bytes), each(tasks.into())))
    }

    /// How many broadcasts there are in a turn.
    fn broadcasts(&self) -> u64 {
        (u64::from(self.rate) * self.lasting.as_secs()).max(1)
    }

    fn server(&self, peers: &Peers, stack: Stack) -> anyhow::Result<Child> {
        if stack == Stack::Msgtrans {
            let arguments = [text("bench-serve"), text(word(self.over)), peers.folder.path().into()];
            return Child::start(self.msgtrans()?, arguments);
        }
        let mut arguments = self.peer("serve", stack, peers);
        arguments.extend(["--at", "127.0.0.1:0"].map(text));
        Child::start(&peers.own, arguments)
    }

    fn client(&self, peers: &Peers, stack: Stack, server: &str) -> anyhow::Result<Child> {
        let numbers =
            [self.connections.to_string(), self.size.to_string(), self.lasting.as_secs().to_string()];
        let [connections, size, seconds] = numbers.map(text);
        if stack == Stack::Msgtrans {
            let words = [text("bench-load"), text(word(self.over)), text(server), text(word(self.pattern))];
            let folder: OsString = peers.folder.path().into();
            let arguments = words.into_iter().chain([connections, size, seconds, folder]);
            return Child::start(self.msgtrans()?, arguments);
        }
        // Whoever broadcasts, what receives it must not differ.
        let client = if self.pattern == Pattern::Broadcast { Stack::Bare } else { stack };
        let mut arguments = self.peer("load", client, peers);
        arguments.extend([text("--server"), text(server), text("--connections"), connections]);
        arguments.extend([text("--size"), size, text("--seconds"), seconds]);
        if self.pattern == Pattern::Broadcast {
            arguments.extend([text("--count"), text(self.broadcasts().to_string())]);
        }
        Child::start(&peers.own, arguments)
    }

    fn peer(&self, role: &str, stack: Stack, peers: &Peers) -> Vec<OsString> {
        let mut arguments = ["bench", "transport-peer", role].map(text).to_vec();
        arguments.extend([text("--stack"), text(word(stack)), text("--protocol"), text(word(self.over))]);
        arguments.extend([text("--pattern"), text(word(self.pattern)), text("--tls")]);
        arguments.push(peers.folder.path().into());
        arguments
    }

    fn msgtrans(&self) -> anyhow::Result<&Path> {
        self.msgtrans.as_deref().context("the msgtrans peer program is not named")
    }
}

fn text(text: impl Into<String>) -> OsString {
    text.into().into()
}
