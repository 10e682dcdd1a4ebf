//! Publishers and readers on several threads: every reader sees every publication in order, or a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::{Cursor, Log, ReadOutcome, Subscription, Unpark};
use super::support::*;
use crate::limits::HistoryLimits;

const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Bellhop(Notify);

impl Unpark for Bellhop {
    fn unpark(&self) {
        self.0.notify_one();
    }
}

/// What a reader found.
#[derive(Default)]
struct Seen {
    publications: u64,
    gaps: u64,
    lost: u64,
}

/// A reader at the head, before anything is published: one that came later would begin at a later head.
fn reader(log: &Arc<Log>) -> (Arc<Bellhop>, Subscription, Cursor) {
    let bell = Arc::new(Bellhop::default());
    (bell, log.subscribe(), log.locate(None).0)
}

/// Reads until the head is `last`. Every publication names its own offset, so nothing can be mistaken.
async fn read_to(
    (bell, subscription, mut cursor): (Arc<Bellhop>, Subscription, Cursor),
    which: usize,
    plain: Arc<Plain>,
    last: u64,
    budget: usize,
) -> Seen {
    let log = subscription.log().clone();
    let mut seen = Seen::default();
    let mut next = 1;
    while next <= last {
        let mut pieces = Vec::new();
        // Half of them park in the step that reads, half in one of its own.
        let (outcome, is_parked) = if which == 0 {
            (log.read(&mut cursor, variant(which), &*plain, budget, &mut pieces), false)
        } else {
            let (variant, unpark) = (variant(which), || bell.clone() as Arc<dyn Unpark>);
            subscription.read_or_park(&mut cursor, variant, &*plain, budget, &mut pieces, unpark)
        };
        for (position, data) in pieces.into_iter().flat_map(|piece| decode(piece.bytes)) {
            assert_eq!(position, at(next), "in order, each once");
            assert_eq!(data.len(), 100);
            next += 1;
            seen.publications += 1;
        }
        match outcome {
            ReadOutcome::Gap { from, next: to } => {
                assert_eq!(from.offset.0 + 1, next);
                assert!(to.offset > from.offset);
                seen.gaps += 1;
                seen.lost += to.offset.0 - from.offset.0;
                next = to.offset.0 + 1;
            }
            ReadOutcome::AtHead
                if next <= last && (is_parked || subscription.park(&cursor, || bell.clone())) =>
            {
                timeout(DEADLINE, bell.0.notified()).await.expect("a parked reader is unparked");
            }
            ReadOutcome::AtHead | ReadOutcome::More => tokio::task::yield_now().await,
        }
    }
    seen
}

async fn race(limits: HistoryLimits, budget: usize) -> Vec<Seen> {
    const PUBLISHERS: u64 = 4;
    const EACH: u64 = 2_000;
    let (log, plain) = (log(), [Arc::new(Plain::default()), Arc::new(Plain::default())]);
    let _keeps_encodings = log.subscribe();
    let mut readers = JoinSet::new();
    for n in 0..8 {
        readers.spawn(read_to(reader(&log), n % 2, plain[n % 2].clone(), PUBLISHERS * EACH, budget));
    }
    let mut publishers = JoinSet::new();
    for _ in 0..PUBLISHERS {
        let log = log.clone();
        publishers.spawn(async move {
            for n in 0..EACH {
                publish_with(&log, vec![0; 100], Duration::ZERO, limits);
                if n % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    publishers.join_all().await;
    let seen = timeout(DEADLINE, readers.join_all()).await.expect("all readers reach the head");
    for plain in plain {
        assert!(plain.most_asked() <= 1, "no publication was encoded twice");
    }
    for seen in &seen {
        assert_eq!(seen.publications + seen.lost, PUBLISHERS * EACH);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_history_every_reader_sees_everything() {
    let limits = HistoryLimits { count: 100_000, bytes: usize::MAX, ttl: Duration::from_secs(9) };
    for seen in race(limits, usize::MAX).await {
        assert_eq!((seen.publications, seen.gaps), (8_000, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_the_live_window_every_reader_sees_everything_or_a_gap() {
    race(HistoryLimits::NONE, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn coming_and_going_while_parked_loses_no_wakeup() {
    let log = log();
    let stop = Arc::new(AtomicBool::new(false));
    let mut churn = JoinSet::new();
    for _ in 0..3 {
        let (log, stop) = (log.clone(), stop.clone());
        churn.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let parking = Parking::new(&log, &Arc::new(Bell::default()));
                parking.park(&log.locate(None).0);
                tokio::task::yield_now().await;
            }
        });
    }
    let plain = Arc::new(Plain::default());
    let reader = tokio::task::JoinSet::from_iter([read_to(reader(&log), 0, plain, 500, usize::MAX)]);
    for _ in 0..500 {
        publish(&log, vec![0; 100]);
        tokio::task::yield_now().await;
    }
    timeout(DEADLINE, reader.join_all()).await.expect("the reader is woken every time");
    stop.store(true, Ordering::Relaxed);
    churn.join_all().await;
    assert_eq!((log.subscriptions(), log.state.lock().parked().0), (0, 0));
}
