//! Fan-out: one publisher, one channel, many subscribers; on our node or on a peer, by the same code.
//!
//! In the open loop publications are due on a schedule, and a delivery's time counts from when its publication was
//! due. In the closed loop the publisher keeps so many publications under way, and what counts is deliveries a second.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::time::timeout;
use trunkline_proto::wire::{ChannelRequest, HeartbeatRequest, PublishRequest};
use trunkline_proto::{Dialect, DownBody, UpBody, UpFrame};

use super::audience::{Audience, Beat, CATCH_UP, Heard, Progress, Shared, Template, failure};
use super::bar::shown;
use super::clock::{Moment, Timer};
use super::figures::Figures;
use super::generators::{Crew, Parent, Role, Said, Word, say};
use super::link::Link;
use super::machine::Machine;
use super::peer::Peer;
use super::publisher::Publisher;
use super::raw::RawSession;
use super::report::Report;
use super::usage::Used;
use super::{CONNECTING, Crowd, Rig};

const CHANNEL: &str = "bench:fanout";

/// How long a subscription may take.
const SUBSCRIBE: Duration = Duration::from_secs(20);

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

impl Fanout {
    /// Needs a `LocalSet` on one thread. With several generators the subscribers are theirs, and this process publishes.
    pub(crate) async fn run(self, rig: &Rig, role: Role) -> anyhow::Result<Option<Report>> {
        match role {
            Role::Alone => self.alone(rig).await.map(Some),
            Role::Several(processes) => self.several(rig, processes).await.map(Some),
            Role::Part(parent) => self.part(rig, parent).await.map(|()| None),
        }
    }

    async fn alone(&self, rig: &Rig) -> anyhow::Result<Report> {
        let crowd = self.crowd(rig, self.subscribers + 1)?;
        let publisher = self.publish_on(crowd.as_ref()).await?;
        let (links, beat) = self.subscribe(rig, crowd.as_ref(), 1).await?;
        let audience = Audience::start(links, beat, self.round(), self.rate > 0)?;
        let shared = Rc::clone(audience.shared());
        let mut publisher = self.publisher(publisher)?;
        let usage = rig.usage(&[std::process::id()]);
        let start = Moment::now();
        let published = shown(self.lasting, self.publish(&mut publisher, shared.progress(), start)).await;
        let heard = audience.conclude(|_| publisher.heard_of(&published)).await;
        let seconds = Moment::now().since(start).as_secs_f64();
        let used = usage.end();
        let figures = Figures { seconds, ..figures(heard, &shared, used.machine())? };
        self.report(rig, figures, used, published, &publisher)
    }

    async fn several(&self, rig: &Rig, processes: u32) -> anyhow::Result<Report> {
        rig.can_serve(self.subscribers + 1)?;
        let mut crew = Crew::start(rig, processes, self.subscribers)?;
        crew.connected().await?;
        let crowd = self.crowd(rig, 1)?;
        let mut publisher = self.publisher(self.publish_on(crowd.as_ref()).await?)?;
        let usage = rig.usage(&[&crew.pids()[..], &[std::process::id()]].concat());
        let start = crew.go()?;
        Timer::new()?.until(start).await?;
        let progress = Progress::default();
        let each = vec![Cell::new(0); processes as usize];
        let watching = crew.watch(self.lasting, |at, said| {
            match said {
                Said::Heard(heard) => each[at].set(heard),
                Said::Broken => progress.breaks(),
                other => return Err(other),
            }
            progress.reaches(each.iter().map(Cell::get).min().unwrap_or_default());
            Ok(())
        });
        let published = shown(self.lasting, async {
            tokio::select! {
                published = self.publish(&mut publisher, &progress, start) => Ok(published),
                failed = watching => Err(failed),
            }
        });
        let published = published.await?;
        crew.tell(&Word::Over { published: publisher.heard_of(&published) })?;
        crew.done(CATCH_UP).await?;
        let seconds = Moment::now().since(start).as_secs_f64();
        let used = usage.end();
        let figures = Figures { seconds, ..crew.figures(used.machine()).await? };
        let mut report = self.report(rig, figures, used, published, &publisher)?;
        report.made_by(Some(processes));
        Ok(report)
    }

    /// The subscribers of this share.
    async fn part(&self, rig: &Rig, mut parent: Parent) -> anyhow::Result<()> {
        let crowd = self.crowd(rig, self.subscribers)?;
        let (links, beat) = self.subscribe(rig, crowd.as_ref(), 0).await?;
        let audience = Audience::start(links, beat, self.round(), self.rate > 0)?;
        let shared = Rc::clone(audience.shared());
        let progress = shared.progress();
        parent.begin().await?;
        let published = loop {
            tokio::select! {
                word = parent.word() => match word? {
                    Word::Over { published } => break published,
                    other => bail!("subscribers are told {other:?}"),
                },
                () = progress.changes() => {
                    // At a rate nobody waits for it.
                    if self.rate == 0 {
                        say(&Said::Heard(progress.heard_by_all()))?;
                    }
                    if progress.is_broken() {
                        say(&Said::Broken)?;
                    }
                }
            }
        };
        let heard = audience.conclude(|_| published).await;
        let machine = parent.end().await?;
        say(&Said::Figures(Box::new(figures(heard, &shared, &machine)?)))
    }

