//! Pushes: from an upstream by gRPC, through the node, to the session of the user they are for.
//!
//! A push's time counts from when it was due until its client has it. Several to one user may be under way at once, and
//! then nothing promises their order.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;
use tokio::task::JoinSet;
use trunkline_proto::wire::HeartbeatRequest;
use trunkline_proto::{Dialect, UpBody, UpFrame};
use trunkline_service::grpc::GrpcContext;
use trunkline_service::{Context, Push as Content, PushOutcome, Target};

use super::audience::{Audience, Beat, Template, failure};
use super::clock::{Moment, Timer};
use super::figures::counts;
use super::latency::Latencies;
use super::report::Report;
use super::{OVERTIME, Rig, shown, user};

/// Pushes that wait for their outcome at once; the next is late.
const OUTSTANDING: usize = 1_000;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Push {
    pub(crate) sessions: usize,
    /// Pushes a second, to one session after the other.
    pub(crate) rate: u32,
    pub(crate) lasting: Duration,
    /// Bytes of each push's data.
    pub(crate) size: usize,
}

/// What became of the pushes.
#[derive(Default)]
struct Outcomes {
    delivered: Cell<u64>,
    others: RefCell<BTreeMap<String, u64>>,
}

impl Push {
    /// Needs a `LocalSet` on one thread.
    pub(crate) async fn run(self, rig: &Rig) -> anyhow::Result<Report> {
        let context = Rc::new(GrpcContext::new(&rig.gateway()?));
        let sessions = rig.sessions(self.sessions).await?;
        let every = sessions.first().context("no session was asked for")?.heartbeat();
        let beat = UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 1 });
        let beat = Beat { payload: Dialect::Protobuf.encode_up(&UpFrame::new(1, 0, beat)), every };
        let links = sessions.into_iter().map(|session| session.link).collect();
        // Each session counts its own pushes, so there are no rounds that all have heard.
        let audience = Audience::start(links, Some(beat), u64::MAX, true)?;
        let delivery = Rc::clone(audience.shared());
        let (outcomes, late) = (Rc::new(Outcomes::default()), Latencies::new()?);
        let usage = rig.usage(&[std::process::id()]);
        let start = Moment::now();
        let pushed = shown(self.lasting, self.push(&context, &outcomes, start, &late)).await?;
        let delivered = outcomes.delivered.get();
        let all = self.sessions as u64;
        let heard = audience.conclude(|at| pushed / all + u64::from((at as u64) < pushed % all)).await;
        let seconds = Moment::now().since(start).as_secs_f64();
        let mut report = Report::new("push", rig.way(), usage.end().late(Some(late.percentiles())));
        report.own_node = rig.own.is_some();
        for (name, value) in [
            ("sessions", json!(self.sessions)),
            ("rate", json!(self.rate)),
            ("seconds", json!(self.lasting.as_secs_f64())),
            ("size", json!(self.size)),
        ] {
            report.asked.insert(name.to_owned(), value);
        }
        report.seconds = seconds;
        report.counts = heard.counts();
        report.counts.extend(counts([("pushed", pushed), ("delivered", delivered)]));
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 pushes")]
        let rate = heard.received as f64 / seconds.max(0.001);
        report.per_second = Some(rate);
        report.latency_us = delivery.delivery.percentiles();
        report.failure = match delivered {
            0 => Some("nothing was delivered".to_owned()),
            _ => failure(&report.counts),
        };
        report.errors = outcomes.others.take();
        report.errors.extend(heard.errors);
        Ok(report)
    }

    async fn push(
        &self,
        context: &Rc<GrpcContext>,
        outcomes: &Rc<Outcomes>,
        start: Moment,
        late: &Latencies,
    ) -> anyhow::Result<u64> {
        let mut timer = Timer::new()?;
        let mut template = Template::new(Template::data(self.size))?;
        let mut running = JoinSet::new();
        let all = self.sessions as u64;
        for number in 0_u64.. {
            let due = start.after(Duration::from_nanos(number * 1_000_000_000 / u64::from(self.rate.max(1))));
            if due >= start.after(self.lasting) {
                while running.join_next().await.is_some() {}
                return Ok(number);
            }
            timer.until(due).await?;
            if Moment::now() >= start.after(self.lasting + OVERTIME) {
                bail!("the node takes fewer than {} pushes a second: {number} until now", self.rate);
            }
            while running.try_join_next().is_some() {}
            while running.len() >= OUTSTANDING {
                running.join_next().await;
            }
            late.record(0, Moment::now().since(due));
            let mut data = Vec::new();
            template.write(number / all, due, &mut data);
            let content = Content { msg_type: "bench".to_owned(), data: data.into(), ..Content::default() };
            let target = Target::User(user(usize::try_from(number % all)?));
            let (context, outcomes) = (Rc::clone(context), Rc::clone(outcomes));
            running.spawn_local(async move {
                let failed = match context.push(target, content).await {
                    Ok(PushOutcome::Delivered | PushOutcome::Acked) => {
                        return outcomes.delivered.set(outcomes.delivered.get() + 1);
                    }
                    Ok(other) => format!("{other:?}"),
                    Err(error) => error.to_string(),
                };
                *outcomes.others.borrow_mut().entry(failed).or_default() += 1;
            });
        }
        Ok(0)
    }
}
