//! Output buffers of one thread, so that an answer costs no allocation and an idle connection holds no buffer.

use std::cell::RefCell;

/// Buffers that a thread keeps: a few connections are written at once between two turns of a runtime thread.
const KEPT: usize = 8;

/// The largest buffer worth keeping.
const LARGEST: usize = 32 << 10;

/// A new buffer's least size: a few small packets.
const SMALLEST: usize = 512;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer for at least `size` bytes.
pub(crate) fn take(size: usize) -> Vec<u8> {
    let mut buffer = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
    buffer.reserve(size.max(SMALLEST));
    buffer
}

/// Gives a buffer back for reuse.
pub(crate) fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() > LARGEST {
        return;
    }
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.len() < KEPT {
            pool.push(buffer);
        }
    });
}
