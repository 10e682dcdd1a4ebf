//! Random schedules against a naive log that keeps everything and decides by definition what is kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{Addition, Cursor, LiveWindow, Log, Missing, Piece, ReadOutcome};
use super::support::*;
use crate::broker::Direction;
use crate::defaults::{LIVE_WINDOW_BYTES, LIVE_WINDOW_COUNT, LIVE_WINDOW_TTL};
use crate::item::{Entry, Item};
use crate::limits::HistoryLimits;
use crate::names::{Epoch, Offset, Position};

const READERS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Publish { size: usize, times: usize },
    Pass { ms: u64 },
    Live(bool),
    Read { reader: usize, budget: usize },
    Seek { reader: usize, epoch: i64, offset: u64 },
    Page { since: Option<u64>, limit: usize, reverse: bool },
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![8 => 0_usize..300, 2 => 3_000_usize..20_000, 1 => Just(300_000)];
    let budget = prop_oneof![Just(0_usize), 1_usize..500, 500_usize..60_000, Just(usize::MAX)];
    let step = prop_oneof![
        6 => (size, 1_usize..40).prop_map(|(size, times)| Step::Publish { size, times }),
        2 => (0_u64..70_000).prop_map(|ms| Step::Pass { ms }),
        1 => any::<bool>().prop_map(Step::Live),
        8 => (0..READERS, budget).prop_map(|(reader, budget)| Step::Read { reader, budget }),
        2 => (0..READERS, -1_i64..2, 0_u64..600)
            .prop_map(|(reader, epoch, offset)| Step::Seek { reader, epoch, offset }),
        2 => (prop::option::of(0_u64..600), 0_usize..400, any::<bool>())
            .prop_map(|(since, limit, reverse)| Step::Page { since, limit, reverse }),
        1 => Just(Step::Reset),
    ];
    prop::collection::vec(step, 1..60)
}

fn limits() -> impl Strategy<Value = HistoryLimits> {
    let some = (1_usize..500, 100_usize..400_000, 1_u64..300).prop_map(|(count, bytes, s)| HistoryLimits {
        count,
        bytes,
        ttl: Duration::from_secs(s),
    });
    prop_oneof![Just(HistoryLimits::NONE), some]
}

struct Publication {
    data: Bytes,
    since: Duration,
}

/// The naive log: all publications of the epoch, and from which on they are kept.
struct Model {
    epoch: u64,
    all: Vec<Publication>,
    history: usize,
    window: usize,
    live: LiveWindow,
    limits: HistoryLimits,
    now: Duration,
}

impl Model {
    fn trim(&mut self) {
        // What was dropped does not come back, so the search begins where it ended before.
        let suffix = |from: usize, limits: HistoryLimits, spare_newest: bool| {
            (from..=self.all.len())
                .find(|&first| {
                    let kept = &self.all[first..];
                    let bytes: usize = kept.iter().map(|publication| publication.data.len()).sum();
                    let young = kept.iter().all(|publication| self.now - publication.since < limits.ttl);
                    let fits = kept.len() <= limits.count && bytes <= limits.bytes;
                    young && (fits || spare_newest && kept.len() == 1)
                })
                .unwrap_or(self.all.len())
        };
        let live = HistoryLimits { count: LIVE_WINDOW_COUNT, bytes: LIVE_WINDOW_BYTES, ttl: LIVE_WINDOW_TTL };
        let history = suffix(self.history, self.limits, false);
        let window =
            if self.live == LiveWindow::Kept { suffix(self.window, live, true) } else { self.all.len() };
        self.history = self.history.max(history);
        self.window = self.window.max(window);
    }

    fn kept(&self) -> usize {
        self.history.min(self.window)
    }

    fn head(&self) -> u64 {
        self.all.len() as u64
    }
}

