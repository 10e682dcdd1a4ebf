//! Publishing, attaching, positions, idempotency.

use std::time::Duration;

use super::Harness;
use super::support::*;
use crate::broker::{BrokerError, PublishOptions};
use crate::defaults::{IDEMPOTENCY_KEY_BYTES, IDEMPOTENCY_TTL, LIVE_WINDOW_COUNT};
use crate::item::Item;
use crate::limits::HistoryLimits;
use crate::log::AttachVerdict;
use crate::names::{Offset, Position};

/// Offsets rise within one epoch, and each entry's `prev` is the offset before it.
pub async fn offsets_rise_and_every_publication_knows_its_predecessor(h: &mut dyn Harness) {
    let broker = h.broker();
    let mut last = Position::default();
    for n in 0..20 {
        let position = publish(&broker, &room(), "x").await;
        assert!(position.offset > last.offset);
        assert!(n == 0 || position.epoch == last.epoch);
        last = position;
    }
    let page = broker.history(&room(), None, 100, crate::Direction::Forward).await.unwrap();
    let mut prev = Offset(0);
    for entry in &page.publications {
        assert_eq!(entry.prev, prev);
        prev = entry.position.offset;
    }
    assert_eq!((page.publications.len(), page.position), (20, last));
    assert_eq!(broker.position(&room()).await.unwrap(), last);
}

/// A subscriber without a position begins at the head, and misses nothing from then on.
pub async fn a_subscriber_gets_what_is_published_after_it_attached(h: &mut dyn Harness) {
    let broker = h.broker();
    publish(&broker, &room(), "before").await;
    let attached = broker.attach(&room(), None, LONG).await.unwrap();
    assert_eq!(attached.verdict, AttachVerdict::Fresh);
    let mut reader = Reader::new(attached);
    for n in 0..50 {
        publish(&broker, &room(), &n.to_string()).await;
        reader.expect(&[&n.to_string()]).await;
    }
    publish(&broker, &room(), "a").await;
    publish(&broker, &room(), "b").await;
    reader.expect(&["a", "b"]).await;
    reader.expect_nothing();
}

/// What one node publishes, the other's subscribers get, at the same positions.
pub async fn nodes_hear_each_other(h: &mut dyn Harness) {
    let (broker, peer) = (h.broker(), h.peer());
    let mut here = Reader::attach(&broker, &room(), None).await;
    let mut there = Reader::attach(&peer, &room(), None).await;
    publish(&broker, &room(), "from one").await;
    publish(&peer, &room(), "from the other").await;
    for _ in 0..2 {
        assert_eq!(here.next().await, there.next().await);
    }
}

/// (now, 0): the epoch rises with the clock, and asking makes no channel.
pub async fn an_absent_channel_answers_now_and_zero(h: &mut dyn Harness) {
    let broker = h.broker();
    let first = broker.position(&room()).await.unwrap();
    h.advance(Duration::from_millis(5)).await;
    let second = broker.position(&room()).await.unwrap();
    assert_eq!((first.offset, second.offset), (Offset(0), Offset(0)));
    assert!(second.epoch > first.epoch);
    let published = publish(&broker, &room(), "x").await;
    assert!(published.epoch > second.epoch);
}

/// (e, 0) of an absent channel means "from the first publication after e".
pub async fn a_position_before_the_first_publication_misses_nothing(h: &mut dyn Harness) {
    let broker = h.broker();
    let asked = broker.position(&room()).await.unwrap();
    let attached = broker.attach(&room(), None, LONG).await.unwrap();
    assert_eq!(attached.cursor.position().offset, Offset(0));
    let mut reader = Reader::new(attached);
    let from_attach = reader.position();
    publish(&broker, &room(), "first").await;
    publish(&broker, &room(), "second").await;
    reader.expect(&["first", "second"]).await;
    for from in [asked, from_attach] {
        let attached = broker.attach(&room(), Some(from), LONG).await.unwrap();
        assert_eq!(attached.verdict, AttachVerdict::Continued);
        Reader::new(attached).expect(&["first", "second"]).await;
    }
}

