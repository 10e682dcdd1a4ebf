//! A load as one generator makes it, or several: in this process, or in processes of their own where one thread would be
//! the limit. What a load is like does not know how many there are.

mod crew;
mod parent;
mod words;

use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use super::Rig;
use super::bar::shown;
use super::clock::Moment;
use super::figures::Figures;
use super::machine::Machine;
use super::report::Report;
use super::usage::{Usage, Used};
pub(super) use crew::Crew;
pub(super) use parent::say;
pub(crate) use parent::{Parent, as_part};
pub(super) use words::{Said, Word};

/// What this process is to a load.
pub(crate) enum Role {
    /// It makes all of it.
    Alone,
    /// So many others make it.
    Several(u32),
    /// It makes a share of it, for this bench.
    Part(Parent),
}

/// A load that generators can share.
pub(super) trait Load {
    /// Connections of all together.
    fn connections(&self) -> usize;

    fn lasting(&self) -> Duration;

    /// Does the rig's share: connects, waits for the beginning, and counts until the end.
    async fn generate(&self, rig: &Rig, stand: &mut Stand<'_>) -> anyhow::Result<Figures>;

    /// What all of it comes to.
    fn report(&self, rig: &Rig, figures: Figures, used: Used) -> anyhow::Result<Report>;
}

/// Who says when a generator begins, and when its load is over.
pub(super) enum Stand<'a> {
    /// Itself, and it looks at the machine meanwhile.
    Alone(Box<Watch<'a>>),
    /// The bench that has started it.
    Part(Parent),
}

/// A look at what a load uses, from its beginning to its end.
pub(super) struct Watch<'a> {
    rig: &'a Rig,
    usage: Option<Usage>,
    used: Option<Used>,
}

/// Makes a load, in this role. A part has told its bench what came of it, and has no report.
pub(super) async fn run(load: &impl Load, rig: &Rig, role: Role) -> anyhow::Result<Option<Report>> {
    let (figures, used, processes) = match role {
        Role::Alone => {
            let mut stand = Stand::Alone(Box::new(Watch { rig, usage: None, used: None }));
            let figures = load.generate(rig, &mut stand).await?;
            (figures, stand.used()?, None)
        }
        Role::Several(processes) => {
            let (figures, used) = several(load, rig, processes).await?;
            (figures, used, Some(processes))
        }
        Role::Part(parent) => {
            let figures = load.generate(rig, &mut Stand::Part(parent)).await?;
            say(&Said::Figures(Box::new(figures)))?;
            return Ok(None);
        }
    };
    let late = figures.late.as_ref().map(|late| late.percentiles()).transpose()?;
    let mut report = load.report(rig, figures, used.late(late))?;
    report.made_by(processes);
    Ok(Some(report))
}

async fn several(load: &impl Load, rig: &Rig, processes: u32) -> anyhow::Result<(Figures, Used)> {
    rig.can_serve(load.connections())?;
    let mut crew = Crew::start(rig, processes, load.connections())?;
    crew.connected().await?;
    let usage = rig.usage(&crew.pids());
    crew.go()?;
    shown(load.lasting(), crew.done(load.lasting())).await?;
    let used = usage.end();
    let figures = crew.figures(used.machine()).await?;
    Ok((figures, used))
}

impl Stand<'_> {
    /// Waits for the word, where there is one: when the load begins, which is now.
    pub(super) async fn begin(&mut self) -> anyhow::Result<Moment> {
        match self {
            Stand::Alone(watch) => {
                watch.usage = Some(watch.rig.usage(&[std::process::id()]));
                Ok(Moment::now())
            }
            Stand::Part(parent) => parent.begin().await,
        }
    }

    /// The load is over; when the machine was slow meanwhile.
    pub(super) async fn end(&mut self) -> anyhow::Result<Machine> {
        match self {
            Stand::Alone(watch) => {
                let used = watch.usage.take().context("a load ends that has not begun")?.end();
                Ok(watch.used.insert(used).machine().clone())
            }
            Stand::Part(parent) => parent.end().await,
        }
    }

    fn used(self) -> anyhow::Result<Used> {
        match self {
            Stand::Alone(watch) => watch.used.context("a load has not ended"),
            Stand::Part(_) => anyhow::bail!("what was used is for the bench to say"),
        }
    }
}

impl Report {
    /// Says how many processes made the load, where it was not this one.
    pub(super) fn made_by(&mut self, processes: Option<u32>) {
        self.asked.extend(processes.map(|processes| ("processes".to_owned(), json!(processes))));
    }
}
