//! Resume: many clients lose their connections at one moment while publications go on; how long until all are back,
//! and whether anything was lost or came twice.

use std::time::Duration;

use anyhow::Context;
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::time::Instant;
use trunkline_client::{CallError, Client, Position};

use super::figures::counts;
use super::latency::Latencies;
use super::listeners::{Listeners, reaches};
use super::pace::{Paced, Schedule};
use super::report::Report;
use super::usage::Usage;
use super::{CONNECTING, Rig, shown};

const CHANNEL: &str = "bench:resume";

/// How long clients may take to hear the first publication, and to come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Publications of the one publisher that wait for their answer at once.
const OUTSTANDING: usize = 63;

/// Bytes of each publication.
const SIZE: usize = 64;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resume {
    pub(crate) clients: usize,
    /// Publications a second meanwhile.
    pub(crate) rate: u32,
    /// How long publications go on: a part before the cut, the rest after it.
    pub(crate) lasting: Duration,
}

/// What a publisher did.
#[derive(Debug, Default)]
struct Published {
    count: u64,
    failed: u64,
    /// The offset of the last one.
    last: u64,
    error: Option<String>,
}

impl Resume {
    pub(crate) async fn run(self, rig: &Rig) -> anyhow::Result<Report> {
        let mut clients = rig.clients(self.clients + 1).await?;
        let publisher = clients.pop().context("there is a client more than listeners")?;
        let listeners = Listeners::start(&clients, CHANNEL).await?;
        let shared = std::sync::Arc::clone(listeners.shared());
        let late = Latencies::new()?;
        let usage = Usage::begin(rig.server);
        let start = Instant::now();
        let schedule = Schedule::share(start, self.lasting, self.rate, 0, 1);
        let cutting = async {
            let hearing = reaches(&shared.hearing, self.clients, PATIENCE).await;
            listeners.cut_now();
            let cuts = stream::iter(&clients).map(async |client| client.cut().await);
            cuts.buffer_unordered(CONNECTING).collect::<()>().await;
            let back = reaches(&shared.returned, self.clients, PATIENCE).await;
            (hearing, back)
        };
        let publishing = publish(&publisher, &listeners, schedule, SIZE, &late);
        let (published, (hearing, back)) =
            shown(self.lasting, async { tokio::join!(publishing, cutting) }).await;
        let returned = *shared.returned.borrow();
        let sum = listeners.conclude(published.last).await;
        let seconds = start.elapsed().as_secs_f64();
        let mut report = Report::new("resume", rig.way(), usage.end());
        clients.push(publisher);
        rig.stop(clients).await;
        report.own_node = rig.own.is_some();
        for (name, value) in [
            ("clients", json!(self.clients)),
            ("rate", json!(self.rate)),
            ("seconds", json!(self.lasting.as_secs_f64())),
        ] {
            report.asked.insert(name.to_owned(), value);
        }
        report.seconds = seconds;
        report.counts = sum.counts();
        report.counts.extend(counts([
            ("published", published.count),
            ("returned", returned as u64),
            ("resumed", sum.resumes),
            ("fresh", sum.fresh),
        ]));
        report.errors.extend(published.error.clone().map(|error| (error, published.failed)));
        report.note =
            Some("from the cut until connected again; each client first waits up to 250 ms at random");
        report.latency_us = shared.back.percentiles();
        report.failure = match (hearing, back) {
            (false, _) => Some("not every client heard a publication before the cut".to_owned()),
            (_, false) => Some(format!("only {returned} of {} clients came back", self.clients)),
            _ => sum.failure(),
        };
        Ok(report)
    }
}

/// Publishes on a schedule, stamped, until it ends.
async fn publish(
    publisher: &Client,
    listeners: &Listeners,
    schedule: Schedule,
    size: usize,
    late: &Latencies,
) -> Published {
    let mut published = Published::default();
    let begin = |_due| publisher.publish(CHANNEL, listeners.stamped(size));
    let told = |paced: Paced<Result<Position, CallError>>| match paced {
        Paced::Began { late: by } => late.record(0, by),
        Paced::Ended(Ok(position)) => {
            published.count += 1;
            published.last = published.last.max(position.offset);
        }
        Paced::Ended(Err(error)) => {
            published.failed += 1;
            published.error = Some(error.to_string());
        }
    };
    schedule.run(OUTSTANDING, begin, told).await;
    published
}
