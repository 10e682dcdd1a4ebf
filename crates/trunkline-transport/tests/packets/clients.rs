//! A15 and A17 in small, and A19: clients that try again, come back by themselves, keep a pool, and race protocols.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, task::JoinSet};
use trunkline_transport::{
    ClientTls, CloseReason, ConnectError, Limits, Middleware, Protocol, QuicClientConfig, QuicServerConfig,
    Refusal, RequestError, RetryConfig, Session, TcpClientConfig, TcpServerConfig, Tls,
    TransportClientBuilder, TransportError, TransportEvent, TransportServer, TransportServerBuilder,
    WebSocketClientConfig, WebSocketServerConfig,
    chaos::{UdpFaults, UdpProxy},
};

use crate::harness::{Kind, Serving, echo, within};

const SOON: Duration = Duration::from_millis(5);

/// Many quick attempts: how many are needed is the machine's affair.
fn quickly() -> RetryConfig {
    RetryConfig::exponential_backoff(10_000, Duration::from_millis(1)).max_delay(Duration::from_millis(20))
}

/// Counts newcomers.
#[derive(Clone, Default)]
struct Door(Arc<AtomicU32>);

impl Middleware for Door {
    fn on_accept(&self, _: Option<SocketAddr>) -> Result<(), Refusal> {
        self.0.fetch_add(1, SeqCst);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_is_tried_again_where_that_may_help() {
    // Nobody listens there yet.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = TransportClientBuilder::new().with_protocol(TcpClientConfig::new(address.to_string()));
    let client = client.retry_strategy(quickly()).build().await.unwrap();
    let mut tasks = JoinSet::new();
    let connecting = client.clone();
    tasks.spawn(async move { connecting.connect().await });
    let server = TransportServerBuilder::new().with_protocol(TcpServerConfig::new(address.to_string()));
    let server = server.max_connections(1).build().await.unwrap();
    let serving = server.clone();
    let mut serve = JoinSet::new();
    serve.spawn(async move { serving.serve_with(echo).await });
    within(tasks.join_next()).await.unwrap().unwrap().unwrap();
    within(async { client.request("x").await }).await.unwrap();

    // A WebSocket server that is full says 503, which passes.
    let builder = TransportServerBuilder::new().max_connections(1);
    let serving = Serving::with(Kind::WebSocket, builder, echo).await;
    let first = serving.client().await;
    let once = TransportClientBuilder::new().with_protocol(serving.protocol()).build().await.unwrap();
    let error = within(once.connect()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let second = TransportClientBuilder::new().with_protocol(serving.protocol()).retry_strategy(quickly());
    let second = second.build().await.unwrap();
    let connecting = second.clone();
    tasks.spawn(async move { connecting.connect().await });
    first.disconnect().await;
    within(tasks.join_next()).await.unwrap().unwrap().unwrap();
    within(async { second.request("x").await }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_not_change_is_not_tried_again() {
    let stranger = || ClientTls::pinned(vec![Tls::self_signed_dev().unwrap().fingerprint()]).unwrap();
    for kind in [Kind::Tls, Kind::WebSocketTls, Kind::Quic, Kind::WebTransport, Kind::WebSocket] {
        let door = Door::default();
        let builder = TransportServerBuilder::new().with_middleware(door.clone());
        let serving = if kind == Kind::WebSocket {
            // A path that is not served.
            let server = builder.with_protocol(WebSocketServerConfig::new("127.0.0.1:0").path("/here"));
            Serving::of(kind, server.build().await.unwrap(), echo)
        } else {
            Serving::with(kind, builder, echo).await
        };
        let at = serving.address();
        let client = TransportClientBuilder::new().retry_strategy(quickly());
        let client = match kind {
            Kind::Tls => client.with_protocol(TcpClientConfig::new(at.to_string()).tls(stranger())),
            Kind::WebSocketTls => {
                client.with_protocol(WebSocketClientConfig::new(format!("wss://{at}/ws")).tls(stranger()))
            }
            Kind::Quic => client.with_protocol(QuicClientConfig::new(at.to_string()).tls(stranger())),
            Kind::WebSocket => client.with_protocol(WebSocketClientConfig::new(format!("ws://{at}/there"))),
            _ => client.with_protocol(
                trunkline_transport::WebTransportClientConfig::new(format!("https://{at}/wt"))
                    .tls(stranger()),
            ),
        };
        let client = client.build().await.unwrap();
        let error = within(client.connect()).await.unwrap_err();
        assert!(!error.is_retryable() && !matches!(error, ConnectError::TimedOut(_)), "{kind:?}: {error}");
        assert_eq!(door.0.load(SeqCst), 1, "{kind:?}: {error}");
    }
}

/// Answers requests once there are permits.
async fn gated(kind: Kind, go: &Arc<Semaphore>) -> Serving {
    let go = Arc::clone(go);
    let limits = Limits::new().requests(1000);
    let builder = TransportServerBuilder::new().limits(limits).graceful_shutdown(Duration::from_millis(50));
    Serving::with(kind, builder, move |mut session: Session| {
        let go = Arc::clone(&go);
        async move {
            let answer = move |_, packet: trunkline_transport::Packet| {
                let go = Arc::clone(&go);
                async move {
                    drop(go.acquire().await.unwrap());
                    packet.reply(packet.payload.clone())
                }
            };
            session.serve_requests(answer).await
        }
    })
    .await
}

async fn until(server: &TransportServer, what: impl Fn(&TransportServer) -> bool) {
    within(async {
        while !what(server) {
            tokio::time::sleep(SOON).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a19_a_pool_spreads_requests_and_loses_only_those_of_the_one_that_dies() {
    for kind in Kind::ALL {
        let go = Arc::new(Semaphore::new(0));
        let serving = gated(kind, &go).await;
        let builder = TransportClientBuilder::new()
            .limits(Limits::new().requests(1000))
            .request_timeout(Duration::from_secs(100))
            .reconnect(RetryConfig::forever(Duration::from_millis(1)));
        let client = serving.client_of(builder.pool(4, 4, Duration::from_secs(60))).await;
        let mut tasks = JoinSet::new();
        for i in 0..1000_u32 {
            let client = client.clone();
            tasks.spawn(async move {
                let answer = client.request(i.to_be_bytes().to_vec()).await;
                answer.map(|answer| assert_eq!(answer.payload, i.to_be_bytes()[..]))
            });
        }
        until(&serving.server, |server| server.stats().received_requests == 1000).await;
        let ids = serving.server.active_sessions();
        assert_eq!(ids.len(), 4, "{kind:?}");
        let open: Vec<usize> =
            ids.iter().map(|id| serving.server.session(*id).unwrap().open_requests()).collect();
        assert!(open.iter().all(|open| (200..300).contains(open)), "{kind:?}: {open:?}");
        serving.server.session(ids[1]).unwrap().close(1001, "killed");
        // It is replaced while the others are still being answered.
        until(&serving.server, |server| {
            let now = server.active_sessions();
            now.len() == 4 && !now.contains(&ids[1])
        })
        .await;
        go.add_permits(1000);
        let (mut answered, mut lost) = (0, 0);
        for ended in within(tasks.join_all()).await {
            match ended {
                Ok(()) => answered += 1,
                Err(RequestError::Disconnected(_)) => lost += 1,
                Err(error) => panic!("{kind:?}: {error}"),
            }
        }
        assert_eq!((answered, lost), (1000 - open[1], open[1]), "{kind:?}: {open:?}");
        within(async { client.request("once more").await }).await.unwrap();
        assert_eq!(serving.server.session_count(), 4, "{kind:?}");
        client.disconnect().await;
        until(&serving.server, |server| server.session_count() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_grows_with_its_load_and_shrinks_when_idle() {
    let go = Arc::new(Semaphore::new(0));
    let serving = gated(Kind::Tcp, &go).await;
    let builder = TransportClientBuilder::new().limits(Limits::new().requests(4));
    let client = serving.client_of(builder.pool(1, 3, Duration::from_millis(200))).await;
    until(&serving.server, |server| server.session_count() == 1).await;
    let mut tasks = JoinSet::new();
    // Each connection is busy at two; at three connections it is enough, however many ask.
    for count in 1..=12_u64 {
        let client = client.clone();
        tasks.spawn(async move { client.request("x").await });
        until(&serving.server, |server| server.stats().received_requests == count).await;
        // The next is asked where there is room by then.
        if let Some(connections) = [(4, 2), (7, 3)].iter().find(|(at, _)| *at == count).map(|(_, n)| *n) {
            until(&serving.server, |server| server.session_count() == connections).await;
        }
    }
    until(&serving.server, |server| server.session_count() == 3).await;
    go.add_permits(100);
    within(tasks.join_all()).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    until(&serving.server, |server| server.session_count() == 1).await;
    within(async { client.request("x").await }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_a_client_comes_back_by_itself_and_tells_what_was_lost() {
    for kind in Kind::ALL {
        let go = Arc::new(Semaphore::new(0));
        let serving = gated(kind, &go).await;
        let client = serving.client_of(TransportClientBuilder::new().reconnect(quickly())).await;
        let mut events = client.events().unwrap();
        let mut tasks = JoinSet::new();
        for is_idempotent in [false, true] {
            let client = client.clone();
            tasks.spawn(async move {
                let request = client.request("x").timeout(Duration::from_secs(100));
                let request = if is_idempotent { request.idempotent() } else { request };
                (is_idempotent, request.await)
            });
        }
        until(&serving.server, |server| server.stats().received_requests == 2).await;
        let id = serving.server.active_sessions()[0];
        serving.server.session(id).unwrap().close(1001, "killed");
        // The one that may be asked twice is there again, on another connection.
        until(&serving.server, |server| server.stats().received_requests == 3).await;
        go.add_permits(100);
        for (is_idempotent, answer) in within(tasks.join_all()).await {
            match answer {
                Ok(_) => assert!(is_idempotent, "{kind:?}"),
                Err(error) => {
                    assert!(matches!(error, RequestError::Disconnected(_)), "{kind:?}: {error}");
                    assert!(!is_idempotent, "{kind:?}: {error}");
                }
            }
        }
        let mut told = Vec::new();
        while told.len() < 3 {
            match within(events.next()).await.unwrap() {
                TransportEvent::ConnectionEstablished { session_id, .. } => told.push(("there", session_id)),
                TransportEvent::ConnectionClosed { session_id, .. } => told.push(("gone", session_id)),
                _ => {}
            }
        }
        // The new one may be there before the last word of the old one is read.
        assert_eq!(told[0].0, "there");
        let gone: Vec<_> = told.iter().filter(|(what, _)| *what == "gone").collect();
        assert_eq!(gone, [&("gone", told[0].1)], "{kind:?}: {told:?}");
        // Where the server ends the conversation, that is it; so it is where the client does.
        let id = serving.server.active_sessions()[0];
        serving.server.session(id).unwrap().close(4321, "for good");
        within(async {
            loop {
                if let TransportEvent::ConnectionClosed { reason, .. } = events.next().await.unwrap() {
                    let told = CloseReason::Peer { code: 4321, reason: "for good".to_owned() };
                    assert_eq!(reason, told, "{kind:?}");
                    break;
                }
            }
        })
        .await;
        let last = within(async { client.request("anybody?").idempotent().await }).await.unwrap_err();
        assert!(matches!(last, RequestError::NotSent(_)), "{kind:?}: {last}");
        within(client.connect()).await.unwrap();
        within(async { client.request("again").await }).await.unwrap();
        client.disconnect().await;
        until(&serving.server, |server| server.session_count() == 0).await;
        assert!(!client.is_connected(), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_a_client_finds_a_server_that_was_away() {
    for kind in [Kind::Tcp, Kind::WebSocket, Kind::Quic] {
        let tls = Tls::self_signed_dev().unwrap();
        let trust = ClientTls::pinned(vec![tls.fingerprint()]).unwrap();
        let start = async |at: &str| {
            let builder = TransportServerBuilder::new().graceful_shutdown(Duration::from_millis(50));
            let builder = match kind {
                Kind::Tcp => builder.with_protocol(TcpServerConfig::new(at)),
                Kind::WebSocket => builder.with_protocol(WebSocketServerConfig::new(at)),
                _ => builder.with_protocol(QuicServerConfig::new(at).tls(tls.clone())),
            };
            builder.build().await.map(|server| Serving::of(kind, server, echo))
        };
        let serving = start("127.0.0.1:0").await.unwrap();
        let at = serving.address().to_string();
        let builder = TransportClientBuilder::new().reconnect(quickly());
        let client = match kind {
            Kind::Tcp => builder.with_protocol(TcpClientConfig::new(&at)),
            Kind::WebSocket => builder.with_protocol(WebSocketClientConfig::new(format!("ws://{at}"))),
            _ => builder.with_protocol(QuicClientConfig::new(&at).tls(trust)),
        };
        let client = client.build().await.unwrap();
        within(client.connect()).await.unwrap();
        within(async { client.request("before").await }).await.unwrap();
        within(serving.server.shutdown()).await;
        drop(serving);
        let waiting = client.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(
            async move { waiting.request("across").timeout(Duration::from_secs(100)).idempotent().await },
        );
        // A UDP socket is free a moment after its server.
        let serving = within(async {
            loop {
                match start(&at).await {
                    Ok(serving) => break serving,
                    Err(_) => tokio::time::sleep(SOON).await,
                }
            }
        })
        .await;
        let answer = within(tasks.join_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(answer.payload, "across", "{kind:?}");
        drop(serving);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a17_protocols_are_raced_and_the_first_to_answer_is_used() {
    let tls = Tls::self_signed_dev().unwrap();
    let trust = ClientTls::pinned(vec![tls.fingerprint()]).unwrap();
    let server = TransportServerBuilder::new()
        .with_protocol(QuicServerConfig::new("127.0.0.1:0").tls(tls.clone()))
        .with_protocol(WebSocketServerConfig::new("127.0.0.1:0").tls(tls))
        .build()
        .await
        .unwrap();
    let [quic, websocket] = server.local_addrs()[..] else { unreachable!() };
    let serving = server.clone();
    let mut serve = JoinSet::new();
    serve.spawn(async move { serving.serve_with(echo).await });
    let udp = UdpProxy::start(quic, 7, UdpFaults::default()).await.unwrap();
    for (black_hole, expected) in [(false, Protocol::Quic), (true, Protocol::WebSocketTls)] {
        // A network that blocks UDP takes every datagram and answers none.
        udp.set_faults(UdpFaults { black_hole, ..UdpFaults::default() });
        let client = TransportClientBuilder::new()
            .with_protocol(WebSocketClientConfig::new(format!("wss://{websocket}")).tls(trust.clone()))
            .or(QuicClientConfig::new(udp.address().to_string()).tls(trust.clone()));
        let client = client.build().await.unwrap();
        within(client.connect()).await.unwrap();
        let session = client.session().unwrap();
        assert_eq!(session.connection_info().protocol, expected, "QUIC begins, wherever it is named");
        within(async { client.request("x").await }).await.unwrap();
        client.disconnect().await;
        // What has lost leaves nothing behind. And the server hears of the end before its network is cut: it would wait a
        // minute for a client that has gone in silence.
        until(&server, |server| server.session_count() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_a_handler_of_its_own_is_made_once() {
    let serving = Serving::echo(Kind::Tcp).await;
    let client = TransportClientBuilder::new().with_protocol(serving.protocol()).reconnect(quickly());
    let client = client.build().await.unwrap();
    let handler = |mut session: Session| async move {
        session.send("hello").await?;
        assert_eq!(session.recv().await?.expect("the echo").payload, "hello");
        Ok::<(), TransportError>(())
    };
    within(client.connect_with(handler)).await.unwrap();
    until(&serving.server, |server| server.stats().received_packets == 1 && server.session_count() == 0)
        .await;
    assert!(!client.is_connected());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_quic_connection_moves_to_another_address() {
    for kind in Kind::ALL {
        let serving = Serving::echo(kind).await;
        let client = serving.client().await;
        within(async { client.request("here").await }).await.unwrap();
        let session = client.session().unwrap();
        let ids = serving.server.active_sessions();
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let moved = session.rebind(free);
        if !matches!(kind, Kind::Quic | Kind::WebTransport) {
            assert_eq!(moved.unwrap_err().kind(), std::io::ErrorKind::Unsupported, "{kind:?}");
            continue;
        }
        moved.unwrap();
        assert!(UdpSocket::bind(free).is_err(), "{kind:?}: nobody is at the new address");
        within(async { client.request("there").await }).await.unwrap();
        assert_eq!(serving.server.active_sessions(), ids, "{kind:?}: the same connection");
        client.disconnect().await;
        assert_eq!(session.rebind(free).unwrap_err().kind(), std::io::ErrorKind::Unsupported, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_tells_prometheus_its_figures() {
    let serving = Serving::echo(Kind::Tcp).await;
    let client = serving.client().await;
    within(async { client.request("x").await }).await.unwrap();
    let text = serving.server.prometheus("echo");
    for line in ["echo_connections 1", "echo_received_requests_total 1", "echo_sent_packets_total 1"] {
        assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_what_was_queued_and_not_sent_is_given_back() {
    // Side by side: each waits until closing gives up.
    futures_util::future::join_all(Kind::ALL.map(unsent_on)).await;
}

async fn unsent_on(kind: Kind) {
    const LARGE: usize = 64 << 10;
    let builder = TransportServerBuilder::new().limits(Limits::new().received_bytes(1000));
    let (say, mut heard) = tokio::sync::mpsc::channel(1);
    // It reads nothing but the first.
    let serving = Serving::with(kind, builder, move |mut session: Session| {
        let say = say.clone();
        async move {
            let first = session.recv().await?.expect("the first");
            say.send(first).await.unwrap();
            session.closed().await;
            Ok(())
        }
    })
    .await;
    // Several times what any link takes ahead: 4 MiB of the sender's socket, and the first window of a reader that has
    // read nothing. Some of it stays.
    let sent = (16 << 20) / LARGE as u32;
    let limits = Limits::new().queued_bytes(20 << 20);
    let client = serving.client_of(TransportClientBuilder::new().limits(limits)).await;
    let session = client.session().unwrap();
    let numbered = |i: u32| [&i.to_be_bytes()[..], &[7; LARGE]].concat();
    session.send(numbered(0)).await.unwrap();
    within(heard.recv()).await.unwrap();
    for i in 1..sent {
        session.try_send(numbered(i)).unwrap();
    }
    assert!(session.take_unsent().is_empty(), "{kind:?}: it lives");
    session.close(1000, "given up");
    assert_eq!(within(session.closed()).await, CloseReason::CutOff, "{kind:?}");
    let unsent = session.take_unsent();
    let first = sent - unsent.len() as u32;
    assert!(first > 0 && first < sent, "{kind:?}: {} of {sent}", unsent.len());
    for (packet, i) in unsent.iter().zip(first..) {
        assert!(packet.payload == numbered(i), "{kind:?}: {i}");
    }
    assert!(session.take_unsent().is_empty(), "{kind:?}: they were given back");
}
