//! A peer that connects, waits for the word, does one thing on every connection, and tells what came of it.
//!
//! What is done is the same whoever carries it: [`Link`] is all that the stacks differ in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Barrier, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::handshakes::Connector;
use super::stack::{Certificate, Over, Pattern, Stack};
use super::times::Times;
use super::{bare, ours};
use crate::bench::child::{GO, READY, told};
use crate::bench::latency::Recorded;
use crate::bench::{CONNECTING, descriptors};
use crate::cli::output;

/// Requests on each connection before anything is measured: the paths are then warm, and v2 peers have met.
const WARM_UP: usize = 10;

/// One-way messages between two looks at the clock.
const BETWEEN_LOOKS: u64 = 64;

/// What one process is to do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) stack: Stack,
    pub(crate) over: Over,
    pub(crate) pattern: Pattern,
    pub(crate) server: SocketAddr,
    pub(crate) connections: usize,
    /// Bytes of each payload.
    pub(crate) size: usize,
    pub(crate) lasting: Duration,
    /// So many on each connection, however long that takes.
    pub(crate) count: Option<u64>,
    /// The folder with the certificate.
    pub(crate) tls: Option<PathBuf>,
}

/// What it tells at the end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Told {
    /// Requests answered, or messages that the server has counted.
    pub(super) count: u64,
    /// From the word to the last answer.
    pub(super) seconds: f64,
    /// Of each request.
    pub(super) times: Recorded,
    /// Of those that the machine did not hold up, where that is known.
    #[serde(default)]
    pub(super) steady: Option<Recorded>,
    /// How late messages were sent that were due at a moment.
    #[serde(default)]
    pub(super) late: Recorded,
    /// Messages that did not come back, and those that could not be sent in time.
    #[serde(default)]
    pub(super) lost: u64,
    #[serde(default)]
    pub(super) unsent: u64,
}

/// A connection to the server.
pub(super) trait Link: Send + 'static {
    /// Asks, and waits for the answer; an empty body asks how many one-way messages have come, which is the result.
    fn request(&mut self, body: &Bytes) -> impl Future<Output = anyhow::Result<u64>> + Send;

    /// Sends one way. What is kept back for a larger write goes before the next request at the latest.
    fn send(&mut self, body: &Bytes) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// The size of the next one-way message of the server.
    fn receive(&mut self) -> impl Future<Output = anyhow::Result<usize>> + Send;
}

/// What the payload of an answer says.
pub(super) fn answered(body: &[u8], payload: &[u8]) -> anyhow::Result<u64> {
    if body.is_empty() {
        return Ok(u64::from_be_bytes(payload.try_into().context("the count is no number")?));
    }
    ensure!(payload.len() == body.len(), "{} bytes were answered by {}", body.len(), payload.len());
    Ok(0)
}

/// What all connections of a process share.
pub(super) struct Work {
    plan: Plan,
    body: Bytes,
    times: Times,
    done: AtomicU64,
    connecting: Semaphore,
    connected: Barrier,
    go: watch::Receiver<Option<Instant>>,
    finished: Barrier,
}

/// Connects, says that it is ready, waits for the word, and tells what came of it.
pub(crate) async fn run(plan: Plan) -> anyhow::Result<()> {
    descriptors(plan.connections)?;
    let mut told = told()?;
    let (say_go, go) = watch::channel(None);
    let everybody = plan.connections + 1;
    let work = Arc::new(Work {
        body: Bytes::from(vec![b'x'; plan.size]),
        times: Times::new()?,
        done: AtomicU64::new(0),
        connecting: Semaphore::new(CONNECTING),
        connected: Barrier::new(everybody),
        go,
        finished: Barrier::new(everybody),
        plan,
    });
    let mut connections = connections(&work)?;
    all_at(&work.connected, &mut connections).await?;
    output::result(READY);
    // Whoever started it may want no more of it.
    let Some(line) = told.line().await else { return Ok(()) };
    ensure!(line == GO, "what is {line:?}?");
    let begun = Instant::now();
    say_go.send(Some(begun))?;
    all_at(&work.finished, &mut connections).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let (count, times) = (work.done.load(Relaxed), work.times.recorded());
    let told_at_end = Told { count, seconds, times, ..Told::default() };
    output::result(&serde_json::to_string(&told_at_end)?);
    // Connections that close are not a part of it.
    while told.line().await.is_some() {}
    Ok(())
}

/// Every connection in a task that ends only if something is wrong.
fn connections(work: &Arc<Work>) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let mut tasks = JoinSet::new();
    let plan = &work.plan;
    let own = plan.tls.as_deref().map(Certificate::read).transpose()?;
    let own = own.as_ref();
    let (server, batch) = (plan.server, plan.stack.batch());
    match (plan.stack, plan.over) {
        (Stack::Msgtrans, _) => bail!("msgtrans has a program of its own"),
        (stack, _) if plan.pattern.reconnects() => {
            let own = own.context("QUIC needs --tls")?;
            let connector = Connector::new(stack, server, own)?;
            for at in 0..plan.connections {
                let (work, connector) = (Arc::clone(work), connector.beside(own)?);
                tasks.spawn(async move { work.reconnecting(connector, at).await });
            }
        }
        (Stack::Ours, over) => {
            let client = ours::Client::new(over, server, own)?;
            for at in 0..plan.connections {
                tasks.spawn(client.clone().run(Arc::clone(work), at));
            }
        }
        (_, Over::Tcp) => work.spawn(&mut tasks, move || bare::tcp::connect(server, batch)),
        (_, Over::Websocket) => work.spawn(&mut tasks, move || bare::websocket::connect(server, batch)),
        (_, Over::Quic) => {
            let config = bare::quic::client(own.context("QUIC needs --tls")?)?;
            work.spawn(&mut tasks, move || bare::quic::connect(server, config.clone(), batch));
        }
    }
    Ok(tasks)
}

