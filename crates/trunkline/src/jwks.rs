//! Key sets for tokens that others sign: a file, or a document fetched over https, read at the start and again now and
//! then, so that a signer can change its keys.
//!
//! It fetches that one document and is no HTTP client for anything else: it follows no redirect and speaks no plain
//! HTTP, where anybody on the way could swap the keys. A set that cannot be read keeps the old one in force.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use jsonwebtoken::jwk::JwkSet;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use trunkline_gateway::auth::JwtVerifier;

use crate::config::Jwt;
use crate::exchange::exchange;

/// A signer that changes its keys announces the new one before it signs with it; providers keep both for a day.
const REFRESH: Duration = Duration::from_secs(300);

/// A document of a few kilobytes; four round trips around the world and lost packets fit in.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Key sets have a handful of keys of at most 1 KiB each.
const MAX_BYTES: usize = 1024 * 1024;

/// The key set of `auth.jwt.jwks`; empty where none is configured.
///
/// # Errors
/// It cannot be read or fetched, or is no key set.
pub(crate) async fn load(jwt: &Jwt) -> anyhow::Result<JwkSet> {
    let Some(source) = &jwt.jwks else { return Ok(JwkSet { keys: Vec::new() }) };
    let document = match https(source) {
        Some(url) => tokio::time::timeout(FETCH_TIMEOUT, fetch(&url, jwt.jwks_authority.as_deref()))
            .await
            .unwrap_or_else(|_| bail!("no answer within {} s", FETCH_TIMEOUT.as_secs())),
        None => std::fs::read(source).map(Bytes::from).map_err(anyhow::Error::from),
    };
    let document = document.with_context(|| format!("auth.jwt.jwks: {source} cannot be read"))?;
    serde_json::from_slice(&document)
        .with_context(|| format!("auth.jwt.jwks: {source} is no JSON Web Key Set"))
}

/// Reads the key set again and again, as long as it is polled. `jwt` may change meanwhile.
pub(crate) async fn keep_fresh(jwt: watch::Receiver<Jwt>, verifier: Option<Arc<JwtVerifier>>) -> Infallible {
    let Some(verifier) = verifier else { return std::future::pending().await };
    loop {
        // Jittered: nodes that start together must not all ask at once for ever.
        tokio::time::sleep(REFRESH.mul_f64(rand::random_range(0.8..1.2))).await;
        let now = jwt.borrow().clone();
        if now.jwks.is_none() {
            continue;
        }
        match load(&now).await {
            // A reload meanwhile has read another set.
            Ok(keys) if *jwt.borrow() == now => verifier.replace_keys(keys),
            Ok(_) => {}
            Err(error) => tracing::warn!("{error:#}; the keys from before stay in force"),
        }
    }
}

/// The source as an https URL, if it is one.
pub(crate) fn https(source: &str) -> Option<Uri> {
    let url: Uri = source.parse().ok()?;
    (url.scheme_str() == Some("https") && url.host().is_some()).then_some(url)
}

async fn fetch(url: &Uri, authority: Option<&Path>) -> anyhow::Result<Bytes> {
    let host = url.host().context("the URL has no host")?.trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host.as_str(), url.port_u16().unwrap_or(443))).await?;
    let name = ServerName::try_from(host).context("the URL's host is no name for TLS")?;
    let stream = TlsConnector::from(trusting(authority)?).connect(name, stream).await?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(header::HOST, url.authority().map_or("", |authority| authority.as_str()))
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())?;
    let answer = exchange(stream, request, MAX_BYTES).await?;
    if answer.status() != StatusCode::OK {
        bail!("the server answered {}", answer.status());
    }
    Ok(answer.into_body())
}

fn trusting(authority: Option<&Path>) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    match authority {
        Some(file) => {
            let certificates =
                CertificateDer::pem_file_iter(file).with_context(|| format!("{}", file.display()))?;
            for certificate in certificates {
                roots.add(certificate.with_context(|| format!("{} is no PEM", file.display()))?)?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        bail!(
            "no trusted certificate authority: install the machine's (ca-certificates), or set auth.jwt.jwks_authority"
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const SET: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn set_of(jwks: impl Into<String>, authority: Option<PathBuf>) -> Jwt {
        Jwt { jwks: Some(jwks.into()), jwks_authority: authority, ..Jwt::default() }
    }

    /// A server that gives every client this answer, and its certificate in a file of this folder.
    async fn server(folder: &Path, answer: String) -> (String, PathBuf) {
        let made = trunkline_transport::certificate::self_signed(&[]).unwrap();
        let file = folder.join("authority.pem");
        std::fs::write(&file, &made.certificate_pem).unwrap();
        let certificate = CertificateDer::from_pem_slice(made.certificate_pem.as_bytes()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(made.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/keys?v=1", listener.local_addr().unwrap().port());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /keys?v=1 HTTP/1.1\r\nhost: localhost:"));
                // A client that has read enough may be gone already.
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        tasks.detach_all();
        (url, file)
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn a_set_is_read_from_a_file_and_from_a_server() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("set.json");
        std::fs::write(&file, SET).unwrap();
        let read = load(&set_of(file.to_str().unwrap(), None)).await.unwrap();
        assert_eq!(read.keys[0].common.key_id.as_deref(), Some("a"));
        let (url, authority) = server(folder.path(), ok(SET)).await;
        assert_eq!(load(&set_of(url, Some(authority))).await.unwrap(), read);
        assert!(load(&Jwt::default()).await.unwrap().keys.is_empty());
    }

    #[tokio::test]
    async fn what_is_no_answer_or_no_set_is_told_with_its_source() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(MAX_BYTES + 1));
        for (answer, said) in [
            ("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n".to_owned(), "answered 302"),
            (ok("[]"), "is no JSON Web Key Set"),
            ("garbage\r\n\r\n".to_owned(), "cannot be read"),
            (String::new(), "cannot be read"),
            (long, "length limit exceeded"),
        ] {
            let (url, authority) = server(folder.path(), answer).await;
            let error = format!("{:#}", load(&set_of(url.clone(), Some(authority))).await.unwrap_err());
            assert!(
                error.contains("auth.jwt.jwks") && error.contains(&url) && error.contains(said),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_server_that_nobody_vouches_for_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let (url, _) = server(folder.path(), ok(SET)).await;
        let other = folder.path().join("other.pem");
        std::fs::write(&other, trunkline_transport::certificate::self_signed(&[]).unwrap().certificate_pem)
            .unwrap();
        let error = format!("{:#}", load(&set_of(url, Some(other))).await.unwrap_err());
        assert!(error.contains("certificate"), "{error}");
    }
}
