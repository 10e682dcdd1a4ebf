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

/// The payload of a frame that `bytes` are, no more and no less.
pub(crate) fn whole(bytes: &[u8], limit: usize) -> Option<&[u8]> {
    let (header, payload) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*header)).ok()?;
    (length == payload.len() && length <= limit).then_some(payload)
}

/// `chunk.split_to(length)` that does not share the allocation when nothing is left behind.
pub(crate) fn take(chunk: &mut BytesMut, length: usize) -> BytesMut {
    if length == chunk.len() { std::mem::take(chunk) } else { chunk.split_to(length) }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;

    use super::decode;
    use crate::{FrameKind, Framing, ReadError};

    fn outcome(pieces: &[&[u8]], limit: usize) -> (Vec<Bytes>, Option<u64>, usize) {
        let mut chunk = BytesMut::new();
        let mut out = Vec::new();
        for piece in pieces {
            chunk.extend_from_slice(piece);
            loop {
                match decode(&mut chunk, limit) {
                    Ok(Some(frame)) => out.push(frame),
                    Ok(None) => break,
                    Err(ReadError::TooLarge { length, .. }) => return (out, Some(length), 0),
                    Err(other) => panic!("{other}"),
                }
            }
        }
        (out, None, chunk.len())
    }

    #[test]
    fn a_length_over_the_limit_is_refused_by_its_four_bytes() {
        for (header, limit) in [([0, 0, 0, 6], 5), ([0xFF; 4], 1 << 20), ([0, 0x10, 0, 1], 1 << 20)] {
            let error = decode(&mut BytesMut::from(&header[..]), limit).unwrap_err();
            assert!(
                matches!(error, ReadError::TooLarge { length, .. } if length == u64::from(u32::from_be_bytes(header)))
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_mean_the_same(
            bytes in prop::collection::vec(prop_oneof![3 => 0u8..4, 1 => any::<u8>()], 0..200),
            piece in 1usize..20,
        ) {
            let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
            prop_assert_eq!(outcome(&pieces, 300), outcome(&[&bytes], 300));
        }

        #[test]
        fn frames_come_back_as_they_were(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..10),
            piece in 1usize..20,
        ) {
            let bytes: Vec<u8> =
                payloads.iter().flat_map(|payload| Framing::Length.frame(FrameKind::Binary, payload)).collect();
            let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
            let (frames, refused, rest) = outcome(&pieces, 50);
            prop_assert_eq!(frames, payloads);
            prop_assert_eq!((refused, rest), (None, 0));
        }
    }
}
