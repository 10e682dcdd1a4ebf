//! What the memory broker does not keep: every store is bounded, and what is silent costs nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::*;
use crate::broker::{BrokerError, Condition, Deleted, Direction, Life, PublishOptions, Published, Written};
use crate::defaults::{CHANNEL_MEMORY, IDEMPOTENCY_KEYS};
use crate::item::{Encode, Entry, Item, Variant};
use crate::limits::HistoryLimits;
use crate::log::{AttachVerdict, Cursor, ReadOutcome};
use crate::names::{ChannelName, Offset, Position};
use crate::watching::Change;

const LONG: HistoryLimits = HistoryLimits { count: 99, bytes: 9_999, ttl: Duration::from_secs(60) };

fn room(n: usize) -> ChannelName {
    ChannelName::new(format!("room:{n}")).unwrap()
}

async fn publish(
    broker: &MemoryBroker,
    channel: &ChannelName,
    limits: HistoryLimits,
    key: Option<String>,
) -> Result<Published, BrokerError> {
    let options = PublishOptions { limits, ttl: None, idempotency_key: key.map(Into::into) };
    broker.publish(channel, Item::publication("", "x"), options).await
}

fn open(change: impl FnOnce(&mut MemoryOptions)) -> (MemoryBroker, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(NOW_US));
    let mut options = options(&clock, None);
    change(&mut options);
    (MemoryBroker::open(options).unwrap(), clock)
}

#[tokio::test]
async fn asking_and_silent_attachments_leave_no_channel() {
    let (broker, _) = open(|_| {});
    for n in 0..10_000 {
        broker.position(&room(n)).await.unwrap();
        broker.history(&room(n), None, 9, Direction::Forward).await.unwrap();
        let attached = broker.attach(&room(n), None, LONG).await.unwrap();
        drop(attached.log);
        drop(attached.attachment);
    }
    assert_eq!(broker.channels(), 0);
}

#[tokio::test]
async fn a_silent_channel_whose_log_is_still_held_goes_with_the_next_sweep() {
    let (broker, _) = open(|_| {});
    let attached = broker.attach(&room(1), None, LONG).await.unwrap();
    let log = attached.log.clone();
    drop(attached);
    assert_eq!(broker.channels(), 1, "a publication may be on its way into it");
    drop(log);
    broker.sweep();
    assert_eq!(broker.channels(), 0);
}

#[tokio::test]
async fn the_live_window_goes_with_the_last_attachment() {
    let (broker, _) = open(|_| {});
    let (one, two) = (
        broker.attach(&room(1), None, HistoryLimits::NONE).await.unwrap(),
        broker.attach(&room(1), None, HistoryLimits::NONE).await.unwrap(),
    );
    publish(&broker, &room(1), HistoryLimits::NONE, None).await.unwrap();
    drop(one);
    assert!(!two.log.is_empty());
    let log = two.log.clone();
    drop(two);
    assert!(log.is_empty());
    publish(&broker, &room(1), HistoryLimits::NONE, None).await.unwrap();
    assert!(log.is_empty(), "nobody is attached");
}

#[tokio::test]
async fn a_channel_is_remembered_for_its_time_and_not_longer() {
    let (broker, clock) = open(|_| {});
    for n in 0..1_000 {
        publish(&broker, &room(n), LONG, Some("k".to_owned())).await.unwrap();
    }
    for (passed, kept) in [(CHANNEL_MEMORY - Duration::from_secs(1), 1_000), (Duration::from_secs(2), 0)] {
        clock.advance(passed);
        broker.sweep();
        assert_eq!(broker.channels(), kept);
    }
}

#[tokio::test]
async fn a_full_broker_forgets_what_is_unused_and_says_so() {
    let (broker, clock) = open(|options| options.max_channels = 64);
    let first = room(0);
    let position = publish(&broker, &first, HistoryLimits::NONE, None).await.unwrap().position;
    clock.advance(Duration::from_secs(1));
    for n in 1..2_000 {
        publish(&broker, &room(n), HistoryLimits::NONE, None).await.unwrap();
    }
    assert!(broker.channels() <= 64);
    let attached = broker.attach(&first, Some(position), LONG).await.unwrap();
    assert!(matches!(attached.verdict, AttachVerdict::Gap { .. }));
}

#[tokio::test]
async fn a_broker_full_of_channels_in_use_refuses_others() {
    let (broker, _) = open(|options| options.max_channels = 64);
    let mut attachments = Vec::new();
    let refused = loop {
        match broker.attach(&room(attachments.len()), None, LONG).await {
            Ok(attached) => attachments.push(attached),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, BrokerError::Full { limit: 64, .. }), "{refused}");
    let n = attachments.len();
    assert!(publish(&broker, &room(n), LONG, None).await.is_err());
    // Without history, so that nothing is kept once nobody is attached: `n` may be in the same shard.
    publish(&broker, &room(0), HistoryLimits::NONE, None).await.unwrap();
    attachments.clear();
    broker.sweep();
    publish(&broker, &room(n), LONG, None).await.unwrap();
}