/// Reads once, and checks every publication, the outcome, and where the cursor is then.
fn check_read(
    log: &Log,
    model: &Model,
    cursor: &mut Cursor,
    plain: &Plain,
    budget: usize,
) -> Result<(), TestCaseError> {
    let from = cursor.position();
    let mut pieces: Vec<Piece> = Vec::new();
    let outcome = log.read(cursor, variant(0), plain, budget, &mut pieces);
    // (e, 0) is the place before the first publication, for every e since which nothing was published: up to the epoch
    // that the first one begins, and any later one (another node may have answered it) while there is none.
    let since = model.epoch - 1;
    let not_begun = model.all.is_empty();
    let before_first =
        from.offset == Offset(0) && from.epoch.0 >= since && (not_begun || from.epoch.0 <= model.epoch);
    let known = before_first || from.epoch.0 == model.epoch;
    let lost = !known || from.offset.0 > model.head() || (from.offset.0 as usize) < model.kept();
    if let ReadOutcome::Gap { from: told, next } = outcome {
        prop_assert!(lost, "a gap is told from {from} though nothing is lost");
        prop_assert_eq!(told, from);
        prop_assert!(pieces.is_empty());
        let oldest = if model.all.is_empty() { model.epoch - 1 } else { model.epoch };
        prop_assert_eq!(next, Position::new(oldest, model.kept() as u64));
        prop_assert_eq!(cursor.position(), next);
        return Ok(());
    }
    prop_assert!(!lost, "from {from} something is lost, and not told");
    let mut offset = from.offset.0;
    for piece in &pieces {
        let found = decode(piece.bytes.clone());
        prop_assert_eq!(found.len(), piece.entries as usize);
        prop_assert_eq!(found.last().map(|(at, _)| *at), Some(piece.last));
        for (position, data) in found {
            offset += 1;
            prop_assert_eq!(position, Position::new(model.epoch, offset));
            prop_assert_eq!(&data, &model.all[offset as usize - 1].data);
        }
    }
    let bytes: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
    prop_assert!(bytes <= budget || offset == from.offset.0 + 1);
    prop_assert_eq!(outcome == ReadOutcome::AtHead, offset == model.head());
    prop_assert!(offset > from.offset.0 || offset == model.head(), "a read made no progress");
    prop_assert_eq!(cursor.position().offset.0, offset);
    Ok(())
}

fn check_page(
    log: &Log,
    model: &Model,
    since: Option<u64>,
    limit: usize,
    reverse: bool,
) -> Result<(), TestCaseError> {
    if model.all.is_empty() {
        return Ok(());
    }
    let direction = if reverse { Direction::Reverse } else { Direction::Forward };
    let page = log.page(since.map(|offset| Position::new(model.epoch, offset)), limit, direction);
    let found: Vec<u64> = page.publications.iter().map(|entry| entry.position.offset.0).collect();
    let kept = model.history as u64 + 1..=model.head();
    let lost = since.is_some_and(|since| (since as usize) < model.kept() || since > model.head());
    let expected: Vec<u64> = match (since, reverse) {
        (_, false) => kept.filter(|o| lost || since.is_none_or(|s| *o > s)).take(limit).collect(),
        (_, true) if lost => Vec::new(),
        (_, true) => kept.rev().filter(|o| since.is_none_or(|s| *o < s)).take(limit).collect(),
    };
    if reverse && lost {
        // What lies before a lost position is not answered as if it were known.
        prop_assert!(!page.recovered);
        return Ok(());
    }
    prop_assert_eq!(found, expected);
    prop_assert_eq!(page.position, Position::new(model.epoch, model.head()));
    if !reverse {
        let recovered = !lost && since.is_none_or(|since| since as usize >= model.history);
        prop_assert_eq!(page.recovered, recovered);
    }
    Ok(())
}

