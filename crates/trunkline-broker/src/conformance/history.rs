//! What a channel keeps, for how long, and what it says about the rest.

use std::time::Duration;

use super::Harness;
use super::support::*;
use crate::broker::{Direction, PublishOptions};
use crate::defaults::CHANNEL_MEMORY;
use crate::item::{Item, ItemKind};
use crate::limits::HistoryLimits;
use crate::log::AttachVerdict;
use crate::names::{Offset, Position};

const SECOND: Duration = Duration::from_secs(1);

fn limits(count: usize, bytes: usize, seconds: u64) -> HistoryLimits {
    HistoryLimits { count, bytes, ttl: Duration::from_secs(seconds) }
}

async fn kept(h: &dyn Harness) -> Vec<String> {
    let page = h.broker().history(&room(), None, usize::MAX, Direction::Forward).await.unwrap();
    texts(&page.publications).into_iter().map(str::to_owned).collect()
}

async fn publish_letters(h: &dyn Harness, limits: HistoryLimits) {
    for text in ["a", "b", "c", "d", "e"] {
        publish_with(&h.broker(), &room(), text, limits, None).await;
    }
}

/// Nothing is in a history of nothing, but the head is known.
pub async fn without_limits_there_is_no_history(h: &mut dyn Harness) {
    let broker = h.broker();
    publish_letters(h, HistoryLimits::NONE).await;
    assert!(kept(h).await.is_empty());
    let head = broker.position(&room()).await.unwrap();
    assert!(head.offset > Offset(0));
    let page = broker.history(&room(), Some(head), 10, Direction::Forward).await.unwrap();
    assert!(page.recovered, "nothing came after the head");
    let start = Position { offset: Offset(0), ..head };
    let page = broker.history(&room(), Some(start), 10, Direction::Forward).await.unwrap();
    assert!(!page.recovered && page.publications.is_empty());
}

/// The newest `count` are kept.
pub async fn count_limits_the_history(h: &mut dyn Harness) {
    publish_letters(h, limits(3, 10_000, 60)).await;
    assert_eq!(kept(h).await, ["c", "d", "e"]);
}

/// The newest that fit `bytes` are kept; one that does not fit alone leaves nothing.
pub async fn bytes_limit_the_history(h: &mut dyn Harness) {
    let broker = h.broker();
    let small = limits(100, 100, 60);
    for text in ["x".repeat(40), "y".repeat(40), "z".repeat(40)] {
        publish_with(&broker, &room(), &text, small, None).await;
    }
    assert_eq!(kept(h).await, ["y".repeat(40), "z".repeat(40)]);
    publish_with(&broker, &room(), &"w".repeat(101), small, None).await;
    assert!(kept(h).await.is_empty());
    publish_with(&broker, &room(), "again", small, None).await;
    assert_eq!(kept(h).await, ["again"]);
}

/// What is older than `ttl` is gone, whether or not anything comes after it.
pub async fn age_limits_the_history(h: &mut dyn Harness) {
    let (broker, ten) = (h.broker(), limits(100, 10_000, 10));
    publish_with(&broker, &room(), "a", ten, None).await;
    h.advance(6 * SECOND).await;
    publish_with(&broker, &room(), "b", ten, None).await;
    assert_eq!(kept(h).await, ["a", "b"]);
    h.advance(5 * SECOND).await;
    assert_eq!(kept(h).await, ["b"]);
    h.advance(6 * SECOND).await;
    assert!(kept(h).await.is_empty());
}

/// Forwards after a position, backwards before it, from either end without one; at most `limit`.
pub async fn pages_run_both_ways(h: &mut dyn Harness) {
    let broker = h.broker();
    let mut positions = Vec::new();
    for text in ["a", "b", "c", "d", "e"] {
        positions.push(publish(&broker, &room(), text).await);
    }
    let page = async |since: Option<usize>, limit, direction| {
        let since = since.map(|n| positions[n]);
        let page = broker.history(&room(), since, limit, direction).await.unwrap();
        assert_eq!(page.position, positions[4]);
        assert!(page.recovered);
        texts(&page.publications).concat()
    };
    assert_eq!(page(None, 10, Direction::Forward).await, "abcde");
    assert_eq!(page(None, 2, Direction::Forward).await, "ab");
    assert_eq!(page(Some(1), 2, Direction::Forward).await, "cd");
    assert_eq!(page(Some(4), 2, Direction::Forward).await, "");
    assert_eq!(page(None, 10, Direction::Reverse).await, "edcba");
    assert_eq!(page(None, 2, Direction::Reverse).await, "ed");
    assert_eq!(page(Some(3), 2, Direction::Reverse).await, "cb");
    assert_eq!(page(Some(0), 2, Direction::Reverse).await, "");
    assert_eq!(page(None, 0, Direction::Forward).await, "");
}

