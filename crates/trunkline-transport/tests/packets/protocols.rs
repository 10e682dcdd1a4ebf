//! A13, A14 and D9: listeners, names, certificates, who is on the other side; and sizes over every protocol.

use std::time::Duration;

use trunkline_transport::{
    BuildError, ClientTls, Compression, ConnectError, Endpoint, Limits, Packet, Protocol, QuicClientConfig,
    QuicServerConfig, ReloadableCertificate, TcpClientConfig, TcpServerConfig, Tls, TransportClientBuilder,
    TransportEvent, TransportServerBuilder, WebSocketClientConfig, WebSocketServerConfig,
    WebTransportServerConfig, Wire, certificate,
};

use crate::harness::{Kind, Serving, echo, pattern, within};

#[tokio::test(flavor = "multi_thread")]
async fn packets_of_every_size_pass_over_every_protocol_in_both_wires() {
    let limits = || Limits::new().message(4 << 20);
    for kind in Kind::ALL {
        let serving = Serving::with(kind, TransportServerBuilder::new().limits(limits()), echo).await;
        for wire in [Wire::V1, Wire::V2] {
            let client = serving.client_of(TransportClientBuilder::new().limits(limits()).wire(wire)).await;
            for size in [0, 1, 125, 126, 4096, 4097, 65_535, 65_536, 1 << 20, 4 << 20] {
                let packet =
                    Packet::new(pattern(size)).with_ext_header(pattern(size.min(65_535))).with_biz_type(9);
                let answer = within(async { client.request(packet).await }).await.unwrap();
                assert!(answer.payload == pattern(size), "{kind:?}, {wire:?}, {size}");
                assert_eq!(answer.biz_type, 9);
            }
            let session = client.session().unwrap();
            assert_eq!(session.wire(), wire, "{kind:?}");
            client.disconnect().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_packets_pass_over_every_protocol() {
    for kind in Kind::ALL {
        for how in [Compression::Zlib, Compression::Zstd] {
            if !how.is_available() {
                continue;
            }
            let builder = TransportServerBuilder::new().compression(how, 1000);
            let serving = Serving::with(kind, builder, echo).await;
            let client = serving.client_of(TransportClientBuilder::new().compression(how, 1000)).await;
            // What both can inflate is known after the first round trip.
            within(async { client.request("hello").await }).await.unwrap();
            for size in [999, 1000, 65_536, 1 << 20] {
                let answer = within(async { client.request(vec![5; size]).await }).await.unwrap();
                assert!(answer.payload == vec![5; size], "{kind:?}, {how:?}, {size}");
                let expected = if size < 1000 { Compression::None } else { how };
                assert_eq!(answer.compression, expected, "{kind:?}, {size}");
            }
            let sent = client.stats().sent_bytes;
            assert!(sent < 20_000, "{sent} bytes for a megabyte of fives: {kind:?}, {how:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a13_several_listeners_of_a_kind_host_names_and_any_port() {
    let server = TransportServerBuilder::new()
        .with_protocol(TcpServerConfig::new("localhost:0"))
        .with_protocol(TcpServerConfig::new("127.0.0.1:0"))
        .with_protocol(WebSocketServerConfig::new("localhost:0"))
        .with_protocol(WebSocketServerConfig::new("127.0.0.1:0").path("/chat"))
        .build()
        .await
        .unwrap();
    let addresses = server.local_addrs();
    assert_eq!(addresses.len(), 4);
    assert!(addresses.iter().all(|address| address.port() != 0));
    let serving = server.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { serving.serve_with(echo).await.unwrap() });
    let urls = [
        format!("tcp://localhost:{}", addresses[0].port()),
        format!("tcp://{}", addresses[1]),
        format!("ws://localhost:{}/whatever", addresses[2].port()),
        format!("ws://{}/chat", addresses[3]),
    ];
    for url in urls {
        let endpoint = Endpoint::from_url(&url).unwrap();
        let client = TransportClientBuilder::new().with_protocol(endpoint).build().await.unwrap();
        within(client.connect()).await.unwrap();
        assert_eq!(within(async { client.request("x").await }).await.unwrap().payload, "x", "{url}");
    }
    // A path that is not served is told so.
    let elsewhere = WebSocketClientConfig::new(format!("ws://{}/other", addresses[3]));
    let client = TransportClientBuilder::new().with_protocol(elsewhere).build().await.unwrap();
    let refused = within(client.connect()).await.unwrap_err();
    assert!(refused.to_string().contains("404"), "{refused}");
    let unknown = TransportServerBuilder::new().with_protocol(TcpServerConfig::new("no.such.host.invalid:1"));
    assert!(matches!(unknown.build().await, Err(BuildError::Address { .. })));
    assert!(matches!(TransportServerBuilder::new().build().await, Err(BuildError::NoProtocol)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a14_and_d9_a_quic_server_without_a_certificate_does_not_start() {
    let quic = TransportServerBuilder::new().with_protocol(QuicServerConfig::new("127.0.0.1:0"));
    let error = quic.build().await.unwrap_err();
    assert!(matches!(error, BuildError::NoCertificate(_)));
    assert!(error.to_string().contains("self_signed_dev"), "it says what to do: {error}");
    let wt = TransportServerBuilder::new().with_protocol(WebTransportServerConfig::new("127.0.0.1:0"));
    assert!(matches!(wt.build().await, Err(BuildError::NoCertificate(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a14_and_d9_a_certificate_is_exchanged_without_a_drop() {
    let old = certificate::self_signed(&[]).unwrap();
    let new = certificate::self_signed(&[]).unwrap();
    let tls = Tls::new(ReloadableCertificate::from(&old));
    let trust_old = ClientTls::pinned(vec![tls.fingerprint()]).unwrap();
    let any = "127.0.0.1:0";
    let server = TransportServerBuilder::new()
        .with_protocol(TcpServerConfig::new(any).tls(tls.clone()))
        .with_protocol(WebSocketServerConfig::new(any).tls(tls.clone()))
        .with_protocol(QuicServerConfig::new(any).tls(tls.clone()))
        .build()
        .await
        .unwrap();
    let at: Vec<String> = server.local_addrs().iter().map(ToString::to_string).collect();
    let serving = server.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { serving.serve_with(echo).await.unwrap() });
    let clients = async |trust: &ClientTls| {
        let builder = || TransportClientBuilder::new();
        [
            builder().with_protocol(TcpClientConfig::new(&at[0]).tls(trust.clone())).build().await.unwrap(),
            builder()
                .with_protocol(WebSocketClientConfig::new(format!("wss://{}", at[1])).tls(trust.clone()))
                .build()
                .await
                .unwrap(),
            builder().with_protocol(QuicClientConfig::new(&at[2]).tls(trust.clone())).build().await.unwrap(),
        ]
    };
    let before = clients(&trust_old).await;
    for client in &before {
        within(client.connect()).await.unwrap();
    }
    tls.certificate().replace(new.certificate_pem.as_bytes(), new.key_pem.as_bytes()).unwrap();
    let trust_new = ClientTls::pinned(vec![tls.fingerprint()]).unwrap();
    for client in clients(&trust_new).await {
        within(client.connect()).await.unwrap();
        assert_eq!(within(async { client.request("new").await }).await.unwrap().payload, "new");
    }
    for client in clients(&trust_old).await {
        let error = within(client.connect()).await.unwrap_err();
        assert!(!matches!(error, ConnectError::TimedOut(_)), "refused, not hung: {error}");
    }
    for client in before {
        assert_eq!(within(async { client.request("old").await }).await.unwrap().payload, "old");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d9_an_untrusted_server_is_refused_on_every_encrypted_protocol() {
    for kind in [Kind::Tls, Kind::WebSocketTls, Kind::Quic, Kind::WebTransport] {
        let serving = Serving::echo(kind).await;
        let address = serving.address();
        let url = match kind {
            Kind::Tls => format!("tls://{address}"),
            Kind::WebSocketTls => format!("wss://{address}/ws"),
            Kind::Quic => format!("quic://{address}"),
            _ => format!("wt://{address}/wt"),
        };
        // By URL alone the machine's own roots decide, and they do not know this server.
        let endpoint = Endpoint::from_url(&url).unwrap();
        let client = TransportClientBuilder::new().with_protocol(endpoint).build().await.unwrap();
        assert!(within(client.connect()).await.is_err(), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_chooses_the_protocol_on_both_sides() {
    let tls = Tls::self_signed_dev().unwrap();
    let trust = ClientTls::pinned(vec![tls.fingerprint()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let unix = format!("unix://{}", folder.path().join("socket").display());
    let any = ["tcp://", "tls://", "ws://", "wss://", "quic://", "wt://"].map(|scheme| {
        let path = if scheme.starts_with('w') { "/chat" } else { "" };
        format!("{scheme}127.0.0.1:0{path}")
    });
    for url in any.into_iter().chain([unix]) {
        let mut endpoint = Endpoint::from_url(&url).unwrap();
        let builder = TransportServerBuilder::new().with_protocol(endpoint.clone().server_tls(tls.clone()));
        let serving = Serving::of(Kind::Tcp, builder.build().await.unwrap(), echo);
        if let Some(address) = serving.server.local_addrs().first() {
            endpoint.port = address.port();
        }
        let client = TransportClientBuilder::new().with_protocol(endpoint.clone().tls(trust.clone()));
        let client = client.build().await.unwrap();
        within(client.connect()).await.unwrap();
        assert_eq!(within(async { client.request("x").await }).await.unwrap().payload, "x", "{url}");
        let id = serving.server.active_sessions()[0];
        let protocol = serving.server.session(id).unwrap().connection_info().protocol;
        assert_eq!(protocol, endpoint.protocol);
        if url.ends_with("/chat") {
            // The path of the URL is the one that is served.
            endpoint.path_and_query = "/other".to_owned();
            let client = TransportClientBuilder::new().with_protocol(endpoint.tls(trust.clone()));
            within(client.build().await.unwrap().connect()).await.unwrap_err();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_nobody_can_listen_on_is_told() {
    for url in ["tls://127.0.0.1:0", "wss://127.0.0.1:0", "quic://127.0.0.1:0", "wt://127.0.0.1:0"] {
        let endpoint = Endpoint::from_url(url).unwrap();
        let error = TransportServerBuilder::new().with_protocol(endpoint).build().await.unwrap_err();
        assert!(matches!(error, BuildError::NoCertificate(_)), "{url}: {error}");
    }
    let endpoint = Endpoint::from_url("ws://127.0.0.1:0/chat?room=1").unwrap();
    let error = TransportServerBuilder::new().with_protocol(endpoint).build().await.unwrap_err();
    assert!(error.to_string().contains("query"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_know_who_is_there() {
    for kind in Kind::ALL {
        let serving = Serving::events(kind, TransportServerBuilder::new()).await;
        let mut events = serving.server.events().unwrap();
        let client = serving.client().await;
        client.send("hello").await.unwrap();
        let info = match within(events.next()).await.unwrap() {
            TransportEvent::ConnectionEstablished { session_id, info } => {
                assert_eq!(serving.server.active_sessions(), [session_id]);
                info
            }
            other => panic!("{kind:?}: {other:?}"),
        };
        let ours = client.session().unwrap();
        assert_eq!(info.protocol, ours.connection_info().protocol);
        let expected = match kind {
            Kind::Tcp => Protocol::Tcp,
            Kind::Tls => Protocol::Tls,
            Kind::WebSocket => Protocol::WebSocket,
            Kind::WebSocketTls => Protocol::WebSocketTls,
            Kind::Quic => Protocol::Quic,
            Kind::WebTransport => Protocol::WebTransport,
            Kind::Unix => Protocol::Unix,
            Kind::Memory => Protocol::Memory,
            Kind::Custom => Protocol::Custom("pipes"),
        };
        assert_eq!(info.protocol, expected);
        match within(events.next()).await.unwrap() {
            TransportEvent::MessageReceived { packet, .. } => {
                assert_eq!(packet.payload_as_str(), Some("hello"))
            }
            other => panic!("{kind:?}: {other:?}"),
        }
        client.disconnect().await;
        match within(events.next()).await.unwrap() {
            TransportEvent::ConnectionClosed { reason, .. } => {
                assert!(reason.is_clean(), "{kind:?}: {reason}")
            }
            other => panic!("{kind:?}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_kept_by_heartbeats_and_measures_its_round_trip() {
    let beat = Duration::from_millis(20);
    for kind in Kind::ALL {
        let serving = Serving::with(kind, TransportServerBuilder::new().heartbeat(beat), echo).await;
        let client = serving.client_of(TransportClientBuilder::new().heartbeat(beat)).await;
        let session = client.session().unwrap();
        within(async {
            while session.rtt().is_none() || serving.server.stats().rtt.is_none() {
                tokio::time::sleep(beat).await;
            }
        })
        .await;
        assert!(client.is_connected(), "{kind:?}");
    }
}
