//! The decoder of [`crate::Framing::Length`]: pure, over whatever bytes have arrived.
//!
//! It never allocates for a declared length: a partial frame is as large as the bytes that came.

use bytes::{Buf, Bytes, BytesMut};

use crate::ReadError;

/// Takes the next whole frame off the front of `chunk`, or leaves it as it is.
pub(crate) fn decode(chunk: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, ReadError> {
    let Some(header) = chunk.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*header);
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= limit) else {
        return Err(ReadError::TooLarge { length: length.into(), limit });
    };
    if chunk.len() - 4 < length {
        return Ok(None);
    }
    chunk.advance(4);
    Ok(Some(take(chunk, length).freeze()))
}

/// `chunk.split_to(length)` that does not share the allocation when nothing is left behind.
pub(crate) fn take(chunk: &mut BytesMut, length: usize) -> BytesMut {
    if length == chunk.len() { std::mem::take(chunk) } else { chunk.split_to(length) }
}
