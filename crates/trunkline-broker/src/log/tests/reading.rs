//! Reading by hand-made cases: budgets, gaps, chunks, and what is encoded.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::super::{Addition, AttachVerdict, Cursor, LiveWindow, Log, Missing, Piece, ReadOutcome};
use super::support::*;
use crate::broker::Direction;
use crate::defaults::{CHUNK_BYTES, LIVE_WINDOW_COUNT, LIVE_WINDOW_TTL};
use crate::item::{Encode, Entry, Item};
use crate::limits::HistoryLimits;
use crate::names::{ChannelName, Epoch, Offset, Position};

const ALL: usize = usize::MAX;

fn drain(log: &Log, cursor: &mut Cursor, encode: &Plain) -> (Vec<Piece>, ReadOutcome) {
    let mut pieces = Vec::new();
    let outcome = log.read(cursor, variant(0), encode, ALL, &mut pieces);
    (pieces, outcome)
}

fn offsets(pieces: &[Piece]) -> Vec<u64> {
    pieces.iter().flat_map(|piece| decode(piece.bytes.clone())).map(|(at, _)| at.offset.0).collect()
}

#[test]
fn a_burst_is_one_piece() {
    let (log, plain) = (log(), Plain::default());
    let mut cursor = log.locate(None).0;
    for n in 0..100_u8 {
        publish(&log, vec![n; 100]);
    }
    let (pieces, outcome) = drain(&log, &mut cursor, &plain);
    assert_eq!(outcome, ReadOutcome::AtHead);
    assert_eq!(pieces.len(), 1, "100 publications of 120 encoded bytes fit one chunk");
    assert_eq!((pieces[0].entries, pieces[0].last), (100, at(100)));
    assert_eq!(offsets(&pieces), (1..=100).collect::<Vec<_>>());
    assert_eq!(cursor.position(), at(100));
}

#[test]
fn a_trickle_is_joined_for_who_comes_later() {
    let (log, plain) = (log(), Plain::default());
    let mut live = log.locate(None).0;
    let _subscription = log.subscribe();
    for n in 0..100_u8 {
        publish(&log, vec![n; 100]);
        assert_eq!(drain(&log, &mut live, &plain).0.len(), 1);
    }
    let mut late = Cursor::at(at(0));
    let (pieces, _) = drain(&log, &mut late, &plain);
    assert_eq!(pieces.len(), 1, "100 chunks of one publication were joined");
    assert_eq!(offsets(&pieces), (1..=100).collect::<Vec<_>>());
    assert_eq!(plain.most_asked(), 1, "joining encodes nothing anew");
}

#[test]
fn chunks_stay_small_and_pin_no_more_than_themselves() {
    let (log, plain) = (log(), Plain::default());
    let mut cursor = log.locate(None).0;
    for _ in 0..200 {
        publish(&log, vec![0; 1_000]);
    }
    let (pieces, _) = drain(&log, &mut cursor, &plain);
    assert!(pieces.len() >= 200 * 1_000 / CHUNK_BYTES);
    assert!(pieces.iter().all(|piece| piece.bytes.len() <= CHUNK_BYTES + 16 * 20));
}

#[test]
fn a_budget_ends_between_publications_but_one_always_passes() {
    let (log, plain) = (log(), Plain::default());
    let mut cursor = log.locate(None).0;
    for _ in 0..4 {
        publish(&log, vec![0; 80]);
    }
    let mut read = |budget: usize| {
        let mut pieces = Vec::new();
        let outcome = log.read(&mut cursor, variant(0), &plain, budget, &mut pieces);
        (offsets(&pieces), outcome)
    };
    assert_eq!(read(199), (vec![1], ReadOutcome::More), "two would take 200 bytes");
    assert_eq!(read(0), (vec![2], ReadOutcome::More));
    assert_eq!(read(200), (vec![3, 4], ReadOutcome::AtHead));
    assert_eq!(read(200), (vec![], ReadOutcome::AtHead));
}

