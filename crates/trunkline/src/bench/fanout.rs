//! Fan-out: one client publishes to a channel on a schedule, many hear it.

use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tokio::time::Instant;
use trunkline_client::{CallError, Client, Position};

use super::latency::Latencies;
use super::listeners::Listeners;
use super::pace::{Paced, Schedule};
use super::report::Report;
use super::usage::Usage;
use super::{Rig, shown};

const CHANNEL: &str = "bench:fanout";

/// Publications of the one publisher that wait for their answer at once.
const OUTSTANDING: usize = 63;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fanout {
    pub(crate) subscribers: usize,
    /// Publications a second.
    pub(crate) rate: u32,
    pub(crate) lasting: Duration,
    /// Bytes of each publication.
    pub(crate) size: usize,
}

/// What a publisher did.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) count: u64,
    pub(super) failed: u64,
    /// The offset of the last one.
    pub(super) last: u64,
    pub(super) error: Option<String>,
}

impl Fanout {
    pub(crate) async fn run(self, rig: &Rig) -> anyhow::Result<Report> {
        let mut clients = rig.clients(self.subscribers + 1).await?;
        let publisher = clients.pop().context("there is a client more than subscribers")?;
        let listeners = Listeners::start(&clients, CHANNEL).await?;
        let late = Latencies::new()?;
        let usage = Usage::begin(rig.server);
        let start = Instant::now();
        let schedule = Schedule::share(start, self.lasting, self.rate, 0, 1);
        let published =
            shown(self.lasting, publish(&publisher, CHANNEL, &listeners, schedule, self.size, &late)).await;
        let delivery = std::sync::Arc::clone(listeners.shared());
        let sum = listeners.conclude(published.last).await;
        let seconds = start.elapsed().as_secs_f64();
        let mut report = Report::new("fanout", rig.way(), usage.end(Some(late.percentiles())));
        clients.push(publisher);
        rig.stop(clients).await;
        report.own_node = rig.own.is_some();
        for (name, value) in [
            ("subscribers", json!(self.subscribers)),
            ("rate", json!(self.rate)),
            ("seconds", json!(self.lasting.as_secs_f64())),
            ("size", json!(self.size)),
        ] {
            report.asked.insert(name.to_owned(), value);
        }
        report.seconds = seconds;
        report.counts = sum.counts();
        report.counts.insert("published", published.count);
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 deliveries")]
        let rate = sum.received as f64 / seconds.max(0.001);
        report.per_second = Some(rate);
        report.errors.extend(published.error.clone().map(|error| (error, published.failed)));
        report.latency_us = delivery.delivery.percentiles();
        report.failure = match published.count {
            0 => Some("nothing could be published".to_owned()),
            _ => sum.failure(),
        };
        Ok(report)
    }
}

/// Publishes on a schedule, stamped, until it ends.
pub(super) async fn publish(
    publisher: &Client,
    channel: &str,
    listeners: &Listeners,
    schedule: Schedule,
    size: usize,
    late: &Latencies,
) -> Published {
    let mut published = Published::default();
    let begin = |_due| publisher.publish(channel, listeners.stamped(size));
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
