//! Calls: how many a second, and how long each takes.
//!
//! In the closed loop each client has one call under way; in the open loop calls begin on a schedule, and their time
//! counts from when they were due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use trunkline_client::{CallError, Client, Reply};

use super::latency::Latencies;
use super::pace::{Paced, Schedule};
use super::report::Report;
use super::usage::Usage;
use super::{Rig, shown};

/// What every node answers.
const ACTION: &str = "trunkline.echo";

/// A call that takes longer has failed: it bounds the end of a run.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls of one client at once: one below what a session may have outstanding (64), where the client would queue.
const OUTSTANDING: usize = 63;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls {
    pub(crate) clients: usize,
    /// Calls a second over all clients; 0 is a closed loop.
    pub(crate) rate: u32,
    pub(crate) lasting: Duration,
    /// Bytes of each call's data.
    pub(crate) size: usize,
}

/// What all clients of a run share.
struct Run {
    plan: Calls,
    start: Instant,
    data: Bytes,
    done: AtomicU64,
    latencies: Latencies,
    late: Latencies,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Calls {
    pub(crate) async fn run(self, rig: &Rig) -> anyhow::Result<Report> {
        let clients = rig.clients(self.clients).await?;
        let usage = Usage::begin(rig.server);
        let run = Arc::new(Run {
            plan: self,
            start: Instant::now(),
            data: vec![b'x'; self.size].into(),
            done: AtomicU64::new(0),
            latencies: Latencies::new()?,
            late: Latencies::new()?,
            errors: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for (at, client) in clients.iter().enumerate() {
            tasks.spawn(Arc::clone(&run).client(at, client.clone()));
        }
        shown(self.lasting, tasks.join_all()).await;
        let seconds = run.start.elapsed().as_secs_f64();
        let late = (self.rate > 0).then(|| run.late.percentiles());
        let mut report = Report::new("calls", rig.way(), usage.end(late));
        rig.stop(clients).await;
        let done = run.done.load(Relaxed);
        let errors = std::mem::take(&mut *run.errors.lock());
        report.own_node = rig.own.is_some();
        for (name, value) in [
            ("clients", json!(self.clients)),
            ("rate", json!(self.rate)),
            ("seconds", json!(self.lasting.as_secs_f64())),
            ("size", json!(self.size)),
        ] {
            report.asked.insert(name.to_owned(), value);
        }
        report.seconds = seconds;
        report.counts = BTreeMap::from([("done", done), ("failed", errors.values().sum())]);
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 calls")]
        let rate = done as f64 / seconds.max(0.001);
        report.per_second = Some(rate);
        report.failure = (done == 0).then(|| "no call succeeded".to_owned());
        report.errors = errors;
        report.latency_us = run.latencies.percentiles();
        Ok(report)
    }
}

impl Run {
    async fn client(self: Arc<Self>, at: usize, client: Client) {
        let Calls { clients, rate, lasting, .. } = self.plan;
        if rate == 0 {
            let end = self.start + lasting;
            while Instant::now() < end {
                let begun = Instant::now();
                self.ended(at, begun, self.call(&client).await);
            }
            return;
        }
        let begin = |due: Instant| {
            let call = self.call(&client);
            async move { (due, call.await) }
        };
        let told = |paced| match paced {
            Paced::Began { late } => self.late.record(at, late),
            Paced::Ended((due, result)) => self.ended(at, due, result),
        };
        Schedule::share(self.start, lasting, rate, at, clients).run(OUTSTANDING, begin, told).await;
    }

    fn call(&self, client: &Client) -> impl Future<Output = Result<Reply, CallError>> + use<> {
        client.call(ACTION).data(self.data.clone()).timeout(CALL_TIMEOUT).send()
    }

    fn ended(&self, at: usize, since: Instant, result: Result<Reply, CallError>) {
        let failed = match result {
            Ok(reply) if reply.code == 200 && reply.data.len() == self.plan.size => {
                self.done.fetch_add(1, Relaxed);
                return self.latencies.record(at, since.elapsed());
            }
            Ok(reply) => format!("code {} with {} bytes", reply.code, reply.data.len()),
            Err(CallError::Refused(error)) => error.name,
            Err(error) => error.to_string(),
        };
        *self.errors.lock().entry(failed).or_default() += 1;
    }
}
