//! TLS configurations as values: what servers present and what clients trust.
//!
//! ring is the one provider, always named; the process-wide default is neither needed nor set.

mod client;
mod tickets;

use std::sync::Arc;

use rustls::{
    CipherSuite, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

pub use self::client::ClientTls;
use self::tickets::Ticketer;
#[cfg(feature = "quic")]
use crate::defaults::EARLY_SESSIONS;
use crate::{ReloadableCertificate, Secret, certificate, defaults::NEW_TICKETS};

/// Why a TLS value cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A certificate or key does not fit.
    #[error("certificate: {0}")]
    Certificate(String),
    /// rustls refuses it.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The machine has no trusted roots.
    #[error("no trusted root certificates found on this machine")]
    NoRoots,
    /// Early data is not taken where clients are asked for certificates, nor with tickets that several listeners share: each
    /// may be used once, and only who has made it knows.
    #[error("early data goes with neither client certificates nor a shared ticket key")]
    EarlyData,
}

/// How TCP listeners speak TLS (1.2 and 1.3). Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerTls(Arc<ServerConfig>);

impl ServerTls {
    /// `alpns` in order of preference; empty to agree on none. With `ticket_key` sessions resume on every
    /// listener that has the same key; without it tickets are off.
    ///
    /// # Errors
    /// The key cannot be used.
    pub fn new(
        certificate: &ReloadableCertificate,
        alpns: &[&str],
        ticket_key: Option<&Secret>,
    ) -> Result<Self, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let builder = builder.with_no_client_auth();
        Ok(Self(Arc::new(server_config(builder, certificate, alpns, ticket_key)?)))
    }

    /// As [`ServerTls::new`], and clients may prove themselves by a certificate of one of the authorities in this PEM
    /// text ([`crate::ServerStream::is_client_verified`]). A client without any is served; one with another is not.
    ///
    /// # Errors
    /// The key cannot be used, or there is no usable authority.
    pub fn verifying_clients(
        certificate: &ReloadableCertificate,
        alpns: &[&str],
        ticket_key: Option<&Secret>,
        authority_pem: &[u8],
    ) -> Result<Self, TlsError> {
        let authority = ClientAuthority::optional(authority_pem);
        Self::asking_clients(certificate, alpns, ticket_key, &authority)
    }

    /// As [`ServerTls::verifying_clients`], but a client without such a certificate is not served either: its handshake fails.
    ///
    /// # Errors
    /// As [`ServerTls::verifying_clients`].
    pub fn requiring_clients(
        certificate: &ReloadableCertificate,
        alpns: &[&str],
        ticket_key: Option<&Secret>,
        authority_pem: &[u8],
    ) -> Result<Self, TlsError> {
        let authority = ClientAuthority::required(authority_pem);
        Self::asking_clients(certificate, alpns, ticket_key, &authority)
    }

    fn asking_clients(
        certificate: &ReloadableCertificate,
        alpns: &[&str],
        ticket_key: Option<&Secret>,
        authority: &ClientAuthority,
    ) -> Result<Self, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_client_cert_verifier(authority.verifier()?);
        Ok(Self(Arc::new(server_config(builder, certificate, alpns, ticket_key)?)))
    }

    pub(crate) fn into_config(self) -> Arc<ServerConfig> {
        self.0
    }
}

/// Whom a server asks for a certificate, and whether it serves those who have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuthority {
    pem: Vec<u8>,
    proof: Proof,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Optional,
    Required,
}

impl ClientAuthority {
    /// Clients may prove themselves by a certificate of one of the authorities in this PEM text. One without any is
    /// served; one with another is not.
    #[must_use]
    pub fn optional(pem: impl Into<Vec<u8>>) -> Self {
        Self { pem: pem.into(), proof: Proof::Optional }
    }

    /// Clients have to prove themselves so: nobody else is served.
    #[must_use]
    pub fn required(pem: impl Into<Vec<u8>>) -> Self {
        Self { pem: pem.into(), proof: Proof::Required }
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let roots = Arc::new(authorities(&self.pem)?);
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
        let builder = match self.proof {
            Proof::Optional => builder.allow_unauthenticated(),
            Proof::Required => builder,
        };
        builder.build().map_err(|error| TlsError::Certificate(error.to_string()))
    }
}

