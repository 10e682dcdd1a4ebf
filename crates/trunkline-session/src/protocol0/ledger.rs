//! The numbers of a seed client's frames down, and what is kept of each until its ack.
//!
//! It belongs behind the lock of the connection's write state, and outlives the connection with the session. The
//! write state takes a number when it begins a frame, so that frames, whatever made them, are numbered in the order
//! in which they leave, without holes. A publication is kept as 16 bytes that say where the log has it; only
//! replies are kept as bytes. The ledger writes nothing and reads no log.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use trunkline_proto::wire::ChannelPosition;

use crate::defaults::{PARKED_BYTES, PARKED_FRAMES, SEQ_BLOCK, UNACKED_BYTES, UNACKED_FRAMES};
use crate::ids::Seq;
use crate::position::{Channel, Position};

/// Numbers frames and remembers them until they are acked.
#[derive(Debug)]
pub struct Ledger {
    /// The last number taken.
    last: u64,
    acked: u64,
    /// Numbers up to here may be taken.
    reserved: u64,
    /// Number `acked + 1` is the first.
    entries: VecDeque<Entry>,
    /// The kept bytes of the entries that are frames, in their order.
    frames: VecDeque<Bytes>,
    channels: Vec<Delivery>,
    bytes: usize,
    /// More waited for the client than is kept for it: the session cannot be resumed.
    overrun: bool,
}

/// 16 bytes: where a publication is, or that it is the next of `frames`.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The offset in its channel; of a gap: where delivery went on; of an answer: the `msg_id` that it answers.
    offset: u64,
    /// Into `channels`; [`NO_CHANNEL`] where the frame moves none.
    channel: u32,
    kind: Kind,
}

const NO_CHANNEL: u32 = u32::MAX;
const _: () = assert!(size_of::<Entry>() == 16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Publication,
    Frame,
}

/// One channel in one epoch.
#[derive(Debug)]
struct Delivery {
    channel: Channel,
    epoch: u64,
    sent: u64,
    acked: u64,
    /// How many entries name it: while there are any, its place is theirs.
    entries: u32,
    /// The channel is still in this epoch, and still delivered.
    current: bool,
}

/// Why no number is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The client acks too little: close with 4001.
    #[error("1,000 frames or 1 MiB are not acked")]
    Full,
    /// Store [`Ledger::wants`] in the broker first, then call [`Ledger::reserved`].
    #[error("the next block of numbers is not reserved yet")]
    NotReserved,
    /// An ack of a number that was never taken.
    #[error("number {0} was never sent")]
    Future(Seq),
    /// What waited for the client was too much to be kept: its session cannot be resumed.
    #[error("too much waited for the client: its session cannot be resumed")]
    Overrun,
}

/// What an ack has freed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acked {
    /// Where it leaves the channels.
    pub positions: Vec<ChannelPosition>,
    /// Which `msg_id`s the freed frames had answered.
    pub answers: Vec<u32>,
}

/// A frame to send again after a resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    /// Read it from the log; where the log no longer has it, send [`super::lost_publication`].
    Publication {
        /// Its channel.
        channel: Channel,
        /// Its place.
        position: Position,
    },
    /// These bytes.
    Frame(Bytes),
}

impl Ledger {
    /// For a new session: the first number is the client's `last_acked_seq_id` + 1. `reserved` is what the broker
    /// has for it: numbers up to there may be taken.
    pub fn new(last_acked: Seq, reserved: Seq) -> Self {
        Ledger {
            last: last_acked.0,
            acked: last_acked.0,
            reserved: reserved.0,
            entries: VecDeque::new(),
            frames: VecDeque::new(),
            channels: Vec::new(),
            bytes: 0,
            overrun: false,
        }
    }

