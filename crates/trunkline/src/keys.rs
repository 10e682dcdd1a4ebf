//! The secrets of a node: made once, kept in `keys/` of the data directory, never printed or logged.
//!
//! | file | what |
//! |---|---|
//! | `keys/jwt.key` | signs tokens (HS256); the key is the file's text without the newline, so other programs can sign too |
//! | `keys/resume.key` | signs resume tokens; the same on every node of a cluster |
//! | `keys/quic.key` | lets a restarted node end the QUIC connections of its former life at once, and know its tickets |
//! | `keys/upstream.token` | what an upstream on another machine sends as `authorization: Bearer` |
//! | `keys/certificate.pem` | the self-made certificate with its key |
//! | `certificate.pem` | the same certificate without its key, for clients of this machine |

use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt;
use trunkline_transport::Secret;
use trunkline_transport::certificate::self_signed;

use crate::data_dir::{Access, DataDir, replace};

/// The file of the key that signs tokens.
pub(crate) const JWT_KEY: &str = "keys/jwt.key";

/// HS256 wants a key as long as its digest (RFC 7518 section 3.2).
const SHORTEST_KEY: usize = 32;

/// A self-made certificate with less time left than this is replaced. Of its 13 days it serves 10, so that a client
/// which pinned it hears of the next one (at `/certificate`) days before it ends.
const RENEW_BEFORE: Duration = Duration::from_secs(3 * 86_400);

/// The line above the PEM that says how long the certificate serves and for which names: nobody parses X.509 here.
const NOTE: &str = "# trunkline";

/// The key that signs and checks tokens of HS256.
pub(crate) fn jwt_key(dir: &DataDir) -> anyhow::Result<Vec<u8>> {
    let name = JWT_KEY;
    let text = dir.read_or_create(name, secret)?;
    let key = text.trim_end_matches(['\r', '\n']);
    if key.len() < SHORTEST_KEY {
        bail!(
            "{} has {} bytes, and a key needs {SHORTEST_KEY}: remove the file to have a new one made, which ends all tokens of the old one",
            dir.join(name).display(),
            key.len()
        );
    }
    Ok(key.as_bytes().to_vec())
}

/// The key that signs resume tokens.
pub(crate) fn resume_key(dir: &DataDir) -> anyhow::Result<[u8; 32]> {
    key(dir, "keys/resume.key", "clients start fresh sessions")
}

/// The key behind QUIC's stateless resets, address tokens and tickets.
pub(crate) fn quic_key(dir: &DataDir) -> anyhow::Result<Secret> {
    Ok(Secret::new(key(dir, "keys/quic.key", "connections of the former node end only when they are idle")?))
}

/// 256 bits that are made once; `loss` is what follows from a new one.
fn key(dir: &DataDir, name: &str, loss: &str) -> anyhow::Result<[u8; 32]> {
    let text = dir.read_or_create(name, secret)?;
    let bytes = URL_SAFE_NO_PAD.decode(text.trim()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.with_context(|| {
        let path = dir.join(name);
        format!("{} is damaged: remove it to have a new one made, after which {loss}", path.display())
    })
}

/// What an upstream on another machine has to send.
pub(crate) fn upstream_token(dir: &DataDir) -> anyhow::Result<String> {
    let name = "keys/upstream.token";
    let text = dir.read_or_create(name, secret)?;
    let token = text.trim();
    if token.is_empty() {
        bail!("{} is empty: remove it to have a new one made", dir.join(name).display());
    }
    Ok(token.to_owned())
}

/// The node's own certificate.
#[derive(Clone)]
pub(crate) struct OwnCertificate {
    /// The certificate and its key in one PEM text.
    pub(crate) pem: String,
    /// When to ask for it again, to be given the next one.
    pub(crate) renew_at: SystemTime,
}

/// The self-made certificate for these names, a new one if there is none, if it ends soon, or if its names are others.
pub(crate) fn own_certificate(dir: &DataDir, names: &[String]) -> anyhow::Result<OwnCertificate> {
    let now = SystemTime::now();
    let kept = dir.read("keys/certificate.pem")?.and_then(|pem| {
        let renew_at = renewal(&pem, names)?;
        (renew_at > now).then_some(OwnCertificate { pem, renew_at })
    });
    if let Some(kept) = kept {
        return Ok(kept);
    }
    let made = self_signed(names).context("tls.names: no certificate can be made for these names")?;
    let expires = made.expires.duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
    let pem =
        format!("{NOTE} {} {}\n{}{}", expires.as_secs(), names.join(","), made.certificate_pem, made.key_pem);
    replace(&dir.join("keys/certificate.pem"), &pem, Access::Private)?;
    replace(&dir.join("certificate.pem"), &made.certificate_pem, Access::Public)?;
    Ok(OwnCertificate { pem, renew_at: made.expires - RENEW_BEFORE })
}

/// When the certificate in this text has to be renewed; `None` if it is not ours or is for other names.
fn renewal(pem: &str, names: &[String]) -> Option<SystemTime> {
    let (expires, of) = pem.lines().next()?.strip_prefix(NOTE)?.trim_start().split_once(' ')?;
    let expires: u64 = expires.parse().ok()?;
    if of != names.join(",") || !pem.contains("PRIVATE KEY") {
        return None;
    }
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(expires))?.checked_sub(RENEW_BEFORE)
}

