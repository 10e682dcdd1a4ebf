//! A subscriber that reads a log as a connection does, and short forms for the cases.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Notify;

use crate::broker::{Attached, Attachment, Broker, PublishOptions, Published};
use crate::item::{Encode, Entry, Item, Variant};
use crate::limits::HistoryLimits;
use crate::log::{Cursor, Log, ReadOutcome, Subscription, Unpark};
use crate::names::{ChannelName, Position};

/// A case that waits longer than this fails.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// Enough history for every case that is not about its limits.
pub(super) const LONG: HistoryLimits =
    HistoryLimits { count: 10_000, bytes: 10_000_000, ttl: Duration::from_secs(60) };

pub(super) fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

pub(super) fn room() -> ChannelName {
    name("room:1")
}

pub(super) async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, wait).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

pub(super) async fn publish(broker: &Arc<dyn Broker>, channel: &ChannelName, data: &str) -> Position {
    publish_with(broker, channel, data, LONG, None).await.position
}

pub(super) async fn publish_with(
    broker: &Arc<dyn Broker>,
    channel: &ChannelName,
    data: &str,
    limits: HistoryLimits,
    key: Option<&str>,
) -> Published {
    let options = PublishOptions { limits, ttl: None, idempotency_key: key.map(Arc::from) };
    let item = Item::publication("alice", data.to_owned());
    broker.publish(channel, item, options).await.unwrap()
}

pub(super) fn texts(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| std::str::from_utf8(&entry.item.data).unwrap()).collect()
}

/// What a subscriber sees, one thing at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Text(String, Position),
    Gap { from: Position, next: Position },
}

/// Reads one attached channel.
pub(super) struct Reader {
    pub(super) log: Arc<Log>,
    cursor: Cursor,
    bell: Arc<Bell>,
    subscription: Subscription,
    seen: VecDeque<Seen>,
    _attachment: Attachment,
}

struct Bell(Notify);

impl Unpark for Bell {
    fn unpark(&self) {
        self.0.notify_one();
    }
}

/// The payload, a NUL, the position, and another NUL: enough to read it back.
struct Lines;

impl Encode for Lines {
    fn encode(&self, _: &ChannelName, entry: &Entry, out: &mut BytesMut) {
        out.put_slice(&entry.item.data);
        out.put_slice(format!("\0{}\0", entry.position).as_bytes());
    }
}

impl Reader {
    pub(super) fn new(attached: Attached) -> Self {
        let Attached { log, cursor, attachment, .. } = attached;
        let bell = Arc::new(Bell(Notify::new()));
        let subscription = log.subscribe();
        Reader { log, cursor, bell, subscription, seen: VecDeque::new(), _attachment: attachment }
    }

    pub(super) async fn attach(
        broker: &Arc<dyn Broker>,
        channel: &ChannelName,
        from: Option<Position>,
    ) -> Self {
        Reader::new(broker.attach(channel, from, LONG).await.unwrap())
    }

    pub(super) fn position(&self) -> Position {
        self.cursor.position()
    }

    /// What comes next, waited for.
    pub(super) async fn next(&mut self) -> Seen {
        within("a publication", async {
            loop {
                if let Some(seen) = self.seen.pop_front() {
                    return seen;
                }
                if self.read()
                    && self.seen.is_empty()
                    && self.subscription.park(&self.cursor, || self.bell.clone())
                {
                    self.bell.0.notified().await;
                }
            }
        })
        .await
    }

    /// The next texts, exactly these, with no gap between.
    pub(super) async fn expect(&mut self, texts: &[&str]) {
        for text in texts {
            match self.next().await {
                Seen::Text(found, _) => assert_eq!(found, *text),
                gap => panic!("{text:?} was to come, not {gap:?}"),
            }
        }
    }

    /// Nothing more is there now.
    pub(super) fn expect_nothing(&mut self) {
        self.read();
        assert_eq!(self.seen, [], "nothing more was to come");
    }

    /// Reads what is there. True at the head.
    fn read(&mut self) -> bool {
        let mut pieces = Vec::new();
        let variant = Variant::new(0).unwrap();
        let outcome = self.log.read(&mut self.cursor, variant, &Lines, usize::MAX, &mut pieces);
        for piece in pieces {
            self.seen.extend(parse(&piece.bytes));
        }
        if let ReadOutcome::Gap { from, next } = outcome {
            self.seen.push_back(Seen::Gap { from, next });
        }
        outcome == ReadOutcome::AtHead
    }
}

fn parse(bytes: &Bytes) -> Vec<Seen> {
    let text = std::str::from_utf8(bytes).unwrap();
    let mut fields = text.split_terminator('\0');
    let mut seen = Vec::new();
    while let (Some(data), Some(position)) = (fields.next(), fields.next()) {
        let (epoch, offset) = position.split_once(':').unwrap();
        let position = Position::new(epoch.parse().unwrap(), offset.parse().unwrap());
        seen.push(Seen::Text(data.to_owned(), position));
    }
    seen
}
