//! Keys as values, so that several processes on one port can share them.

use std::fmt;

use ring::hmac;

/// A 32-byte key. It is shown to nobody: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(crate) [u8; 32]);

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
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
