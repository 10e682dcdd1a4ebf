//! Generators in processes of their own, each of one thread: this same command, each with its share of the load. What one
//! of them fails of ends the bench, and dropping the crew ends all of them.

use std::ops::Range;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::future::try_join_all;

use super::words::{Said, Word};
use crate::bench::Rig;
use crate::bench::bar::progress;
use crate::bench::child::Child;
use crate::bench::clock::Moment;
use crate::bench::figures::Figures;
use crate::bench::machine::Machine;
use crate::bench::share::Share;

/// How long a generator may say nothing while it connects: each of its handshakes has its own end long before.
const CONNECTING: Duration = Duration::from_secs(90);

/// How long it may take beside its load: to end what is under way, and to count.
const PATIENCE: Duration = Duration::from_secs(60);

/// From the word until the moment that it names: all have heard it by then.
const LEAD: Duration = Duration::from_millis(20);

/// See the module.
pub(in crate::bench) struct Crew {
    generators: Vec<Child>,
    connections: usize,
}

impl Crew {
    /// Starts so many, which share these connections.
    pub(in crate::bench) fn start(rig: &Rig, processes: u32, connections: usize) -> anyhow::Result<Self> {
        if connections < processes as usize {
            bail!("{connections} cannot be shared out among {processes} processes: some would have none");
        }
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let start = |share: Share| {
            let mut command = Command::new(&program);
            // What this command was told of the node and of the load holds for each of them, the environment included.
            command.args(std::env::args_os().skip(1)).arg("--part").arg(share.to_string());
            if let Some(own) = &rig.own {
                command.arg("--data-dir").arg(own.data_dir());
            }
            Child::run(command)
        };
        let generators = Share::all(processes).map(start).collect::<anyhow::Result<_>>()?;
        Ok(Crew { generators, connections })
    }

    pub(in crate::bench) fn pids(&self) -> Vec<u32> {
        self.generators.iter().map(Child::pid).collect()
    }

    /// Waits until all have their connections.
    pub(in crate::bench) async fn connected(&mut self) -> anyhow::Result<()> {
        let bar = progress(self.connections as u64, "connecting {pos}/{len} {bar:30}");
        let are_there = vec![std::cell::Cell::new(0); self.generators.len()];
        let ready = self.each(CONNECTING, |at, said| match said {
            Said::Connected(count) => {
                are_there[at].set(count);
                bar.set_position(are_there.iter().map(std::cell::Cell::get).sum());
                Ok(None)
            }
            Said::Ready => Ok(Some(())),
            other => Err(other),
        });
        let ready = ready.await;
        bar.finish_and_clear();
        ready.map(|_| ())
    }

    /// Lets all begin at the same moment, which is soon.
    pub(in crate::bench) fn go(&mut self) -> anyhow::Result<Moment> {
        let start = Moment::now().after(LEAD);
        self.tell(&Word::Go(start))?;
        Ok(start)
    }

    pub(in crate::bench) fn tell(&mut self, word: &Word) -> anyhow::Result<()> {
        let (line, of) = (serde_json::to_string(word)?, self.generators.len());
        for (at, generator) in self.generators.iter_mut().enumerate() {
            generator.tell(&line).with_context(|| name(at, of))?;
        }
        Ok(())
    }

    /// Waits until all are done with a load of this time.
    pub(in crate::bench) async fn done(&mut self, lasting: Duration) -> anyhow::Result<()> {
        let done = self.each(lasting + PATIENCE, |_, said| match said {
            // What was on its way.
            Said::Heard(_) | Said::Broken => Ok(None),
            Said::Done => Ok(Some(())),
            other => Err(other),
        });
        done.await.map(|_| ())
    }

    /// Tells them when the machine was slow; what all of them have counted.
    pub(in crate::bench) async fn figures(&mut self, machine: &Machine) -> anyhow::Result<Figures> {
        let span = |span: &Range<Instant>| (Moment::of(span.start), Moment::of(span.end));
        let slow = machine.slow().iter().map(span).collect();
        self.tell(&Word::Machine { slow, share: machine.slow_share() })?;
        self.counted().await
    }

    /// What all of them have counted.
    pub(in crate::bench) async fn counted(&mut self) -> anyhow::Result<Figures> {
        let all = self.each(PATIENCE, |_, said| match said {
            Said::Figures(figures) => Ok(Some(*figures)),
            other => Err(other),
        });
        Ok(all.await?.into_iter().reduce(Figures::and).unwrap_or_default())
    }

    /// Listens to all of them while something else goes on, and ends where one of them fails: with why.
    pub(in crate::bench) async fn watch(
        &mut self,
        lasting: Duration,
        heard: impl Fn(usize, Said) -> Result<(), Said>,
    ) -> anyhow::Error {
        let never = self.each::<()>(lasting + PATIENCE, |at, said| heard(at, said).map(|()| None));
        never.await.err().unwrap_or_else(|| anyhow::anyhow!("no generator is left"))
    }

    /// Waits for what `take` takes of each. What it gives back has no place there.
    async fn each<T>(
        &mut self,
        within: Duration,
        take: impl Fn(usize, Said) -> Result<Option<T>, Said>,
    ) -> anyhow::Result<Vec<T>> {
        let (take, of) = (&take, self.generators.len());
        let each = self.generators.iter_mut().enumerate().map(|(at, generator)| async move {
            let name = || name(at, of);
            loop {
                let line = generator.line(within).await.with_context(name)?;
                let said =
                    serde_json::from_str(&line).with_context(|| format!("{} says {line:?}", name()))?;
                match take(at, said) {
                    Ok(Some(taken)) => return anyhow::Ok(taken),
                    Ok(None) => {}
                    Err(Said::Failed(why)) => bail!("{}: {why}", name()),
                    Err(other) => bail!("{} says {other:?}, which nobody has asked for", name()),
                }
            }
        });
        try_join_all(each).await
    }
}

fn name(at: usize, of: usize) -> String {
    format!("generator {} of {of}", at + 1)
}
