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

use super::raw::{RawSession, Sockets};
use super::report::Report;
use super::usage::Usage;
use super::{CONNECTING, Rig, progress, shown};

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
struct Crowd {
    tasks: JoinSet<anyhow::Result<u64>>,
    stop: CancellationToken,
}

impl Idle {
    pub(crate) async fn run(self, rig: &Rig) -> anyhow::Result<Report> {
        let server = rig.server.context("memory can only be read on the node's own machine: --data-dir")?;
        let options = rig.crowd(WARM_UP + self.sessions)?;
        let sockets = Sockets::open(&options[0], options.len())?;
        let (warming, rest) = options.split_at(WARM_UP);
        let mut crowd = Crowd { tasks: JoinSet::new(), stop: CancellationToken::new() };
        crowd.join(warming, &sockets).await?;
        let before = settled(server).await?;
        let began = Instant::now();
        crowd.join(rest, &sockets).await?;
        let connecting = began.elapsed();
        let usage = Usage::begin(rig.server);
        let held = Instant::now();
        shown(self.lasting, tokio::time::sleep(self.lasting)).await;
        let used = usage.end(None);
        let seconds = held.elapsed().as_secs_f64();
        let after = settled(server).await?;
        let (beats, errors) = crowd.end().await;
        let mut report = Report::new("idle", rig.way(), used);
        report.own_node = rig.own.is_some();
        report.asked.insert("sessions".to_owned(), json!(self.sessions));
        report.asked.insert("seconds".to_owned(), json!(self.lasting.as_secs_f64()));
        report.seconds = seconds;
        report.counts = BTreeMap::from([
            ("sessions", rest.len() as u64),
            ("heartbeats", beats),
            ("lost", errors.values().sum()),
        ]);
        report.errors = errors;
        #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
        let per_session = after.saturating_sub(before) as f64 / rest.len().max(1) as f64;
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
}

impl Crowd {
    /// Starts a session for each of these users.
    async fn join(&mut self, options: &[Options], sockets: &Sockets) -> anyhow::Result<()> {
        let bar = progress(options.len() as u64, "connecting {pos}/{len} {bar:30}");
        let sessions = stream::iter(options.iter().enumerate())
            .map(|(at, options)| RawSession::start(options, sockets, at))
            .buffer_unordered(CONNECTING);
        let joined = sessions
            .try_for_each(|session| {
                bar.inc(1);
                self.tasks.spawn(idle(session, self.stop.clone()));
                std::future::ready(Ok(()))
            })
            .await;
        bar.finish_and_clear();
        joined.context("not every session could start")
    }

    /// Stops all; heartbeats sent, and why who was gone before.
    async fn end(mut self) -> (u64, BTreeMap<String, u64>) {
        self.stop.cancel();
        let (mut beats, mut errors) = (0, BTreeMap::new());
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(Ok(sent)) => beats += sent,
                Ok(Err(error)) => *errors.entry(error.to_string()).or_default() += 1,
                Err(error) => *errors.entry(error.to_string()).or_default() += 1,
            }
        }
        (beats, errors)
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
