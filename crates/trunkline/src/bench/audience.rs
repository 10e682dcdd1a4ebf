//! Many subscribers of one channel, on raw connections, and the account of what each of them heard.
//!
//! The same few instructions for our node and for any peer: a publication has a mark, its number and when it was due,
//! somewhere in its frame; nothing else of the frame is looked at. All members live on one thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use super::clock::Moment;
use super::figures::{Counts, counts};
use super::latency::Latencies;
use super::link::{Link, LinkReader, LinkWriter};

/// What a publication begins with, and what no other frame holds.
const MARK: [u8; 8] = *b"\x1btl\x1cmark";

/// The mark, the number and the moment: the smallest publication.
pub(crate) const STAMP: u32 = 24;

/// How long the last publication may take to reach the last member.
pub(super) const CATCH_UP: Duration = Duration::from_secs(30);

/// Numbers that a member remembers to miss.
const MOST_MISSING: usize = 10_000;

/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A publication with room for its stamp: bytes that are patched and sent again and again.
pub(super) struct Template {
    bytes: Vec<u8>,
    at: usize,
}

/// The members.
pub(super) struct Audience {
    shared: Rc<Shared>,
    tasks: JoinSet<()>,
}

/// What members and the publisher share.
pub(super) struct Shared {
    members: usize,
    /// Publications of one round. The publisher may be some rounds ahead of the slowest member.
    round: u64,
    is_timed: bool,
    pub(super) delivery: Latencies,
    tallies: Vec<RefCell<Tally>>,
    errors: RefCell<BTreeMap<String, u64>>,
    /// How many members have heard each round, from the first that not all have.
    rounds: RefCell<VecDeque<usize>>,
    complete: Cell<u64>,
    progress: Progress,
}

/// How far members are, all of them: here, or in other processes.
#[derive(Default)]
pub(super) struct Progress {
    heard: Cell<u64>,
    is_broken: Cell<bool>,
    changed: Notify,
}

/// What one member heard.
#[derive(Debug, Default)]
struct Tally {
    /// The number that comes next.
    next: u64,
    received: u64,
    /// Numbers below `next` that have not come.
    missing: BTreeSet<u64>,
    /// Those of them for which there was no room.
    lost: u64,
    /// Came after a later one.
    late: u64,
    doubled: u64,
    /// Where the mark was last time.
    at: usize,
}

/// What all of them heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    /// What came after a later one.
    pub(super) reordered: u64,
    /// Members that did not get as far as the last publication.
    pub(super) behind: u64,
    pub(super) errors: BTreeMap<String, u64>,
}

impl Template {
    /// From bytes that hold a publication made by [`Template::data`].
    pub(super) fn new(bytes: Vec<u8>) -> anyhow::Result<Self> {
        let at = bytes.windows(MARK.len()).position(|window| window == MARK);
        let at = at.ok_or_else(|| anyhow::anyhow!("the publication's mark was lost in its encoding"))?;
        Ok(Template { bytes, at })
    }

    /// The data of a publication of this size.
    pub(super) fn data(size: usize) -> Vec<u8> {
        let mut data = vec![b'x'; size.max(STAMP as usize)];
        data[..MARK.len()].copy_from_slice(&MARK);
        data
    }

    /// Appends the publication with this number.
    pub(super) fn write(&mut self, number: u64, due: Moment, out: &mut Vec<u8>) {
        self.bytes[self.at + 8..self.at + 16].copy_from_slice(&number.to_le_bytes());
        self.bytes[self.at + 16..self.at + STAMP as usize].copy_from_slice(&due.0.to_le_bytes());
        out.extend_from_slice(&self.bytes);
    }
}