#[test]
fn one_encoding_per_variant_for_a_thousand_subscribers() {
    let (log, plain) = (log(), [Plain::default(), Plain::default()]);
    let mut readers: Vec<_> = (0..1_000).map(|n| (log.subscribe(), log.locate(None).0, n % 2)).collect();
    let position = publish(&log, "hello");
    for (_, cursor, which) in &mut readers {
        let mut pieces = Vec::new();
        let outcome = log.read(cursor, variant(*which), &plain[*which], ALL, &mut pieces);
        assert_eq!(outcome, ReadOutcome::AtHead);
        assert_eq!(decode(pieces[0].bytes.clone()), [(position, Bytes::from("hello"))]);
    }
    assert_eq!(log.encodings(), [1, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!((plain[0].most_asked(), plain[1].most_asked()), (1, 1));
}

#[test]
fn readers_share_the_bytes() {
    let (log, plain) = (log(), Plain::default());
    let (mut one, mut two) = (log.locate(None).0, log.locate(None).0);
    publish(&log, "hello");
    let (first, second) = (drain(&log, &mut one, &plain).0, drain(&log, &mut two, &plain).0);
    assert_eq!(first[0].bytes.as_ptr(), second[0].bytes.as_ptr());
}

#[test]
fn a_cursor_that_the_window_passed_is_told_and_goes_on_from_the_oldest() {
    let (log, plain) = (log(), Plain::default());
    let mut cursor = log.locate(None).0;
    for _ in 0..LIVE_WINDOW_COUNT + 10 {
        publish(&log, "x");
    }
    let from = cursor.position();
    let (pieces, outcome) = drain(&log, &mut cursor, &plain);
    assert!(pieces.is_empty(), "nothing is written in front of the gap");
    assert_eq!(outcome, ReadOutcome::Gap { from, next: at(10) });
    assert_eq!(cursor.position(), at(10));
    let (pieces, outcome) = drain(&log, &mut cursor, &plain);
    assert_eq!(offsets(&pieces), (11..=LIVE_WINDOW_COUNT as u64 + 10).collect::<Vec<_>>());
    assert_eq!(outcome, ReadOutcome::AtHead);
}

#[test]
fn a_window_that_overruns_while_a_reader_encodes_is_told_after_what_was_read() {
    /// Publishes a whole window while the second publication is encoded.
    struct Overrun<'a>(&'a Log, Plain);
    impl Encode for Overrun<'_> {
        fn encode(&self, channel: &ChannelName, entry: &Entry, out: &mut BytesMut) {
            if entry.position == at(2) {
                for _ in 0..LIVE_WINDOW_COUNT + 5 {
                    publish(self.0, "later");
                }
            }
            self.1.encode(channel, entry, out);
        }
    }
    let log = log();
    let mut cursor = log.locate(None).0;
    // The first fills a chunk, so the second is encoded on its own.
    publish(&log, vec![0; CHUNK_BYTES]);
    publish(&log, "overrun");
    let encode = Overrun(&log, Plain::default());
    let mut pieces = Vec::new();
    assert_eq!(log.read(&mut cursor, variant(0), &encode, ALL, &mut pieces), ReadOutcome::More);
    assert_eq!((offsets(&pieces), cursor.position()), (vec![1], at(1)));
    pieces.clear();
    let outcome = log.read(&mut cursor, variant(0), &encode, ALL, &mut pieces);
    assert_eq!((outcome, pieces.len()), (ReadOutcome::Gap { from: at(1), next: at(7) }, 0));
    assert_eq!(log.read(&mut cursor, variant(0), &encode, ALL, &mut pieces), ReadOutcome::AtHead);
    assert_eq!(offsets(&pieces), (8..=LIVE_WINDOW_COUNT as u64 + 7).collect::<Vec<_>>());
    assert_eq!(encode.1.most_asked(), 1);
}

#[test]
fn bytes_made_while_all_is_dropped_are_not_taken_for_later_ones() {
    /// Drops everything and publishes anew while the first publication is encoded.
    struct Anew<'a>(&'a Log, Plain);
    impl Encode for Anew<'_> {
        fn encode(&self, channel: &ChannelName, entry: &Entry, out: &mut BytesMut) {
            if entry.position == at(1) {
                self.0.expire(LIVE_WINDOW_TTL);
                assert!(self.0.is_empty());
                publish(self.0, "new");
            }
            self.1.encode(channel, entry, out);
        }
    }
    let log = log();
    let mut cursor = log.locate(None).0;
    publish(&log, "old");
    let encode = Anew(&log, Plain::default());
    let mut pieces = Vec::new();
    let gap = log.read(&mut cursor, variant(0), &encode, ALL, &mut pieces);
    assert!(matches!(gap, ReadOutcome::Gap { next, .. } if next == at(1)), "{gap:?}");
    assert_eq!(log.read(&mut cursor, variant(0), &encode, ALL, &mut pieces), ReadOutcome::AtHead);
    assert_eq!(decode(pieces[0].bytes.clone()), [(at(2), Bytes::from("new"))]);
}

