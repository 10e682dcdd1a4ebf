//! The data directory: its rights, its keys, its certificate. It leaves everything as it was.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::validity::not_after;
use super::{Finding, Findings};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::keys;

/// Clocks of file systems and machines differ by less.
const CLOCK_SLACK: Duration = Duration::from_secs(120);

/// A configured certificate with less time left is worth a word: renewals come a third of 90 days before the end.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);

/// What every node has once it has started.
const SECRETS: [&str; 5] = ["jwt.key", "resume.key", "quic.key", "upstream.token", "certificate.pem"];

pub(super) fn examine(config: &Config, findings: &mut Findings) {
    let data_dir = &config.node.data_dir;
    let there = data_dir.exists();
    findings.add("data directory", &directory(data_dir));
    if there {
        findings.add("keys", &secrets(data_dir));
        findings.add("certificate", &certificate(config));
    }
}

fn directory(path: &Path) -> Finding {
    let shown = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Finding::Note(format!("{shown} is not there yet: the first start makes it"));
        }
        Err(error) => {
            return Finding::Bad(format!(
                "{shown}: {error}: give this user the right to it, or name another"
            ));
        }
    };
    if !metadata.is_dir() {
        return Finding::Bad(format!("{shown} is a file: move it, or name another place with --data-dir"));
    }
    if let Err(error) = tempfile::Builder::new().prefix(".doctor-").tempfile_in(path) {
        return Finding::Bad(format!(
            "nothing can be written to {shown}: {error}: check its rights and the disk"
        ));
    }
    let modified = metadata.modified().ok().and_then(|at| at.duration_since(SystemTime::now()).ok());
    if modified.is_some_and(|ahead| ahead > CLOCK_SLACK) {
        return Finding::Bad(format!(
            "{shown} was changed in the future: the clock has been set back, or was wrong before; check it"
        ));
    }
    Finding::Good(format!("{shown}, mode {:o}", metadata.permissions().mode() & 0o777))
}

/// The private files: rights first, since a key that others can read is no secret, then what is in them.
fn secrets(data_dir: &Path) -> Finding {
    let folder = data_dir.join("keys");
    let mut wrong = Vec::new();
    let mut found = 0;
    for path in std::iter::once(folder.clone()).chain(SECRETS.iter().map(|name| folder.join(name))) {
        let Ok(metadata) = fs::metadata(&path) else { continue };
        found += usize::from(metadata.is_file());
        let (mode, want) = (metadata.mode() & 0o777, if metadata.is_dir() { 0o700 } else { 0o600 });
        if mode & 0o077 != 0 {
            let path = path.display();
            wrong.push(format!("{path} is open to others (mode {mode:o}): chmod {want:o} {path}"));
        }
    }
    // Reading a key that is not there would make it.
    let is_there = |name: &str| folder.join(name).exists();
    if folder.exists()
        && let Ok(dir) = DataDir::open(data_dir)
    {
        let read = [
            is_there("jwt.key").then(|| keys::jwt_key(&dir).map(drop)),
            is_there("resume.key").then(|| keys::resume_key(&dir).map(drop)),
            is_there("quic.key").then(|| keys::quic_key(&dir).map(drop)),
            is_there("upstream.token").then(|| keys::upstream_token(&dir).map(drop)),
        ];
        let damaged = read.into_iter().flatten().filter_map(Result::err);
        wrong.extend(damaged.map(|error| format!("{error:#}")));
    }
    match (wrong.is_empty(), found) {
        (false, _) => Finding::Bad(wrong.join("; ")),
        (true, 0) => Finding::Note("none yet: the first start makes them".to_owned()),
        (true, found) => Finding::Good(format!("{found} files, for their owner only")),
    }
}

fn certificate(config: &Config) -> Finding {
    let own = config.node.data_dir.join("certificate.pem");
    let configured = config.tls.certificate.as_deref();
    let path = configured.unwrap_or(&own);
    if configured.is_none() && !own.exists() {
        return Finding::Note("none yet: the first start makes one".to_owned());
    }
    let shown = path.display();
    let leaf = match CertificateDer::from_pem_file(path) {
        Ok(leaf) => leaf,
        Err(error) => {
            let next = match configured {
                Some(_) => "check tls.certificate",
                None => "remove it and keys/certificate.pem to have a new one made",
            };
            return Finding::Bad(format!("{shown} cannot be read: {error}: {next}"));
        }
    };
    let Some(end) = not_after(&leaf) else {
        return Finding::Note(format!("{shown} does not say when it ends in a way that is known here"));
    };
    match end.duration_since(SystemTime::now()) {
        Err(_) => Finding::Bad(match configured {
            Some(_) => format!("{shown} has ended: renew it, and restart the node"),
            None => format!("{shown} has ended: restart the node, which makes a new one"),
        }),
        Ok(left) if configured.is_some() && left < ENDS_SOON => {
            Finding::Note(format!("{shown} ends in {} days: renew it", left.as_secs() / 86_400))
        }
        Ok(left) => Finding::Good(format!("{shown}, good for {} days more", left.as_secs() / 86_400)),
    }
}
