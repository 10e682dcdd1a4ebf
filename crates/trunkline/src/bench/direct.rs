//! Calls through the node and straight to its upstream, in turns of a second: what the way through the node adds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::task::JoinSet;
use trunkline_proto::wire::UpstreamRequest;
use trunkline_proto::wire::upstream_service_client::UpstreamServiceClient;
use trunkline_service::grpc::convert;
use trunkline_service::{Call, Caller};

use super::bar::shown;
use super::callers::{CALL_TIMEOUT, Callers};
use super::calls::Calls;
use super::clock::{Moment, Timer};
use super::figures::Figures;
use super::latency::{Latencies, Percentiles};
use super::machine::Machine;
use super::report::Report;
use super::share::{Dues, Share};
use super::{Rig, upstream, user};

/// How long one turn is: some thousand calls, and short beside what else changes.
const TURN: Duration = Duration::from_secs(1);

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

/// Needs a `LocalSet` on one thread, a rate, and a rig with an upstream.
pub(super) async fn run(calls: &Calls, rig: &Rig) -> anyhow::Result<Report> {
    if calls.rate == 0 {
        bail!("a comparison with direct calls needs a rate: both ways get the same");
    }
    let mut callers = calls.callers(rig).await?;
    let late = Latencies::new()?;
    // The first call waits until the node has looked at its upstream.
    let direct = Rc::new(Direct::connect(rig, calls.size).await?);
    let usage = rig.usage(&[std::process::id()]);
    let begun = Moment::now();
    callers.shared().begin(begun);
    let turns = shown(calls.lasting * 2, direct.in_turns(calls, &mut callers, &late)).await;
    let used = usage.end().late(Some(late.percentiles()));
    let (pairs, failure) = match turns {
        Ok(pairs) => (pairs, None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    let through = Latencies::timed()?;
    pairs.iter().for_each(|(by_node, _)| through.add(by_node));
    let figures = Figures {
        latency: through.recorded(),
        steady: through.steady_recorded(used.machine())?,
        seconds: Moment::now().since(begun).as_secs_f64(),
        // Of a second way that takes turns they say nothing.
        tenths: Vec::new(),
        failure,
        ..callers.shared().figures()
    };
    let done = figures.count("done");
    let mut report = calls.reported(rig, figures, used)?;
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 calls")]
    let rate = done as f64 / calls.lasting.as_secs_f64();
    report.per_second = Some(rate);
    direct.compare(&pairs, &mut report)?;
    Ok(report)
}

impl Direct {
    async fn connect(rig: &Rig, size: usize) -> anyhow::Result<Self> {
        let upstream = rig.upstream.as_ref().context("there is no upstream to call")?;
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", upstream.address))?;
        let channel = endpoint.tcp_nodelay(true).connect().await?;
        // What the node itself sends for one of its sessions.
        let caller = Caller {
            user: user(0),
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

    /// Turns of both ways, one after the other.
    async fn in_turns(
        self: &Rc<Self>,
        calls: &Calls,
        callers: &mut Callers,
        late: &Latencies,
    ) -> anyhow::Result<Vec<Pair>> {
        let turns = usize::try_from(calls.lasting.as_millis() / TURN.as_millis())?.max(1);
        let mut pairs = Vec::with_capacity(turns);
        let dues = || Dues { start: Moment::now(), lasting: TURN, rate: calls.rate, share: Share::WHOLE };
        for _ in 0..turns {
            let by_node = Rc::new(Latencies::timed()?);
            callers.record_to(&by_node);
            callers.open(dues(), late).await?;
            let without = Rc::new(Latencies::timed()?);
            self.latencies.replace(Rc::clone(&without));
            Rc::clone(self).open(dues(), late).await?;
            pairs.push((by_node, without));
        }
        Ok(pairs)
    }

    /// What became of the direct calls, and what the node adds to them.
    fn compare(&self, pairs: &[Pair], report: &mut Report) -> anyhow::Result<()> {
        report.counts.insert("direct".into(), self.done.get());
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

    async fn open(self: Rc<Self>, dues: Dues, late: &Latencies) -> anyhow::Result<()> {
        let (mut timer, mut calls) = (Timer::new()?, JoinSet::new());
        for begun in 0_u64.. {
            let Some(due) = dues.next(begun) else { break };
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
        let slow = Machine::slow_in(vec![at(40)..at(20)], 1.0);
        assert_eq!(hop(&held, &slow).unwrap(), BTreeMap::new());
        let half = [pair(&[50_000, 50_000, 10], &[100]), pair(&[50_000, 10, 10], &[5])];
        assert_eq!(hop(&half, &slow).unwrap()["hop_p50_us"].round(), 5.0);
        assert_eq!(hop(&[], &Machine::default()).unwrap(), BTreeMap::new());
    }
}
