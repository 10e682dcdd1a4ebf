//! What the memory broker does not keep: every store is bounded, and what is silent costs nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::broker::{BrokerError, Condition, Deleted, Direction, Life, PublishOptions, Published, Written};
use crate::defaults::{CHANNEL_MEMORY, IDEMPOTENCY_KEYS};
use crate::item::Item;
use crate::limits::HistoryLimits;
use crate::log::AttachVerdict;
use crate::names::{ChannelName, Position};
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
    let options = PublishOptions { limits, idempotency_key: key.map(Into::into) };
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
