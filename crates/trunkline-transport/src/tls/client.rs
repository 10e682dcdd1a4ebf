//! What clients trust, and what they show to servers that ask.
//!
//! There is no way to trust everything: a client names roots, an authority, or the certificate itself.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        TicketRequest,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{TlsError, authorities, provider};
use crate::{
    ReloadableCertificate, certificate,
    defaults::{NEW_TICKETS, RESUMED_TICKETS},
};

/// What a client trusts. Cheap to clone; one value serves all protocols.
#[derive(Clone, Debug)]
pub struct ClientTls {
    tcp: Arc<ClientConfig>,
    #[cfg(feature = "quic")]
    quic: Arc<ClientConfig>,
}

impl ClientTls {
    /// Trusts the machine's own root certificates.
    ///
    /// # Errors
    /// There are none.
    pub fn system_roots() -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(TlsError::NoRoots);
        }
        Self::with_roots(roots)
    }

    /// Trusts the certificates in this PEM text as authorities, and nothing else. A self-signed certificate
    /// is its own authority.
    ///
    /// # Errors
    /// There is no usable certificate in it.
    pub fn authority(pem: &[u8]) -> Result<Self, TlsError> {
        Self::with_roots(authorities(pem)?)
    }

    /// Trusts a server exactly if its certificate has one of these SHA-256 fingerprints, whatever its names
    /// and dates.
    ///
    /// # Errors
    /// None in practice; the provider always knows TLS 1.3.
    pub fn pinned(fingerprints: Vec<[u8; 32]>) -> Result<Self, TlsError> {
        let verifier = Arc::new(Pinned { fingerprints, provider: provider() });
        Self::build(|builder| {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
                .with_no_client_auth()
        })
    }

    /// Proves itself by this certificate chain (leaf first) and its private key, as PEM, to servers that ask.
    ///
    /// # Errors
    /// The PEM cannot be used.
    pub fn identity(self, certificate_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsError> {
        let identity = Arc::new(Identity(ReloadableCertificate::from_pem(certificate_pem, key_pem)?));
        let with = |config: &ClientConfig| {
            let mut config = config.clone();
            config.client_auth_cert_resolver = Arc::clone(&identity) as _;
            Arc::new(config)
        };
        Ok(Self {
            tcp: with(&self.tcp),
            #[cfg(feature = "quic")]
            quic: with(&self.quic),
        })
    }

    fn with_roots(roots: RootCertStore) -> Result<Self, TlsError> {
        let roots = Arc::new(roots);
        Self::build(|builder| builder.with_root_certificates(Arc::clone(&roots)).with_no_client_auth())
    }

    fn build(
        finish: impl Fn(rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>) -> ClientConfig,
    ) -> Result<Self, TlsError> {
        let made = |versions: &[&'static rustls::SupportedProtocolVersion]| {
            let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
            let mut config = finish(builder);
            config.send_ticket_request =
                Some(TicketRequest { new_session_count: NEW_TICKETS, resumption_count: RESUMED_TICKETS });
            Ok::<_, TlsError>(Arc::new(config))
        };
        Ok(Self {
            tcp: made(&[&rustls::version::TLS13, &rustls::version::TLS12])?,
            #[cfg(feature = "quic")]
            quic: made(&[&rustls::version::TLS13])?,
        })
    }

    pub(crate) fn tcp_config(&self, alpns: &[&str]) -> Arc<ClientConfig> {
        if alpns.is_empty() { Arc::clone(&self.tcp) } else { Arc::new(with_alpns(&self.tcp, alpns)) }
    }

    #[cfg(feature = "quic")]
    pub(crate) fn quic_config(&self, alpns: &[&str]) -> ClientConfig {
        with_alpns(&self.quic, alpns)
    }
}

/// What a client shows to servers that ask.
#[derive(Debug)]
struct Identity(ReloadableCertificate);

impl rustls::client::ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn with_alpns(config: &ClientConfig, alpns: &[&str]) -> ClientConfig {
    let mut config = config.clone();
    config.alpn_protocols = alpns.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    config
}

#[derive(Debug)]
struct Pinned {
    fingerprints: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.fingerprints.contains(&certificate::fingerprint(end_entity)) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
