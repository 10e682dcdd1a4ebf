//! What is chosen for one vectored write. A thread has one and lends it out, so that a connection holds no room for frames,
//! and a delivery costs no allocation.

use std::cell::Cell;
use std::io::IoSlice;

use bytes::Bytes;
use trunkline_broker::{Cursor, Piece};

use crate::stats::Stats;

/// One vectored write takes at most this much: what a default socket buffer takes at once, so that more would only
/// be gathered in vain.
const MAX_BYTES: usize = 256 * 1024;

/// And at most so many slices: the kernel's UIO_MAXIOV is 1,024, and beyond some hundred there is nothing to win.
const MAX_SLICES: usize = 256;

thread_local! {
    static LENT: Cell<Option<Box<Gathering>>> = const { Cell::new(None) };
}

/// See the module.
#[derive(Default)]
pub(crate) struct Gathering {
    pub(super) frames: Vec<Gathered>,
    pub(super) pieces: Vec<Piece>,
    pub(super) written: Written,
    bytes: usize,
}

/// Bytes gathered for a write, and what is true once they are begun.
pub(super) struct Gathered {
    pub(super) bytes: Bytes,
    pub(super) source: Source,
}

pub(super) enum Source {
    Begun,
    Outbox,
    /// Up to `last` the channel is written once these bytes are; no entry: they tell a gap.
    Channel {
        index: usize,
        last: Cursor,
        entries: u32,
    },
}

/// How much was begun, for counters.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) deliveries: u64,
    pub(super) gaps: u64,
    /// Publications that were made into bytes here first.
    pub(super) encoded: u64,
}

impl Gathering {
    /// Lends the thread's, which is empty again afterwards: nothing of it pins a log longer than that. What was begun is
    /// counted then.
    pub(crate) fn lend<R>(stats: &Stats, to: impl FnOnce(&mut Self) -> R) -> R {
        // Taken rather than borrowed: who is lent to inside of another loan gets one of its own.
        let mut gathering = LENT.take().unwrap_or_default();
        let result = to(&mut gathering);
        gathering.clear();
        std::mem::take(&mut gathering.written).count(stats);
        LENT.set(Some(gathering));
        result
    }

    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.pieces.clear();
        self.bytes = 0;
    }

    /// Hands all of it to one vectored write.
    pub(crate) fn write<R>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        // Mostly it is one publication.
        if let [one] = &self.frames[..] {
            return write(&[IoSlice::new(&one.bytes)]);
        }
        let slices: Vec<_> = self.frames.iter().map(|frame| IoSlice::new(&frame.bytes)).collect();
        write(&slices)
    }

    pub(super) fn push(&mut self, bytes: Bytes, source: Source) {
        self.bytes += bytes.len();
        self.frames.push(Gathered { bytes, source });
    }

    /// How many bytes it still takes.
    pub(super) fn room(&self) -> usize {
        if self.frames.len() < MAX_SLICES { MAX_BYTES.saturating_sub(self.bytes) } else { 0 }
    }
}

impl Written {
    fn count(self, stats: &Stats) {
        let Written { deliveries, gaps, encoded } = self;
        let counted = [
            (&stats.deliveries, deliveries),
            (&stats.gaps_told, gaps),
            (&stats.publications_encoded, encoded),
        ];
        counted.into_iter().filter(|(_, more)| *more > 0).for_each(|(counter, more)| counter.add(more));
    }
}
