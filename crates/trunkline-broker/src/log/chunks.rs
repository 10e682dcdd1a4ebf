//! The encoded bytes of one variant of a log: runs of publications, each run one allocation.
//!
//! A run is made whole when it is first needed and never grows, so that what is handed out is immutable and
//! shared. Many small runs in a row are joined when a reader meets them. No lock and no encoding here.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::window::{Seq, Window};
use crate::defaults::{CHUNK_BYTES, JOIN_CHUNKS};

/// The bytes of the publications `first`, `first + 1`, …, without a gap between them.
#[derive(Debug)]
pub(super) struct Chunk {
    first: Seq,
    /// Where each publication but the last ends: a chunk of one publication allocates nothing for it.
    ends: Box<[u32]>,
    bytes: Bytes,
}

impl Chunk {
    /// Takes the bytes of several publications and where each ends.
    pub(super) fn new(first: Seq, bytes: Bytes, mut ends: Vec<u32>) -> Self {
        ends.pop();
        Chunk { first, ends: ends.into_boxed_slice(), bytes }
    }

    fn count(&self) -> u64 {
        self.ends.len() as u64 + 1
    }

    /// The number after its last publication.
    pub(super) fn end(&self) -> Seq {
        self.first + self.count()
    }

    /// Where the publication at `index` begins.
    fn start_of(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.end_of(before))
    }

    fn end_of(&self, index: usize) -> usize {
        self.ends.get(index).map_or(self.bytes.len(), |end| *end as usize)
    }

    /// The bytes from publication `seq` on that fit `budget`, and how many publications they are.
    pub(super) fn take(&self, seq: Seq, budget: usize, least: Least) -> (Bytes, u32) {
        let from = (seq - self.first) as usize;
        let start = self.start_of(from);
        let mut until = from;
        while until <= self.ends.len() && self.end_of(until) - start <= budget {
            until += 1;
        }
        if until == from && least == Least::One {
            until += 1;
        }
        if until == from {
            return (Bytes::new(), 0);
        }
        (self.bytes.slice(start..self.end_of(until - 1)), (until - from) as u32)
    }
}

/// What is taken even if it does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Least {
    /// Nothing.
    Nothing,
    /// The first publication, so that one larger than a whole budget gets through.
    One,
}

/// All that is encoded of one variant, in order, with holes where nobody has asked yet.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

impl Chunks {
    /// The chunk that holds a publication.
    pub(super) fn find(&self, seq: Seq) -> Option<usize> {
        let at = self.chunks.partition_point(|chunk| chunk.end() <= seq);
        self.chunks.get(at).filter(|chunk| chunk.first <= seq).map(|_| at)
    }

    pub(super) fn chunk(&self, at: usize) -> Option<&Chunk> {
        self.chunks.get(at)
    }

    /// What all chunks take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts a new chunk in its place. Its publications must not be encoded yet.
    pub(super) fn insert(&mut self, chunk: Chunk) {
        self.bytes += chunk.bytes.len();
        let at = self.chunks.partition_point(|other| other.first < chunk.first);
        self.chunks.insert(at, chunk);
    }

    /// Drops the chunks that only hold publications before `base`.
    pub(super) fn release_before(&mut self, base: Seq) {
        while self.chunks.front().is_some_and(|chunk| chunk.end() <= base) {
            self.bytes -= self.chunks.pop_front().map_or(0, |chunk| chunk.bytes.len());
        }
    }

    /// Drops the chunk that holds a publication; what else it holds is encoded again when it is asked for.
    pub(super) fn drop_holding(&mut self, seq: Seq) {
        let chunk = self.find(seq).and_then(|at| self.chunks.remove(at));
        self.bytes -= chunk.map_or(0, |chunk| chunk.bytes.len());
    }

    /// Joins the chunks from `at` on, if enough of them follow each other and fit one chunk.
    pub(super) fn join_from(&mut self, at: usize, window: &Window) {
        let Some(first) = self.chunks.get(at) else { return };
        let (mut size, mut end, mut run) = (first.bytes.len(), first.end(), 1);
        while let Some(next) = self.chunks.get(at + run) {
            if next.first != end || !window.follows(end) || size + next.bytes.len() > CHUNK_BYTES {
                break;
            }
            (size, end, run) = (size + next.bytes.len(), next.end(), run + 1);
        }
        if run < JOIN_CHUNKS {
            return;
        }
        let mut bytes = BytesMut::with_capacity(size);
        let mut ends = Vec::new();
        let first = first.first;
        for chunk in self.chunks.drain(at..at + run) {
            let before = bytes.len();
            ends.extend((0..chunk.count() as usize).map(|i| (before + chunk.end_of(i)) as u32));
            bytes.extend_from_slice(&chunk.bytes);
        }
        self.chunks.insert(at, Chunk::new(first, bytes.freeze(), ends));
    }
}