#[test]
fn pieces_outlive_the_window() {
    let (log, plain) = (log(), Plain::default());
    let mut cursor = log.locate(None).0;
    publish(&log, "kept by its writer");
    let (pieces, _) = drain(&log, &mut cursor, &plain);
    log.reset(Position::new(5_000, 0), Epoch(5_000));
    assert_eq!(decode(pieces[0].bytes.clone())[0].1, "kept by its writer");
}

#[test]
fn positions_before_the_first_publication_are_continued_and_older_ones_are_not() {
    let (log, plain) = (log(), Plain::default());
    // `log()` knows of nothing lost since 10 and answered 20 as its head.
    for (from, continued) in [(9, false), (10, true), (20, true), (999, true)] {
        let from = Position::new(from, 0);
        let verdict = log.locate(Some(from)).1;
        assert_eq!(verdict == AttachVerdict::Continued, continued, "{from} of a silent channel");
    }
    assert_eq!(log.locate(None).0.position(), Position::new(20, 0));
    publish(&log, "first");
    for (from, continued) in [(9, false), (10, true), (999, true), (EPOCH, true), (EPOCH + 1, false)] {
        let from = Position::new(from, 0);
        let (mut cursor, verdict) = log.locate(Some(from));
        assert_eq!(verdict == AttachVerdict::Continued, continued, "{from} after the first");
        assert_eq!(offsets(&drain(&log, &mut cursor, &plain).0), [1]);
    }
}

#[test]
fn an_offset_beyond_the_head_and_another_epoch_are_gaps() {
    let log = log();
    publish(&log, "a");
    publish(&log, "b");
    for from in [at(3), at(u64::MAX), Position::new(EPOCH - 1, 1), Position::new(EPOCH + 1, 1)] {
        let (cursor, verdict) = log.locate(Some(from));
        assert_eq!(verdict, AttachVerdict::Gap { from, next: at(0) });
        assert_eq!(cursor.position(), at(0), "the oldest kept item comes next");
    }
}

#[test]
fn a_reset_tells_every_cursor() {
    let (log, plain) = (log(), Plain::default());
    publish(&log, "a");
    let mut cursor = log.locate(None).0;
    log.reset(Position::new(9_000, 0), Epoch(9_000));
    let next = Position::new(9_000, 0);
    assert_eq!(drain(&log, &mut cursor, &plain).1, ReadOutcome::Gap { from: at(1), next });
    assert_eq!(drain(&log, &mut cursor, &plain).1, ReadOutcome::AtHead);
    let stamp = stamp(Duration::ZERO);
    let item = Item::publication("", "b");
    let addition = Addition { item, stamp, limits: HistoryLimits::NONE, ttl: None };
    log.append_next(addition, || Epoch(9_001)).unwrap();
    let (pieces, _) = drain(&log, &mut cursor, &plain);
    assert_eq!(decode(pieces[0].bytes.clone())[0].0, Position::new(9_001, 1));
}

#[test]
fn the_live_window_ends_by_time_and_with_the_last_attachment() {
    let (log, plain) = (log(), Plain::default());
    publish(&log, "a");
    let mut cursor = Cursor::at(at(0));
    log.expire(LIVE_WINDOW_TTL - Duration::from_millis(1));
    assert!(!log.is_empty());
    log.expire(LIVE_WINDOW_TTL);
    assert!(log.is_empty());
    assert_eq!(drain(&log, &mut cursor, &plain).1, ReadOutcome::Gap { from: at(0), next: at(1) });
    publish(&log, "b");
    log.keep_live_window(LiveWindow::Off);
    log.expire(Duration::ZERO);
    assert!(log.is_empty());
    assert_eq!(log.head(), at(2), "the pair stays");
}

#[test]
fn what_is_larger_than_the_window_reaches_its_readers() {
    let (log, plain) = (log(), Plain::default());
    let mut cursor = log.locate(None).0;
    publish(&log, vec![7; 1024 * 1024]);
    let (pieces, outcome) = drain(&log, &mut cursor, &plain);
    assert_eq!((pieces[0].entries, outcome), (1, ReadOutcome::AtHead));
}