/// Waits until every connection has come so far, or one has failed.
async fn all_at(barrier: &Barrier, connections: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::select! {
        _ = barrier.wait() => Ok(()),
        ended = connections.join_next() => match ended {
            Some(ended) => ended?.and(Err(anyhow::anyhow!("a connection has ended early"))),
            None => bail!("there are no connections"),
        },
    }
}

impl Work {
    fn spawn<L, F>(
        self: &Arc<Self>,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        connect: impl Fn() -> F + Clone + Send + 'static,
    ) where
        L: Link,
        F: Future<Output = anyhow::Result<L>> + Send + 'static,
    {
        for at in 0..self.plan.connections {
            let (work, connect) = (Arc::clone(self), connect.clone());
            tasks.spawn(async move {
                let link = work.connect(connect()).await?;
                work.on(link, at).await
            });
        }
    }

    /// Some at a time.
    pub(super) async fn connect<L>(
        &self,
        connecting: impl Future<Output = anyhow::Result<L>>,
    ) -> anyhow::Result<L> {
        let _place = self.connecting.acquire().await?;
        connecting.await.context("a client cannot connect")
    }

    /// Everything that one connection does.
    pub(super) async fn on(&self, mut link: impl Link, at: usize) -> anyhow::Result<()> {
        let pattern = self.plan.pattern;
        let warm_up = if matches!(pattern, Pattern::Idle | Pattern::Broadcast) { 1 } else { WARM_UP };
        for _ in 0..warm_up {
            link.request(&self.body).await?;
        }
        self.connected.wait().await;
        let begun = self.go.clone().wait_for(Option::is_some).await?.unwrap_or_else(Instant::now);
        let done = match pattern {
            Pattern::Idle => 0,
            Pattern::Request => self.ask(&mut link, begun, at).await?,
            Pattern::Oneway => self.pour(&mut link, begun).await?,
            Pattern::Broadcast => self.listen(&mut link).await?,
            Pattern::Handshake | Pattern::Resume => bail!("these are no requests"),
        };
        self.done.fetch_add(done, Relaxed);
        self.finished.wait().await;
        // It lives until the process ends.
        std::future::pending::<()>().await;
        drop(link);
        Ok(())
    }

    /// One connection after the other.
    async fn reconnecting(&self, connector: Connector, at: usize) -> anyhow::Result<()> {
        connector.once(&self.body).await?;
        self.connected.wait().await;
        let begun = self.go.clone().wait_for(Option::is_some).await?.unwrap_or_else(Instant::now);
        let mut laps = Laps::new(begun, at);
        while !laps.are_over(self) {
            connector.once(&self.body).await?;
            laps.lap(self);
        }
        self.done.fetch_add(laps.done, Relaxed);
        self.finished.wait().await;
        std::future::pending().await
    }

    async fn ask(&self, link: &mut impl Link, begun: Instant, at: usize) -> anyhow::Result<u64> {
        let mut laps = Laps::new(begun, at);
        while !laps.are_over(self) {
            link.request(&self.body).await?;
            laps.lap(self);
        }
        Ok(laps.done)
    }

    async fn pour(&self, link: &mut impl Link, begun: Instant) -> anyhow::Result<u64> {
        let before = link.request(&Bytes::new()).await?;
        let mut sent = 0;
        while !self.is_over(sent, begun.elapsed()) {
            for _ in 0..BETWEEN_LOOKS {
                link.send(&self.body).await?;
            }
            sent += BETWEEN_LOOKS;
        }
        let came = link.request(&Bytes::new()).await? - before;
        ensure!(came == sent, "{sent} messages were sent and {came} have come");
        Ok(sent)
    }

    async fn listen(&self, link: &mut impl Link) -> anyhow::Result<u64> {
        let count = self.plan.count.context("it is not said how many messages will come")?;
        for _ in 0..count {
            let size = link.receive().await?;
            ensure!(size == self.plan.size, "{size} bytes have come");
        }
        Ok(count)
    }

    fn is_over(&self, done: u64, for_so_long: Duration) -> bool {
        match self.plan.count {
            Some(count) => done >= count,
            None => for_so_long >= self.plan.lasting,
        }
    }
}

/// What one connection does again and again, each time timed from the last.
struct Laps {
    at: usize,
    begun: Instant,
    last: Instant,
    done: u64,
}

impl Laps {
    fn new(begun: Instant, at: usize) -> Self {
        Laps { at, begun, last: begun, done: 0 }
    }

    fn lap(&mut self, work: &Work) {
        let now = Instant::now();
        work.times.record(self.at, now - self.last);
        self.last = now;
        self.done += 1;
    }

    fn are_over(&self, work: &Work) -> bool {
        work.is_over(self.done, self.last - self.begun)
    }
}
