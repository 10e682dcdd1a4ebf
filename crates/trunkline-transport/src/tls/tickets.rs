//! TLS tickets, sealed under a key that is a value. Who has it, and when it is rolled, is not known here.

use std::fmt;

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use rustls::server::ProducesTickets;

use super::TlsError;
use crate::{Secret, defaults::TICKET_LIFETIME};

/// TLS tickets under a key that is a value, so that every listener with the same key resumes them. AES-256-GCM
/// with a random nonce in front; the key's owner rolls it.
pub(super) struct Ticketer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Ticketer {
    pub(super) fn new(secret: &Secret) -> Result<Self, TlsError> {
        let key = UnboundKey::new(&AES_256_GCM, secret.derive(b"tls ticket").as_ref())
            .map_err(|_| TlsError::Certificate("the ticket key is unusable".to_owned()))?;
        Ok(Self { key: LessSafeKey::new(key), random: SystemRandom::new() })
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketer")
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TICKET_LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(unique, Aad::empty(), &mut sealed).ok()?;
        let mut ticket = nonce.to_vec();
        ticket.extend_from_slice(&sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ticket.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self.key.open_in_place(nonce, Aad::empty(), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}