impl Audience {
    /// Listens on these connections, each subscribed already. `is_timed`: every delivery's time is recorded. Needs a
    /// `LocalSet`.
    pub(super) fn start(
        links: Vec<Link>,
        beat: Option<Beat>,
        round: u64,
        is_timed: bool,
    ) -> anyhow::Result<Self> {
        let shared = Rc::new(Shared {
            members: links.len(),
            round,
            is_timed,
            delivery: Latencies::timed()?,
            tallies: links.iter().map(|_| RefCell::default()).collect(),
            errors: RefCell::default(),
            rounds: RefCell::default(),
            complete: Cell::new(0),
            progress: Progress::default(),
        });
        let mut tasks = JoinSet::new();
        let mut writers = Vec::with_capacity(links.len());
        for (at, Link { reader, writer }) in links.into_iter().enumerate() {
            tasks.spawn_local(Rc::clone(&shared).listen(at, reader));
            writers.push(writer);
        }
        tasks.spawn_local(keep(writers, beat));
        Ok(Audience { shared, tasks })
    }

    pub(super) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// Waits until every member has heard as many as were for it, or for as long as that may take.
    pub(super) async fn conclude(mut self, published: impl Fn(usize) -> u64) -> Heard {
        let deadline = Instant::now() + CATCH_UP;
        let is_behind = |(at, tally): (usize, &RefCell<Tally>)| tally.borrow().is_behind(published(at));
        while self.shared.tallies.iter().enumerate().any(is_behind)
            && self.shared.errors.borrow().is_empty()
            && Instant::now() < deadline
        {
            sleep(LOOK_EVERY).await;
        }
        self.tasks.shutdown().await;
        let mut heard = Heard { errors: self.shared.errors.take(), ..Heard::default() };
        for (at, tally) in self.shared.tallies.iter().enumerate() {
            heard.behind += u64::from(is_behind((at, tally)));
            let tally = tally.borrow();
            heard.received += tally.received;
            heard.lost += tally.lost + tally.missing.len() as u64;
            heard.doubled += tally.doubled;
            heard.reordered += tally.late;
        }
        heard
    }
}

impl Heard {
    pub(super) fn counts(&self) -> Counts {
        counts([
            ("received", self.received),
            ("lost", self.lost),
            ("duplicates", self.doubled),
            ("reordered", self.reordered),
            ("behind", self.behind),
        ])
    }
}

/// What of these counts must not be, in whatever order it came.
pub(super) fn failure(counts: &Counts) -> Option<String> {
    let of = |name| counts.get(name).copied().unwrap_or_default();
    let (lost, doubled, behind) = (of("lost"), of("duplicates"), of("behind"));
    (lost + doubled + behind > 0)
        .then(|| format!("{lost} lost, {doubled} came twice, {behind} subscribers did not get the last"))
}

impl Progress {
    /// Publications that every member has heard.
    pub(super) fn heard_by_all(&self) -> u64 {
        self.heard.get()
    }

    /// Every member has heard so many.
    pub(super) fn reaches(&self, heard: u64) {
        if heard > self.heard.get() {
            self.heard.set(heard);
            self.changed.notify_one();
        }
    }

    /// Has a member failed? Nobody need go on then.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    /// A member has failed: who waits for it would wait for ever.
    pub(super) fn breaks(&self) {
        self.is_broken.set(true);
        self.changed.notify_one();
    }

    /// Waits until it goes on or breaks. For one at a time. Cancel safe.
    pub(super) async fn changes(&self) {
        self.changed.notified().await;
    }
}

impl Shared {
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    async fn listen(self: Rc<Self>, at: usize, mut reader: LinkReader) {
        loop {
            let before = self.tallies[at].borrow().next;
            let came = reader.some(&mut |frame| self.tallies[at].borrow_mut().take(frame, at, &self)).await;
            for round in before / self.round..self.tallies[at].borrow().next / self.round {
                self.heard(round);
            }
            if let Err(error) = came {
                *self.errors.borrow_mut().entry(error.to_string()).or_default() += 1;
                return self.progress.breaks();
            }
        }
    }

    /// One more member has heard this round.
    fn heard(&self, round: u64) {
        let mut rounds = self.rounds.borrow_mut();
        let Some(ahead) = round.checked_sub(self.complete.get()) else { return };
        let ahead = usize::try_from(ahead).unwrap_or(usize::MAX);
        while rounds.len() <= ahead {
            rounds.push_back(0);
        }
        rounds[ahead] += 1;
        while rounds.front().is_some_and(|heard| *heard >= self.members) {
            rounds.pop_front();
            self.complete.set(self.complete.get() + 1);
            self.progress.reaches(self.complete.get() * self.round);
        }
    }
}

