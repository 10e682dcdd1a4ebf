//! Files that a configuration names, read as a node will read them: what is wrong with one is told before anything starts.
//!
//! It keeps nothing of them, and says no word of what is in a private one.

use std::path::Path;

use jsonwebtoken::jwk::JwkSet;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use trunkline_transport::{ClientTls, ReloadableCertificate};

/// Which of two files is wrong, and what is.
pub(super) enum Pair {
    Certificate(String),
    Key(String),
}

/// A certificate chain and its private key.
pub(super) fn certificate(certificate: &Path, key: &Path) -> Result<(), Vec<Pair>> {
    let (chain, secret) = match (certificates(certificate), read(key)) {
        (Ok(chain), Ok(secret)) => (chain, secret),
        (chain, secret) => {
            return Err(chain
                .err()
                .map(Pair::Certificate)
                .into_iter()
                .chain(secret.err().map(Pair::Key))
                .collect());
        }
    };
    if let Err(error) = PrivateKeyDer::from_pem_slice(&secret) {
        return Err(vec![Pair::Key(format!("{} has no private key in it: {error}", key.display()))]);
    }
    ReloadableCertificate::from_pem(&chain, &secret).map(drop).map_err(|error| {
        let (certificate, key) = (certificate.display(), key.display());
        vec![Pair::Certificate(format!("{certificate} and {key} cannot be used together: {error}"))]
    })
}

/// Certificates of authorities.
pub(super) fn authority(file: &Path) -> Result<(), String> {
    let pem = certificates(file)?;
    ClientTls::authority(&pem)
        .map(drop)
        .map_err(|error| format!("{} has no usable authority in it: {error}", file.display()))
}

/// A JSON Web Key Set.
pub(super) fn key_set(file: &Path) -> Result<(), String> {
    serde_json::from_slice::<JwkSet>(&read(file)?)
        .map(drop)
        .map_err(|error| format!("{} is no JSON Web Key Set: {error}", file.display()))
}

/// A PEM text with at least one certificate.
fn certificates(file: &Path) -> Result<Vec<u8>, String> {
    let pem = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("{} has no certificate in it (PEM)", file.display())),
        Ok(_) => Ok(pem),
        Err(error) => Err(format!("{} is no PEM: {error}", file.display())),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
}