/// From each position of the history, exactly what comes after it, on both nodes.
pub async fn a_known_position_is_continued_without_loss_or_repeat(h: &mut dyn Harness) {
    let broker = h.broker();
    let mut positions = Vec::new();
    for n in 0..10 {
        positions.push(publish(&broker, &room(), &n.to_string()).await);
    }
    for broker in [broker, h.peer()] {
        for (n, position) in positions.iter().enumerate() {
            let attached = broker.attach(&room(), Some(*position), LONG).await.unwrap();
            assert_eq!(attached.verdict, AttachVerdict::Continued);
            let mut reader = Reader::new(attached);
            for m in n + 1..10 {
                reader.expect(&[&m.to_string()]).await;
            }
            reader.expect_nothing();
        }
    }
}

/// An offset that was never given is not answered with whatever has it later.
pub async fn an_offset_beyond_the_head_is_a_gap(h: &mut dyn Harness) {
    let broker = h.broker();
    let head = publish(&broker, &room(), "x").await;
    let from = Position { offset: Offset(head.offset.0 + 1), ..head };
    let attached = broker.attach(&room(), Some(from), LONG).await.unwrap();
    let AttachVerdict::Gap { from: told, next } = attached.verdict else {
        panic!("{from} is a gap, not {:?}", attached.verdict);
    };
    assert_eq!((told, next), (from, attached.cursor.position()));
    Reader::new(attached).expect(&["x"]).await;
}

/// A position of another history is a gap, whichever way it differs.
pub async fn a_foreign_epoch_is_a_gap(h: &mut dyn Harness) {
    let broker = h.broker();
    let head = publish(&broker, &room(), "x").await;
    for epoch in [1, head.epoch.0 - 1, head.epoch.0 + 1, u64::MAX] {
        let from = Position::new(epoch, head.offset.0);
        let attached = broker.attach(&room(), Some(from), LONG).await.unwrap();
        assert!(matches!(attached.verdict, AttachVerdict::Gap { .. }), "{from}");
        Reader::new(attached).expect(&["x"]).await;
    }
    for epoch in [0, 1, head.epoch.0 + 1] {
        let from = Position::new(epoch, 0);
        let attached = broker.attach(&room(), Some(from), LONG).await.unwrap();
        assert!(matches!(attached.verdict, AttachVerdict::Gap { .. }), "{from}");
    }
}

/// A node holds a channel once.
pub async fn attachments_of_one_channel_share_its_log(h: &mut dyn Harness) {
    let broker = h.broker();
    let one = Reader::attach(&broker, &room(), None).await;
    let two = Reader::attach(&broker, &room(), None).await;
    assert!(std::sync::Arc::ptr_eq(&one.log, &two.log));
    let mut two = two;
    drop(one);
    publish(&broker, &room(), "still attached").await;
    two.expect(&["still attached"]).await;
}

/// Detached and attached again, a subscriber goes on from its position by the history.
pub async fn who_left_can_come_back(h: &mut dyn Harness) {
    let broker = h.broker();
    let mut reader = Reader::attach(&broker, &room(), None).await;
    publish(&broker, &room(), "a").await;
    reader.expect(&["a"]).await;
    let position = reader.position();
    drop(reader);
    publish(&broker, &room(), "b").await;
    publish(&broker, &room(), "c").await;
    let mut reader = Reader::attach(&broker, &room(), Some(position)).await;
    reader.expect(&["b", "c"]).await;
    publish(&broker, &room(), "d").await;
    reader.expect(&["d"]).await;
}

/// Where an engine knows how many are subscribed, it says the truth.
pub async fn live_counts_subscriptions(h: &mut dyn Harness) {
    let broker = h.broker();
    let live = |n: u32, found: Option<u32>| assert!(found.is_none_or(|found| found == n), "{found:?}");
    live(0, publish_with(&broker, &room(), "x", LONG, None).await.live);
    let one = Reader::attach(&broker, &room(), None).await;
    let two = Reader::attach(&broker, &room(), None).await;
    live(2, publish_with(&broker, &room(), "x", LONG, None).await.live);
    drop(one);
    live(1, publish_with(&broker, &room(), "x", LONG, None).await.live);
    drop(two);
    live(0, publish_with(&broker, &room(), "x", LONG, None).await.live);
}