impl Tally {
    fn is_behind(&self, published: u64) -> bool {
        self.next < published || !self.missing.is_empty()
    }

    fn take(&mut self, frame: &[u8], who: usize, shared: &Shared) {
        if frame.get(self.at..self.at + MARK.len()) != Some(&MARK[..]) {
            let found = frame.windows(MARK.len()).position(|window| window == MARK);
            // Whatever else a server says: it is no publication.
            let Some(at) = found else { return };
            self.at = at;
        }
        let number = |at: usize| frame.get(at..).and_then(|rest| rest.first_chunk::<8>());
        let (Some(count), Some(due)) = (number(self.at + 8), number(self.at + 16)) else { return };
        let count = u64::from_le_bytes(*count);
        match count.checked_sub(self.next) {
            Some(0) => self.next += 1,
            Some(missed) => {
                let room = (MOST_MISSING - self.missing.len().min(MOST_MISSING)) as u64;
                self.missing.extend(self.next..self.next + missed.min(room));
                self.lost += missed.saturating_sub(room);
                self.next = count + 1;
            }
            None if self.missing.remove(&count) => self.late += 1,
            None => self.doubled += 1,
        }
        self.received += 1;
        if shared.is_timed {
            shared.delivery.record(who, Moment::now().since(Moment(u64::from_le_bytes(*due))));
        }
    }
}

/// What a node wants to hear from a silent client.
pub(super) struct Beat {
    pub(super) payload: Vec<u8>,
    pub(super) every: Duration,
}

/// Keeps the write sides, and with them the connections. A share of the members beats every second.
async fn keep(mut writers: Vec<LinkWriter>, beat: Option<Beat>) {
    let Some(Beat { payload, every }) = beat else { return std::future::pending().await };
    let seconds = usize::try_from(every.as_secs()).unwrap_or(1).max(1);
    let mut ticks = interval(Duration::from_secs(1));
    let mut turn = 0;
    loop {
        ticks.tick().await;
        for writer in writers.iter_mut().skip(turn).step_by(seconds) {
            // Who is gone is told by its reader.
            let _ = writer.send(&payload).await;
        }
        turn = (turn + 1) % seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(members: usize, round: u64) -> Shared {
        Shared {
            members,
            round,
            is_timed: true,
            delivery: Latencies::new().unwrap(),
            tallies: Vec::new(),
            errors: RefCell::default(),
            rounds: RefCell::default(),
            complete: Cell::new(0),
            progress: Progress::default(),
        }
    }

    #[test]
    fn what_is_missing_and_what_comes_twice_is_counted() {
        let shared = shared(1, 1);
        let mut template =
            Template::new([b"head".to_vec(), Template::data(30), b"tail".to_vec()].concat()).unwrap();
        let mut tally = Tally::default();
        for number in [0, 1, 4, 4, 3, 3, 5] {
            let mut frame = Vec::new();
            template.write(number, Moment::now(), &mut frame);
            // The place of the mark may change.
            tally.take(&frame[usize::from(number > 4)..], 0, &shared);
            tally.take(b"another frame", 0, &shared);
        }
        assert_eq!((tally.received, tally.next, tally.late, tally.doubled), (7, 6, 1, 2));
        assert_eq!(tally.missing, BTreeSet::from([2]));
        assert!(tally.is_behind(6));
        let mut far = Vec::new();
        template.write(6 + MOST_MISSING as u64, Moment::now(), &mut far);
        tally.take(&far, 0, &shared);
        assert_eq!((tally.missing.len(), tally.lost), (MOST_MISSING, 1));
        assert_eq!(shared.delivery.percentiles().count, 8);
    }

    #[test]
    fn a_round_is_complete_when_all_have_heard_it() {
        let shared = shared(2, 16);
        for (round, complete) in [(0, 0), (1, 0), (0, 16), (2, 16), (1, 32), (2, 48)] {
            shared.heard(round);
            assert_eq!(shared.progress.heard_by_all(), complete);
        }
        assert!(shared.rounds.borrow().is_empty());
    }
}