#[tokio::test]
async fn forgetting_one_channel_does_not_spoil_others() {
    let (broker, clock) = open(|_| {});
    let mut silent: Vec<Position> = Vec::new();
    for n in 0..100 {
        silent.push(broker.position(&room(n)).await.unwrap());
    }
    publish(&broker, &ChannelName::new("busy").unwrap(), LONG, None).await.unwrap();
    clock.advance(CHANNEL_MEMORY * 2);
    broker.sweep();
    assert_eq!(broker.channels(), 0);
    let mut spoiled = 0;
    for (n, from) in silent.into_iter().enumerate() {
        let attached = broker.attach(&room(n), Some(from), LONG).await.unwrap();
        spoiled += usize::from(attached.verdict != AttachVerdict::Continued);
    }
    // One mark in 4,096 is set: that six of 100 names share it happens once in 10^12 runs.
    assert!(spoiled <= 5, "{spoiled} of 100 silent channels told a gap");
}

#[tokio::test]
async fn idempotency_keys_are_bounded_in_number() {
    let (broker, _) = open(|_| {});
    for n in 0..=IDEMPOTENCY_KEYS {
        publish(&broker, &room(1), HistoryLimits::NONE, Some(n.to_string())).await.unwrap();
    }
    let again = async |n: usize| {
        publish(&broker, &room(1), HistoryLimits::NONE, Some(n.to_string())).await.unwrap().duplicate
    };
    assert!(again(IDEMPOTENCY_KEYS).await && again(1).await);
    assert!(!again(0).await, "the oldest is forgotten first");
}

#[tokio::test]
async fn keyed_values_are_bounded_in_bytes() {
    let (broker, _) = open(|options| options.max_keyed_bytes = 100);
    let put = async |key: &str, bytes: usize| {
        broker.put(key, Bytes::from(vec![0; bytes]), Condition::Any, Life::Ttl(Duration::from_secs(9))).await
    };
    assert!(matches!(put("a", 60).await, Ok(Written::Done(_))));
    assert!(matches!(put("b", 60).await, Err(BrokerError::Full { limit: 100, .. })));
    assert!(matches!(put("a", 99).await, Ok(Written::Done(_))), "the old value makes room for the new one");
    assert_eq!(broker.get("b").await.unwrap(), None);
    assert_eq!(broker.delete("a", Condition::Any).await.unwrap(), Deleted::Done);
    assert!(matches!(put("b", 99).await, Ok(Written::Done(_))));
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_tells_what_has_ended_and_forgets_without_being_asked() {
    let (broker, clock) = open(|options| options.sweeping = Sweeping::Background);
    publish(&broker, &room(1), LONG, None).await.unwrap();
    let life = Life::Ttl(Duration::from_secs(5));
    let written = broker.put("k", Bytes::new(), Condition::Any, life).await.unwrap();
    let Written::Done(revision) = written else { panic!("{written:?}") };
    let mut watch = broker.watch("").await.unwrap();
    assert!(matches!(watch.next().await, Ok(Change::All(_))));
    clock.advance(CHANNEL_MEMORY * 2);
    // Tokio's paused time moves by itself to the sweeper's next tick whenever all else waits.
    let gone = tokio::time::timeout(Duration::from_secs(60), watch.next()).await.unwrap().unwrap();
    assert_eq!(gone, Change::Gone { key: "k".to_owned(), revision });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(broker.channels(), 0, "all 64 shards had their turn within a minute");
}

#[tokio::test]
async fn a_watcher_that_is_gone_leaves_no_queue() {
    let (broker, _) = open(|_| {});
    for _ in 0..1_000 {
        drop(broker.watch("k").await.unwrap());
    }
    assert!(broker.engine.table().watchers.len() <= 1);
}

fn is_essential(name: &str) -> bool {
    name.starts_with("user:")
}

fn user(n: usize) -> ChannelName {
    ChannelName::new(format!("user:{n}")).unwrap()
}

async fn publish_large(broker: &MemoryBroker, channel: &ChannelName) -> Result<Published, BrokerError> {
    let item = Item::publication("", vec![7; 100_000]);
    let options = PublishOptions { limits: HistoryLimits::NONE, ..PublishOptions::default() };
    broker.publish(channel, item, options).await
}

/// Writes the payload as it is.
struct AsItIs;

impl Encode for AsItIs {
    fn encode(&self, _: &ChannelName, entry: &Entry, out: &mut BytesMut) {
        out.extend_from_slice(&entry.item.data);
    }
}

#[tokio::test]
async fn all_logs_together_keep_no_more_bytes_than_they_may() {
    const LIMIT: usize = 1_000_000;
    let (broker, _) = open(|options| {
        options.max_log_bytes = LIMIT;
        options.essential = is_essential;
    });
    let mut attached = Vec::new();
    for n in 0..20 {
        attached.push(broker.attach(&room(n), None, HistoryLimits::NONE).await.unwrap());
    }
    let mut accepted = 0;
    let refused = loop {
        match publish_large(&broker, &room(accepted)).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, BrokerError::Full { limit: 750_000, .. }), "{refused}");
    assert_eq!(accepted, 7, "three quarters of the bytes");
    // What sessions cannot do without has the rest.
    attached.push(broker.attach(&user(1), None, HistoryLimits::NONE).await.unwrap());
    publish_large(&broker, &user(1)).await.unwrap();
    // A channel goes on with what it displaces: its live window holds two of these.
    publish_large(&broker, &user(1)).await.unwrap();
    assert!(publish_large(&broker, &room(0)).await.is_err(), "the first channel would grow");
    for _ in 0..10 {
        publish_large(&broker, &user(1)).await.unwrap();
    }
    // What is encoded for readers is not kept beyond the limit, and every reader gets it all the same.
    for variant in 0..4 {
        for attached in &attached {
            let _subscription = attached.log.subscribe();
            let (mut cursor, mut pieces) = (attached.log.locate(None).0, Vec::new());
            let from = attached.log.page(None, 0, Direction::Forward).position;
            cursor = Cursor::at(Position { offset: Offset(0), ..from }.min(cursor.position()));
            while attached.log.read(
                &mut cursor,
                Variant::new(variant).unwrap(),
                &AsItIs,
                1 << 20,
                &mut pieces,
            ) != ReadOutcome::AtHead
            {}
            assert!(broker.figures().log_bytes <= LIMIT + 100_000, "{:?}", broker.figures());
        }
    }
    drop(attached);
    broker.sweep();
    assert_eq!(broker.figures().log_bytes, 0);
    let _attached = broker.attach(&room(0), None, HistoryLimits::NONE).await.unwrap();
    publish_large(&broker, &room(0)).await.unwrap();
}