/// Publishers on both nodes: every subscriber sees every publication once, in one and the same order.
pub async fn racing_publishers_are_put_in_one_order(h: &mut dyn Harness) {
    const EACH: usize = 100;
    let brokers = [h.broker(), h.peer()];
    let mut readers = Vec::new();
    for broker in &brokers {
        readers.push(Reader::attach(broker, &room(), None).await);
    }
    let mut publishers = tokio::task::JoinSet::new();
    for (p, broker) in brokers.iter().cycle().take(6).cloned().enumerate() {
        publishers.spawn(async move {
            for n in 0..EACH {
                publish(&broker, &room(), &format!("{p} {n}")).await;
            }
        });
    }
    within("publishing", publishers.join_all()).await;
    let mut orders = Vec::new();
    for reader in &mut readers {
        let (mut order, mut next) = (Vec::new(), [0; 6]);
        for _ in 0..6 * EACH {
            let Seen::Text(text, position) = reader.next().await else { panic!("no gap was to come") };
            let (p, n) = text.split_once(' ').unwrap();
            let (p, n): (usize, usize) = (p.parse().unwrap(), n.parse().unwrap());
            assert_eq!(n, next[p], "a publisher's own order is kept, each once");
            next[p] += 1;
            order.push((text, position));
        }
        reader.expect_nothing();
        orders.push(order);
    }
    assert_eq!(orders[0], orders[1]);
}

/// The second publication of a key gives the first one's position and is not delivered.
pub async fn an_idempotency_key_publishes_once(h: &mut dyn Harness) {
    let (broker, peer) = (h.broker(), h.peer());
    let mut reader = Reader::attach(&broker, &room(), None).await;
    let first = publish_with(&broker, &room(), "once", LONG, Some("k")).await;
    let again = publish_with(&peer, &room(), "once", LONG, Some("k")).await;
    assert!(!first.duplicate && again.duplicate);
    assert_eq!(first.position, again.position);
    publish_with(&peer, &room(), "other", LONG, Some("l")).await;
    reader.expect(&["once", "other"]).await;
    reader.expect_nothing();
}

/// However many race with one key, one is published and all learn where.
pub async fn racing_publications_of_one_key_publish_once(h: &mut dyn Harness) {
    const KEYS: usize = 20;
    let brokers = [h.broker(), h.peer()];
    for key in 0..KEYS {
        let mut racers = tokio::task::JoinSet::new();
        for n in 0..10 {
            let broker = brokers[n % 2].clone();
            let key = Some(key.to_string());
            racers.spawn(async move { publish_with(&broker, &room(), "x", LONG, key.as_deref()).await });
        }
        let all = within("publishing", racers.join_all()).await;
        assert_eq!(all.iter().filter(|published| !published.duplicate).count(), 1);
        assert!(all.iter().all(|published| published.position == all[0].position));
    }
    let page = brokers[0].history(&room(), None, 100, crate::Direction::Forward).await.unwrap();
    assert_eq!(page.publications.len(), KEYS);
}

/// Keys are remembered for their window and not longer.
pub async fn an_idempotency_key_is_forgotten_in_time(h: &mut dyn Harness) {
    let broker = h.broker();
    publish_with(&broker, &room(), "x", LONG, Some("k")).await;
    h.advance(IDEMPOTENCY_TTL - Duration::from_secs(1)).await;
    assert!(publish_with(&broker, &room(), "x", LONG, Some("k")).await.duplicate);
    h.advance(Duration::from_secs(2)).await;
    assert!(!publish_with(&broker, &room(), "x", LONG, Some("k")).await.duplicate);
}