#[test]
fn encoded_bytes_go_with_their_entry_and_with_the_last_subscription() {
    let (log, plain) = (log(), Plain::default());
    let subscription = log.subscribe();
    let mut cursor = log.locate(None).0;
    publish(&log, "a");
    let bytes = drain(&log, &mut cursor, &plain).0.remove(0).bytes;
    assert!(!bytes.is_unique(), "the log holds them too");
    drop(subscription);
    assert!(bytes.is_unique(), "nobody is subscribed");

    let _subscription = log.subscribe();
    publish(&log, "b");
    let bytes = drain(&log, &mut cursor, &plain).0.remove(0).bytes;
    assert!(!bytes.is_unique());
    publish_with(&log, "c", LIVE_WINDOW_TTL / 2, HistoryLimits::NONE);
    log.expire(LIVE_WINDOW_TTL);
    assert!(bytes.is_unique(), "the entry has expired");
    assert!(!log.is_empty(), "a later one is kept");
}

#[test]
fn one_entry_is_found_by_its_position_only() {
    let (log, plain) = (log(), Plain::default());
    publish(&log, "a");
    publish(&log, "b");
    assert_eq!(log.entry(at(2)).map(|entry| entry.prev), Some(Offset(1)));
    for absent in [at(0), at(3), Position::new(EPOCH - 1, 2)] {
        assert_eq!(log.entry(absent), None);
        assert_eq!(log.encoded(absent, variant(0), &plain), None);
    }
    let bytes = log.encoded(at(1), variant(0), &plain).unwrap();
    assert_eq!(decode(bytes), [(at(1), Bytes::from("a"))]);
}

#[test]
fn an_encoding_of_nothing_moves_the_cursor_and_gives_no_piece() {
    struct Silent;
    impl Encode for Silent {
        fn encode(&self, _: &ChannelName, _: &Entry, _: &mut BytesMut) {}
    }
    let log = log();
    let mut cursor = log.locate(None).0;
    publish(&log, "a");
    let mut pieces = Vec::new();
    assert_eq!(log.read(&mut cursor, variant(7), &Silent, ALL, &mut pieces), ReadOutcome::AtHead);
    assert!(pieces.is_empty());
    assert_eq!(cursor.position(), at(1));
}

fn received(offset: u64, prev: u64) -> Entry {
    let item = Arc::new(Item::publication("", format!("{offset}")));
    Entry { position: at(offset), prev: Offset(prev), timestamp_ms: 0, item }
}

#[test]
fn a_received_publication_must_follow_the_head_or_tell_a_gap() {
    let (log, plain) = (log(), Plain::default());
    let append = |entry, missing| log.append_received(entry, Duration::ZERO, HistoryLimits::NONE, missing);
    let mut cursor = log.locate(None).0;
    append(received(7, 0), Missing::Refuse).unwrap();
    append(received(30, 7), Missing::Refuse).unwrap();
    append(received(30, 7), Missing::Refuse).unwrap();
    assert_eq!(append(received(90, 60), Missing::Refuse).unwrap_err().head, at(30));
    append(received(90, 60), Missing::Gap).unwrap();
    append(received(91, 90), Missing::Refuse).unwrap();

    let (pieces, outcome) = drain(&log, &mut cursor, &plain);
    assert_eq!((offsets(&pieces), outcome), (vec![7, 30], ReadOutcome::More));
    assert_eq!(drain(&log, &mut cursor, &plain).1, ReadOutcome::Gap { from: at(30), next: at(60) });
    let (pieces, outcome) = drain(&log, &mut cursor, &plain);
    assert_eq!((offsets(&pieces), outcome), (vec![90, 91], ReadOutcome::AtHead));
    assert_eq!(plain.most_asked(), 1);

    let page = log.page(Some(at(7)), 10, Direction::Forward);
    assert!(!page.recovered, "the log's history is shorter than what it serves its readers from");
}

#[test]
fn another_epochs_publication_is_refused_until_the_log_is_reset() {
    let log = log();
    log.append_received(received(1, 0), Duration::ZERO, HistoryLimits::NONE, Missing::Refuse).unwrap();
    let mut entry = received(2, 1);
    entry.position.epoch = Epoch(EPOCH + 1);
    for missing in [Missing::Refuse, Missing::Gap] {
        assert!(log.append_received(entry.clone(), Duration::ZERO, HistoryLimits::NONE, missing).is_err());
    }
    log.reset(Position::new(EPOCH + 1, 1), Epoch(EPOCH + 1));
    log.append_received(entry, Duration::ZERO, HistoryLimits::NONE, Missing::Refuse).unwrap();
    assert_eq!(log.head(), Position::new(EPOCH + 1, 2));
}
