//! Many clients that listen to one channel and keep the account of what they hear.
//!
//! A publication begins with when it was sent, in microseconds of the bench's own clock, so that whoever hears it
//! knows how long it took.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use trunkline_client::{Client, Event, Publication, Verdict};

use super::CONNECTING;
use super::figures::{Counts, counts};
use super::latency::Latencies;
use crate::cli::heard::Heard;

/// The bytes that say when a publication was sent.
pub(super) const STAMP: usize = 8;

/// How long the last publication may take to reach the last listener.
const CATCH_UP: Duration = Duration::from_secs(30);

/// The running listeners.
pub(super) struct Listeners {
    shared: Arc<Shared>,
    tasks: JoinSet<Heard>,
    /// The offset with which a listener's work is done.
    last: watch::Sender<Option<u64>>,
}

/// What listeners tell.
pub(super) struct Shared {
    channel: String,
    origin: Instant,
    /// From sent to heard.
    pub(super) delivery: Latencies,
    /// From cut to connected again.
    pub(super) back: Latencies,
    /// When all were cut.
    cut: watch::Sender<Option<Instant>>,
    /// How many have heard something.
    pub(super) hearing: watch::Sender<usize>,
    /// How many came back after the cut.
    pub(super) returned: watch::Sender<usize>,
}

/// What all of them heard.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) received: u64,
    pub(super) resumes: u64,
    pub(super) fresh: u64,
    pub(super) gaps: u64,
    pub(super) duplicates: u64,
    pub(super) lost: u64,
    /// Listeners that did not get as far as the last publication.
    pub(super) behind: u64,
}

impl Listeners {
    /// Subscribes every client to the channel.
    pub(super) async fn start(clients: &[Client], channel: &str) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            channel: channel.to_owned(),
            origin: Instant::now(),
            delivery: Latencies::new()?,
            back: Latencies::new()?,
            cut: watch::Sender::new(None),
            hearing: watch::Sender::new(0),
            returned: watch::Sender::new(0),
        });
        let subscribed = stream::iter(clients).map(async |client: &Client| {
            let subscribed = client.subscribe(channel, None).await?;
            let mut heard = Heard::default();
            heard.begins(&subscribed.position);
            anyhow::Ok((client.clone(), heard))
        });
        let subscribed: Vec<_> = subscribed
            .buffered(CONNECTING)
            .try_collect()
            .await
            .context("not every client could subscribe: may the node's users use channels bench:*?")?;
        let last = watch::Sender::new(None);
        let mut tasks = JoinSet::new();
        for (at, (client, heard)) in subscribed.into_iter().enumerate() {
            tasks.spawn(Arc::clone(&shared).listen(at, client, heard, last.subscribe()));
        }
        Ok(Listeners { shared, tasks, last })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A publication of this size, sent now.
    pub(super) fn stamped(&self, size: usize) -> Bytes {
        let mut data = vec![b'x'; size.max(STAMP)];
        let now = u64::try_from(self.shared.origin.elapsed().as_micros()).unwrap_or(u64::MAX);
        data[..STAMP].copy_from_slice(&now.to_le_bytes());
        data.into()
    }

    /// From now on a START is a return.
    pub(super) fn cut_now(&self) {
        self.shared.cut.send_replace(Some(Instant::now()));
    }

    /// Waits until every listener has heard up to this offset, or for as long as that may take.
    pub(super) async fn conclude(mut self, last: u64) -> Sum {
        self.last.send_replace(Some(last));
        let deadline = Instant::now() + CATCH_UP;
        let mut sum = Sum::default();
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
            let Ok(heard) = ended else {
                sum.behind += 1;
                continue;
            };
            sum.received += heard.received();
            sum.resumes += heard.resumes;
            // Each began once.
            sum.fresh += heard.starts.saturating_sub(heard.resumes).saturating_sub(1);
            sum.gaps += heard.gaps;
            sum.duplicates += heard.duplicates;
            sum.lost += heard.lost;
            sum.behind += u64::from(heard.offset(&self.shared.channel).is_none_or(|offset| offset < last));
        }
        sum.behind += self.tasks.len() as u64;
        sum
    }
}

impl Sum {
    pub(super) fn counts(&self) -> Counts {
        counts([
            ("received", self.received),
            ("gaps", self.gaps),
            ("duplicates", self.duplicates),
            ("lost", self.lost),
            ("behind", self.behind),
        ])
    }

    /// What must not be.
    pub(super) fn failure(&self) -> Option<String> {
        let Sum { lost, duplicates, behind, .. } = self;
        (lost + duplicates + behind > 0).then(|| {
            format!(
                "{lost} lost without a word, {duplicates} came twice, {behind} clients did not get the last"
            )
        })
    }
}

impl Shared {
    async fn listen(
        self: Arc<Self>,
        at: usize,
        client: Client,
        mut heard: Heard,
        mut last: watch::Receiver<Option<u64>>,
    ) -> Heard {
        let mut events = client.pushes();
        let done = |heard: &Heard, last: Option<u64>| {
            last.is_some_and(|last| heard.offset(&self.channel).is_some_and(|offset| offset >= last))
        };
        loop {
            let until = *last.borrow_and_update();
            if done(&heard, until) {
                return heard;
            }
            let event = tokio::select! {
                event = events.next() => event,
                // The sender lives as long as this task.
                _ = last.changed() => continue,
            };
            let Some(event) = event else { return heard };
            self.told(at, &event, &heard);
            heard.event(&event);
        }
    }

    fn told(&self, at: usize, event: &Event, heard: &Heard) {
        match event {
            Event::Publication(Publication { data, .. }) => {
                if heard.received() == 0 {
                    self.hearing.send_modify(|hearing| *hearing += 1);
                }
                if let Some(stamp) = data.first_chunk::<STAMP>() {
                    let sent = Duration::from_micros(u64::from_le_bytes(*stamp));
                    self.delivery.record(at, self.origin.elapsed().saturating_sub(sent));
                }
            }
            Event::Started(started) => {
                if let Some(cut) = *self.cut.borrow() {
                    self.back.record(at, cut.elapsed());
                    self.returned.send_modify(|returned| *returned += 1);
                    if started.verdict == Verdict::Fresh {
                        tracing::debug!(client = at, "a fresh session after the cut");
                    }
                }
            }
            _ => {}
        }
    }
}

/// Waits until a count has been reached; says whether it was in time.
pub(super) async fn reaches(count: &watch::Sender<usize>, wanted: usize, within: Duration) -> bool {
    let mut count = count.subscribe();
    timeout(within, count.wait_for(|count| *count >= wanted)).await.is_ok_and(|waited| waited.is_ok())
}