/// `recovered` is true only where nothing between the position and the page is lost.
pub async fn a_page_after_a_position_says_whether_it_is_whole(h: &mut dyn Harness) {
    let broker = h.broker();
    let mut positions = Vec::new();
    for text in ["a", "b", "c", "d", "e"] {
        positions.push(publish_with(&broker, &room(), text, limits(2, 10_000, 60), None).await.position);
    }
    let page = async |since: Position| {
        let page = broker.history(&room(), Some(since), 10, Direction::Forward).await.unwrap();
        (texts(&page.publications).concat(), page.recovered)
    };
    assert_eq!(page(positions[2]).await, ("de".to_owned(), true));
    assert_eq!(page(positions[1]).await, ("de".to_owned(), false));
    let foreign = Position::new(positions[2].epoch.0 - 1, positions[2].offset.0);
    assert_eq!(page(foreign).await, ("de".to_owned(), false));
    let beyond = Position::new(positions[4].epoch.0, positions[4].offset.0 + 1);
    assert_eq!(page(beyond).await, ("de".to_owned(), false));
}

/// An item comes back as it was given, with the broker's time.
pub async fn kind_sender_time_and_data_come_back(h: &mut dyn Harness) {
    let broker = h.broker();
    let options = || PublishOptions { limits: LONG, ttl: None, idempotency_key: None };
    let items = [Item::publication("alice", vec![0, 1, 255]), Item::push("billing", "")];
    for item in items.clone() {
        broker.publish(&room(), item, options()).await.unwrap();
        h.advance(SECOND).await;
    }
    let page = h.peer().history(&room(), None, 10, Direction::Forward).await.unwrap();
    assert_eq!(page.publications.len(), 2);
    for (entry, item) in page.publications.iter().zip(&items) {
        assert_eq!(*entry.item, *item);
    }
    assert_eq!(page.publications[1].item.kind, ItemKind::Push);
    let waited = page.publications[1].timestamp_ms - page.publications[0].timestamp_ms;
    assert!((900..10_000).contains(&waited), "{waited} ms");
}

/// When the history has expired, the epoch and the offset have not: a position at the head misses nothing.
pub async fn the_pair_outlives_the_history(h: &mut dyn Harness) {
    let broker = h.broker();
    let first = publish_with(&broker, &room(), "a", limits(9, 999, 5), None).await.position;
    let last = publish_with(&broker, &room(), "b", limits(9, 999, 5), None).await.position;
    h.advance(CHANNEL_MEMORY - 10 * SECOND).await;
    assert!(kept(h).await.is_empty());
    assert_eq!(broker.position(&room()).await.unwrap(), last);
    let attached = broker.attach(&room(), Some(last), LONG).await.unwrap();
    assert_eq!(attached.verdict, AttachVerdict::Continued);
    let mut reader = Reader::new(attached);
    let attached = broker.attach(&room(), Some(first), LONG).await.unwrap();
    assert_eq!(attached.verdict, AttachVerdict::Gap { from: first, next: last });
    h.advance(CHANNEL_MEMORY * 3).await;
    let next = publish(&broker, &room(), "c").await;
    assert_eq!(next.epoch, last.epoch, "it is kept as long as it is attached");
    assert!(next.offset > last.offset);
    reader.expect(&["c"]).await;
}

/// Long after its last use a channel is absent again; a position in it, or before its first publication, is a gap.
pub async fn a_forgotten_channel_tells_a_gap(h: &mut dyn Harness) {
    let broker = h.broker();
    let before = broker.position(&room()).await.unwrap();
    let last = publish_with(&broker, &room(), "lost", limits(9, 999, 5), None).await.position;
    for _ in 0..3 {
        h.advance(CHANNEL_MEMORY).await;
    }
    for from in [before, last] {
        let attached = broker.attach(&room(), Some(from), LONG).await.unwrap();
        match attached.verdict {
            AttachVerdict::Gap { .. } => {}
            // An engine that never forgets knows that nothing came after the last one.
            AttachVerdict::Continued if from == last => {}
            other => panic!("{from} has lost a publication, and the verdict is {other:?}"),
        }
    }
    let mut reader = Reader::attach(&broker, &room(), None).await;
    let next = publish(&broker, &room(), "new").await;
    assert!(next > last);
    reader.expect(&["new"]).await;
}

/// Attaching and detaching at the moment of a publication never loses it from the history.
pub async fn racing_detach_and_publish_lose_nothing(h: &mut dyn Harness) {
    const ROUNDS: u64 = 200;
    let (broker, peer) = (h.broker(), h.peer());
    let mut churn = tokio::task::JoinSet::new();
    churn.spawn(async move {
        for _ in 0..ROUNDS {
            drop(peer.attach(&room(), None, LONG).await.unwrap());
            tokio::task::yield_now().await;
        }
    });
    let mut positions = Vec::new();
    for n in 0..ROUNDS {
        positions.push(publish(&broker, &room(), &n.to_string()).await);
        tokio::task::yield_now().await;
    }
    within("attaching", churn.join_all()).await;
    let page = broker.history(&room(), None, usize::MAX, Direction::Forward).await.unwrap();
    let found: Vec<Position> = page.publications.iter().map(|entry| entry.position).collect();
    assert_eq!(found, positions);
}
