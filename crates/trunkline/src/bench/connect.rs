//! Connecting: whole handshakes with START and the proof of its token, one after the other on so many places, and each
//! session stopped again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use trunkline_client::Options;

use super::clock::{Moment, Timer};
use super::figures::{Figures, counts};
use super::generators::{self, Load, Role, Stand};
use super::latency::Latencies;
use super::raw::{RawSession, Sockets};
use super::report::Report;
use super::share::Share;
use super::usage::Used;
use super::{Crowd, OVERTIME, Rig};

/// A place whose sessions fail this often in a row gives up: the rest would fail too.
const FAILURES: u32 = 3;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connect {
    /// Handshakes under way at once.
    pub(crate) at_once: usize,
    /// Handshakes a second over all of these; 0 is as many as can be.
    pub(crate) rate: u32,
    pub(crate) lasting: Duration,
}

struct Shared {
    asked: Connect,
    start: Moment,
    share: Share,
    sockets: Sockets,
    done: Cell<u64>,
    latencies: Latencies,
    errors: RefCell<BTreeMap<String, u64>>,
}

impl Connect {
    /// Needs a `LocalSet` on one thread.
    pub(crate) async fn run(self, rig: &Rig, role: Role) -> anyhow::Result<Option<Report>> {
        generators::run(&self, rig, role).await
    }
}

impl Load for Connect {
    fn connections(&self) -> usize {
        self.at_once
    }

    fn lasting(&self) -> Duration {
        self.lasting
    }

    async fn generate(&self, rig: &Rig, stand: &mut Stand<'_>) -> anyhow::Result<Figures> {
        let Crowd { options, sockets } = rig.crowd(self.at_once)?;
        let latencies = Latencies::new()?;
        let start = stand.begin().await?;
        let shared = Rc::new(Shared {
            asked: *self,
            start,
            share: rig.share,
            sockets,
            done: Cell::new(0),
            latencies,
            errors: RefCell::default(),
        });
        let mut tasks = JoinSet::new();
        for (at, options) in options.into_iter().enumerate() {
            tasks.spawn_local(Rc::clone(&shared).place(at, options));
        }
        let ended = async {
            while let Some(ended) = tasks.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        rig.shown(self.lasting, ended).await?;
        let seconds = Moment::now().since(start).as_secs_f64();
        stand.end().await?;
        let errors = shared.errors.take();
        Ok(Figures {
            counts: counts([("started", shared.done.get()), ("failed", errors.values().sum())]),
            errors,
            latency: shared.latencies.recorded(),
            seconds,
            ..Figures::default()
        })
    }

    fn report(&self, rig: &Rig, figures: Figures, used: Used) -> anyhow::Result<Report> {
        let mut report = Report::new("connect", rig.way(), used);
        report.own_node = rig.own.is_some();
        report.asked.insert("at_once".to_owned(), json!(self.at_once));
        report.asked.insert("rate".to_owned(), json!(self.rate));
        report.asked.insert("seconds".to_owned(), json!(self.lasting.as_secs_f64()));
        let done = figures.count("started");
        report.per_second = Some(figures.a_second(done));
        report.note = Some("from connecting to START's answer; each session is stopped before the next");
        figures.tell(&mut report)?;
        report.failure = (done == 0).then(|| "no session could start".to_owned());
        Ok(report)
    }
}

impl Shared {
    async fn place(self: Rc<Self>, at: usize, options: Options) -> anyhow::Result<()> {
        let (mut timer, mut failures) = (Timer::new()?, 0);
        for turn in 0_u64.. {
            let begun = self.due(at, turn).unwrap_or_else(Moment::now);
            let end = self.start.after(self.asked.lasting);
            if begun >= end || Moment::now() >= end.after(OVERTIME) || failures >= FAILURES {
                break;
            }
            timer.until(begun).await?;
            match RawSession::start(&options, &self.sockets, at).await {
                Ok(session) => {
                    failures = 0;
                    self.latencies.record(at, Moment::now().since(begun));
                    self.done.set(self.done.get() + 1);
                    session.stop().await;
                }
                Err(error) => {
                    failures += 1;
                    *self.errors.borrow_mut().entry(format!("{error:#}")).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    /// When this place begins its next session, where there is a schedule: the places of all shares take turns.
    fn due(&self, at: usize, turn: u64) -> Option<Moment> {
        let number = turn * self.asked.at_once as u64 + self.share.number(at as u64);
        let rate = u64::from(self.asked.rate);
        (rate > 0).then(|| self.start.after(Duration::from_nanos(number * 1_000_000_000 / rate)))
    }
}
