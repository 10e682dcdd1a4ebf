//! Idle sessions: what each costs the node in memory, and all of them in processor time.
//!
//! Resident memory is read before and after so many sessions came, each time once it has come to rest. The sessions
//! that were there before stay: what the first ones cost a node, its threads' buffers above all, is no price of a
//! session.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;
use trunkline_client::Options;

use super::bar::shown;
use super::figures::{Figures, counts};
use super::generators::{Crew, Parent, Role, Said, Word, say};
use super::raw::{RawSession, Sockets};
use super::report::Report;
use super::usage::Usage;
use super::{CONNECTING, Crowd, Rig};

/// Sessions that warm a node up. They stay until the end.
const WARM_UP: usize = 300;

/// How often resident memory is looked at, how far it may move between looks when it rests, and how long that is
/// waited for. A node gives back what connecting took within some seconds.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const AT_REST: u64 = 32 << 10;
const SETTLE: Duration = Duration::from_secs(15);

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    pub(crate) sessions: usize,
    /// How long they do nothing but send heartbeats.
    pub(crate) lasting: Duration,
}

/// Idle sessions, each with a task.
struct Sleepers {
    tasks: JoinSet<anyhow::Result<u64>>,
    stop: CancellationToken,
}

impl Idle {
    /// With several generators the sessions that are counted are theirs, and this process has those that warm up.
    pub(crate) async fn run(self, rig: &Rig, role: Role) -> anyhow::Result<Option<Report>> {
        match role {
            Role::Alone => self.measure(rig, None).await.map(Some),
            Role::Several(processes) => self.measure(rig, Some(processes)).await.map(Some),
            Role::Part(parent) => self.part(rig, parent).await.map(|()| None),
        }
    }

    async fn measure(&self, rig: &Rig, processes: Option<u32>) -> anyhow::Result<Report> {
        let server = rig.server.context("memory can only be read on the node's own machine: --data-dir")?;
        rig.can_serve(WARM_UP + self.sessions)?;
        let here = if processes.is_some() { WARM_UP } else { WARM_UP + self.sessions };
        let Crowd { options, sockets } = rig.crowd(here)?;
        let (warming, rest) = options.split_at(WARM_UP);
        let mut sleepers = Sleepers::new();
        sleepers.join(rig, warming, &sockets).await?;
        let before = settled(server).await?;
        let began = Instant::now();
        sleepers.join(rig, rest, &sockets).await?;
        let mut crew = processes.map(|processes| Crew::start(rig, processes, self.sessions)).transpose()?;
        if let Some(crew) = &mut crew {
            crew.connected().await?;
            crew.go()?;
        }
        let connecting = began.elapsed();
        let mut pids = crew.as_ref().map(Crew::pids).unwrap_or_default();
        pids.push(std::process::id());
        let usage = Usage::of(&pids, rig.server.as_slice());
        let held = Instant::now();
        shown(self.lasting, hold(crew.as_mut(), self.lasting)).await?;
        let used = usage.end();
        let seconds = held.elapsed().as_secs_f64();
        let after = settled(server).await?;
        let mut figures = sleepers.end().await;
        if let Some(crew) = &mut crew {
            crew.tell(&Word::Over { published: 0 })?;
            figures = figures.and(crew.counted().await?);
        }
        let mut report = Report::new("idle", rig.way(), used);
        report.own_node = rig.own.is_some();
        report.asked.insert("sessions".to_owned(), json!(self.sessions));
        report.asked.insert("seconds".to_owned(), json!(self.lasting.as_secs_f64()));
        report.made_by(processes);
        Figures { seconds, ..figures }.tell(&mut report)?;
        report.counts.insert("sessions".into(), self.sessions as u64);
        #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
        let per_session = after.saturating_sub(before) as f64 / self.sessions.max(1) as f64;
        report.measured.extend([
            ("bytes_per_session", per_session),
            #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
            ("resident_mb", after as f64 / 1e6),
            ("connecting_seconds", connecting.as_secs_f64()),
        ]);
        report.note = Some(
            "bytes per session is the growth of the node's resident memory, without the kernel's buffers",
        );
        report.failure = (!report.errors.is_empty()).then(|| "not every session stayed".to_owned());
        Ok(report)
    }

