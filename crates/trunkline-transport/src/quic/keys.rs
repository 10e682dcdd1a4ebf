//! The keys of a QUIC endpoint, each made of a [`Secret`] for its purpose.

use ring::{hkdf, hmac};

use crate::Secret;

impl Secret {
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
