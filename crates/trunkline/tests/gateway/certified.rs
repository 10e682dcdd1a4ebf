//! An upstream that proves itself by a certificate: `tls.upstream_authority` as a node has it.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use trunkline_proto::wire::ChannelRequest;
use trunkline_proto::wire::gateway_service_client::GatewayServiceClient;
use trunkline_testkit::TestServer;

use crate::common::server;

#[tokio::test]
async fn a_certificate_of_the_configured_authority_stands_for_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let (root, upstream) = authority();
    let (_, stranger) = authority();
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, root.pem()).unwrap();
    let config = format!("[tls]\nmode = \"required\"\nupstream_authority = {file:?}");
    let server = server().anonymous().config(&config).start().await.unwrap();
    // All are on loopback and send a wrong token, which nobody may: only a certificate makes up for it.
    assert_eq!(ask(&server, Some(&upstream)).await.unwrap(), None);
    assert_eq!(ask(&server, None).await.unwrap(), Some(Code::Unauthenticated));
    assert!(ask(&server, Some(&stranger)).await.is_err(), "another authority's certificate was taken");
}

#[tokio::test]
async fn a_file_that_is_no_authority_is_named_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, "no certificate").unwrap();
    let config = format!("[tls]\nupstream_authority = {file:?}");
    let refused = server().anonymous().config(&config).start().await.err().expect("it started");
    let said = format!("{refused:#}");
    let file = file.display();
    let says = format!("tls.upstream_authority (line 2): {file} has no certificate in it");
    assert!(said.contains(&says), "{said}");
    assert!(!said.contains("cannot be bound"), "{said}");
}

type Identity = (Certificate, KeyPair);

/// An authority, and an upstream's certificate of it.
fn authority() -> (Certificate, Identity) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap();
    let mut client = CertificateParams::new(vec!["upstream".to_owned()]).unwrap();
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client_key = KeyPair::generate().unwrap();
    let certificate = client.signed_by(&client_key, &Issuer::new(params, key)).unwrap();
    (root, (certificate, client_key))
}

/// Asks something with a wrong token; the code of the refusal.
async fn ask(server: &TestServer, identity: Option<&Identity>) -> anyhow::Result<Option<Code>> {
    let stream = handshake(server, identity).await?;
    let channel = Endpoint::from_static("http://gateway").connect_with_connector(Once(Some(stream))).await?;
    let mut request = Request::new(ChannelRequest { channel: "room:1".into(), ..ChannelRequest::default() });
    request.metadata_mut().insert("authorization", MetadataValue::from_static("Bearer wrong"));
    match GatewayServiceClient::new(channel).presence(request).await {
        Ok(_) => Ok(None),
        Err(status) if status.code() == Code::Unauthenticated => Ok(Some(status.code())),
        Err(status) => Err(status.into()),
    }
}

async fn handshake(server: &TestServer, identity: Option<&Identity>) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.data_dir().join("keys/certificate.pem"))?)?;
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivatePkcs8KeyDer::from(key.serialize_der());
            config.with_client_auth_cert(vec![certificate.der().clone()], key.into())?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(server.ready().grpc()?).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    Ok(connector.connect(ServerName::try_from("localhost")?, stream).await?)
}

/// A connector for the one stream that there is.
struct Once(Option<TlsStream<TcpStream>>);

impl Service<http::Uri> for Once {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        std::future::ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}