    /// The end of the block to reserve in the broker now, while half of the last one is still there to take. `None`
    /// also where no further number is left to reserve.
    pub fn wants(&self) -> Option<Seq> {
        let left = self.reserved.saturating_sub(self.last);
        let taken = self.reserved.max(self.last);
        (left <= SEQ_BLOCK / 2 && taken < u64::MAX).then(|| Seq(taken.saturating_add(SEQ_BLOCK)))
    }

    /// The broker has it.
    pub fn reserved(&mut self, up_to: Seq) {
        self.reserved = self.reserved.max(up_to.0);
    }

    /// The highest number taken.
    pub fn highest(&self) -> Seq {
        Seq(self.last)
    }

    /// Everything up to here was acked.
    pub fn acked(&self) -> Seq {
        Seq(self.acked)
    }

    /// Delivery of a channel begins, or goes on, here.
    pub fn attached(&mut self, channel: &Channel, position: Position) {
        let at = self.delivery(channel, position.epoch, position.offset);
        let delivery = &mut self.channels[at as usize];
        delivery.sent = delivery.sent.max(position.offset);
    }

    /// A channel is no longer delivered. What was sent of it can still be asked for again.
    pub fn left(&mut self, channel: &str) {
        for delivery in self.channels.iter_mut().filter(|delivery| &*delivery.channel == channel) {
            delivery.current = false;
        }
        self.prune();
    }

    /// Takes the number of a publication that is about to be written.
    pub fn begin_publication(&mut self, channel: &Channel, position: Position) -> Result<Seq, LedgerError> {
        self.may_take(size_of::<Entry>())?;
        let at = self.delivery(channel, position.epoch, 0);
        self.channels[at as usize].sent = position.offset;
        self.take(Entry { offset: position.offset, channel: at, kind: Kind::Publication }, size_of::<Entry>())
    }

    /// Takes the number of a reply or another frame of the reply queue. `bytes`: the encoded frame without number;
    /// `answers`: the `msg_id` of the call that it answers, else 0.
    pub fn begin_frame(&mut self, bytes: Bytes, answers: u32) -> Result<Seq, LedgerError> {
        self.may_take(bytes.len())?;
        self.keep_frame(bytes, NO_CHANNEL, u64::from(answers))
    }

    /// Takes the number of the error that stands for a gap; delivery goes on from `next`.
    pub fn begin_gap(&mut self, channel: &Channel, next: Position, bytes: Bytes) -> Result<Seq, LedgerError> {
        self.may_take(bytes.len())?;
        let at = self.delivery(channel, next.epoch, 0);
        self.channels[at as usize].sent = next.offset;
        self.keep_frame(bytes, at, next.offset)
    }

    /// A frame that was still queued when the connection ended: it is numbered now and sent on a resume. Beside what
    /// was sent there is room for what one connection can have queued. A client that comes back again and again and
    /// acks nothing passes that: nothing is kept for it any more, and its session cannot be resumed.
    pub fn park(&mut self, bytes: Bytes, answers: u32) -> Result<Seq, LedgerError> {
        if self.overrun {
            return Err(LedgerError::Overrun);
        }
        let fits = self.entries.len() < UNACKED_FRAMES + PARKED_FRAMES
            && self.bytes + bytes.len() <= UNACKED_BYTES + PARKED_BYTES;
        if !fits || self.last == u64::MAX {
            self.overrun = true;
            self.forget_entries();
            return Err(LedgerError::Overrun);
        }
        self.keep_frame(bytes, NO_CHANNEL, u64::from(answers))
    }