/// A key means nothing on another channel, and an empty or endless one is refused.
pub async fn idempotency_keys_are_per_channel_and_bounded_in_length(h: &mut dyn Harness) {
    let broker = h.broker();
    publish_with(&broker, &room(), "x", LONG, Some("k")).await;
    assert!(!publish_with(&broker, &name("room:2"), "x", LONG, Some("k")).await.duplicate);
    for key in ["".to_owned(), "k".repeat(IDEMPOTENCY_KEY_BYTES + 1)] {
        let options = PublishOptions { limits: LONG, ttl: None, idempotency_key: Some(key.into()) };
        let refused = broker.publish(&room(), Item::publication("", "x"), options).await;
        assert!(matches!(refused, Err(BrokerError::Invalid(_))), "{refused:?}");
    }
}

/// Without history, a cursor that the live window passed is told so, and goes on with all that is kept.
pub async fn a_slow_cursor_is_told_a_gap(h: &mut dyn Harness) {
    let broker = h.broker();
    let attached = broker.attach(&room(), None, HistoryLimits::NONE).await.unwrap();
    let mut reader = Reader::new(attached);
    let mut last = Position::default();
    for n in 0..LIVE_WINDOW_COUNT * 2 {
        last = publish_with(&broker, &room(), &n.to_string(), HistoryLimits::NONE, None).await.position;
    }
    // An engine elsewhere delivers late: the head is there when all has come.
    within("the last publication", async {
        while reader.log.head() != last {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let from = reader.position();
    let Seen::Gap { from: told, next } = reader.next().await else { panic!("a gap was to come") };
    assert_eq!(told, from);
    assert!(next.offset > from.offset);
    for n in LIVE_WINDOW_COUNT..LIVE_WINDOW_COUNT * 2 {
        reader.expect(&[&n.to_string()]).await;
    }
    assert_eq!(reader.position(), last);
}

/// A publication with a time of its own is delivered within it, and afterwards told as a gap wherever a position lies
/// before it: while reading, at an attachment, and in the history. What lies around it is untouched.
pub async fn a_publication_whose_own_time_is_over_is_a_gap(h: &mut dyn Harness) {
    let broker = h.broker();
    let mut quick = Reader::attach(&broker, &room(), None).await;
    let mut slow = Reader::attach(&broker, &room(), None).await;
    let mut places = Vec::new();
    for (text, ttl) in [("a", None), ("b", Some(10)), ("c", None), ("d", Some(10))] {
        let ttl = ttl.map(Duration::from_secs);
        let options = PublishOptions { limits: LONG, ttl, idempotency_key: None };
        let item = Item::publication("alice", text.to_owned());
        places.push(broker.publish(&room(), item, options).await.unwrap().position);
    }
    quick.expect(&["a", "b", "c", "d"]).await;
    h.advance(Duration::from_secs(11)).await;
    quick.expect_nothing();
    slow.expect(&["a"]).await;
    assert_eq!(slow.next().await, Seen::Gap { from: places[0], next: places[1] });
    slow.expect(&["c"]).await;
    assert_eq!(slow.next().await, Seen::Gap { from: places[2], next: places[3] });
    slow.expect_nothing();
    // Whoever has had the lost one has lost nothing.
    let attached = broker.attach(&room(), Some(places[1]), LONG).await.unwrap();
    assert_eq!(attached.verdict, AttachVerdict::Continued);
    let attached = broker.attach(&room(), Some(places[0]), LONG).await.unwrap();
    assert_eq!(attached.verdict, AttachVerdict::Gap { from: places[0], next: places[1] });
    let room = room();
    let page = |since| broker.history(&room, since, 100, crate::Direction::Forward);
    let all = page(None).await.unwrap();
    assert_eq!(texts(&all.publications), ["a", "c"]);
    for (since, kept, whole) in
        [(places[0], vec!["c"], false), (places[1], vec!["c"], false), (places[3], vec![], true)]
    {
        let page = page(Some(since)).await.unwrap();
        assert_eq!((texts(&page.publications), page.recovered), (kept, whole), "since {since}");
    }
    // The log goes on.
    publish(&broker, &room, "e").await;
    quick.expect(&["e"]).await;
    slow.expect(&["e"]).await;
}
