//! Fan-out: one publisher, one channel, many subscribers; on our node or on a peer, by the same code.
//!
//! In the open loop publications are due on a schedule, and a delivery's time counts from when its publication was
//! due. In the closed loop the publisher keeps so many publications under way, and what counts is deliveries a second.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use trunkline_proto::wire::{ChannelRequest, HeartbeatRequest, PublishRequest};
use trunkline_proto::{Dialect, DownBody, UpBody, UpFrame};

use super::audience::{Audience, Beat, Shared, Template};
use super::clock::{Moment, Timer};
use super::latency::Latencies;
use super::link::{Link, LinkReader, LinkWriter};
use super::peer::Peer;
use super::raw::{RawSession, Sockets};
use super::report::Report;
use super::usage::Usage;
use super::{CONNECTING, OVERTIME, Rig, progress, shown};

const CHANNEL: &str = "bench:fanout";

/// What a node lets one session have under way: more would be refused.
pub(crate) const WINDOW: u32 = 64;

/// How long a subscription may take.
const SUBSCRIBE: Duration = Duration::from_secs(20);

/// A closed loop in which no round is complete for this long has come to a stop.
const STALL: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Fanout {
    pub(crate) subscribers: usize,
    /// Publications a second; 0 is the closed loop.
    pub(crate) rate: u32,
    /// Publications under way at once.
    pub(crate) window: u32,
    pub(crate) lasting: Duration,
    /// Bytes of each publication.
    pub(crate) size: usize,
    /// Another server instead of the node.
    pub(crate) peer: Option<Peer>,
}

/// Who publishes: one connection of a server, whose answers are read by a task.
struct Publisher {
    writer: LinkWriter,
    template: Template,
    window: u64,
    /// `None`: the server answers no publication.
    answers: Option<Rc<Answers>>,
    _reading: JoinSet<()>,
    published: u64,
    late: Latencies,
}

#[derive(Default)]
struct Answers {
    count: Cell<u64>,
    failed: Cell<u64>,
    error: RefCell<Option<String>>,
    came: Notify,
}

impl Fanout {
    /// Needs a `LocalSet` on one thread.
    pub(crate) async fn run(self, rig: &Rig) -> anyhow::Result<Report> {
        let (links, publisher, beat) = self.connect(rig).await?;
        let window = u64::from(self.window.max(1));
        // Rounds are what the publisher learns of: four of them keep it from waiting for the slowest each time.
        let round = (window / 4).max(1);
        let audience = Audience::start(links, beat, round, self.rate > 0)?;
        let shared = Rc::clone(audience.shared());
        let mut publisher = self.publisher(publisher, window)?;
        let usage = Usage::begin(rig.server);
        let start = Moment::now();
        let published = match self.rate {
            0 => shown(self.lasting, publisher.closed(&shared, round, start.after(self.lasting))).await,
            rate => shown(self.lasting, publisher.open(start, self.lasting, rate)).await,
        };
        // What was refused nobody waits for.
        let failed = published.is_err() || publisher.refused().is_some();
        let heard = audience.conclude(|_| if failed { 0 } else { publisher.published }).await;
        let seconds = Moment::now().since(start).as_secs_f64();
        let late = (self.rate > 0).then(|| publisher.late.percentiles());
        let mut report = Report::new("fanout", self.way(rig), usage.end(late));
        report.own_node = rig.own.is_some();
        for (name, value) in [
            ("subscribers", json!(self.subscribers)),
            ("rate", json!(self.rate)),
            ("seconds", json!(self.lasting.as_secs_f64())),
            ("size", json!(self.size)),
        ] {
            report.asked.insert(name.to_owned(), value);
        }
        if self.rate == 0 {
            report.asked.insert("window".to_owned(), json!(self.window));
        }
        report.seconds = seconds;
        report.counts = heard.counts();
        report.counts.insert("published", publisher.published);
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 deliveries")]
        let rate = heard.received as f64 / seconds.max(0.001);
        report.per_second = Some(rate);
        report.latency_us = shared.delivery.percentiles();
        report.steady_us = shared.delivery.steady(report.used.machine())?;
        report.failure = match (published, publisher.published) {
            (Err(error), _) => Some(format!("the publisher failed: {error:#}")),
            (_, 0) => Some("nothing could be published".to_owned()),
            _ if heard.reordered > 0 => Some(format!("{} came after a later one", heard.reordered)),
            _ => publisher.refused().or_else(|| heard.failure()),
        };
        report.errors = heard.errors;
        Ok(report)
    }

