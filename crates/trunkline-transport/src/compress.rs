//! zlib and zstd behind their features, with a cap on what a payload may inflate to.
//!
//! It never allocates for a declared size: output grows with what has been inflated, up to the cap.

use bytes::Bytes;

use crate::{Compression, WireError};

/// Compresses; `None` is the payload itself.
#[cfg_attr(
    not(any(feature = "zlib", feature = "zstd")),
    allow(unused_variables, reason = "used by the features")
)]
pub(crate) fn deflate(how: Compression, payload: &Bytes) -> Result<Bytes, WireError> {
    match how {
        Compression::None => Ok(payload.clone()),
        #[cfg(feature = "zlib")]
        Compression::Zlib => {
            use std::io::Write as _;

            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            // Writing to a Vec cannot fail.
            let written = encoder.write_all(payload).and_then(|()| encoder.finish());
            written.map(Bytes::from).map_err(|error| WireError::Inflate(error.to_string()))
        }
        #[cfg(feature = "zstd")]
        Compression::Zstd => zstd::encode_all(&payload[..], zstd::DEFAULT_COMPRESSION_LEVEL)
            .map(Bytes::from)
            .map_err(|error| WireError::Inflate(error.to_string())),
        #[cfg(not(all(feature = "zlib", feature = "zstd")))]
        other => Err(WireError::NotCompiledIn(other)),
    }
}

/// Inflates to at most `limit` bytes.
#[cfg_attr(
    not(any(feature = "zlib", feature = "zstd")),
    allow(unused_variables, reason = "used by the features")
)]
pub(crate) fn inflate(how: Compression, payload: &Bytes, limit: usize) -> Result<Bytes, WireError> {
    match how {
        Compression::None => Ok(payload.clone()),
        #[cfg(feature = "zlib")]
        Compression::Zlib => capped(flate2::read::ZlibDecoder::new(&payload[..]), limit),
        #[cfg(feature = "zstd")]
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(&payload[..])
                .map_err(|error| WireError::Inflate(error.to_string()))?;
            capped(decoder, limit)
        }
        #[cfg(not(all(feature = "zlib", feature = "zstd")))]
        other => Err(WireError::NotCompiledIn(other)),
    }
}

#[cfg(any(feature = "zlib", feature = "zstd"))]
fn capped(reader: impl std::io::Read, limit: usize) -> Result<Bytes, WireError> {
    use std::io::Read as _;

    let mut out = Vec::new();
    // One byte more than allowed tells "over" from "exactly".
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(most).read_to_end(&mut out).map_err(|error| WireError::Inflate(error.to_string()))?;
    if out.len() > limit {
        return Err(WireError::TooLarge { length: out.len(), limit });
    }
    Ok(out.into())
}
