//! Certificates and trust: reload while serving, pins, authorities, plain and TLS on one port.

use std::{net::Ipv4Addr, sync::Arc};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use trunkline_transport::{
    Accepted, ClientTls, ConnectError, ConnectOptions, FrameKind, Protocol, QuicOptions,
    ReloadableCertificate, StreamListener, TlsPolicy, TlsVersion, certificate, connect,
    websocket::redirect_to_https,
};

use crate::harness::{DEADLINE, Server, frame, loopback, tls_options, trusted, within};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const ENCRYPTED: [Protocol; 4] =
    [Protocol::Tls, Protocol::WebSocketTls, Protocol::Quic, Protocol::WebTransport];

#[tokio::test]
async fn a_reloaded_certificate_serves_the_next_handshake_and_leaves_connections_alone() {
    for protocol in ENCRYPTED {
        let first = certificate::self_signed(&[]).unwrap();
        let second = certificate::self_signed(&[]).unwrap();
        let shared = ReloadableCertificate::from(&first);
        let old = ClientTls::pinned(vec![shared.fingerprint()]).unwrap();
        let streams = tls_options(&shared, TlsPolicy::Required);
        let mut server =
            Server::with(protocol, 1 << 20, old.clone(), streams, QuicOptions::new(shared.clone()));
        let (mut live, mut live_server) = server.pair().await;

        shared.replace(second.certificate_pem.as_bytes(), second.key_pem.as_bytes()).unwrap();
        let options = ConnectOptions { tls: Some(old), ..server.options.clone() };
        let endpoint = server.endpoint.clone();
        let refused = within(async {
            tokio::select! {
                refused = connect(&endpoint, &options) => refused,
                _ = server.accept() => panic!("{protocol}: the old certificate was presented"),
            }
        });
        let refused = refused.await.unwrap_err();
        assert!(matches!(refused, ConnectError::Untrusted(_)), "{protocol}: {refused:?}");
        assert!(refused.to_string().contains("pinned"), "{protocol}: {refused}");

        server.options.tls = Some(ClientTls::pinned(vec![shared.fingerprint()]).unwrap());
        server.pair().await;
        within(live.writer.send(FrameKind::Binary, b"still here")).await.unwrap();
        assert_eq!(frame(&mut live_server).await.bytes, "still here", "{protocol}");
    }
}

#[test]
fn a_broken_reload_keeps_the_old_certificate() {
    let first = certificate::self_signed(&[]).unwrap();
    let other = certificate::self_signed(&[]).unwrap();
    let shared = ReloadableCertificate::from(&first);
    let before = shared.fingerprint();
    let (pem, key) = (first.certificate_pem.as_bytes(), first.key_pem.as_bytes());
    for (pem, key) in [
        (&b""[..], key),
        (pem, &b""[..]),
        (key, pem),
        // A key that belongs to another certificate.
        (pem, other.key_pem.as_bytes()),
    ] {
        shared.replace(pem, key).unwrap_err();
        assert_eq!(shared.fingerprint(), before);
    }
}

#[tokio::test]
async fn an_authority_is_trusted_for_its_names_only() {
    let made = certificate::self_signed(&["gateway.test".to_owned(), "0.0.0.0".to_owned()]).unwrap();
    let shared = ReloadableCertificate::from(&made);
    let trust = ClientTls::authority(made.certificate_pem.as_bytes()).unwrap();
    for protocol in ENCRYPTED {
        let at = |host: Ipv4Addr| {
            let streams = tls_options(&shared, TlsPolicy::Required);
            Server::at(host, protocol, 1 << 20, trust.clone(), streams, QuicOptions::new(shared.clone()))
        };
        // 127.0.0.1 is one of its names, 127.0.0.2 is not.
        at(Ipv4Addr::LOCALHOST).pair().await;
        let mut server = at(Ipv4Addr::new(127, 0, 0, 2));
        let (endpoint, options) = (server.endpoint.clone(), server.options.clone());
        let error = within(async {
            tokio::select! {
                refused = connect(&endpoint, &options) => refused.unwrap_err(),
                _ = server.accept() => panic!("{protocol}: trusted under another name"),
            }
        })
        .await;
        assert!(error.to_string().to_lowercase().contains("cert"), "{protocol}: {error}");
    }
}

#[test]
fn trust_needs_something_to_trust() {
    ClientTls::authority(b"").unwrap_err();
    ClientTls::authority(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap_err();
}

#[tokio::test]
async fn encrypted_protocols_refuse_to_connect_without_trust() {
    for protocol in ENCRYPTED {
        let server = Server::start(protocol, 1 << 20);
        let options = ConnectOptions { tls: None, ..server.options.clone() };
        let error = within(connect(&server.endpoint, &options)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Tls(_)), "{protocol}: {error}");
    }
}

#[tokio::test]
async fn one_port_speaks_plain_and_tls_where_tls_is_optional() {
    for [plain, tls] in [[Protocol::Tcp, Protocol::Tls], [Protocol::WebSocket, Protocol::WebSocketTls]] {
        let mut server = Server::start(plain, 1 << 20);
        for protocol in [plain, tls, plain] {
            server.endpoint.protocol = protocol;
            let (_, connection) = server.pair().await;
            assert_eq!(connection.info.protocol, protocol);
        }
    }
}

#[tokio::test]
async fn a_plain_peer_is_handed_over_as_refused_where_tls_is_required() {
    let (shared, _) = trusted();
    let mut listener = StreamListener::bind(loopback(), tls_options(&shared, TlsPolicy::Required)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut peer = within(TcpStream::connect(address)).await.unwrap();
    peer.write_all(b"GET /chat?x=1 HTTP/1.1\r\nHost: example.org:8080\r\n\r\n").await.unwrap();
    let Some(Accepted::PlainRefused(stream)) = within(listener.accept()).await else {
        panic!("a plain peer was let in");
    };
    assert_eq!(stream.peer(), peer.local_addr().unwrap());
    let mut answer = String::new();
    within(async { tokio::join!(redirect_to_https(stream, DEADLINE), peer.read_to_string(&mut answer)) })
        .await
        .1
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
    assert!(answer.contains("location: https://example.org:8080/chat?x=1\r\n"), "{answer}");
}

#[tokio::test]
async fn the_version_of_tls_is_told() {
    use rustls::version::{TLS12, TLS13};
    let made = certificate::self_signed(&[]).unwrap();
    let shared = ReloadableCertificate::from(&made);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(made.certificate_pem.as_bytes()).unwrap()).unwrap();
    for (theirs, told) in [(&TLS12, TlsVersion::V1_2), (&TLS13, TlsVersion::V1_3)] {
        let mut listener =
            StreamListener::bind(loopback(), tls_options(&shared, TlsPolicy::Required)).unwrap();
        let stream = within(TcpStream::connect(listener.local_addr().unwrap())).await.unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[theirs]);
        let client = client.unwrap().with_root_certificates(roots.clone()).with_no_client_auth();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let shake = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream);
        let (accepted, connected) = within(async { tokio::join!(listener.accept(), shake) }).await;
        connected.unwrap();
        let Some(Accepted::Stream(stream)) = accepted else { panic!("it is TLS") };
        let tls = stream.into_connection(1 << 10).info.tls.unwrap();
        assert_eq!((tls.version, tls.peer_certificate), (told, None));
    }
}

#[test]
fn a_listener_with_tls_needs_a_certificate() {
    for policy in [TlsPolicy::Optional, TlsPolicy::Required] {
        let options = trunkline_transport::StreamOptions { policy, ..Default::default() };
        StreamListener::bind(loopback(), options).unwrap_err();
    }
}
