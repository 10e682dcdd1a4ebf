//! Certificates: making one's own, loading PEM, exchanging it while connections live.
//!
//! Nothing here touches the file system, and nothing is made silently: a listener is given a certificate.

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};

use crate::{TlsError, tls::provider};

/// How long a self-signed certificate is valid. Browsers accept `serverCertificateHashes` only for
/// certificates of at most 14 days; one day is left for clocks that differ.
pub const SELF_SIGNED_VALIDITY: Duration = Duration::from_secs(13 * 86_400);

/// A client's clock may be this much behind ours; it counts towards the validity.
const CLOCK_SKEW: Duration = Duration::from_secs(3_600);

/// A certificate made by [`self_signed`], as PEM.
#[derive(Clone)]
pub struct SelfSigned {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key (PKCS #8). Keep it to the owner.
    pub key_pem: String,
    /// When it stops being valid.
    pub expires: SystemTime,
}

impl fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelfSigned").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Makes a certificate (ECDSA P-256, 13 days) for `localhost`, `127.0.0.1`, `::1` and the given host names and
/// addresses, good for `serverCertificateHashes`.
///
/// # Errors
/// A name is not a host name.
pub fn self_signed(names: &[String]) -> Result<SelfSigned, TlsError> {
    let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    for name in names {
        // A wildcard address is no name that a client could ask for.
        let unspecified = name.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
        if !unspecified && !all.contains(name) {
            all.push(name.clone());
        }
    }
    let invalid = |error: rcgen::Error| TlsError::Certificate(error.to_string());
    let mut params = CertificateParams::new(all).map_err(invalid)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "trunkline");
    params.distinguished_name = name;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = SystemTime::now();
    let since_epoch = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| TlsError::Certificate("the clock is before 1970".to_owned()))?;
    let begins = rcgen::date_time_ymd(1970, 1, 1) + since_epoch.saturating_sub(CLOCK_SKEW);
    params.not_before = begins;
    params.not_after = begins + SELF_SIGNED_VALIDITY;
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(invalid)?;
    let certificate = params.self_signed(&key).map_err(invalid)?;
    Ok(SelfSigned {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        expires: now + SELF_SIGNED_VALIDITY - CLOCK_SKEW,
    })
}

/// The SHA-256 of a certificate in DER: what clients pin and browsers are given.
#[must_use]
pub fn fingerprint(certificate_der: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate_der).into()
}

/// A fingerprint as lower-case hexadecimal digits.
#[must_use]
pub fn hex(fingerprint: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    fingerprint.iter().fold(String::with_capacity(64), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// A certificate and key that all listeners share. Replacing it takes effect for the next handshake;
/// connections that live are not touched. Clones share the value.
#[derive(Clone)]
pub struct ReloadableCertificate(Arc<ArcSwap<Current>>);

struct Current {
    key: Arc<CertifiedKey>,
    fingerprint: [u8; 32],
}

impl ReloadableCertificate {
    /// Reads a chain (leaf first) and its private key.
    ///
    /// # Errors
    /// The PEM has no certificate or no key, the key is of an unknown kind, or the two do not belong together.
    pub fn from_pem(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(load(certificate_pem, key_pem)?))))
    }

    /// Exchanges the certificate; on an error the old one stays.
    ///
    /// # Errors
    /// As [`ReloadableCertificate::from_pem`].
    pub fn replace(&self, certificate_pem: &[u8], key_pem: &[u8]) -> Result<(), TlsError> {
        self.0.store(Arc::new(load(certificate_pem, key_pem)?));
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.load().key)
    }

    /// The SHA-256 of the leaf certificate now in use.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.0.load().fingerprint
    }
}

impl From<&SelfSigned> for ReloadableCertificate {
    fn from(made: &SelfSigned) -> Self {
        #[expect(clippy::expect_used, reason = "we have just made this PEM, from one key pair, ourselves")]
        Self::from_pem(made.certificate_pem.as_bytes(), made.key_pem.as_bytes())
            .expect("a self-made certificate loads")
    }
}

impl fmt::Debug for ReloadableCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReloadableCertificate").field(&hex(&self.fingerprint())).finish()
    }
}

impl ResolvesServerCert for ReloadableCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn load(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Current, TlsError> {
    let chain = certificates(certificate_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|error| TlsError::Certificate(format!("no usable private key: {error}")))?;
    let fingerprint = fingerprint(&chain[0]);
    let key = CertifiedKey::from_der(chain, key, &provider())?;
    Ok(Current { key: Arc::new(key), fingerprint })
}

/// All certificates of a PEM text, at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Certificate(format!("not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(TlsError::Certificate("no certificate in the PEM".to_owned()));
    }
    Ok(chain)
}