    /// Frees everything up to `seq`, and says what that was. A lower ack than before frees nothing.
    pub fn ack(&mut self, seq: Seq) -> Result<Acked, LedgerError> {
        if self.overrun {
            return Err(LedgerError::Overrun);
        }
        if seq.0 > self.last {
            return Err(LedgerError::Future(seq));
        }
        let (mut moved, mut answers) = (Vec::new(), Vec::new());
        while self.acked < seq.0 {
            let Some(entry) = self.entries.pop_front() else { break };
            self.acked += 1;
            self.bytes -= match entry.kind {
                Kind::Publication => size_of::<Entry>(),
                Kind::Frame => self.frames.pop_front().map_or(0, |bytes| bytes.len()),
            };
            if let Some(delivery) = self.channels.get_mut(entry.channel as usize) {
                delivery.acked = entry.offset;
                delivery.entries -= 1;
                if !moved.contains(&entry.channel) {
                    moved.push(entry.channel);
                }
            } else if entry.offset != 0 {
                answers.extend(u32::try_from(entry.offset).ok());
            }
        }
        let positions = moved.into_iter().map(|at| self.channels[at as usize].acked_position()).collect();
        self.prune();
        Ok(Acked { positions, answers })
    }

    /// What was not acked, with its numbers, in their order: sent after START_RESP of a resume.
    pub fn replay(&self) -> impl Iterator<Item = (Seq, Replay)> {
        let mut frames = self.frames.iter();
        let first = self.acked;
        // Every entry has a number, so the sum is one that was taken.
        (1..).zip(&self.entries).filter_map(move |(nth, entry)| {
            let replay = match entry.kind {
                Kind::Frame => Replay::Frame(frames.next()?.clone()),
                Kind::Publication => {
                    let delivery = self.channels.get(entry.channel as usize)?;
                    let position = Position { epoch: delivery.epoch, offset: entry.offset };
                    Replay::Publication { channel: delivery.channel.clone(), position }
                }
            };
            Some((Seq(first + nth), replay))
        })
    }

    /// Where delivery stands: `StartFacts.positions` of a resume, since what lies before is replayed.
    pub fn sent_positions(&self) -> Vec<ChannelPosition> {
        let current = self.channels.iter().filter(|delivery| delivery.current);
        current.map(|delivery| delivery.position(delivery.sent)).collect()
    }

    /// Where the client stands: `StartFacts.positions` of a new session of the same device, which begins with what
    /// was not acked.
    pub fn acked_positions(&self) -> Vec<ChannelPosition> {
        // Of a channel with several epochs the oldest that is not acked whole is where the loss would begin.
        let mut oldest: BTreeMap<&str, &Delivery> = BTreeMap::new();
        for delivery in
            self.channels.iter().filter(|delivery| delivery.current || delivery.acked < delivery.sent)
        {
            let known = oldest.entry(&delivery.channel).or_insert(delivery);
            if delivery.epoch < known.epoch {
                *known = delivery;
            }
        }
        oldest.values().map(|delivery| delivery.acked_position()).collect()
    }

    fn may_take(&self, bytes: usize) -> Result<(), LedgerError> {
        if self.overrun {
            return Err(LedgerError::Overrun);
        }
        // An empty ledger takes anything: the largest reply must be deliverable.
        let full = self.entries.len() >= UNACKED_FRAMES || self.bytes + bytes > UNACKED_BYTES;
        if full && !self.entries.is_empty() {
            return Err(LedgerError::Full);
        }
        if self.last >= self.reserved { Err(LedgerError::NotReserved) } else { Ok(()) }
    }

    fn keep_frame(&mut self, bytes: Bytes, channel: u32, offset: u64) -> Result<Seq, LedgerError> {
        let kept = bytes.len();
        let seq = self.take(Entry { offset, channel, kind: Kind::Frame }, kept)?;
        self.frames.push_back(bytes);
        Ok(seq)
    }

    fn take(&mut self, entry: Entry, bytes: usize) -> Result<Seq, LedgerError> {
        // No session gets there by sending: START takes no ack beyond half of what JSON can count.
        self.last = self.last.checked_add(1).ok_or(LedgerError::Full)?;
        self.bytes += bytes;
        if let Some(delivery) = self.channels.get_mut(entry.channel as usize) {
            delivery.entries += 1;
        }
        self.entries.push_back(entry);
        Ok(Seq(self.last))
    }