    fn way(&self, rig: &Rig) -> String {
        self.peer.as_ref().map_or_else(|| rig.way(), |peer| peer.name().to_owned())
    }

    /// Subscribers that are subscribed, the publisher, and what a node wants of silent clients.
    async fn connect(&self, rig: &Rig) -> anyhow::Result<(Vec<Link>, Link, Option<Beat>)> {
        let bar = progress(self.subscribers as u64, "connecting {pos}/{len} {bar:30}");
        let one = |link: Link| {
            bar.inc(1);
            std::future::ready(Ok(link))
        };
        let (links, publisher, beat) = match &self.peer {
            Some(peer) => {
                super::descriptors(self.subscribers + 1)?;
                let links = stream::iter(0..self.subscribers).map(|_| peer.subscriber());
                let links = links.buffer_unordered(CONNECTING).and_then(one).try_collect().await?;
                (links, peer.publisher().await?, None)
            }
            None => {
                let options = rig.crowd(self.subscribers + 1)?;
                let sockets = Sockets::open(&options[0], options.len())?;
                let publisher = RawSession::start(&options[0], &sockets, 0).await?;
                let every = publisher.heartbeat();
                let links = stream::iter(options.iter().enumerate().skip(1)).map(async |(at, options)| {
                    let session = RawSession::start(options, &sockets, at).await?;
                    timeout(SUBSCRIBE, subscribed(session)).await.context("a subscription hangs")?
                });
                let links: Vec<_> = links.buffer_unordered(CONNECTING).and_then(one).try_collect().await?;
                let beat = UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 1 });
                let payload = Dialect::Protobuf.encode_up(&UpFrame::new(1, 0, beat));
                (links, publisher.link, Some(Beat { payload, every }))
            }
        };
        bar.finish_and_clear();
        Ok((links, publisher, beat))
    }

    fn publisher(&self, link: Link, window: u64) -> anyhow::Result<Publisher> {
        let data = Template::data(self.size);
        let payload = match &self.peer {
            Some(peer) => peer.publication(&data),
            None => {
                let request =
                    PublishRequest { channel: CHANNEL.to_owned(), data: data.into(), ..Default::default() };
                Dialect::Protobuf.encode_up(&UpFrame::new(1, 0, UpBody::Publish(request)))
            }
        };
        let Link { reader, writer } = link;
        let mut bytes = Vec::new();
        writer.frame(&payload, &mut bytes);
        let answers = Rc::new(Answers::default());
        let mut reading = JoinSet::new();
        reading.spawn_local(Rc::clone(&answers).read(reader));
        Ok(Publisher {
            writer,
            template: Template::new(bytes)?,
            window,
            answers: self.peer.is_none().then_some(answers),
            _reading: reading,
            published: 0,
            late: Latencies::new()?,
        })
    }
}

/// Subscribes a session, and waits until it is.
async fn subscribed(mut session: RawSession) -> anyhow::Result<Link> {
    let request = ChannelRequest { channel: CHANNEL.to_owned(), since: None };
    session.send(2, 0, UpBody::Subscribe(request)).await?;
    loop {
        let frame = session.frame().await?;
        match frame.body {
            DownBody::ChannelResp(answer) if frame.msg_id == 2 => match answer.error {
                None => return Ok(session.link),
                Some(error) => bail!(
                    "may the node's users use channels bench:*? It refuses: {} {}",
                    error.name,
                    error.error_message
                ),
            },
            DownBody::Error(error) => bail!("{} {}", error.name, error.error_message),
            _ => {}
        }
    }
}

impl Publisher {
    /// Each publication when it is due, whatever became of those before, as long as the node takes it: one that has
    /// to wait is late.
    async fn open(&mut self, start: Moment, lasting: Duration, rate: u32) -> anyhow::Result<()> {
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
    async fn closed(&mut self, shared: &Shared, round: u64, end: Moment) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        while Moment::now() < end && !shared.has_failed() {
            if self.published + round > shared.heard_by_all() + self.window {
                let heard = timeout(STALL, shared.progress.notified()).await;
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

    fn refused(&self) -> Option<String> {
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
