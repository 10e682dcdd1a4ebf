//! Calls: how many a second, and how long each takes; to a service of the node, or through it to an upstream, and then
//! also straight to that upstream, in turns.
//!
//! In the closed loop each client has one call under way; in the open loop calls begin on a schedule, and their time
//! counts from when they were due.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use tokio::task::JoinSet;
use trunkline_proto::wire::UpstreamRequest;
use trunkline_proto::wire::upstream_service_client::UpstreamServiceClient;
use trunkline_service::grpc::convert;
use trunkline_service::{Call, Caller};

use super::callers::{Answer, CALL_TIMEOUT, Callers};
use super::clock::{Moment, Timer};
use super::latency::{Latencies, Percentiles};
use super::machine::Machine;
use super::report::Report;
use super::usage::Usage;
use super::{Rig, shown, upstream};

/// What every node answers.
const ACTION: &str = "trunkline.echo";

/// How long one turn is where two ways are compared: some thousand calls, and short beside what else changes.
const TURN: Duration = Duration::from_secs(1);

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    pub(crate) clients: usize,
    /// Calls a second over all clients; 0 is a closed loop.
    pub(crate) rate: u32,
    pub(crate) lasting: Duration,
    /// Bytes of each call's data.
    pub(crate) size: usize,
    /// Another action than the one that every node answers.
    pub(crate) action: Option<String>,
    /// Also calls the upstream without the node, in turns. Needs a rate, and a rig with an upstream.
    pub(crate) direct: bool,
}

/// A turn of calls through the node and one of direct calls.
type Pair = (Rc<Latencies>, Rc<Latencies>);

/// Calls straight to the upstream.
struct Direct {
    client: UpstreamServiceClient<tonic::transport::Channel>,
    request: UpstreamRequest,
    latencies: RefCell<Rc<Latencies>>,
    done: Cell<u64>,
    errors: RefCell<BTreeMap<String, u64>>,
}

impl Calls {
    /// Needs a `LocalSet` on one thread.
    pub(crate) async fn run(self, rig: &Rig) -> anyhow::Result<Report> {
        let (action, answer) = match &self.action {
            Some(action) => (action.as_str(), Answer::Any),
            None if rig.upstream.is_some() => (upstream::ACTION, Answer::Echo),
            None => (ACTION, Answer::Echo),
        };
        if self.direct && self.rate == 0 {
            bail!("a comparison with direct calls needs a rate: both ways get the same");
        }
        let mut callers = Callers::new(rig.sessions(self.clients).await?, action, self.size, answer)?;
        let (through, late) = (Rc::new(Latencies::timed()?), Latencies::new()?);
        callers.record_to(&through);
        // The first call waits until the node has looked at its upstream.
        let direct = match self.direct {
            true => Some(Rc::new(Direct::connect(rig, self.size).await?)),
            false => None,
        };
        let usage = Usage::begin(rig.server).beside(rig.upstream.as_ref().map(upstream::OwnUpstream::pid));
        let start = Moment::now();
        let mut pairs = Vec::new();
        let load = async {
            match (&direct, self.rate) {
                (Some(direct), _) => pairs = self.in_turns(&mut callers, direct, &late).await?,
                (None, 0) => callers.closed(self.lasting).await?,
                (None, rate) => callers.open(self.lasting, rate, &late).await?,
            }
            anyhow::Ok(())
        };
        let outcome = shown(self.lasting * if self.direct { 2 } else { 1 }, load).await;
        let seconds = Moment::now().since(start).as_secs_f64();
        let late = (self.rate > 0).then(|| late.percentiles());
        let mut report = Report::new("calls", rig.way(), usage.end(late));
        report.own_node = rig.own.is_some();
        for (name, value) in [
            ("clients", json!(self.clients)),
            ("rate", json!(self.rate)),
            ("seconds", json!(self.lasting.as_secs_f64())),
            ("size", json!(self.size)),
            ("action", json!(action)),
        ] {
            report.asked.insert(name.to_owned(), value);
        }
        let shared = callers.shared();
        let done = shared.done.get();
        report.seconds = seconds;
        report.errors = shared.errors.take();
        if !self.direct {
            report.slow_tenths = shared.slow_tenths(report.used.machine());
            report.per_tenth = shared.tenths.take();
        }
        report.counts = BTreeMap::from([("done", done), ("failed", report.errors.values().sum())]);
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 calls")]
        let rate = done as f64 / if self.direct { self.lasting.as_secs_f64() } else { seconds.max(0.001) };
        report.per_second = Some(rate);
        report.measured.extend(shared.failing().map(|lasted| ("failing_seconds", lasted.as_secs_f64())));
        report.failure = match outcome {
            Err(error) => Some(format!("{error:#}")),
            Ok(()) => (done == 0).then(|| "no call succeeded".to_owned()),
        };
        pairs.iter().for_each(|(by_node, _)| through.add(by_node));
        report.latency_us = through.percentiles();
        report.steady_us = through.steady(report.used.machine())?;
        if let Some(direct) = direct {
            direct.compare(&pairs, &mut report)?;
        }
        Ok(report)
    }