#[tokio::test]
async fn idempotency_keys_count_as_bytes_of_the_logs() {
    let (broker, clock) = open(|options| options.max_log_bytes = 40_000);
    let mut accepted = 0;
    let publish =
        async |n: usize| publish(&broker, &room(n), HistoryLimits::NONE, Some(format!("{n:0>100}"))).await;
    while publish(accepted).await.is_ok() {
        accepted += 1;
        assert!(accepted < 1_000, "nothing is ever refused");
    }
    assert!(broker.figures().log_bytes <= 30_000);
    clock.advance(CHANNEL_MEMORY);
    broker.sweep();
    assert_eq!(broker.figures().log_bytes, 0);
    publish(accepted).await.unwrap();
}

#[tokio::test]
async fn channels_that_clients_name_leave_room_for_those_that_sessions_need() {
    let (broker, clock) = open(|options| {
        options.max_channels = 64 * 32;
        options.essential = is_essential;
    });
    // In use for good, or remembered for their keys: as many as there may be.
    let mut attached = Vec::new();
    for n in 0..20_000 {
        attached.extend(broker.attach(&room(n), None, LONG).await);
    }
    assert_eq!(attached.len(), 64 * 24, "three quarters, all shards being full");
    attached.truncate(64);
    for n in 20_000..40_000 {
        let key = Some("key".to_owned());
        publish(&broker, &room(n), HistoryLimits::NONE, key).await.unwrap();
    }
    for n in 0..64 * 4 {
        attached.push(broker.attach(&user(n), None, LONG).await.unwrap());
    }
    clock.advance(CHANNEL_MEMORY);
    broker.sweep();
    assert_eq!(broker.channels(), attached.len());
}

#[tokio::test]
async fn a_publication_is_never_read_after_its_own_time_however_late_the_sweeper_is() {
    let (broker, clock) = open(|_| {});
    let attached = broker.attach(&room(1), None, LONG).await.unwrap();
    let options = PublishOptions { limits: LONG, ttl: Some(Duration::from_secs(5)), idempotency_key: None };
    broker.publish(&room(1), Item::publication("", "x"), options).await.unwrap();
    let variant = Variant::new(0).unwrap();
    let (mut pieces, log) = (Vec::new(), &attached.log);
    let mut early = attached.cursor;
    assert_eq!(log.read(&mut early, variant, &AsItIs, 99, &mut pieces), ReadOutcome::AtHead);
    assert_eq!(pieces.len(), 1);
    clock.advance(Duration::from_secs(5));
    let mut late = attached.cursor;
    let outcome = log.read(&mut late, variant, &AsItIs, 99, &mut pieces);
    assert!(matches!(outcome, ReadOutcome::Gap { .. }), "{outcome:?}");
    assert_eq!(pieces.len(), 1, "nothing more was read");
    assert_eq!(log.read(&mut late, variant, &AsItIs, 99, &mut pieces), ReadOutcome::AtHead);
    assert_eq!(late, early);
}
