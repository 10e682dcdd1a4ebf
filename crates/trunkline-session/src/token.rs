//! Resume tokens: `t1.` and base64url of session, device hash, generation and a MAC under the cluster's key.
//!
//! A token is checked without a look-up, so a forged one costs a node nothing but the MAC. Whether a genuine one
//! is used up is the [`crate::Engine`]'s business. The same four values always give the same token: that is how
//! every START with the old token gets the same successor.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::ids::SessionId;

/// session 16, device hash 8, generation 8, MAC 32.
const SIGNED: usize = 16 + 8 + 8;
const MAC: usize = 32;
const PREFIX: &str = "t1.";
/// Separates this use of the cluster's key from every other.
const PURPOSE: &[u8] = b"trunkline resume token 1";

/// The cluster's key. `Debug` does not show it.
#[derive(Clone)]
pub struct TokenKey([u8; 32]);

impl TokenKey {
    /// A key of 32 random bytes, the same on every node of a cluster.
    pub const fn new(key: [u8; 32]) -> Self {
        TokenKey(key)
    }

    fn mac(&self, signed: &[u8]) -> Hmac<Sha256> {
        // A key as long as the digest, and shorter than the block, is taken as it is: `new` cannot fail for it,
        // which its type says by taking exactly one block.
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(PURPOSE);
        mac.update(signed);
        mac
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeToken {
    /// The session it continues.
    pub session: SessionId,
    /// [`device_hash`] of the device it was given to.
    pub device: u64,
    /// Rises by one with each proven START.
    pub generation: u64,
}

/// Why a text is not a token. One case, so that an answer tells a forger nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a resume token of this cluster")]
pub struct BadToken;

/// What a token keeps of a user's device: eight bytes are enough, since the MAC covers them.
pub fn device_hash(user: &str, device: &str) -> u64 {
    let mut hash = Sha256::new();
    // The length first, so that ("ab", "c") and ("a", "bc") differ.
    hash.update((user.len() as u64).to_be_bytes());
    hash.update(user);
    hash.update(device);
    let digest: [u8; 32] = hash.finalize().into();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

impl ResumeToken {
    /// The text for `StartResponse.resume_token`.
    pub fn issue(&self, key: &TokenKey) -> String {
        let mut bytes = Vec::with_capacity(SIGNED + MAC);
        bytes.extend_from_slice(&self.session.0.to_be_bytes());
        bytes.extend_from_slice(&self.device.to_be_bytes());
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        let mac = key.mac(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&mac);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a text that a client sent. The MAC is compared in constant time.
    pub fn verify(text: &str, key: &TokenKey) -> Result<Self, BadToken> {
        // The length is fixed, so that a megabyte of token is refused before it is decoded.
        let body = text.strip_prefix(PREFIX).filter(|body| body.len() == 86).ok_or(BadToken)?;
        let bytes: [u8; SIGNED + MAC] =
            URL_SAFE_NO_PAD.decode(body).map_err(|_| BadToken)?.try_into().map_err(|_| BadToken)?;
        let (signed, mac) = bytes.split_at(SIGNED);
        key.mac(signed).verify_slice(mac).map_err(|_| BadToken)?;
        let mut session = [0; 16];
        session.copy_from_slice(&signed[..16]);
        let mut words = [[0; 8]; 2];
        words[0].copy_from_slice(&signed[16..24]);
        words[1].copy_from_slice(&signed[24..]);
        Ok(ResumeToken {
            session: SessionId(u128::from_be_bytes(session)),
            device: u64::from_be_bytes(words[0]),
            generation: u64::from_be_bytes(words[1]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> ResumeToken {
        ResumeToken { session: SessionId(7 << 100), device: device_hash("alice", "phone"), generation: 3 }
    }

    #[test]
    fn a_token_is_read_as_issued_and_issued_alike_each_time() {
        let key = TokenKey::new([1; 32]);
        let text = token().issue(&key);
        assert_eq!(ResumeToken::verify(&text, &key), Ok(token()));
        assert_eq!(text, token().issue(&key));
        assert!(text.starts_with("t1.") && text.len() == 89, "{text}");
    }

    #[test]
    fn s7_a_token_with_any_one_character_changed_is_forged() {
        let key = TokenKey::new([1; 32]);
        let text = token().issue(&key);
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(ResumeToken::verify(&forged, &key), Err(BadToken), "at {at}");
        }
    }

    #[test]
    fn s7_tokens_of_another_cluster_and_other_texts_are_forged() {
        let key = TokenKey::new([1; 32]);
        let other = token().issue(&TokenKey::new([2; 32]));
        let long = format!("t1.{}", "A".repeat(1 << 20));
        for text in [other.as_str(), "", "t1.", "t2.AAAA", "default-token", &long, "t1.é"] {
            assert_eq!(ResumeToken::verify(text, &key), Err(BadToken));
        }
    }

    #[test]
    fn devices_do_not_run_into_users() {
        assert_ne!(device_hash("ab", "c"), device_hash("a", "bc"));
    }

    #[test]
    fn the_key_is_not_shown() {
        assert_eq!(format!("{:?}", TokenKey::new([9; 32])), "TokenKey(..)");
    }
}