    /// Turns of both ways, one after the other.
    async fn in_turns(
        &self,
        callers: &mut Callers,
        direct: &Rc<Direct>,
        late: &Latencies,
    ) -> anyhow::Result<Vec<Pair>> {
        let turns = usize::try_from(self.lasting.as_millis() / TURN.as_millis())?.max(1);
        let mut pairs = Vec::with_capacity(turns);
        for _ in 0..turns {
            let by_node = Rc::new(Latencies::timed()?);
            callers.record_to(&by_node);
            callers.open(TURN, self.rate, late).await?;
            let without = Rc::new(Latencies::timed()?);
            direct.latencies.replace(Rc::clone(&without));
            Rc::clone(direct).open(TURN, self.rate, late).await?;
            pairs.push((by_node, without));
        }
        Ok(pairs)
    }
}

/// What the node adds in each pair of turns, of which the median counts, and what the direct way takes. Only what a slow
/// machine did not hold up counts, and only pairs of which that is the greater part; without any, nothing is told.
fn hop(pairs: &[Pair], machine: &Machine) -> anyhow::Result<BTreeMap<&'static str, f64>> {
    let straight = Latencies::timed()?;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for (by_node, without) in pairs {
        straight.add(without);
        let steady = |all: &Latencies| -> anyhow::Result<Option<Percentiles>> {
            let even = all.steady(machine)?;
            Ok(even.filter(|even| even.count > all.percentiles().count / 2))
        };
        let (Some(node), Some(peer)) = (steady(by_node)?, steady(without)?) else { continue };
        p50.push(micros(node.p50) - micros(peer.p50));
        p99.push(micros(node.p99) - micros(peer.p99));
    }
    let Some(direct) = straight.steady(machine)?.filter(|_| !p50.is_empty()) else {
        return Ok(BTreeMap::new());
    };
    Ok(BTreeMap::from([
        ("pairs", micros(p50.len() as u64)),
        ("hop_p50_us", median(p50)),
        ("hop_p99_us", median(p99)),
        ("direct_p50_us", micros(direct.p50)),
        ("direct_p99_us", micros(direct.p99)),
    ]))
}

#[expect(clippy::cast_precision_loss, reason = "a minute has fewer than 2^52 microseconds")]
fn micros(count: u64) -> f64 {
    count as f64
}

impl Direct {
    async fn connect(rig: &Rig, size: usize) -> anyhow::Result<Self> {
        let upstream = rig.upstream.as_ref().context("there is no upstream to call")?;
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", upstream.address))?;
        let channel = endpoint.tcp_nodelay(true).connect().await?;
        // What the node itself sends for one of its sessions.
        let caller = Caller {
            user: super::user(0),
            session: "0".repeat(32),
            transport: rig.way(),
            remote_address: "127.0.0.1:50000".to_owned(),
            ..Caller::default()
        };
        let call =
            Call { action: upstream::ACTION.to_owned(), data: vec![b'x'; size].into(), ..Call::default() };
        Ok(Direct {
            client: UpstreamServiceClient::new(channel),
            request: convert::call_to_wire(&caller, &call, CALL_TIMEOUT),
            latencies: RefCell::new(Rc::new(Latencies::new()?)),
            done: Cell::new(0),
            errors: RefCell::default(),
        })
    }

