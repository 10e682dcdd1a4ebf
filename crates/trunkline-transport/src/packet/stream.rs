//! [`crate::Framing::Packet`]: packets back to back on a byte stream, told apart by their own header. Pure.
//!
//! A header is judged as soon as its 16 bytes are there, and nothing is allocated for what it declares.

use bytes::{Bytes, BytesMut};

use super::{HEADER, Header, WireError};
use crate::{ReadError, length::take};

/// Takes the next whole packet, header included, off the front of `chunk`, or leaves it as it is.
pub(crate) fn decode(chunk: &mut BytesMut, max_payload: usize) -> Result<Option<Bytes>, ReadError> {
    let Some(header) = chunk.first_chunk::<HEADER>() else {
        // A version that is not ours is refused by its first byte: a peer that speaks HTTP never sends sixteen.
        return match chunk.first() {
            None | Some(1 | 2) => Ok(None),
            Some(other) => Err(refused(&WireError::Version(*other))),
        };
    };
    let total = Header::parse(header, max_payload).map_err(|error| refused(&error))?.total();
    if chunk.len() < total {
        return Ok(None);
    }
    Ok(Some(take(chunk, total).freeze()))
}

/// The packet that `bytes` are, no more and no less.
pub(crate) fn whole(bytes: &[u8], max_payload: usize) -> Option<&[u8]> {
    let header = Header::parse(bytes.first_chunk()?, max_payload).ok()?;
    (header.total() == bytes.len()).then_some(bytes)
}

pub(crate) fn refused(error: &WireError) -> ReadError {
    let reason = match error {
        WireError::TooLarge { length, limit } => {
            return ReadError::TooLarge { length: *length as u64, limit: *limit };
        }
        WireError::Version(_) => "unknown packet version",
        WireError::Type(_) => "unknown packet type",
        WireError::Compression(_) => "unknown compression",
        WireError::NotCompiledIn(_) => "this compression is not spoken here",
        WireError::Dictionary(_) | WireError::NoDictionary => {
            "the payload is compressed with a dictionary that is not here"
        }
        WireError::Inflate(_) => "the payload does not inflate",
        WireError::Control(_) => "malformed control packet",
        WireError::Length { .. } | WireError::ExtHeader(_) => "the packet's lengths do not add up",
    };
    ReadError::Protocol { close_code: 1002, reason }
}
