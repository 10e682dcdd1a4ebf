//! Who publishes in a fan-out: one raw connection to a node or a peer, on a schedule or with a window of publications
//! under way. What is refused ends it: what was published then is nobody's to wait for.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use trunkline_proto::{Dialect, DownBody};

use super::OVERTIME;
use super::audience::{Progress, Template};
use super::clock::{Moment, Timer};
use super::latency::Latencies;
use super::link::{Link, LinkReader, LinkWriter};

/// What a node lets one session have under way: more would be refused.
pub(crate) const WINDOW: u32 = 64;

/// A closed loop in which no round is complete for this long has come to a stop.
const STALL: Duration = Duration::from_secs(10);

/// Who publishes: one connection of a server, whose answers are read by a task.
pub(super) struct Publisher {
    writer: LinkWriter,
    template: Template,
    window: u64,
    /// `None`: the server answers no publication.
    answers: Option<Rc<Answers>>,
    _reading: JoinSet<()>,
    pub(super) published: u64,
    pub(super) late: Latencies,
}

#[derive(Default)]
struct Answers {
    count: Cell<u64>,
    failed: Cell<u64>,
    error: RefCell<Option<String>>,
    came: Notify,
}

impl Publisher {
    /// Takes a connection and the payload that a publication is; so many may be under way at once.
    pub(super) fn new(link: Link, payload: &[u8], window: u64) -> anyhow::Result<Self> {
        let Link { reader, writer } = link;
        let mut bytes = Vec::new();
        writer.frame(payload, &mut bytes);
        let answers = Rc::new(Answers::default());
        let mut reading = JoinSet::new();
        reading.spawn_local(Rc::clone(&answers).read(reader));
        Ok(Publisher {
            writer,
            template: Template::new(bytes)?,
            window,
            answers: Some(answers),
            _reading: reading,
            published: 0,
            late: Latencies::new()?,
        })
    }

    /// The same on a server that answers no publication.
    pub(super) fn unanswered(mut self) -> Self {
        self.answers = None;
        self
    }

    /// Each publication when it is due, whatever became of those before, as long as the node takes it: one that has
    /// to wait is late.
    pub(super) async fn open(&mut self, start: Moment, lasting: Duration, rate: u32) -> anyhow::Result<()> {
        let mut timer = Timer::new()?;
        let mut bytes = Vec::new();
        for number in 0.. {
            let due = start.after(Duration::from_secs(number) / rate);
            if due >= start.after(lasting) {
                break;
            }
            timer.until(due).await?;
            if Moment::now() >= start.after(lasting + OVERTIME) {
                bail!("the node takes fewer than {rate} publications a second: {number} until now");
            }
            while !self.has_room(1) {
                self.answered().await?;
            }
            self.late.record(0, Moment::now().since(due));
            self.send(1, due, &mut bytes).await?;
        }
        self.all_answered().await
    }

    /// Keeps the window full until `end`.
    pub(super) async fn closed(
        &mut self,
        progress: &Progress,
        round: u64,
        end: Moment,
    ) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        while Moment::now() < end && !progress.is_broken() {
            if self.published + round > progress.heard_by_all() + self.window {
                let heard = timeout(STALL, progress.changes()).await;
                heard.context("a publication did not reach all subscribers within 10 s")?;
                continue;
            }
            if !self.has_room(round) {
                self.answered().await?;
                continue;
            }
            self.send(round, Moment::now(), &mut bytes).await?;
        }
        self.all_answered().await
    }

    async fn send(&mut self, count: u64, due: Moment, bytes: &mut Vec<u8>) -> anyhow::Result<()> {
        bytes.clear();
        for _ in 0..count {
            self.template.write(self.published, due, bytes);
            self.published += 1;
        }
        Ok(self.writer.write(bytes).await?)
    }

    /// Would the server take so many more?
    fn has_room(&self, more: u64) -> bool {
        let answered = self.answers.as_ref().map(|answers| answers.count.get() + answers.failed.get());
        answered.is_none_or(|answered| self.published + more <= answered + u64::from(WINDOW))
    }

    /// Waits for an answer.
    async fn answered(&self) -> anyhow::Result<()> {
        if let Some(answers) = &self.answers {
            timeout(STALL, answers.came.notified()).await.context("a publication is not answered")?;
        }
        match self.refused() {
            Some(refused) => bail!(refused),
            None => Ok(()),
        }
    }

    async fn all_answered(&self) -> anyhow::Result<()> {
        while !self.has_room(u64::from(WINDOW)) {
            self.answered().await?;
        }
        Ok(())
    }

    /// Publications that subscribers may wait for: what was refused comes to nobody.
    pub(super) fn heard_of(&self, published: &anyhow::Result<()>) -> u64 {
        match published.is_err() || self.refused().is_some() {
            true => 0,
            false => self.published,
        }
    }

    pub(super) fn refused(&self) -> Option<String> {
        let answers = self.answers.as_ref()?;
        let error = answers.error.borrow();
        let error = error.as_deref()?;
        Some(format!("{} publications were refused: {error}", answers.failed.get()))
    }
}

impl Answers {
    async fn read(self: Rc<Self>, mut reader: LinkReader) {
        // What a good answer begins with: the channel and its epoch. Only others are decoded.
        let mut good = Vec::new();
        loop {
            let came = reader.some(&mut |frame| self.take(frame, &mut good)).await;
            if let Err(error) = came {
                self.error.borrow_mut().get_or_insert(error.to_string());
            }
            self.came.notify_one();
            if self.error.borrow().is_some() {
                return;
            }
        }
    }

    fn take(&self, frame: &[u8], good: &mut Vec<u8>) {
        /// Type, channel and half of the epoch: an error would differ here.
        const TELLING: usize = 24;
        if good.len() == TELLING && frame.starts_with(good) {
            return self.count.set(self.count.get() + 1);
        }
        let failed =
            match Dialect::Protobuf.decode_down(&Bytes::copy_from_slice(frame)).map(|frame| frame.body) {
                Ok(DownBody::ChannelResp(answer)) if answer.error.is_none() => {
                    self.count.set(self.count.get() + 1);
                    *good = frame.get(..TELLING).unwrap_or_default().to_vec();
                    return;
                }
                Ok(DownBody::ChannelResp(answer)) => answer.error.unwrap_or_default().error_message,
                Ok(DownBody::Error(error)) => error.error_message,
                Ok(_) => return,
                Err(error) => error.to_string(),
            };
        self.failed.set(self.failed.get() + 1);
        self.error.borrow_mut().get_or_insert(failed);
    }
}