/// 256 random bits as text.
fn secret() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    format!("{}\n", URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn directory() -> (tempfile::TempDir, DataDir) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temporary.path()).unwrap();
        (temporary, dir)
    }

    #[test]
    fn secrets_are_made_once_and_differ() {
        let (_temporary, dir) = directory();
        let jwt = jwt_key(&dir).unwrap();
        assert_eq!(jwt_key(&dir).unwrap(), jwt);
        assert!(jwt.len() >= SHORTEST_KEY);
        assert_eq!(resume_key(&dir).unwrap(), resume_key(&dir).unwrap());
        let token = upstream_token(&dir).unwrap();
        assert_ne!(token.as_bytes(), jwt);
        assert_eq!(quic_key(&dir).unwrap(), quic_key(&dir).unwrap());
        assert_ne!(quic_key(&dir).unwrap(), Secret::new(resume_key(&dir).unwrap()));
        for name in ["jwt.key", "resume.key", "quic.key", "upstream.token"] {
            let mode = fs::metadata(dir.join("keys").join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn damaged_secrets_are_refused_and_kept() {
        let (_temporary, dir) = directory();
        for (name, content) in [
            ("jwt.key", "short\n"),
            ("resume.key", "no base64!\n"),
            ("quic.key", "AA\n"),
            ("upstream.token", "\n"),
        ] {
            fs::write(dir.join("keys").join(name), content).unwrap();
        }
        let errors = [
            jwt_key(&dir).map(drop),
            resume_key(&dir).map(drop),
            quic_key(&dir).map(drop),
            upstream_token(&dir).map(drop),
        ];
        for error in errors {
            let error = format!("{:#}", error.unwrap_err());
            assert!(error.contains("remove"), "{error}");
        }
        assert_eq!(fs::read_to_string(dir.join("keys/jwt.key")).unwrap(), "short\n");
    }

    #[test]
    fn the_certificate_stays_until_its_names_change_or_it_ends_soon() {
        let (_temporary, dir) = directory();
        let first = own_certificate(&dir, &[]).unwrap();
        assert_eq!(own_certificate(&dir, &[]).unwrap().pem, first.pem);
        let named = own_certificate(&dir, &["example.org".to_owned()]).unwrap();
        assert_ne!(named.pem, first.pem);
        let public = fs::read_to_string(dir.join("certificate.pem")).unwrap();
        assert!(named.pem.contains(&public) && !public.contains("PRIVATE"));
        // Its end is two days away: less than what is left to clients that pinned it.
        let soon = SystemTime::now() + Duration::from_secs(2 * 86_400);
        let soon = soon.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let (_, rest) = named.pem.split_once('\n').unwrap();
        fs::write(dir.join("keys/certificate.pem"), format!("{NOTE} {soon} example.org\n{rest}")).unwrap();
        let renewed = own_certificate(&dir, &["example.org".to_owned()]).unwrap();
        assert_ne!(renewed.pem, named.pem);
        assert!(renewed.renew_at > SystemTime::now() + Duration::from_secs(9 * 86_400));
        trunkline_transport::ReloadableCertificate::from_pem(renewed.pem.as_bytes(), renewed.pem.as_bytes())
            .unwrap();
    }

    #[test]
    fn a_damaged_certificate_is_replaced() {
        let (_temporary, dir) = directory();
        for damaged in
            ["", "garbage", "# trunkline 99999999999 \n", "# trunkline x y\n-----BEGIN PRIVATE KEY-----"]
        {
            fs::write(dir.join("keys/certificate.pem"), damaged).unwrap();
            let made = own_certificate(&dir, &[]).unwrap();
            assert!(made.pem.contains("BEGIN CERTIFICATE"), "{damaged:?} stayed");
        }
    }
}