fn run(limits: HistoryLimits, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let log = Arc::new(Log::new(channel(), Epoch(EPOCH - 1), Epoch(EPOCH - 1)));
    let _keeps_encodings = log.subscribe();
    let mut model = Model {
        epoch: EPOCH,
        all: Vec::new(),
        history: 0,
        window: 0,
        live: LiveWindow::Kept,
        limits,
        now: Duration::ZERO,
    };
    log.keep_live_window(LiveWindow::Kept);
    let plain = Plain::default();
    let mut cursors = [log.locate(None).0; READERS];
    let mut serial = 0_u64;
    for step in steps {
        match step {
            Step::Publish { size, times } => {
                for _ in 0..times {
                    serial += 1;
                    let data = Bytes::from([&serial.to_be_bytes()[..], &vec![0; size]].concat());
                    let item = Item::publication("", data.clone());
                    let addition = Addition { item, stamp: stamp(model.now), limits, ttl: None };
                    log.append_next(addition, || Epoch(model.epoch)).unwrap();
                    model.all.push(Publication { data, since: model.now });
                    model.trim();
                }
            }
            Step::Pass { ms } => {
                model.now += Duration::from_millis(ms);
                log.expire(model.now);
                model.trim();
            }
            Step::Live(live) => {
                model.live = if live { LiveWindow::Kept } else { LiveWindow::Off };
                log.keep_live_window(model.live);
            }
            Step::Read { reader, budget } => check_read(&log, &model, &mut cursors[reader], &plain, budget)?,
            Step::Seek { reader, epoch, offset } => {
                let epoch = model.epoch.saturating_add_signed(epoch);
                cursors[reader] = Cursor::at(Position::new(epoch, offset));
            }
            Step::Page { since, limit, reverse } => check_page(&log, &model, since, limit, reverse)?,
            Step::Reset => {
                model.epoch += 10;
                log.reset(Position::new(model.epoch - 1, 0), Epoch(model.epoch - 1));
                (model.all, model.history, model.window) = (Vec::new(), 0, 0);
            }
        }
    }
    prop_assert!(plain.most_asked() <= 1, "a publication was encoded twice");
    for cursor in &mut cursors {
        for _ in 0..3 {
            check_read(&log, &model, cursor, &plain, usize::MAX)?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_read_is_the_models_or_a_gap_that_is_told(limits in limits(), steps in steps()) {
        run(limits, steps)?;
    }

    #[test]
    fn a_lossy_sparse_feed_is_read_in_order_with_its_gaps(
        feed in prop::collection::vec((1_u64..9, 0_usize..10), 1..200),
        budgets in prop::collection::vec(0_usize..400, 1..20),
    ) {
        let log = log();
        let plain = Plain::default();
        let mut cursor = log.locate(None).0;
        let (mut offset, mut head) = (0, 0);
        // What the reader must see: publications, and the places where some are missing.
        let (mut expected, mut seen) = (Vec::new(), Vec::new());
        for (n, (skip, luck)) in feed.iter().enumerate() {
            let prev = offset;
            offset += skip;
            if *luck == 0 {
                continue;
            }
            let item = Arc::new(Item::publication("", format!("{offset}")));
            let entry = Entry {
                position: at(offset), prev: Offset(prev), timestamp_ms: 0, item,
            };
            log.append_received(entry, Duration::ZERO, HistoryLimits::NONE, Missing::Gap).unwrap();
            if prev > head {
                expected.push(Err(prev));
            }
            expected.push(Ok(offset));
            head = offset;
            let mut pieces = Vec::new();
            match log.read(&mut cursor, variant(1), &plain, budgets[n % budgets.len()], &mut pieces) {
                ReadOutcome::Gap { next, .. } => seen.push(Err(next.offset.0)),
                _ => seen.extend(pieces.iter().flat_map(|piece| decode(piece.bytes.clone()))
                    .map(|(position, _)| Ok(position.offset.0))),
            }
        }
        // One who comes late reads what the first has made encode, joined into few pieces.
        let (mut late, mut seen_late) = (Cursor::at(at(0)), Vec::new());
        for (cursor, seen) in [(&mut cursor, &mut seen), (&mut late, &mut seen_late)] {
            loop {
                let mut pieces = Vec::new();
                let outcome = log.read(cursor, variant(1), &plain, usize::MAX, &mut pieces);
                seen.extend(pieces.iter().flat_map(|piece| decode(piece.bytes.clone()))
                    .map(|(position, _)| Ok(position.offset.0)));
                match outcome {
                    ReadOutcome::AtHead => break,
                    ReadOutcome::Gap { next, .. } => seen.push(Err(next.offset.0)),
                    ReadOutcome::More => {}
                }
            }
        }
        prop_assert_eq!(&seen, &expected);
        prop_assert_eq!(&seen_late, &expected);
        prop_assert!(plain.most_asked() <= 1);
    }
}
