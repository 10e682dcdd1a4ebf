//! The ledger of protocol 0 under any calls with any numbers, beside a list that does the same the slow way.

use bytes::Bytes;
use proptest::prelude::*;
use trunkline_session::protocol0::{LedgerError, Replay};
use trunkline_session::{Channel, Ledger, Position, Seq};

#[derive(Debug, Clone)]
enum Step {
    Attached(u8, Position),
    Left(u8),
    Publication(u8, Position),
    Frame(usize),
    Gap(u8, Position),
    Park(usize),
    /// So many below what was sent; beyond it where negative.
    Ack(i64),
    AckAny(u64),
    Reserve,
    ReserveAny(u64),
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..2000_u64, 1 => u64::MAX - 2000..=u64::MAX, 1 => any::<u64>()]
}

fn step() -> impl Strategy<Value = Step> {
    let position = || (0..3_u64, number()).prop_map(|(epoch, offset)| Position { epoch, offset });
    let size = || prop_oneof![4 => 0..100_usize, 1 => Just(1 << 20), 1 => Just(600_000)];
    prop_oneof![
        2 => (0..6_u8, position()).prop_map(|(n, at)| Step::Attached(n, at)),
        2 => (0..6_u8).prop_map(Step::Left),
        8 => (0..6_u8, position()).prop_map(|(n, at)| Step::Publication(n, at)),
        4 => size().prop_map(Step::Frame),
        1 => (0..6_u8, position()).prop_map(|(n, at)| Step::Gap(n, at)),
        2 => size().prop_map(Step::Park),
        3 => (-2..40_i64).prop_map(Step::Ack),
        1 => number().prop_map(Step::AckAny),
        3 => Just(Step::Reserve),
        1 => number().prop_map(Step::ReserveAny),
    ]
}

/// What the ledger must remember.
struct Model {
    last: u64,
    /// The numbers that are not acked, and what bears them.
    kept: Vec<(u64, Replay)>,
}

impl Model {
    fn taken(&mut self, result: Result<Seq, LedgerError>, what: Replay) {
        let Ok(seq) = result else { return };
        assert_eq!(Some(seq.0), self.last.checked_add(1), "a hole");
        self.last = seq.0;
        self.kept.push((seq.0, what));
    }

    fn take(&mut self, ledger: &mut Ledger, step: Step) {
        let channel = |n: u8| Channel::from(format!("room:{n}"));
        let frame = |size: usize| Bytes::from(vec![7; size]);
        match step {
            Step::Attached(n, at) => ledger.attached(&channel(n), at),
            Step::Left(n) => ledger.left(&channel(n)),
            Step::Publication(n, position) => {
                let channel = channel(n);
                let taken = ledger.begin_publication(&channel, position);
                self.taken(taken, Replay::Publication { channel, position });
            }
            Step::Frame(size) => self.taken(ledger.begin_frame(frame(size), 3), Replay::Frame(frame(size))),
            Step::Gap(n, next) => {
                let taken = ledger.begin_gap(&channel(n), next, frame(20));
                self.taken(taken, Replay::Frame(frame(20)));
            }
            Step::Park(size) => {
                let taken = ledger.park(frame(size), 0);
                if taken == Err(LedgerError::Overrun) {
                    self.kept.clear();
                }
                self.taken(taken, Replay::Frame(frame(size)));
            }
            Step::Ack(below) => self.ack(ledger, self.last.saturating_add_signed(-below)),
            Step::AckAny(seq) => self.ack(ledger, seq),
            Step::Reserve => {
                if let Some(up_to) = ledger.wants() {
                    ledger.reserved(up_to);
                    assert!(ledger.wants().is_none_or(|next| next > up_to), "{up_to:?} is wanted again");
                }
            }
            Step::ReserveAny(up_to) => ledger.reserved(Seq(up_to)),
        }
    }

    fn ack(&mut self, ledger: &mut Ledger, seq: u64) {
        match ledger.ack(Seq(seq)) {
            Ok(_) => self.kept.retain(|(kept, _)| *kept > seq),
            Err(LedgerError::Future(_)) => assert!(seq > self.last, "{seq} was sent"),
            Err(LedgerError::Overrun) => {}
            Err(other) => panic!("an ack was answered {other}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_replays_what_was_sent_and_not_acked_whatever_the_numbers_are(
        first in number(),
        reserved in number(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut ledger = Ledger::new(Seq(first), Seq(reserved));
        let mut model = Model { last: first, kept: Vec::new() };
        for step in steps {
            model.take(&mut ledger, step);
            let replayed: Vec<_> = ledger.replay().map(|(seq, what)| (seq.0, what)).collect();
            prop_assert_eq!(&replayed, &model.kept);
            prop_assert_eq!(ledger.highest(), Seq(model.last));
            let (sent, acked) = (ledger.sent_positions(), ledger.acked_positions());
            prop_assert!(sent.len() <= 6 && acked.len() <= 6, "{:?} {:?}", sent, acked);
        }
    }
}
