//! Who may speak to `GatewayService`: a peer on this machine, or one that proves itself.
//!
//! A pure check: it opens nothing and answers nothing. Without it anybody on the network could take a zone and
//! with it every user's calls (seed 003's defect c7, acceptance check U4).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Where a gRPC connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP connection from this address.
    Tcp(SocketAddr),
    /// A connection that cannot leave this machine: a Unix socket, or memory.
    Local,
}

/// How far TLS has vouched for the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificate {
    /// None, or one that the server did not verify.
    #[default]
    Absent,
    /// Verified against the configured authority (mTLS).
    Verified,
}

/// Why a peer is refused. The gRPC server answers `UNAUTHENTICATED` with this text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRefusal {
    /// No `authorization` metadata.
    #[error(
        "a peer that is not on loopback sends `authorization: Bearer` with the token of keys/upstream.token"
    )]
    TokenMissing,
    /// Metadata without `Bearer`, or another token.
    #[error("the upstream token is wrong; use the one in the gateway's keys/upstream.token")]
    TokenWrong,
}

/// The rule: loopback and local peers pass, all others need the token or a verified certificate. A token that is
/// sent must be right wherever it comes from, so that a wrong configuration shows on the first machine.
#[derive(Clone)]
pub struct PeerPolicy {
    token: String,
}

impl PeerPolicy {
    /// With the token of `keys/upstream.token`; white space at its ends does not count. An empty token is none:
    /// then only loopback, local and certified peers pass.
    pub fn new(token: impl AsRef<str>) -> Self {
        PeerPolicy { token: token.as_ref().trim().to_owned() }
    }

    /// May this peer call? `authorization` is the metadata value as received.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(
        &self,
        peer: Peer,
        certificate: ClientCertificate,
        authorization: Option<&str>,
    ) -> Result<(), PeerRefusal> {
        if certificate == ClientCertificate::Verified {
            return Ok(());
        }
        match authorization {
            Some(value) => self.check_token(value),
            None if is_local(peer) => Ok(()),
            None => Err(PeerRefusal::TokenMissing),
        }
    }

    fn check_token(&self, value: &str) -> Result<(), PeerRefusal> {
        let (scheme, token) = value.trim().split_once(' ').unwrap_or_default();
        let right = !self.token.is_empty()
            && scheme.eq_ignore_ascii_case("bearer")
            && same(self.token.as_bytes(), token.trim().as_bytes());
        if right { Ok(()) } else { Err(PeerRefusal::TokenWrong) }
    }
}

impl fmt::Debug for PeerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerPolicy { token: <hidden> }")
    }
}

fn is_local(peer: Peer) -> bool {
    match peer {
        Peer::Local => true,
        // ::ffff:127.0.0.1 is loopback too, as a dual-stack listener sees it.
        Peer::Tcp(address) => match address.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
        },
    }
}

/// Compares in a time that depends on the lengths only, so that a token cannot be guessed byte by byte.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "s3cret-token";

    fn check(peer: &str, authorization: Option<&str>) -> Result<(), PeerRefusal> {
        let peer = Peer::Tcp(peer.parse().unwrap());
        PeerPolicy::new(format!("{TOKEN}\n")).check(peer, ClientCertificate::Absent, authorization)
    }

    #[test]
    fn u4_a_foreign_registration_is_refused() {
        assert_eq!(check("192.0.2.7:4000", None), Err(PeerRefusal::TokenMissing));
        assert_eq!(check("[2001:db8::1]:4000", None), Err(PeerRefusal::TokenMissing));
        for wrong in ["", "Bearer", "Bearer ", "Bearer s3cret", "s3cret-token", "Basic s3cret-token"] {
            assert_eq!(check("192.0.2.7:4000", Some(wrong)), Err(PeerRefusal::TokenWrong), "{wrong:?}");
        }
    }

    #[test]
    fn u4_the_token_opens_from_anywhere() {
        for value in ["Bearer s3cret-token", "bearer s3cret-token", " Bearer  s3cret-token "] {
            assert_eq!(check("192.0.2.7:4000", Some(value)), Ok(()), "{value:?}");
        }
    }

    #[test]
    fn u4_loopback_needs_no_token_but_not_a_wrong_one() {
        for peer in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(check(peer, None), Ok(()), "{peer}");
            assert_eq!(check(peer, Some("Bearer other")), Err(PeerRefusal::TokenWrong), "{peer}");
        }
        assert_eq!(PeerPolicy::new("").check(Peer::Local, ClientCertificate::Absent, None), Ok(()));
    }

    #[test]
    fn u4_an_empty_token_lets_nobody_in() {
        let far = Peer::Tcp("192.0.2.7:1".parse().unwrap());
        let policy = PeerPolicy::new("  ");
        let refusal = policy.check(far, ClientCertificate::Absent, Some("Bearer "));
        assert_eq!(refusal, Err(PeerRefusal::TokenWrong));
        assert_eq!(policy.check(far, ClientCertificate::Verified, None), Ok(()));
    }

    #[test]
    fn the_token_is_not_shown() {
        assert!(!format!("{:?}", PeerPolicy::new(TOKEN)).contains(TOKEN));
    }
}