    /// The sessions of this share.
    async fn part(&self, rig: &Rig, mut parent: Parent) -> anyhow::Result<()> {
        let Crowd { options, sockets } = rig.crowd(self.sessions)?;
        let mut sleepers = Sleepers::new();
        sleepers.join(rig, &options, &sockets).await?;
        parent.begin().await?;
        match parent.word().await? {
            Word::Over { .. } => say(&Said::Figures(Box::new(sleepers.end().await))),
            other => bail!("idle sessions are told {other:?}"),
        }
    }
}

/// Waits so long; others that fail meanwhile end it.
async fn hold(crew: Option<&mut Crew>, lasting: Duration) -> anyhow::Result<()> {
    let others_fail = async {
        match crew {
            Some(crew) => crew.watch(lasting, |_, said| Err(said)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = tokio::time::sleep(lasting) => Ok(()),
        error = others_fail => Err(error),
    }
}

impl Sleepers {
    fn new() -> Self {
        Sleepers { tasks: JoinSet::new(), stop: CancellationToken::new() }
    }

    /// Starts a session for each of these users.
    async fn join(&mut self, rig: &Rig, options: &[Options], sockets: &Sockets) -> anyhow::Result<()> {
        let bar = rig.bar(options.len());
        let sessions = stream::iter(options.iter().enumerate())
            .map(|(at, options)| RawSession::start(options, sockets, at))
            .buffer_unordered(CONNECTING);
        let joined = sessions
            .try_for_each(|session| {
                bar.inc();
                self.tasks.spawn(idle(session, self.stop.clone()));
                std::future::ready(Ok(()))
            })
            .await;
        bar.finish();
        joined.context("not every session could start")
    }

    /// Stops all; heartbeats sent, and why who was gone before.
    async fn end(mut self) -> Figures {
        self.stop.cancel();
        let (mut beats, mut errors) = (0, BTreeMap::new());
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(Ok(sent)) => beats += sent,
                Ok(Err(error)) => *errors.entry(error.to_string()).or_default() += 1,
                Err(error) => *errors.entry(error.to_string()).or_default() += 1,
            }
        }
        let counts = counts([("heartbeats", beats), ("lost", errors.values().sum())]);
        Figures { counts, errors, ..Figures::default() }
    }
}

/// One session that only sends heartbeats until it is told to stop; how many.
async fn idle(mut session: RawSession, stop: CancellationToken) -> anyhow::Result<u64> {
    let every = session.heartbeat();
    // Nine thousand that began together must not beat together.
    let first = Instant::now() + every.mul_f64(rand::random::<f64>());
    let mut beat = interval_at(first, every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent = 0;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                session.stop().await;
                return Ok(sent);
            }
            frame = session.link.reader.one() => {
                frame?;
            }
            _ = beat.tick() => {
                session.beat().await?;
                sent += 1;
            }
        }
    }
}

/// Resident memory once it has come to rest, or after as long as that may take.
async fn settled(server: u32) -> anyhow::Result<u64> {
    let deadline = Instant::now() + SETTLE;
    let mut looks = interval(LOOK_EVERY);
    let mut last = None;
    let mut quiet = 0;
    loop {
        looks.tick().await;
        let Some(now) = crate::process::resident(server) else {
            bail!("the node has gone, or its memory cannot be read")
        };
        quiet = if last.is_some_and(|last: u64| last.abs_diff(now) <= AT_REST) { quiet + 1 } else { 0 };
        last = Some(now);
        if quiet >= 4 || Instant::now() > deadline {
            return Ok(now);
        }
    }
}