/// What a packet-level server presents, on every protocol: a certificate that can be exchanged while connections live,
/// and whom it asks for one. Cheap to clone; clones share the certificate.
#[derive(Clone, Debug)]
pub struct Tls {
    pub(crate) certificate: ReloadableCertificate,
    pub(crate) client_authority: Option<ClientAuthority>,
}

impl Tls {
    /// A certificate chain (leaf first) and its private key, as PEM.
    ///
    /// # Errors
    /// As [`ReloadableCertificate::from_pem`].
    pub fn from_pem(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsError> {
        Ok(Self::new(ReloadableCertificate::from_pem(certificate_pem, key_pem)?))
    }

    /// A certificate that its owner exchanges: the next handshake has the new one, and no connection is dropped.
    #[must_use]
    pub fn new(certificate: ReloadableCertificate) -> Self {
        Self { certificate, client_authority: None }
    }

    /// A certificate for `localhost`, made now and trusted by nobody: for trying things out. Clients can pin its
    /// [`Tls::fingerprint`].
    ///
    /// # Errors
    /// The clock is before 1970.
    pub fn self_signed_dev() -> Result<Self, TlsError> {
        Ok(Self::new(ReloadableCertificate::from(&certificate::self_signed(&[])?)))
    }

    /// Clients may prove themselves by a certificate of one of the authorities in this PEM text. One without any is
    /// served; one with another is not. [`crate::ConnectionInfo::tls`] says who has.
    #[must_use]
    pub fn client_authority(self, pem: impl Into<Vec<u8>>) -> Self {
        Self { client_authority: Some(ClientAuthority::optional(pem)), ..self }
    }

    /// As [`Tls::client_authority`], but a client without such a certificate is not served either: its handshake fails.
    #[must_use]
    pub fn require_client_authority(self, pem: impl Into<Vec<u8>>) -> Self {
        Self { client_authority: Some(ClientAuthority::required(pem)), ..self }
    }

    /// The certificate, to exchange it.
    #[must_use]
    pub fn certificate(&self) -> &ReloadableCertificate {
        &self.certificate
    }

    /// The SHA-256 of the certificate now in use.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.certificate.fingerprint()
    }

    pub(crate) fn server(&self, alpns: &[&str]) -> Result<ServerTls, TlsError> {
        match &self.client_authority {
            None => ServerTls::new(&self.certificate, alpns, None),
            Some(authority) => ServerTls::asking_clients(&self.certificate, alpns, None, authority),
        }
    }
}

/// Whether clients that come back may send before their handshake is complete (0-RTT).
#[cfg(feature = "quic")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EarlyData {
    Refused,
    Taken,
}

/// The configuration of QUIC servers: TLS 1.3 only.
#[cfg(feature = "quic")]
pub(crate) fn quic_server_config(
    options: &crate::QuicOptions,
    alpns: &[&str],
    early: EarlyData,
) -> Result<ServerConfig, TlsError> {
    if early == EarlyData::Taken && (options.client_authority.is_some() || options.ticket_key.is_some()) {
        return Err(TlsError::EarlyData);
    }
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match &options.client_authority {
        None => builder.with_no_client_auth(),
        Some(authority) => builder.with_client_cert_verifier(authority.verifier()?),
    };
    let mut config = server_config(builder, &options.certificate, alpns, options.ticket_key.as_ref())?;
    if early == EarlyData::Taken {
        // Remembered here, and forgotten when used: what is sent early is taken once.
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(EARLY_SESSIONS);
        config.send_tls13_tickets = 2;
        // The one value that QUIC has for "some"; its flow control bounds them.
        config.max_early_data_size = u32::MAX;
    }
    Ok(config)
}

fn server_config(
    builder: rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>,
    certificate: &ReloadableCertificate,
    alpns: &[&str],
    ticket_key: Option<&Secret>,
) -> Result<ServerConfig, TlsError> {
    let mut config = builder.with_cert_resolver(Arc::new(certificate.clone()));
    config.alpn_protocols = alpns.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    match ticket_key {
        Some(key) => {
            config.ticketer = Arc::new(Ticketer::new(key)?);
            config.max_tls13_tickets = NEW_TICKETS.into();
        }
        None => {
            // Without a shared key resumption would only work by luck of the listener; a full handshake is
            // one more signature. It also keeps 256 sessions a listener out of memory.
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        }
    }
    Ok(config)
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificate::certificates(pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// AES-128 comes first, as in browsers. With AES-256 comes SHA-384, for which processors have no instructions: it takes an
/// eighth of a QUIC handshake. A peer that prefers AES-256 gets it.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}
