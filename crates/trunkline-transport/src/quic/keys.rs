//! The keys of a QUIC endpoint as values, so that several processes on one port can share them.

use std::fmt;

use ring::{hkdf, hmac};

/// A 32-byte key. It is shown to nobody: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes a key that was made elsewhere.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Makes a random key.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// A key for one purpose, so that one secret may serve several.
    pub(crate) fn derive(&self, purpose: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), purpose)
    }

    /// The key that makes stateless-reset tokens.
    pub(crate) fn reset_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.derive(b"quic stateless reset").as_ref())
    }

    /// The key that tells our connection ids from noise.
    pub(crate) fn connection_id_key(&self) -> u64 {
        let tag = self.derive(b"quic connection id");
        tag.as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    /// The key that seals retry and address-validation tokens.
    pub(crate) fn token_key(&self) -> hkdf::Prk {
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"quic token").extract(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
