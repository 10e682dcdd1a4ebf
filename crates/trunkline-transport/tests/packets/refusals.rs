//! Servers that turn clients away, for a moment or for good, and what their clients make of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use quinn::crypto::rustls::QuicServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::task::JoinSet;
use trunkline_transport::{
    BoxFuture, ClientTls, CloseReason, ConnectError, Handshake, Middleware, QuicClientConfig, Refusal,
    RequestError, RetryConfig, SendError, Tls, TransportClient, TransportClientBuilder,
    TransportServerBuilder, WebTransportClientConfig, WebTransportServerConfig, certificate,
    websocket::ClientHandshakeError,
};
use web_transport_quinn::proto::error_to_http3;

use crate::harness::{Kind, Serving, echo, within};

/// Many quick attempts: how many are needed is the machine's affair.
fn quickly() -> RetryConfig {
    RetryConfig::exponential_backoff(10_000, Duration::from_millis(1)).max_delay(Duration::from_millis(20))
}

/// Refuses the next handshakes with a code, and counts who has come.
#[derive(Clone, Default)]
struct Busy {
    left: Arc<AtomicU32>,
    code: Arc<AtomicU16>,
    came: Arc<AtomicU32>,
}

impl Busy {
    fn refuse(&self, count: u32, code: u16) {
        self.code.store(code, SeqCst);
        self.left.store(count, SeqCst);
    }
}

impl Middleware for Busy {
    fn on_accept(&self, _: Option<SocketAddr>) -> Result<(), Refusal> {
        self.came.fetch_add(1, SeqCst);
        Ok(())
    }