    /// The place of a channel in its epoch. A new epoch ends the channel's delivery in the last one.
    fn delivery(&mut self, channel: &Channel, epoch: u64, from: u64) -> u32 {
        let found = self.channels.iter().position(|known| known.channel == *channel && known.epoch == epoch);
        for known in self.channels.iter_mut().filter(|known| known.channel == *channel) {
            known.current = false;
        }
        let at = found.unwrap_or_else(|| {
            let new = Delivery {
                channel: channel.clone(),
                epoch,
                sent: from,
                acked: from,
                entries: 0,
                current: true,
            };
            // A client that comes and goes must not make the list longer with every channel it leaves.
            match self.channels.iter().position(|known| !known.current && known.entries == 0) {
                Some(free) => {
                    self.channels[free] = new;
                    free
                }
                None => {
                    self.channels.push(new);
                    self.channels.len() - 1
                }
            }
        });
        self.channels[at].current = true;
        // Places are reused, so there are no more than channels at once and unacked frames together: far below 2^32.
        at as u32
    }

    fn forget_entries(&mut self) {
        self.entries = VecDeque::new();
        self.frames = VecDeque::new();
        self.bytes = 0;
        for delivery in &mut self.channels {
            delivery.entries = 0;
        }
    }

    /// Entries name channels by their place, so places can only go when there is no entry.
    fn prune(&mut self) {
        if self.entries.is_empty() {
            self.channels.retain(|delivery| delivery.current);
        }
    }
}

impl Delivery {
    fn acked_position(&self) -> ChannelPosition {
        self.position(self.acked)
    }