    /// What became of the direct calls, and what the node adds to them.
    fn compare(&self, pairs: &[Pair], report: &mut Report) -> anyhow::Result<()> {
        report.counts.insert("direct", self.done.get());
        report.errors.extend(self.errors.take());
        report.note = Some(
            "hop: what the way through the node takes longer than the direct one, a median of turns, of what a slow \
             machine did not hold up",
        );
        let added = hop(pairs, report.used.machine())?;
        if added.is_empty() && report.failure.is_none() {
            report.failure = Some("the machine was slow in every pair of turns: measure again".to_owned());
        }
        report.measured.extend(added);
        Ok(())
    }

    async fn open(self: Rc<Self>, lasting: Duration, rate: u32, late: &Latencies) -> anyhow::Result<()> {
        let mut timer = Timer::new()?;
        let start = Moment::now();
        let mut calls = JoinSet::new();
        for number in 0_u64.. {
            let due = start.after(Duration::from_nanos(number * 1_000_000_000 / u64::from(rate.max(1))));
            if due >= start.after(lasting) {
                break;
            }
            timer.until(due).await?;
            late.record(0, Moment::now().since(due));
            calls.spawn_local(Rc::clone(&self).call(due));
            while calls.try_join_next().is_some() {}
        }
        while calls.join_next().await.is_some() {}
        Ok(())
    }

    async fn call(self: Rc<Self>, due: Moment) {
        let mut request = tonic::Request::new(self.request.clone());
        request.set_timeout(CALL_TIMEOUT);
        match self.client.clone().process_request(request).await {
            Ok(reply) if reply.get_ref().data.len() == self.request.data.len() => {
                let done = self.done.get() + 1;
                self.latencies.borrow().record(usize::try_from(done).unwrap_or(0), Moment::now().since(due));
                self.done.set(done);
            }
            Ok(_) => *self.errors.borrow_mut().entry("another's data".to_owned()).or_default() += 1,
            Err(status) => *self.errors.borrow_mut().entry(format!("direct: {status}")).or_default() += 1,
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn pair(node: &[u64], peer: &[u64]) -> Pair {
        let of = |times: &[u64]| {
            let latencies = Latencies::timed().unwrap();
            times.iter().for_each(|time| latencies.record(0, Duration::from_micros(*time)));
            Rc::new(latencies)
        };
        (of(node), of(peer))
    }

    #[test]
    fn a_hop_is_what_the_node_adds_in_the_middle_one_of_the_pairs() {
        let pairs = [pair(&[500], &[100]), pair(&[300], &[200]), pair(&[1_000], &[300])];
        let hop = hop(&pairs, &Machine::default()).unwrap();
        let measured = ["pairs", "hop_p50_us", "hop_p99_us", "direct_p50_us"].map(|name| hop[name].round());
        assert_eq!(measured, [3.0, 400.0, 400.0, 200.0]);
    }

    #[test]
    fn a_pair_of_which_most_was_held_up_by_the_machine_says_nothing() {
        let held = [pair(&[50_000, 50_000, 10], &[100])];
        let now = Instant::now();
        let at = |millis| now.checked_sub(Duration::from_millis(millis)).unwrap();
        let slow = Machine::slow_in(at(40)..at(20));
        assert_eq!(hop(&held, &slow).unwrap(), BTreeMap::new());
        let half = [pair(&[50_000, 50_000, 10], &[100]), pair(&[50_000, 10, 10], &[5])];
        assert_eq!(hop(&half, &slow).unwrap()["hop_p50_us"].round(), 5.0);
        assert_eq!(hop(&[], &Machine::default()).unwrap(), BTreeMap::new());
    }
}
