//! The bench that has started this process: what it says is waited for, and when it is gone, this process ends too,
//! whatever it is doing.

use anyhow::{Context, bail};

use super::words::{Said, Word};
use crate::bench::Role;
use crate::bench::child::{Told, told};
use crate::bench::clock::{Moment, Timer};
use crate::bench::machine::Machine;
use crate::bench::report::Report;
use crate::cli::output;

/// See the module.
pub(crate) struct Parent(Told);

impl Parent {
    /// Says that everything is ready, and waits for the word: the moment that it names, when that has come.
    pub(in crate::bench) async fn begin(&mut self) -> anyhow::Result<Moment> {
        say(&Said::Ready)?;
        match self.word().await? {
            Word::Go(start) => {
                Timer::new()?.until(start).await?;
                Ok(start)
            }
            other => bail!("a generator that is ready is told {other:?}"),
        }
    }

    /// Says that its part is done; when the machine was slow meanwhile.
    pub(in crate::bench) async fn end(&mut self) -> anyhow::Result<Machine> {
        say(&Said::Done)?;
        match self.word().await? {
            Word::Machine { slow, share } => {
                let span = |(begin, end): (Moment, Moment)| begin.instant()..end.instant();
                Ok(Machine::slow_in(slow.into_iter().map(span).collect(), share))
            }
            other => bail!("a generator that is done is told {other:?}"),
        }
    }

    /// The next word. Cancel safe.
    pub(in crate::bench) async fn word(&mut self) -> anyhow::Result<Word> {
        let line = self.0.line().await.context("the bench that has started this has gone")?;
        serde_json::from_str(&line).with_context(|| format!("what is {line:?}?"))
    }
}

/// Does a share for the bench that has started this process: tells it what came of it, and ends when that does.
pub(crate) async fn as_part(
    share: impl AsyncFnOnce(Role) -> anyhow::Result<Option<Report>>,
) -> anyhow::Result<()> {
    let told = told()?;
    let gone = told.ended();
    let done = tokio::select! {
        done = share(Role::Part(Parent(told))) => done,
        () = gone.cancelled() => return Ok(()),
    };
    if let Err(error) = done {
        say(&Said::Failed(format!("{error:#}")))?;
    }
    gone.cancelled().await;
    Ok(())
}

pub(in crate::bench) fn say(what: &Said) -> anyhow::Result<()> {
    output::result(&serde_json::to_string(what)?);
    Ok(())
}