    fn position(&self, offset: u64) -> ChannelPosition {
        Position { epoch: self.epoch, offset }.to_wire(&self.channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(Seq(0), Seq(1 << 20))
    }

    fn at(offset: u64) -> Position {
        Position { epoch: 7, offset }
    }

    fn publication(channel: &Channel, offset: u64) -> Replay {
        Replay::Publication { channel: channel.clone(), position: at(offset) }
    }

    #[test]
    fn s1_a_resume_replays_exactly_what_was_not_acked_with_its_numbers() {
        let channel = Channel::from("user:alice");
        for unacked in [0_u64, 1, 17, 1000] {
            let mut ledger = ledger();
            ledger.attached(&channel, at(100));
            for n in 1..=1000 {
                assert_eq!(ledger.begin_publication(&channel, at(100 + 2 * n)), Ok(Seq(n)));
            }
            ledger.ack(Seq(1000 - unacked)).unwrap();
            let expected: Vec<_> =
                (1001 - unacked..=1000).map(|n| (Seq(n), publication(&channel, 100 + 2 * n))).collect();
            assert_eq!(ledger.replay().collect::<Vec<_>>(), expected);
            assert_eq!(ledger.sent_positions(), [at(2100).to_wire("user:alice")]);
            let acked = if unacked == 1000 { 100 } else { 2100 - 2 * unacked };
            assert_eq!(ledger.acked_positions(), [at(acked).to_wire("user:alice")]);
        }
    }

    #[test]
    fn s4_an_ack_of_the_future_changes_nothing_and_a_lower_one_is_ignored() {
        let channel = Channel::from("all");
        let mut ledger = ledger();
        for n in 1..=5 {
            ledger.begin_publication(&channel, at(n)).unwrap();
        }
        assert_eq!(ledger.ack(Seq(6)), Err(LedgerError::Future(Seq(6))));
        assert_eq!(ledger.ack(Seq(3)).map(|acked| acked.positions), Ok(vec![at(3).to_wire("all")]));
        assert_eq!(ledger.ack(Seq(2)), Ok(Acked::default()));
        assert_eq!((ledger.acked(), ledger.replay().count()), (Seq(3), 2));
    }

    #[test]
    fn c1_numbers_have_no_hole_whatever_the_frames_are() {
        let channel = Channel::from("all");
        let mut ledger = ledger();
        let frame = |text: &'static str| Bytes::from_static(text.as_bytes());
        let taken = [
            ledger.begin_frame(frame("start"), 1),
            ledger.begin_publication(&channel, at(1)),
            ledger.begin_frame(frame("heartbeat"), 0),
            ledger.begin_gap(&channel, at(9), frame("gap")),
            ledger.park(frame("reply"), 7),
        ];
        assert_eq!(taken, [1, 2, 3, 4, 5].map(|n| Ok(Seq(n))));
        assert_eq!(ledger.sent_positions(), [at(9).to_wire("all")]);
        ledger.ack(Seq(1)).unwrap();
        let replay: Vec<_> = ledger.replay().collect();
        assert_eq!(replay[0], (Seq(2), publication(&channel, 1)));
        assert_eq!(replay[1], (Seq(3), Replay::Frame(frame("heartbeat"))));
        assert_eq!(replay[3], (Seq(5), Replay::Frame(frame("reply"))));
        let gap = Acked { positions: vec![at(9).to_wire("all")], answers: vec![] };
        assert_eq!(ledger.ack(Seq(4)), Ok(gap));
        assert_eq!(ledger.ack(Seq(5)), Ok(Acked { positions: vec![], answers: vec![7] }), "a reply");
    }

    #[test]
    fn a_client_that_does_not_ack_is_too_slow_by_count_and_by_bytes() {
        let channel = Channel::from("all");
        let mut by_count = ledger();
        for n in 1..=UNACKED_FRAMES as u64 {
            by_count.begin_publication(&channel, at(n)).unwrap();
        }
        assert_eq!(by_count.begin_publication(&channel, at(5000)), Err(LedgerError::Full));
        by_count.ack(Seq(1)).unwrap();
        assert_eq!(by_count.begin_publication(&channel, at(5000)), Ok(Seq(1001)));

        let mut by_bytes = ledger();
        let large = Bytes::from(vec![0; UNACKED_BYTES + 9]);
        assert_eq!(by_bytes.begin_frame(large.clone(), 0), Ok(Seq(1)), "the largest reply is deliverable");
        assert_eq!(by_bytes.begin_publication(&channel, at(1)), Err(LedgerError::Full));
        by_bytes.ack(Seq(1)).unwrap();
        assert_eq!(by_bytes.begin_frame(large, 0), Ok(Seq(2)));
    }

    #[test]
    fn a_client_that_comes_back_and_never_acks_is_not_kept_for() {
        let mut ledger = ledger();
        let reply = Bytes::from(vec![0; UNACKED_BYTES]);
        assert_eq!(ledger.begin_frame(reply.clone(), 0), Ok(Seq(1)));
        let mut parked = 0;
        while let Ok(seq) = ledger.park(reply.clone(), 0) {
            parked += 1;
            assert_eq!(seq, Seq(parked + 1));
            assert!(ledger.bytes <= UNACKED_BYTES + PARKED_BYTES);
        }
        assert_eq!(parked, (PARKED_BYTES / UNACKED_BYTES) as u64);
        // It costs nothing from here on, and no ack brings it back: the next START begins a session.
        assert_eq!((ledger.bytes, ledger.replay().count()), (0, 0));
        assert_eq!(ledger.park(Bytes::new(), 0), Err(LedgerError::Overrun));
        assert_eq!(ledger.begin_frame(Bytes::new(), 0), Err(LedgerError::Overrun));
        assert_eq!(ledger.ack(Seq(1)), Err(LedgerError::Overrun));

        let mut by_count = self::ledger();
        let parked = std::iter::from_fn(|| by_count.park(Bytes::new(), 0).ok()).count();
        assert_eq!(parked, UNACKED_FRAMES + PARKED_FRAMES);
    }

    #[test]
    fn what_overran_still_says_where_the_client_stands() {
        let channel = Channel::from("user:alice");
        let mut ledger = ledger();
        ledger.attached(&channel, at(4));
        ledger.begin_publication(&channel, at(5)).unwrap();
        ledger.ack(Seq(1)).unwrap();
        ledger.begin_publication(&channel, at(6)).unwrap();
        while ledger.park(Bytes::from(vec![0; UNACKED_BYTES]), 0).is_ok() {}
        assert_eq!(ledger.acked_positions(), [at(5).to_wire("user:alice")]);
    }

    #[test]
    fn channels_that_come_and_go_leave_nothing_behind_a_frame_that_is_not_acked() {
        let mut ledger = ledger();
        let kept = Channel::from("user:alice");
        ledger.attached(&kept, at(1));
        ledger.begin_publication(&kept, at(2)).unwrap();
        for n in 0..10_000 {
            let channel = Channel::from(format!("room:{n}"));
            ledger.attached(&channel, at(n));
            if n % 1000 == 0 {
                ledger.begin_publication(&channel, at(n + 1)).unwrap();
            }
            ledger.left(&channel);
        }
        assert!(ledger.channels.len() <= 12, "{} places", ledger.channels.len());
        let replayed: Vec<_> = ledger.replay().collect();
        assert_eq!(replayed[0], (Seq(1), publication(&kept, 2)));
        assert_eq!(replayed[10], (Seq(11), publication(&Channel::from("room:9000"), 9001)));
    }

    #[test]
    fn numbers_end_without_an_overflow() {
        let mut ledger = Ledger::new(Seq(u64::MAX - 1), Seq(0));
        assert_eq!(ledger.wants(), Some(Seq(u64::MAX)));
        ledger.reserved(Seq(u64::MAX));
        assert_eq!(ledger.wants(), None, "nothing is left to reserve");
        assert_eq!(ledger.begin_frame(Bytes::from_static(b"last"), 0), Ok(Seq(u64::MAX)));
        assert_eq!(ledger.replay().count(), 1);
        assert_eq!(ledger.park(Bytes::new(), 0), Err(LedgerError::Overrun));
    }

    #[test]
    fn numbers_are_taken_only_from_a_reserved_block() {
        let channel = Channel::from("all");
        let mut ledger = Ledger::new(Seq(41), Seq(0));
        assert_eq!(ledger.begin_publication(&channel, at(1)), Err(LedgerError::NotReserved));
        assert_eq!(ledger.wants(), Some(Seq(41 + SEQ_BLOCK)));
        ledger.reserved(Seq(41 + SEQ_BLOCK));
        assert_eq!(ledger.wants(), None);
        assert_eq!(ledger.begin_publication(&channel, at(1)), Ok(Seq(42)), "n + 1");
        for n in 1..SEQ_BLOCK / 2 {
            assert_eq!(ledger.wants(), None);
            ledger.begin_publication(&channel, at(n)).unwrap();
        }
        assert_eq!(ledger.wants(), Some(Seq(41 + 2 * SEQ_BLOCK)), "before the block is used up");
    }

    #[test]
    fn an_epoch_keeps_its_own_positions_and_is_forgotten_when_acked() {
        let channel = Channel::from("all");
        let mut ledger = ledger();
        ledger.begin_publication(&channel, at(5)).unwrap();
        let newer = Position { epoch: 8, offset: 1 };
        ledger.begin_publication(&channel, newer).unwrap();
        assert_eq!(ledger.acked_positions(), [at(0).to_wire("all")]);
        assert_eq!(ledger.sent_positions(), [newer.to_wire("all")]);
        let moved = ledger.ack(Seq(2)).map(|acked| acked.positions);
        assert_eq!(moved, Ok(vec![at(5).to_wire("all"), newer.to_wire("all")]));
        assert_eq!(ledger.acked_positions(), [newer.to_wire("all")]);
        ledger.left("all");
        assert_eq!((ledger.acked_positions(), ledger.sent_positions()), (vec![], vec![]));
    }
}