    fn on_handshake<'a>(&'a self, _: &'a mut Handshake) -> BoxFuture<'a, Result<(), Refusal>> {
        let is_busy = self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        Box::pin(async move {
            if is_busy { Err(Refusal::new(self.code.load(SeqCst), "not now")) } else { Ok(()) }
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_comes_back_to_a_server_that_was_busy_for_a_while() {
    for kind in [Kind::WebSocket, Kind::WebSocketTls, Kind::Quic, Kind::WebTransport] {
        let busy = Busy::default();
        let builder = TransportServerBuilder::new().with_middleware(busy.clone());
        let serving = Serving::with(kind, builder, echo).await;
        let client = serving.client_of(TransportClientBuilder::new().reconnect(quickly())).await;
        within(async { client.request("here").await }).await.unwrap();
        for code in [1001, 1011, 1013] {
            busy.refuse(3, code);
            let id = *serving.server.active_sessions().last().unwrap();
            serving.server.session(id).unwrap().close(1001, "restarting");
            let back = client.request("back").timeout(Duration::from_secs(100)).idempotent();
            let answer = within(async { back.await }).await;
            assert_eq!(answer.map(|answer| answer.payload), Ok("back".into()), "{kind:?}, {code}");
            assert_eq!(busy.left.load(SeqCst), 0, "{kind:?}, {code}");
        }
    }
}

/// A QUIC server that closes each connection with this code as soon as its handshake is complete. It lets its peers open no
/// stream, so that no client is done before.
fn closing(alpn: &str, code: u64) -> (SocketAddr, ClientTls, JoinSet<()>) {
    let made = certificate::self_signed(&[]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(made.certificate_pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(made.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_bidi_streams(0_u32.into()).max_concurrent_uni_streams(0_u32.into());
    config.transport_config(Arc::new(transport));
    let endpoint = quinn::Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = endpoint.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            if let Ok(connection) = incoming.await {
                connection.close(quinn::VarInt::from_u64(code).unwrap(), b"as it was told to");
            }
        }
    });
    let tls = Tls::from_pem(made.certificate_pem.as_bytes(), made.key_pem.as_bytes()).unwrap();
    (address, ClientTls::pinned(vec![tls.fingerprint()]).unwrap(), task)
}

async fn refused(client: TransportClientBuilder) -> ConnectError {
    let client = client.build().await.unwrap();
    within(client.connect()).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_a_handshake_ends_with_says_whether_to_come_back() {
    // Dropped, going away, internal error, restarting, overloaded; and what is the client's own fault.
    let passing = [0, 1001, 1011, 1012, 1013];
    let lasting = [1002, 1008, 4100];
    let http3 = [(0x100, true), (0x102, true), (0x107, true), (0x10B, true), (0x10E, false)];
    let codes = |more: &[(u64, bool)]| -> Vec<(u64, bool)> {
        let own = passing.map(|code| (code, true)).into_iter().chain(lasting.map(|code| (code, false)));
        own.chain(more.iter().copied()).collect()
    };
    for (code, passes) in codes(&[]) {
        let (at, trust, _server) = closing("msgtrans/2", code);
        let config = QuicClientConfig::new(at.to_string()).tls(trust);
        let error = refused(TransportClientBuilder::new().with_protocol(config)).await;
        assert_eq!(error.is_retryable(), passes, "QUIC, {code}: {error:?}");
        assert_eq!(told(&error), (code != 0).then_some(code), "QUIC: {error:?}");
    }
    let mut sessions: Vec<(u64, u64, bool)> =
        codes(&http3).into_iter().map(|(code, passes)| (code, code, passes)).collect();
    // A session's own codes have a range of their own there.
    let own = codes(&[]).into_iter().map(|(code, passes)| (error_to_http3(code as u32), code, passes));
    sessions.extend(own);
    for (sent, code, passes) in sessions {
        let (at, trust, _server) = closing("h3", sent);
        let config = WebTransportClientConfig::new(format!("https://{at}/")).tls(trust);
        let error = refused(TransportClientBuilder::new().with_protocol(config)).await;
        assert_eq!(error.is_retryable(), passes, "WebTransport, {code}: {error:?}");
        assert_eq!(told(&error), (code != 0).then_some(code), "WebTransport: {error:?}");
    }
}

fn told(error: &ConnectError) -> Option<u64> {
    match error {
        ConnectError::Closed { code, .. } => Some(*code),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_transport_servers_answer_is_told_and_a_refusal_is_not_asked_for_again() {
    for (code, status) in [(4100, 403), (1011, 500), (1013, 503)] {
        let busy = Busy::default();
        busy.refuse(1, code);
        let builder = TransportServerBuilder::new().with_middleware(busy.clone());
        let serving = Serving::with(Kind::WebTransport, builder, echo).await;
        let client = TransportClientBuilder::new().with_protocol(serving.protocol());
        let error = refused(client).await;
        assert!(
            matches!(error, ConnectError::WebTransportStatus(told) if told == status),
            "{code}: {error:?}"
        );
        assert_eq!(error.is_retryable(), status != 403, "{error:?}");
    }
    let busy = Busy::default();
    let tls = Tls::self_signed_dev().unwrap();
    let trust = ClientTls::pinned(vec![tls.fingerprint()]).unwrap();
    let server = TransportServerBuilder::new()
        .with_middleware(busy.clone())
        .with_protocol(WebTransportServerConfig::new("127.0.0.1:0").path("/here").tls(tls));
    let serving = Serving::of(Kind::WebTransport, server.build().await.unwrap(), echo);
    let there = WebTransportClientConfig::new(format!("https://{}/there", serving.address())).tls(trust);
    let client = TransportClientBuilder::new().retry_strategy(quickly()).with_protocol(there);
    let error = refused(client).await;
    assert!(matches!(error, ConnectError::WebTransportStatus(404)), "{error:?}");
    assert_eq!(busy.came.load(SeqCst), 1, "it is asked once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_refuses_in_each_protocols_own_way() {
    for kind in Kind::ALL {
        let serving = Serving::with(kind, TransportServerBuilder::new().max_connections(2), echo).await;
        let (first, second) = (serving.client().await, serving.client().await);
        for client in [&first, &second] {
            within(async { client.request("in").await }).await.unwrap();
        }
        let third = TransportClientBuilder::new().with_protocol(serving.protocol()).build().await.unwrap();
        let connected = within(third.connect()).await;
        let counted = serving.server.stats().refused_connections;
        match kind {
            Kind::WebSocket | Kind::WebSocketTls => {
                let Err(ConnectError::WebSocket(ClientHandshakeError::Status { status, .. })) = connected
                else {
                    panic!("{kind:?}: {connected:?}");
                };
                assert_eq!((status, counted), (503, 1), "{kind:?}");
            }
            Kind::Quic | Kind::WebTransport => {
                assert!(matches!(connected, Err(ConnectError::Refused)), "{kind:?}: {connected:?}");
                // A datagram that is sent again is refused again.
                assert!(counted >= 1, "{kind:?}");
            }
            Kind::Tcp | Kind::Tls | Kind::Unix | Kind::Memory | Kind::Custom => {
                connected.unwrap();
                closed_without_a_word(kind, &third).await;
                assert_eq!(serving.server.stats().refused_connections, 1, "{kind:?}");
            }
        }
        assert_eq!(serving.server.session_count(), 2, "{kind:?}");
        first.disconnect().await;
        within(async {
            while serving.server.session_count() > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let fourth = serving.client().await;
        within(async { fourth.request("in").await }).await.unwrap();
    }
}

/// The connection ends, and nothing was served on it.
async fn closed_without_a_word(kind: Kind, client: &TransportClient) {
    let asked = within(async { client.request("?").await }).await;
    let reason = match asked.expect_err("there is no place") {
        RequestError::Disconnected(reason) | RequestError::NotSent(SendError::Closed(reason)) => reason,
        RequestError::NotSent(SendError::NotConnected) => return,
        error => panic!("{kind:?}: {error}"),
    };
    assert!(matches!(reason, CloseReason::Ended | CloseReason::Lost(_)), "{kind:?}: {reason}");
}
