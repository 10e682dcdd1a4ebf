//! A dictionary for zstd: what small messages of one kind have in common, given to both sides beforehand.
//!
//! It is never sent. Peers tell each other its number, and what is compressed with it names it, so that nothing is inflated
//! with another one. It trains none, and reads no file.

use std::{fmt, sync::Arc};

use zstd::{
    dict::{DecoderDictionary, EncoderDictionary},
    zstd_safe::{CDict, DDict},
};

use crate::defaults::MAX_DICTIONARY;

/// Shorter ones are no use to zstd, which passes over them.
const MIN: usize = 8;

/// What messages have in common, for [`crate::Compression::ZstdDictionary`]. Clones share it.
///
/// Either a few typical messages, one behind the other, the most typical last; or what `zstd --train` has made of thousands.
///
/// ```
/// use trunkline_transport::{Compression, Dictionary, MemoryServerConfig, TransportServerBuilder};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let typical = br#"{"type":"position","user":"u-0000","x":0.00,"y":0.00,"at":"2026-01-01T00:00:00Z"}"#;
/// let dictionary = Dictionary::new(typical)?;
/// # let (memory, _client) = MemoryServerConfig::new();
/// let builder = TransportServerBuilder::new()
///     .with_protocol(memory)
///     .dictionary(dictionary)
///     .compression(Compression::ZstdDictionary, 40);
/// # builder.build().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Dictionary(Arc<Prepared>);

struct Prepared {
    id: u64,
    size: usize,
    encoder: EncoderDictionary<'static>,
    decoder: DecoderDictionary<'static>,
}

/// Why bytes are no dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DictionaryError {
    /// It is too short to be of use, or too long.
    #[error("a dictionary of {size} bytes: it has from {} to {}", MIN, MAX_DICTIONARY)]
    Size {
        /// How long it is.
        size: usize,
    },
    /// It begins as one that zstd has trained, and is broken.
    #[error("a trained dictionary that zstd cannot read")]
    Malformed,
}

impl Dictionary {
    /// Prepares a dictionary, once for all connections: it takes about four times its size in memory.
    ///
    /// # Errors
    /// It has less than 8 bytes, or more than [`MAX_DICTIONARY`]; or it was trained, and is broken.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, DictionaryError> {
        let bytes = bytes.as_ref();
        if !(MIN..=MAX_DICTIONARY).contains(&bytes.len()) {
            return Err(DictionaryError::Size { size: bytes.len() });
        }
        let level = zstd::DEFAULT_COMPRESSION_LEVEL;
        // What is prepared below panics where these are none.
        if CDict::try_create(bytes, level).is_none() || DDict::try_create(bytes).is_none() {
            return Err(DictionaryError::Malformed);
        }
        Ok(Self(Arc::new(Prepared {
            id: fnv_1a(bytes),
            size: bytes.len(),
            encoder: EncoderDictionary::copy(bytes, level),
            decoder: DecoderDictionary::copy(bytes),
        })))
    }

    /// Its number, which peers compare: 64-bit FNV-1a (Fowler, Noll, Vo) of its bytes. It tells dictionaries apart that differ
    /// by mistake; it is no proof of anything.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The number as messages have it.
    pub(crate) fn short_id(&self) -> [u8; 4] {
        let [.., a, b, c, d] = self.0.id.to_be_bytes();
        [a, b, c, d]
    }

    pub(crate) fn encoder(&self) -> &EncoderDictionary<'static> {
        &self.0.encoder
    }

    pub(crate) fn decoder(&self) -> &DecoderDictionary<'static> {
        &self.0.decoder
    }
}

impl fmt::Debug for Dictionary {
    /// Not its bytes: they are messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = format_args!("{:016x}", self.0.id);
        f.debug_struct("Dictionary").field("id", &id).field("size", &self.0.size).finish()
    }
}

fn fnv_1a(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.iter().fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_fnv_1a() {
        // The vectors of its authors.
        assert_eq!(fnv_1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv_1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn what_is_no_dictionary_is_said() {
        assert_eq!(Dictionary::new([7; 7]).unwrap_err(), DictionaryError::Size { size: 7 });
        let long = vec![7; MAX_DICTIONARY + 1];
        assert_eq!(Dictionary::new(&long).unwrap_err(), DictionaryError::Size { size: MAX_DICTIONARY + 1 });
        let broken = [&[0x37, 0xA4, 0x30, 0xEC][..], &[7; 100]].concat();
        assert_eq!(Dictionary::new(broken).unwrap_err(), DictionaryError::Malformed);
        let shown = format!("{:?}", Dictionary::new(b"a secret").unwrap());
        assert!(shown.contains("size: 8") && !shown.contains("secret"), "{shown}");
    }
}
