//! Parking: once, without a race, and without a trace.

use std::sync::Arc;

use super::super::ReadOutcome;
use super::support::*;
use crate::log::Cursor;

#[test]
fn a_parked_reader_is_unparked_once_by_the_next_publication() {
    let log = log();
    let bell = Arc::new(Bell::default());
    let subscription = Parking::new(&log, &bell);
    let mut cursor = log.locate(None).0;
    for _ in 0..20_000 {
        assert!(subscription.park(&cursor), "parked at most once, however often it asks");
    }
    publish(&log, "a");
    publish(&log, "b");
    assert_eq!(bell.rung(), 1, "unparked once, though two were published");
    assert!(!subscription.park(&cursor), "there is something to read");
    let _ = log.read(&mut cursor, variant(0), &Plain::default(), usize::MAX, &mut Vec::new());
    assert!(subscription.park(&cursor));
    publish(&log, "c");
    assert_eq!(bell.rung(), 2);
}

#[test]
fn a_publication_before_parking_is_not_missed() {
    let log = log();
    let subscription = Parking::new(&log, &Arc::new(Bell::default()));
    let mut cursor = log.locate(None).0;
    let outcome = log.read(&mut cursor, variant(0), &Plain::default(), usize::MAX, &mut Vec::new());
    assert_eq!(outcome, ReadOutcome::AtHead);
    publish(&log, "between reading the head and parking");
    assert!(!subscription.park(&cursor));
}

#[test]
fn reading_to_the_head_parks_in_the_same_step() {
    let log = log();
    let bell = Arc::new(Bell::default());
    let subscription = Parking::new(&log, &bell);
    let mut cursor = log.locate(None).0;
    let mut pieces = Vec::new();
    publish(&log, "a");
    publish(&log, "b");
    let more = subscription.read_or_park(&mut cursor, 0, &mut pieces);
    assert_eq!((more, pieces.len()), ((ReadOutcome::More, false), 1), "one at a time, and there is another");
    publish(&log, "c");
    assert_eq!(bell.rung(), 0, "not parked while there is something to read");
    let outcome = subscription.read_or_park(&mut cursor, usize::MAX, &mut pieces);
    assert_eq!(outcome, (ReadOutcome::AtHead, true));
    assert_eq!(pieces.iter().map(|piece| piece.entries).sum::<u32>(), 3);
    publish(&log, "d");
    assert_eq!(bell.rung(), 1);
    let mut lost = Cursor::at(at(9));
    let outcome = subscription.read_or_park(&mut lost, usize::MAX, &mut pieces);
    assert!(matches!(outcome, (ReadOutcome::Gap { .. }, false)), "{outcome:?}");
}

#[test]
fn a_cursor_with_a_gap_does_not_park() {
    let log = log();
    let subscription = Parking::new(&log, &Arc::new(Bell::default()));
    publish(&log, "a");
    assert!(!subscription.park(&Cursor::at(at(9))));
}

#[test]
fn a_reset_unparks() {
    let log = log();
    let bell = Arc::new(Bell::default());
    let subscription = Parking::new(&log, &bell);
    assert!(subscription.park(&log.locate(None).0));
    log.reset(at(0), crate::names::Epoch(EPOCH));
    assert_eq!(bell.rung(), 1);
}

#[test]
fn a_million_connects_and_stops_on_a_silent_channel_leave_nothing() {
    let log = log();
    let bell = Arc::new(Bell::default());
    let stays = Parking::new(&log, &bell);
    let cursor = log.locate(None).0;
    assert!(stays.park(&cursor));
    for _ in 0..1_000_000 {
        let subscription = Parking::new(&log, &bell);
        subscription.park(&cursor);
    }
    let state = log.state.lock();
    assert_eq!((state.subscriptions(), state.parked().0), (1, 1));
    assert!(state.parked().1 <= 8, "room for {}", state.parked().1);
    drop(state);
    assert_eq!(Arc::strong_count(&bell), 1 + 1 + 1, "ours, the subscription's, the parked one");
    publish(&log, "a");
    assert_eq!(bell.rung(), 1);
}

#[test]
fn a_storm_of_parked_readers_gives_its_room_back() {
    let log = log();
    let bell = Arc::new(Bell::default());
    let cursor = log.locate(None).0;
    let crowd: Vec<_> = (0..10_000).map(|_| Parking::new(&log, &bell)).collect();
    assert!(crowd.iter().all(|subscription| subscription.park(&cursor)));
    drop(crowd);
    assert_eq!(log.state.lock().parked().1, 0);
}

#[test]
fn who_left_is_not_unparked_and_others_are() {
    let log = log();
    let (leaves, stays) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let cursor = log.locate(None).0;
    let leaving = Parking::new(&log, &leaves);
    let staying = Parking::new(&log, &stays);
    assert!(leaving.park(&cursor) && staying.park(&cursor));
    let woken_before = Parking::new(&log, &leaves);
    drop(leaving);
    publish(&log, "a");
    drop(woken_before);
    assert_eq!((leaves.rung(), stays.rung()), (0, 1));
}

#[test]
fn a_stale_subscription_does_not_remove_another_one() {
    let log = log();
    let (old, new) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let first = Parking::new(&log, &old);
    assert!(first.park(&log.locate(None).0));
    publish(&log, "a");
    // The second takes the key that the first had before it was unparked.
    let second = Parking::new(&log, &new);
    assert!(second.park(&log.locate(None).0));
    drop(first);
    publish(&log, "b");
    assert_eq!((old.rung(), new.rung()), (1, 1));
}

#[test]
fn a_silent_log_is_small() {
    // Two implicit channels of every session are silent: reference/fanout.md allows a session 0.9 KB in all.
    // With an `Arc`'s two counts it is 120 bytes, all that an allocator's chunk of 128 holds.
    let size = size_of::<super::super::Log>();
    assert!(size <= 104, "{size} bytes");
    let log = log();
    let subscription = Parking::new(&log, &Arc::new(Bell::default()));
    assert!(subscription.park(&log.locate(None).0));
    assert_eq!(log.state.lock().parked(), (1, 0), "the first has its place inside");
}
