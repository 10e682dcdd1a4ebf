//! What a TLS or QUIC handshake has shown of the other side.
//!
//! It judges nobody: who may do what is for middleware and handlers to say. Without the feature `tls` nothing makes one.

use std::{fmt, sync::Arc};

#[cfg(feature = "tls")]
use rustls_pki_types::CertificateDer;

/// What a handshake agreed on, and by which certificate the peer has proved itself.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version that was agreed on; over QUIC and WebTransport always 1.3.
    pub version: TlsVersion,
    /// The peer's own certificate in DER, the first of its chain. On a server it is there only for a client that has proved
    /// itself by a certificate of an authority that the listener was given (`Tls::client_authority`). On a client it is the
    /// server's, which the client trusts: otherwise there would be no connection.
    pub peer_certificate: Option<Arc<[u8]>>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_2 => "TLS 1.2",
            Self::V1_3 => "TLS 1.3",
        })
    }
}

impl fmt::Debug for TlsInfo {
    /// The certificate by its length: nobody wants its bytes in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsInfo")
            .field("version", &self.version)
            .field("peer_certificate_bytes", &self.peer_certificate.as_ref().map(|der| der.len()))
            .finish()
    }
}

#[cfg(feature = "tls")]
impl TlsInfo {
    /// The SHA-256 of [`TlsInfo::peer_certificate`], as [`crate::certificate::fingerprint`] has it.
    #[must_use]
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        self.peer_certificate.as_deref().map(crate::certificate::fingerprint)
    }

    /// Of TLS over TCP, once its handshake is complete. rustls keeps a peer's certificates only if its verifier accepted them,
    /// and asks a client for none without one.
    pub(crate) fn of_tls(state: &rustls::CommonState) -> Option<Self> {
        let version = match state.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => TlsVersion::V1_2,
            rustls::ProtocolVersion::TLSv1_3 => TlsVersion::V1_3,
            _ => return None,
        };
        let peer_certificate = state.peer_certificates().and_then(leaf);
        Some(Self { version, peer_certificate })
    }

    /// Of QUIC (RFC 9001 section 4.2 lets it have no older version).
    #[cfg(feature = "quic")]
    pub(crate) fn of_quic(connection: &quinn::Connection) -> Self {
        let chain = connection.peer_identity();
        let chain = chain.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
        Self { version: TlsVersion::V1_3, peer_certificate: chain.and_then(|chain| leaf(&chain)) }
    }
}

#[cfg(feature = "tls")]
fn leaf(chain: &[CertificateDer<'_>]) -> Option<Arc<[u8]>> {
    chain.first().map(|der| Arc::from(&der[..]))
}
