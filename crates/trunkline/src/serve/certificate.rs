//! The node's certificate: configured, or self-made and renewed in time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trunkline_transport::certificate::hex;
use trunkline_transport::{ReloadableCertificate, TlsError};

use crate::config::Tls;
use crate::data_dir::DataDir;
use crate::keys::own_certificate;

/// The certificate that every surface uses. Clones are the same one.
#[derive(Clone)]
pub(super) struct NodeCertificate {
    pub(super) certificate: ReloadableCertificate,
    /// Changes with the certificate.
    renewed: Arc<watch::Sender<()>>,
    /// When a self-made one is made anew.
    renew_at: Option<SystemTime>,
}

pub(super) fn load(tls: &Tls, dir: &DataDir) -> anyhow::Result<NodeCertificate> {
    let (certificate, key, renew_at) = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            let read = |path: &std::path::Path| {
                std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
            };
            (read(certificate)?, read(key)?, None)
        }
        _ => {
            let own = own_certificate(dir, &tls.names)?;
            (own.pem.clone().into_bytes(), own.pem.into_bytes(), Some(own.renew_at))
        }
    };
    let certificate = ReloadableCertificate::from_pem(&certificate, &key)
        .context("the certificate and its key cannot be used: check tls.certificate and tls.key")?;
    Ok(NodeCertificate { certificate, renewed: Arc::default(), renew_at })
}

impl NodeCertificate {
    /// What browsers pin.
    pub(super) fn sha256(&self) -> String {
        hex(&self.certificate.fingerprint())
    }

    /// Changes each time when another certificate takes this one's place.
    pub(super) fn renewals(&self) -> watch::Receiver<()> {
        self.renewed.subscribe()
    }

    /// Every handshake from now on has this certificate.
    fn replace(&self, certificate: &[u8], key: &[u8]) -> Result<(), TlsError> {
        self.certificate.replace(certificate, key)?;
        self.renewed.send_replace(());
        Ok(())
    }

    /// Makes a self-made certificate anew before it ends, for as long as the node runs.
    pub(super) async fn renew(self, tls: Tls, dir: DataDir, cancel: CancellationToken) {
        let Some(mut renew_at) = self.renew_at else { return };
        loop {
            let wait = renew_at.duration_since(SystemTime::now()).unwrap_or(Duration::from_secs(60));
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            match own_certificate(&dir, &tls.names) {
                Ok(own) => {
                    renew_at = own.renew_at;
                    match self.replace(own.pem.as_bytes(), own.pem.as_bytes()) {
                        Ok(()) => tracing::info!(sha256 = %self.sha256(), "the certificate was renewed"),
                        Err(error) => tracing::error!(%error, "the renewed certificate cannot be used"),
                    }
                }
                Err(error) => tracing::error!(%error, "the certificate could not be renewed"),
            }
        }
    }
}