    fn report(
        &self,
        rig: &Rig,
        figures: Figures,
        used: Used,
        published: anyhow::Result<()>,
        publisher: &Publisher,
    ) -> anyhow::Result<Report> {
        let late = (self.rate > 0).then(|| publisher.late.percentiles());
        let mut report = Report::new("fanout", self.way(rig), used.late(late));
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
        report.per_second = Some(figures.a_second(figures.count("received")));
        let reordered = figures.count("reordered");
        figures.tell(&mut report)?;
        report.counts.insert("published".into(), publisher.published);
        report.failure = match (published, publisher.published) {
            (Err(error), _) => Some(format!("the publisher failed: {error:#}")),
            (_, 0) => Some("nothing could be published".to_owned()),
            _ if reordered > 0 => Some(format!("{reordered} came after a later one")),
            _ => publisher.refused().or_else(|| failure(&report.counts)),
        };
        Ok(report)
    }

    fn way(&self, rig: &Rig) -> String {
        self.peer.as_ref().map_or_else(|| rig.way(), |peer| peer.name().to_owned())
    }

    /// Publications that are under way at once.
    fn window(&self) -> u64 {
        u64::from(self.window.max(1))
    }

    /// Rounds are what the publisher learns of: four of a window keep it from waiting for the slowest each time.
    fn round(&self) -> u64 {
        (self.window() / 4).max(1)
    }

    async fn publish(
        &self,
        publisher: &mut Publisher,
        progress: &Progress,
        start: Moment,
    ) -> anyhow::Result<()> {
        match self.rate {
            0 => publisher.closed(progress, self.round(), start.after(self.lasting)).await,
            rate => publisher.open(start, self.lasting, rate).await,
        }
    }

    /// The clients of this share, where a node is loaded: a peer knows no users.
    fn crowd(&self, rig: &Rig, whole: usize) -> anyhow::Result<Option<Crowd>> {
        if self.peer.is_none() {
            return rig.crowd(whole).map(Some);
        }
        super::descriptors(rig.share_of(whole))?;
        Ok(None)
    }

    /// The publisher's connection: the first of the crowd.
    async fn publish_on(&self, crowd: Option<&Crowd>) -> anyhow::Result<Link> {
        match (crowd, &self.peer) {
            (Some(crowd), _) => Ok(RawSession::start(&crowd.options[0], &crowd.sockets, 0).await?.link),
            (None, Some(peer)) => peer.publisher().await,
            (None, None) => bail!("there is nobody to publish"),
        }
    }

    /// The crowd behind the first `from`, subscribed, and what a node wants of them while they are silent.
    async fn subscribe(
        &self,
        rig: &Rig,
        crowd: Option<&Crowd>,
        from: usize,
    ) -> anyhow::Result<(Vec<Link>, Option<Beat>)> {
        let count = rig.share_of(self.subscribers);
        let bar = rig.bar(count);
        let (links, beat) = match (crowd, &self.peer) {
            (Some(Crowd { options, sockets }), _) => {
                let sessions =
                    stream::iter(options.iter().enumerate().skip(from)).map(async |(at, options)| {
                        let session = RawSession::start(options, sockets, at).await?;
                        let every = session.heartbeat();
                        let link = timeout(SUBSCRIBE, subscribed(session))
                            .await
                            .context("a subscription hangs")??;
                        anyhow::Ok((link, every))
                    });
                let sessions = sessions.buffer_unordered(CONNECTING).inspect_ok(|_| bar.inc());
                let sessions: Vec<_> = sessions.try_collect().await?;
                let every = sessions.first().map(|(_, every)| *every);
                let beat = UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 1 });
                let payload = Dialect::Protobuf.encode_up(&UpFrame::new(1, 0, beat));
                let links = sessions.into_iter().map(|(link, _)| link).collect();
                (links, every.map(|every| Beat { payload, every }))
            }
            (None, Some(peer)) => {
                let links = stream::iter(0..count).map(|_| peer.subscriber());
                let links = links.buffer_unordered(CONNECTING).inspect_ok(|_| bar.inc());
                (links.try_collect().await?, None)
            }
            (None, None) => bail!("there is nobody to subscribe"),
        };
        bar.finish();
        Ok((links, beat))
    }

    fn publisher(&self, link: Link) -> anyhow::Result<Publisher> {
        let data = Template::data(self.size);
        let payload = match &self.peer {
            Some(peer) => peer.publication(&data),
            None => {
                let request =
                    PublishRequest { channel: CHANNEL.to_owned(), data: data.into(), ..Default::default() };
                Dialect::Protobuf.encode_up(&UpFrame::new(1, 0, UpBody::Publish(request)))
            }
        };
        let publisher = Publisher::new(link, &payload, self.window())?;
        Ok(if self.peer.is_some() { publisher.unanswered() } else { publisher })
    }
}

/// What subscribers have heard, in figures.
fn figures(heard: Heard, shared: &Shared, machine: &Machine) -> anyhow::Result<Figures> {
    Ok(Figures {
        counts: heard.counts(),
        latency: shared.delivery.recorded(),
        steady: shared.delivery.steady_recorded(machine)?,
        errors: heard.errors,
        ..Figures::default()
    })
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
