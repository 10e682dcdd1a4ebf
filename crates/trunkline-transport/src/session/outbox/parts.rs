//! Packets as pieces of memory, in the order in which they are written: how one is added, and how a vectored write takes
//! them off. It bounds nothing, and knows neither who waits nor which packets may be given up.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

use crate::{
    FrameKind, Framing, Role,
    defaults::COALESCE,
    packet::{HEADER, Header},
    session::pool,
    websocket_framing,
};

/// Parts of one vectored write: as many as fit a page of the kernel's vectors.
const PARTS: usize = 64;

/// A buffer that has grown to this takes no further packet.
const TAIL: usize = 16 << 10;

/// What the writer takes at once: the rest stays where the policies can reach it.
pub(super) const BATCH: usize = 64 << 10;

/// One piece of output.
#[derive(Debug)]
pub(crate) struct Part {
    chunk: Chunk,
    /// It goes on with the packet that the part before has begun.
    continues: bool,
    is_droppable: bool,
}

impl Part {
    /// A whole framed packet, which is kept until it is written.
    pub(super) fn whole(bytes: Vec<u8>) -> Self {
        Self { chunk: Chunk::Owned(bytes), continues: false, is_droppable: false }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.chunk.bytes()
    }

    pub(crate) fn continues(&self) -> bool {
        self.continues
    }

    /// A packet begins here that may be given up.
    pub(super) fn begins_droppable(&self) -> bool {
        self.is_droppable && !self.continues
    }

    /// So many of its bytes are written: the rest goes on with a packet that has begun.
    pub(super) fn begin(&mut self, bytes: usize) {
        match &mut self.chunk {
            Chunk::Owned(chunk) => drop(chunk.drain(..bytes)),
            Chunk::Shared(chunk) => chunk.advance(bytes),
        }
        self.continues = true;
        self.is_droppable = false;
    }
}

#[derive(Debug)]
enum Chunk {
    Owned(Vec<u8>),
    Shared(Bytes),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// A packet that was encoded once for many connections.
#[derive(Clone, Debug)]
pub(crate) struct SharedFrame {
    /// Headers, and the payload too if it is short.
    pub(crate) head: Bytes,
    /// A long payload.
    pub(crate) body: Bytes,
}

impl SharedFrame {
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// Appends a packet to a queue and says how many bytes it takes.
pub(super) fn push(
    parts: &mut VecDeque<Part>,
    framing: Framing,
    header: Header,
    ext: &[u8],
    payload: &Bytes,
    apart: bool,
) -> usize {
    let total = header.total();
    let masks = framing == (Framing::WebSocket { role: Role::Client });
    let copies = masks || payload.len() <= COALESCE;
    let size = if copies { total } else { HEADER + ext.len() } + Framing::MAX_HEADER;
    let tail = tail(parts, size, apart);
    let start = tail.len();
    if copies {
        write(framing, header, ext, payload, tail);
    } else {
        framing.write_header(FrameKind::Binary, total, tail);
        tail.extend_from_slice(&header.to_bytes());
        tail.extend_from_slice(ext);
    }
    let mut added = tail.len() - start;
    if !copies {
        added += payload.len();
        share(parts, payload.clone(), true, apart);
    }
    added
}

/// Takes a batch off the front of a queue: how many bytes it has.
pub(super) fn take_parts(parts: &mut VecDeque<Part>, into: &mut VecDeque<Part>) -> usize {
    let mut taken = 0;
    while let Some(part) = parts.front() {
        // A packet that has begun must be gone on with, whatever happens to those behind it.
        if taken >= BATCH && !part.continues {
            break;
        }
        taken += part.chunk.bytes().len();
        first_of_few(into);
        into.extend(parts.pop_front());
    }
    taken
}

pub(super) fn has_tail(parts: &VecDeque<Part>, size: usize) -> bool {
    matches!(
        parts.back(),
        // Behind the rest of a packet nothing is added: whole packets can be taken back.
        Some(Part { chunk: Chunk::Owned(bytes), is_droppable: false, continues: false })
            if bytes.len() + size <= TAIL
    )
}

/// The buffer that the next bytes go to.
pub(super) fn tail(parts: &mut VecDeque<Part>, size: usize, apart: bool) -> &mut Vec<u8> {
    if apart || !has_tail(parts, size) {
        let chunk = Chunk::Owned(pool::take(size));
        first_of_few(parts);
        parts.push_back(Part { chunk, continues: false, is_droppable: apart });
    }
    match parts.back_mut() {
        Some(Part { chunk: Chunk::Owned(bytes), .. }) => bytes,
        _ => unreachable!("the last part is owned: it was checked or pushed just now"),
    }
}

/// A whole framed packet.
pub(super) fn own(parts: &mut VecDeque<Part>, framed: Vec<u8>, is_droppable: bool) {
    first_of_few(parts);
    parts.push_back(Part { chunk: Chunk::Owned(framed), continues: false, is_droppable });
}

pub(super) fn share(parts: &mut VecDeque<Part>, bytes: Bytes, continues: bool, is_droppable: bool) {
    first_of_few(parts);
    parts.push_back(Part { chunk: Chunk::Shared(bytes), continues, is_droppable });
}

/// Makes room for one in a queue that never had any: most connections never have more, and keep what they once had.
pub(crate) fn first_of_few<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() == 0 {
        queue.reserve_exact(1);
    }
}

/// Writes a whole framed packet.
pub(super) fn write(framing: Framing, header: Header, ext: &[u8], payload: &[u8], out: &mut Vec<u8>) {
    let total = header.total();
    if framing == (Framing::WebSocket { role: Role::Client }) {
        websocket_framing::write_masked(out, total, &[&header.to_bytes(), ext, payload]);
        return;
    }
    framing.write_header(FrameKind::Binary, total, out);
    out.extend_from_slice(&header.to_bytes());
    out.extend_from_slice(ext);
    out.extend_from_slice(payload);
}

/// Writes the front of a batch by one vectored write; `offset` bytes of the first part are written already.
pub(crate) fn gathered<R>(
    batch: &VecDeque<Part>,
    offset: usize,
    write: impl FnOnce(&[IoSlice<'_>]) -> R,
) -> R {
    // Mostly there is one, and the room for all would cost more than it does.
    if let (1, Some(part)) = (batch.len(), batch.front()) {
        return write(&[IoSlice::new(&part.bytes()[offset..])]);
    }
    let mut slices = [IoSlice::new(&[]); PARTS];
    let mut count = 0;
    for (slice, part) in slices.iter_mut().zip(batch) {
        let skip = if count == 0 { offset } else { 0 };
        *slice = IoSlice::new(&part.bytes()[skip..]);
        count += 1;
    }
    write(&slices[..count])
}

/// Takes `written` bytes off the front of a batch and says where in its first part it stands now.
pub(crate) fn advance(batch: &mut VecDeque<Part>, mut offset: usize, mut written: usize) -> usize {
    while let Some(part) = batch.front() {
        let left = part.chunk.bytes().len() - offset;
        if written < left {
            return offset + written;
        }
        written -= left;
        offset = 0;
        if let Some(Part { chunk: Chunk::Owned(bytes), .. }) = batch.pop_front() {
            pool::give(bytes);
        }
    }
    0
}
