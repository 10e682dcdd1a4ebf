//! The node's certificate: configured, or self-made and renewed in time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use parking_lot::Mutex;
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
    pem: Arc<Mutex<Pem>>,
}

/// A certificate as it stands in files.
#[derive(Clone, PartialEq)]
pub(super) struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
    /// When a self-made one is made anew.
    renew_at: Option<SystemTime>,
}

impl Pem {
    /// The configured certificate, or the self-made one.
    ///
    /// # Errors
    /// It cannot be read, or certificate and key cannot be used together.
    pub(super) fn read(tls: &Tls, dir: &DataDir) -> anyhow::Result<Self> {
        let pem = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => {
                let read = |path: &std::path::Path| {
                    std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
                };
                Pem { certificate: read(certificate)?, key: read(key)?, renew_at: None }
            }
            _ => Pem::own(&tls.names, dir)?,
        };
        pem.usable()?;
        Ok(pem)
    }

    fn own(names: &[String], dir: &DataDir) -> anyhow::Result<Self> {
        let own = own_certificate(dir, names)?;
        let bytes = own.pem.into_bytes();
        Ok(Pem { certificate: bytes.clone(), key: bytes, renew_at: Some(own.renew_at) })
    }

    fn usable(&self) -> anyhow::Result<ReloadableCertificate> {
        ReloadableCertificate::from_pem(&self.certificate, &self.key)
            .context("the certificate and its key cannot be used: check tls.certificate and tls.key")
    }
}

pub(super) fn load(tls: &Tls, dir: &DataDir) -> anyhow::Result<NodeCertificate> {
    let pem = Pem::read(tls, dir)?;
    let certificate = pem.usable()?;
    Ok(NodeCertificate { certificate, renewed: Arc::default(), pem: Arc::new(Mutex::new(pem)) })
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

    /// Every handshake from now on has this certificate. Says whether it is another one.
    ///
    /// # Errors
    /// It cannot be used; the old one stays.
    pub(super) fn replace(&self, pem: Pem) -> Result<bool, TlsError> {
        let mut now = self.pem.lock();
        if *now == pem {
            return Ok(false);
        }
        self.certificate.replace(&pem.certificate, &pem.key)?;
        *now = pem;
        drop(now);
        self.renewed.send_replace(());
        Ok(true)
    }

    /// Makes a self-made certificate anew before it ends, for as long as the node runs.
    pub(super) async fn renew(self, names: Vec<String>, dir: DataDir, cancel: CancellationToken) {
        let mut replaced = self.renewals();
        loop {
            let renew_at = self.pem.lock().renew_at;
            let due = async {
                match renew_at {
                    // A clock that jumped is looked at again: no wait is longer than an hour.
                    Some(at) => tokio::time::sleep(until(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                // A reload may have put a configured one in its place, or the other way round.
                _ = replaced.changed() => continue,
                () = due => {}
            }
            if renew_at.is_some_and(|at| at > SystemTime::now()) {
                continue;
            }
            match Pem::own(&names, &dir).and_then(|pem| Ok(self.replace(pem)?)) {
                Ok(true) => {
                    tracing::info!(sha256 = %self.sha256(), "the certificate was renewed");
                    continue;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the certificate could not be renewed");
                }
            }
            if cancel.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                return;
            }
        }
    }
}

/// After a failure, as on a full disk, it is tried again after so long.
const RETRY: Duration = Duration::from_secs(60);

fn until(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::now()).unwrap_or_default().min(Duration::from_secs(3_600))
}
