//! Calls: how many a second, and how long each takes; to a service of the node, or through it to an upstream.
//!
//! In the closed loop each client has one call under way; in the open loop calls begin on a schedule, and their time
//! counts from when they were due.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use super::callers::{Answer, Callers};
use super::clock::Moment;
use super::figures::Figures;
use super::generators::{self, Load, Role, Stand};
use super::latency::Latencies;
use super::machine::Machine;
use super::report::Report;
use super::share::Dues;
use super::usage::Used;
use super::{Rig, direct, upstream};

/// What every node answers.
const ACTION: &str = "trunkline.echo";

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
    /// The bench has an upstream, which is called.
    pub(crate) upstream: bool,
    /// Also calls the upstream without the node, in turns. Needs a rate, and a rig with an upstream.
    pub(crate) direct: bool,
}

impl Calls {
    /// Needs a `LocalSet` on one thread.
    pub(crate) async fn run(self, rig: &Rig, role: Role) -> anyhow::Result<Option<Report>> {
        match self.direct {
            true => direct::run(&self, rig).await.map(Some),
            false => generators::run(&self, rig, role).await,
        }
    }

    /// What is called, and what it answers.
    fn action(&self) -> (&str, Answer) {
        match &self.action {
            Some(action) => (action, Answer::Any),
            None if self.upstream => (upstream::ACTION, Answer::Echo),
            None => (ACTION, Answer::Echo),
        }
    }

    /// The sessions of this share.
    pub(super) async fn callers(&self, rig: &Rig) -> anyhow::Result<Callers> {
        let (action, answer) = self.action();
        Callers::new(rig.sessions(self.clients).await?, action, self.size, answer)
    }

    /// What such figures come to.
    pub(super) fn reported(&self, rig: &Rig, figures: Figures, used: Used) -> anyhow::Result<Report> {
        let mut report = Report::new("calls", rig.way(), used);
        report.own_node = rig.own.is_some();
        for (name, value) in [
            ("clients", json!(self.clients)),
            ("rate", json!(self.rate)),
            ("seconds", json!(self.lasting.as_secs_f64())),
            ("size", json!(self.size)),
            ("action", json!(self.action().0)),
        ] {
            report.asked.insert(name.to_owned(), value);
        }
        let done = figures.count("done");
        report.per_second = Some(figures.a_second(done));
        figures.tell(&mut report)?;
        if done == 0 {
            report.failure.get_or_insert_with(|| "no call succeeded".to_owned());
        }
        Ok(report)
    }
}

impl Load for Calls {
    fn connections(&self) -> usize {
        self.clients
    }

    fn lasting(&self) -> Duration {
        self.lasting
    }

    async fn generate(&self, rig: &Rig, stand: &mut Stand<'_>) -> anyhow::Result<Figures> {
        let mut callers = self.callers(rig).await?;
        let (latencies, late) = (Rc::new(Latencies::timed()?), Latencies::new()?);
        callers.record_to(&latencies);
        let start = stand.begin().await?;
        callers.shared().begin(start);
        let load = async {
            match self.rate {
                0 => callers.closed(start.after(self.lasting)).await,
                rate => {
                    let dues = Dues { start, lasting: self.lasting, rate, share: rig.share };
                    callers.open(dues, &late).await
                }
            }
        };
        let failure = rig.shown(self.lasting, load).await.err().map(|error| format!("{error:#}"));
        let seconds = Moment::now().since(start).as_secs_f64();
        let machine = stand.end().await?;
        Ok(Figures {
            latency: latencies.recorded(),
            steady: latencies.steady_recorded(&machine)?,
            late: (self.rate > 0).then(|| late.recorded()),
            began: start,
            seconds,
            failure,
            ..callers.shared().figures()
        })
    }

    fn report(&self, rig: &Rig, figures: Figures, used: Used) -> anyhow::Result<Report> {
        let slow = slow_tenths(figures.began, figures.tenths.len(), used.machine());
        let mut report = self.reported(rig, figures, used)?;
        report.slow_tenths = slow;
        Ok(report)
    }
}

/// The tenths of a second, by their place, in which the machine was slow: what came late counts in the next one.
fn slow_tenths(began: Moment, tenths: usize, machine: &Machine) -> Vec<usize> {
    let (tenth, began) = (Duration::from_millis(100), began.instant());
    let begin = |at: usize| began + tenth * u32::try_from(at).unwrap_or(u32::MAX);
    (0..tenths).filter(|at| machine.slowed(begin(*at), begin(at + 1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenths_are_slow_in_which_the_machine_was() {
        let began = Moment::now();
        let at = |millis| began.after(Duration::from_millis(millis)).instant();
        let machine = Machine::slow_in(vec![at(150)..at(250)], 1.0);
        assert_eq!(slow_tenths(began, 4, &machine), [1, 2]);
        assert_eq!(slow_tenths(began, 2, &machine), [1]);
        assert_eq!(slow_tenths(began, 4, &Machine::default()), Vec::<usize>::new());
    }
}
