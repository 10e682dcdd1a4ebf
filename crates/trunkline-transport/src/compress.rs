//! zlib and zstd behind their features, with a cap on what a payload may inflate to.
//!
//! It never allocates for a declared size: output grows with what has been inflated, up to the cap. What is compressed with
//! a dictionary begins with the last four bytes of that one's number, and is inflated with no other.

use bytes::Bytes;

#[cfg(feature = "zstd")]
pub(crate) use crate::Dictionary;
use crate::{BuildError, Compression, WireError};

/// None can be made without zstd.
#[cfg(not(feature = "zstd"))]
#[derive(Clone, Debug)]
pub(crate) enum Dictionary {}

#[cfg(not(feature = "zstd"))]
impl Dictionary {
    pub(crate) fn id(&self) -> u64 {
        match *self {}
    }
}

/// Whether a builder was given what the compression that it was told needs.
pub(crate) fn judge(
    compression: Option<(Compression, usize)>,
    dictionary: Option<&Dictionary>,
) -> Result<(), BuildError> {
    match compression {
        Some((how, _)) if !how.is_available() => Err(BuildError::NotCompiledIn(how)),
        Some((Compression::ZstdDictionary, _)) if dictionary.is_none() => Err(BuildError::NoDictionary),
        _ => Ok(()),
    }
}

/// Compresses; `None` is the payload itself.
#[cfg_attr(
    not(all(feature = "zlib", feature = "zstd")),
    allow(unused_variables, reason = "used by the features")
)]
pub(crate) fn deflate(
    how: Compression,
    payload: &Bytes,
    dictionary: Option<&Dictionary>,
) -> Result<Bytes, WireError> {
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
        #[cfg(feature = "zstd")]
        Compression::ZstdDictionary => {
            let dictionary = dictionary.ok_or(WireError::NoDictionary)?;
            with_dictionary::deflate(payload, dictionary)
                .map_err(|error| WireError::Inflate(error.to_string()))
        }
        #[cfg(not(all(feature = "zlib", feature = "zstd")))]
        other => Err(WireError::NotCompiledIn(other)),
    }
}

/// Inflates to at most `limit` bytes.
#[cfg_attr(
    not(all(feature = "zlib", feature = "zstd")),
    allow(unused_variables, reason = "used by the features")
)]
pub(crate) fn inflate(
    how: Compression,
    payload: &Bytes,
    limit: usize,
    dictionary: Option<&Dictionary>,
) -> Result<Bytes, WireError> {
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
        #[cfg(feature = "zstd")]
        Compression::ZstdDictionary => with_dictionary::inflate(payload, limit, dictionary),
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

/// The number of the dictionary, then a frame of zstd, which says nothing of it.
#[cfg(feature = "zstd")]
mod with_dictionary {
    use std::io;

    use bytes::Bytes;
    use zstd::{bulk::Compressor, stream::read::Decoder, zstd_safe::CParameter};

    use super::capped;
    use crate::{Dictionary, WireError};

    /// The largest window that a frame may ask for, as a power of two: the 8 MiB that RFC 8878 (section 3.1.1.1.2) asks every
    /// decoder to take. Ours never ask for more.
    const WINDOW: u32 = 23;

    pub(super) fn deflate(payload: &Bytes, dictionary: &Dictionary) -> io::Result<Bytes> {
        let mut compressor = Compressor::with_prepared_dictionary(dictionary.encoder())?;
        compressor.set_parameter(CParameter::DictIdFlag(false))?;
        let frame = compressor.compress(payload)?;
        Ok([&dictionary.short_id()[..], &frame[..]].concat().into())
    }

    pub(super) fn inflate(
        payload: &Bytes,
        limit: usize,
        dictionary: Option<&Dictionary>,
    ) -> Result<Bytes, WireError> {
        let failed = |error: io::Error| WireError::Inflate(error.to_string());
        let Some((id, frame)) = payload.split_first_chunk::<4>() else {
            return Err(WireError::Inflate("it names no dictionary".to_owned()));
        };
        let dictionary = dictionary
            .filter(|dictionary| dictionary.short_id() == *id)
            .ok_or(WireError::Dictionary(u32::from_be_bytes(*id)))?;
        let mut decoder = Decoder::with_prepared_dictionary(frame, dictionary.decoder()).map_err(failed)?;
        decoder.window_log_max(WINDOW).map_err(failed)?;
        capped(decoder, limit)
    }
}
