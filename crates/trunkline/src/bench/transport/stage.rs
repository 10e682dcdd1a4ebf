//! The stages that msgtrans' own plan names: so many connections, so many messages a second, within so long.
//!
//! A message and its echo are two messages: what the server takes and what it sends. Servers and clients are processes of
//! one thread each, one for each core, or as many as the files that a process may open ask for; each server has an address
//! of its own, and each client one server.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use super::load::Told;
use super::stack::{Stack, word};
use super::times::percentiles;
use crate::bench::child::{Child, GO, READY};
use crate::bench::figures::counts;
use crate::bench::latency::Recorded;
use crate::bench::report::Report;
use crate::bench::shown;
use crate::bench::usage::Usage;

/// To connect, and to give up.
const PATIENCE: Duration = Duration::from_secs(120);

/// One of the three.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage {
    connections: u32,
    /// Messages a second, in both directions together.
    rate: u32,
    /// Within which 99 of 100 are back.
    within: Duration,
    /// Servers, and as many clients.
    pairs: u32,
    /// What serves: ours, or a bare one to see what the machine and the clients take by themselves.
    server: Stack,
    /// Bytes of each payload.
    pub(crate) size: u32,
    pub(crate) lasting: Duration,
}

/// Each has a loopback address of its own, and more were never tried.
const MOST_PAIRS: u32 = 64;

/// A process may have 20,000 files on common machines: this leaves room.
const CONNECTIONS_EACH: u32 = 12_500;

impl Stage {
    pub(crate) fn new(number: u8, server: Stack, size: u32, lasting: Duration) -> Self {
        let (connections, rate, within): (u32, _, _) = match number {
            1 => (1_000, 10_000, 10),
            2 => (10_000, 100_000, 5),
            _ => (100_000, 1_000_000, 1),
        };
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let pairs = u32::try_from(cores / 2).unwrap_or(1).clamp(1, MOST_PAIRS);
        let pairs = pairs.max(connections.div_ceil(CONNECTIONS_EACH));
        Stage { connections, rate, within: Duration::from_millis(within), pairs, server, size, lasting }
    }

    pub(crate) async fn run(self) -> anyhow::Result<Report> {
        let own = std::env::current_exe().context("this program's own file is not known")?;
        let (mut servers, mut clients) = (Vec::new(), Vec::new());
        for at in 1..=self.pairs {
            let serve = format!(
                "bench transport-peer serve --one-thread --stack {} --protocol tcp --pattern request --at 127.0.0.{at}:0",
                word(self.server)
            );
            let mut server = Child::start(&own, words(&serve))?;
            let address = server.line(PATIENCE).await?;
            let part = |whole: u32| whole / self.pairs;
            let (connections, rate) = (part(self.connections), part(self.rate / 2));
            let (size, seconds) = (self.size, self.lasting.as_secs());
            let load = format!(
                "bench transport-peer pace --server {address} --connections {connections} --rate {rate} --size {size} --seconds {seconds}"
            );
            let bare = (self.server == Stack::Bare).then(|| "--bare-server".into());
            clients.push(Child::start(&own, words(&load).chain(bare))?);
            servers.push(server);
        }
        for client in &mut clients {
            let line = client.line(PATIENCE).await?;
            ensure!(line == READY, "a client says {line:?}");
        }
        let pids = |children: &[Child]| children.iter().map(Child::pid).collect::<Vec<_>>();
        let usage = Usage::of(&pids(&clients), &pids(&servers));
        for client in &mut clients {
            client.tell(GO)?;
        }
        let told = shown(self.lasting, async {
            let mut told = Vec::new();
            for client in &mut clients {
                let line = client.line(self.lasting + PATIENCE).await?;
                told.push(
                    serde_json::from_str::<Told>(&line).context("a client's words are not understood")?,
                );
            }
            anyhow::Ok(told)
        });
        let told = told.await?;
        let of = |part: fn(&Told) -> &Recorded| percentiles(told.iter().map(part));
        let used = usage.end().late(Some(of(|told| &told.late)?));
        let mut report = Report::new("stage", "tcp".to_owned(), used);
        report.latency_us = of(|told| &told.times)?;
        let steady: Option<Vec<&Recorded>> = told.iter().map(|told| told.steady.as_ref()).collect();
        report.steady_us = steady.map(|steady| percentiles(steady.into_iter())).transpose()?;
        Ok(self.report(&told, report))
    }

    /// With what was counted, and whether that and the times are as they should be.
    fn report(self, told: &[Told], mut report: Report) -> Report {
        let sum = |part: fn(&Told) -> u64| told.iter().map(part).sum::<u64>();
        for (name, value) in [
            ("server", json!(self.server)),
            ("connections", json!(self.connections)),
            ("rate", json!(self.rate)),
            ("size", json!(self.size)),
            ("processes", json!(self.pairs * 2)),
            ("within_ms", json!(self.within.as_millis())),
        ] {
            report.asked.insert(name.to_owned(), value);
        }
        let (echoed, lost, unsent) = (sum(|told| told.count), sum(|told| told.lost), sum(|told| told.unsent));
        report.counts = counts([("echoed", echoed), ("lost", lost), ("unsent", unsent)]);
        report.seconds = told.iter().map(|told| told.seconds).fold(0.0, f64::max);
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 messages")]
        let rate = (2 * echoed) as f64 / report.seconds.max(1e-3);
        report.per_second = Some(rate);
        let times = report.steady_us.as_ref().unwrap_or(&report.latency_us);
        let late = Duration::from_micros(times.p99) > self.within;
        report.note =
            Some("a message and its echo are two; times are from when one was due until its echo is there");
        report.failure = (late || lost + unsent > 0).then(|| {
            format!("not within {} ms at the 99th percentile, or not all came back", self.within.as_millis())
        });
        report
    }
}

fn words(line: &str) -> impl Iterator<Item = OsString> {
    line.split(' ').map(Into::into)
}
