//! Reading a log from a cursor towards its head, in bytes that all readers of a variant share.
//!
//! The state's lock is held to copy references; encoding happens outside it, under the variant's own lock, so a
//! publisher never waits for an encoder and two readers never encode the same publication.

use bytes::{Bytes, BytesMut};

use super::chunks::{Chunk, Least};
use super::state::{Place, State};
use super::window::Seq;
use super::{Cursor, Log};
use crate::defaults::CHUNK_BYTES;
use crate::item::{Encode, Entry, Variant};
use crate::names::Position;

/// Bytes to write: one or more whole publications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The frames, shared with other readers. They keep at most one chunk of the log alive.
    pub bytes: Bytes,
    /// The position of the last publication in it.
    pub last: Position,
    /// How many publications it holds.
    pub entries: u32,
}

/// Why reading stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum ReadOutcome {
    /// The budget was used up, or a gap comes next: read again.
    More,
    /// Everything is read: park.
    AtHead,
    /// Nothing was read and the cursor has moved, because what lay between is lost. The reader says so in this
    /// place, then reads on.
    Gap {
        /// Where the cursor was.
        from: Position,
        /// Where it is now.
        next: Position,
    },
}

/// What one look under the lock came to.
enum Look {
    Stop(ReadOutcome),
    /// This publication is not encoded yet.
    Encode(Seq),
}

/// A read under way.
struct Reading<'a> {
    cursor: &'a mut Cursor,
    variant: Variant,
    budget: usize,
    out: &'a mut Vec<Piece>,
    took: bool,
}

impl Log {
    /// Reads from the cursor towards the head: appends up to `max_bytes` (but one publication at least) to `out` and
    /// moves the cursor behind it. Locks are released when it returns; the pieces stay valid without them.
    pub fn read(
        &self,
        cursor: &mut Cursor,
        variant: Variant,
        encode: &dyn Encode,
        max_bytes: usize,
        out: &mut Vec<Piece>,
    ) -> ReadOutcome {
        self.read_then(cursor, variant, encode, max_bytes, out, |_, _| {})
    }

    /// Reads, and does something at the head under the same lock.
    pub(super) fn read_then(
        &self,
        cursor: &mut Cursor,
        variant: Variant,
        encode: &dyn Encode,
        max_bytes: usize,
        out: &mut Vec<Piece>,
        at_head: impl FnOnce(&mut State, &Cursor),
    ) -> ReadOutcome {
        let mut reading = Reading { cursor, variant, budget: max_bytes, out, took: false };
        loop {
            let mut state = self.state.lock();
            state.expire_due(&self.shared);
            let look = reading.look(&mut state);
            if let Look::Stop(_) = look {
                state.drop_encodings_if_tight(&self.shared);
            }
            self.settle(&mut state);
            match look {
                Look::Stop(outcome) => {
                    if outcome == ReadOutcome::AtHead {
                        at_head(&mut state, reading.cursor);
                    }
                    return outcome;
                }
                Look::Encode(seq) => {
                    drop(state);
                    self.encode_from(seq, variant, encode);
                }
            }
        }
    }

    /// The bytes of one publication, while it is kept: what protocol 0 sends again.
    pub fn encoded(&self, at: Position, variant: Variant, encode: &dyn Encode) -> Option<Bytes> {
        let entry = self.entry(at)?;
        let mut cursor = Cursor::at(Position { offset: entry.prev, ..at });
        let mut out = Vec::new();
        let _ = self.read(&mut cursor, variant, encode, 0, &mut out);
        // Between the two looks the entry may have gone, and what was read is then another one.
        out.into_iter().next().filter(|piece| piece.last == at && piece.entries == 1).map(|piece| piece.bytes)
    }

    /// Encodes a run of publications from `seq` on, up to one chunk, unless another reader was faster.
    fn encode_from(&self, seq: Seq, variant: Variant, encode: &dyn Encode) {
        let _turn = self.encoding[variant.index()].lock();
        let run = self.state.lock().unencoded_run(seq, variant);
        let Some(last) = run.len().checked_sub(1) else { return };
        let room = run.iter().map(|entry| entry.item.cost() + 64).sum();
        let mut bytes = BytesMut::with_capacity(room);
        let mut ends = Vec::with_capacity(run.len());
        for entry in &run {
            encode.encode(&self.channel, entry, &mut bytes);
            // 4 GiB in one chunk would need one publication of that size, which no frame limit allows.
            ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        // What is left of the reservation would stay allocated as long as the chunk.
        let spare = bytes.capacity() - bytes.len();
        let bytes = if spare > bytes.len() / 8 { Bytes::copy_from_slice(&bytes) } else { bytes.freeze() };
        let mut state = self.state.lock();
        if let Some(kept) = state.kept_mut() {
            kept.encodings[variant.index()] += run.len() as u64;
            if seq + last as u64 >= kept.window.base() {
                kept.parts(variant).1.insert(Chunk::new(seq, bytes, ends));
            }
        }
        self.settle(&mut state);
    }
}

impl State {
    /// The publications from `seq` on that are not encoded, none missing between them, about one chunk's worth.
    fn unencoded_run(&mut self, seq: Seq, variant: Variant) -> Vec<Entry> {
        let Some((epoch, kept)) = self.epoch().zip(self.kept_mut()) else { return Vec::new() };
        let (window, chunks) = kept.parts(variant);
        let mut run: Vec<Entry> = Vec::new();
        let mut size = 0;
        for at in seq.. {
            let Some(entry) = window.entry(epoch, at) else { break };
            size += entry.item.cost();
            if chunks.find(at).is_some() || at > seq && (size > CHUNK_BYTES || !window.follows(at)) {
                break;
            }
            run.push(entry);
        }
        run
    }
}

impl Reading<'_> {
    fn look(&mut self, state: &mut State) -> Look {
        let mut seq = match state.place(self.cursor.position) {
            Place::Head => {
                self.cursor.position = state.head_position();
                return Look::Stop(ReadOutcome::AtHead);
            }
            Place::Gap { .. } if self.took => return Look::Stop(ReadOutcome::More),
            Place::Gap { next } => {
                let from = std::mem::replace(&mut self.cursor.position, next);
                return Look::Stop(ReadOutcome::Gap { from, next });
            }
            Place::At(seq) => seq,
        };
        let Some((epoch, kept)) = state.epoch().zip(state.kept_mut()) else {
            // `Place::At` was found in the window, so there is one.
            return Look::Stop(ReadOutcome::AtHead);
        };
        let (window, chunks) = kept.parts(self.variant);
        loop {
            if seq == window.end() {
                return Look::Stop(ReadOutcome::AtHead);
            }
            if self.took && (self.budget == 0 || !window.follows(seq)) {
                return Look::Stop(ReadOutcome::More);
            }
            let Some(at) = chunks.find(seq) else { return Look::Encode(seq) };
            chunks.join_from(at, window);
            let Some(chunk) = chunks.chunk(at) else { return Look::Encode(seq) };
            let least = if self.took { Least::Nothing } else { Least::One };
            let (bytes, entries) = chunk.take(seq, self.budget, least);
            if entries == 0 {
                return Look::Stop(ReadOutcome::More);
            }
            seq += u64::from(entries);
            let Some(last) = window.slot(seq - 1) else { return Look::Stop(ReadOutcome::More) };
            self.cursor.position = Position { epoch, offset: last.offset };
            self.budget = self.budget.saturating_sub(bytes.len());
            self.took = true;
            if !bytes.is_empty() {
                self.out.push(Piece { bytes, last: self.cursor.position, entries });
            }
        }
    }
}
