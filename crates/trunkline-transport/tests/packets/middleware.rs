//! A20: middleware on every protocol, in order, refusing and replacing; and peers that have to prove themselves.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use trunkline_transport::{
    AuthMiddleware, BoxFuture, CloseReason, CredentialSource, Handshake, LoggingMiddleware, Middleware,
    Packet, Refusal, RequestError, SendError, Session, TransportClient, TransportClientBuilder,
    TransportEvent, TransportServerBuilder, Verdict, WebSocketClientConfig, WebTransportClientConfig,
};

use crate::harness::{Kind, Reach, Serving, echo, within};

type Log = Arc<Mutex<Vec<String>>>;

/// Writes each hook down and leaves its letter in each packet.
struct Recorder {
    name: char,
    log: Log,
}

impl Recorder {
    fn note(&self, hook: &str) {
        self.log.lock().push(format!("{hook} {}", self.name));
    }

    fn marked(&self, mut packet: Packet) -> Packet {
        let mut payload = packet.payload.to_vec();
        payload.push(self.name as u8);
        packet.payload = payload.into();
        packet
    }
}

impl Middleware for Recorder {
    fn on_accept(&self, _: Option<SocketAddr>) -> Result<(), Refusal> {
        self.note("accept");
        Ok(())
    }

    fn on_handshake<'a>(&'a self, handshake: &'a mut Handshake) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.note("handshake");
            handshake.extensions.insert(self.name);
            Ok(())
        })
    }

    fn on_packet(&self, _: &Session, packet: Packet) -> Verdict {
        self.note("packet");
        let packet = self.marked(packet);
        // One decides at once, the other later.
        if self.name == 'a' {
            return Verdict::Pass(packet);
        }
        Verdict::Later(Box::pin(async move {
            tokio::task::yield_now().await;
            Verdict::Pass(packet)
        }))
    }

    fn on_send(&self, _: &Session, packet: Packet) -> Result<Packet, Refusal> {
        self.note("send");
        Ok(self.marked(packet))
    }

    fn on_close(&self, session: &Session, reason: &CloseReason) {
        assert!(reason.is_clean(), "{reason}");
        assert_eq!(session.extension::<char>(), Some('b'), "kept from the handshake on");
        self.note("close");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_hooks_run_in_order_reversed_on_close_and_may_replace_packets() {
    for kind in Kind::ALL {
        let log = Log::default();
        let recorder = |name| Recorder { name, log: Arc::clone(&log) };
        let builder = TransportServerBuilder::new()
            .with_middleware(recorder('a'))
            .with_middleware(recorder('b'))
            .with_middleware(LoggingMiddleware::new());
        let serving = Serving::with(kind, builder, echo).await;
        let client = serving.client().await;
        let answer = within(async { client.request("x").await }).await.unwrap();
        assert_eq!(answer.payload, "xabab", "{kind:?}");
        // What many get is made anew for each: every peer's middleware may change it.
        let mut events = client.events().unwrap();
        assert_eq!(serving.server.broadcast("all").await.unwrap().queued, 1);
        assert_eq!(message(&mut events).await.payload, "allab", "{kind:?}");
        client.disconnect().await;
        within(async {
            while log.lock().len() < 12 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let expected = [
            "accept a",
            "accept b",
            "handshake a",
            "handshake b",
            "packet a",
            "packet b",
            "send a",
            "send b",
            "send a",
            "send b",
            "close b",
            "close a",
        ];
        assert_eq!(*log.lock(), expected, "{kind:?}");
    }
}

async fn message(events: &mut trunkline_transport::EventStream) -> Packet {
    within(async {
        loop {
            if let TransportEvent::MessageReceived { packet, .. } = events.next().await.unwrap() {
                break packet;
            }
        }
    })
    .await
}

/// Refuses where it is told to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Refuses {
    Accept,
    Handshake,
    Packet,
    PacketAndConnection,
    Send,
    Panics,
}

impl Middleware for Refuses {
    fn on_accept(&self, _: Option<SocketAddr>) -> Result<(), Refusal> {
        if *self == Self::Accept { Err(Refusal::policy("not you")) } else { Ok(()) }
    }

    fn on_handshake<'a>(&'a self, _: &'a mut Handshake) -> BoxFuture<'a, Result<(), Refusal>> {
        let refuses = *self == Self::Handshake;
        Box::pin(async move { if refuses { Err(Refusal::new(4100, "not so")) } else { Ok(()) } })
    }

    fn on_packet(&self, _: &Session, packet: Packet) -> Verdict {
        match self {
            Self::Packet if packet.payload == "no" => Verdict::Refuse(Refusal::new(4101, "not this")),
            Self::PacketAndConnection => Verdict::Close(Refusal::new(4102, "not any more")),
            Self::Panics => panic!("a middleware that panics"),
            _ => Verdict::Pass(packet),
        }
    }

    fn on_send(&self, _: &Session, packet: Packet) -> Result<Packet, Refusal> {
        let refuses = *self == Self::Send && packet.payload == "no";
        if refuses { Err(Refusal::new(4103, "not out")) } else { Ok(packet) }
    }
}

/// The client's connection and first request, whichever of them is refused.
async fn first_request(client: &TransportClient) -> Result<Packet, String> {
    within(async {
        client.connect().await.map_err(|error| error.to_string())?;
        client.request("in?").await.map_err(|error| error.to_string())
    })
    .await
}

/// How this client's connection ended.
async fn end_of(client: &TransportClient) -> CloseReason {
    let mut events = client.events().unwrap();
    within(async {
        loop {
            if let TransportEvent::ConnectionClosed { reason, .. } = events.next().await.unwrap() {
                return reason;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_newcomers_are_refused_at_the_door_and_by_their_handshake() {
    for kind in Kind::ALL {
        for refuses in [Refuses::Accept, Refuses::Handshake] {
            let builder = TransportServerBuilder::new().with_middleware(refuses);
            let serving = Serving::with(kind, builder, echo).await;
            let client =
                TransportClientBuilder::new().with_protocol(serving.protocol()).build().await.unwrap();
            let error = first_request(&client).await.unwrap_err();
            if refuses == Refuses::Handshake {
                match kind {
                    Kind::WebSocket | Kind::WebSocketTls => {
                        assert!(error.contains("403"), "{kind:?}: {error}")
                    }
                    // It may be refused before it could ask: then only the end itself tells why.
                    Kind::Quic if error.contains("4100") => {}
                    Kind::Quic => {
                        let end = end_of(&client).await;
                        assert!(matches!(end, CloseReason::Peer { code: 4100, .. }), "{error}: {end}");
                    }
                    _ => {}
                }
            }
            within(async {
                while serving.server.session_count() > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
            assert_eq!(serving.server.stats().refused_connections, 1, "{kind:?}, {refuses:?}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_packets_are_refused_with_a_code_in_both_directions() {
    for kind in Kind::ALL {
        let builder = TransportServerBuilder::new().with_middleware(Refuses::Packet);
        let serving = Serving::with(kind, builder, echo).await;
        let client = serving.client().await;
        let refused = RequestError::Refused { code: 4101, reason: "not this".to_owned() };
        assert_eq!(within(async { client.request("no").await }).await, Err(refused), "{kind:?}");
        client.send("no").await.unwrap();
        assert_eq!(within(async { client.request("yes").await }).await.unwrap().payload, "yes");
        assert_eq!(serving.server.stats().refused_packets, 2, "{kind:?}");

        let builder = TransportServerBuilder::new().with_middleware(Refuses::PacketAndConnection);
        let serving = Serving::with(kind, builder, echo).await;
        let client = serving.client().await;
        let refused = RequestError::Refused { code: 4102, reason: "not any more".to_owned() };
        assert_eq!(within(async { client.request("no").await }).await, Err(refused), "{kind:?}");
        let told = CloseReason::Peer { code: 4102, reason: "not any more".to_owned() };
        match client.session() {
            Some(session) => assert_eq!(within(session.closed()).await, told, "{kind:?}"),
            None => assert!(!client.is_connected()),
        }

        let builder = TransportServerBuilder::new().with_middleware(Refuses::Send);
        let serving = Serving::events(kind, builder).await;
        let client = serving.client().await;
        within(async {
            while serving.server.active_sessions().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let id = serving.server.active_sessions()[0];
        let refusal = Refusal::new(4103, "not out");
        assert_eq!(within(serving.server.send_to(id, "no")).await, Err(SendError::Refused(refusal)));
        let report = within(serving.server.broadcast("no")).await.unwrap();
        assert_eq!((report.queued, report.refused), (0, 1), "{kind:?}");
        within(serving.server.send_to(id, "yes")).await.unwrap();
        assert_eq!(message(&mut client.events().unwrap()).await.payload, "yes", "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_middleware_that_panics_costs_its_connection_only() {
    let builder = TransportServerBuilder::new().with_middleware(Refuses::Panics);
    let serving = Serving::with(Kind::Tcp, builder, echo).await;
    for _ in 0..2 {
        let client = serving.client().await;
        let lost = within(async { client.request("x").await }).await.unwrap_err();
        assert!(matches!(&lost, RequestError::Disconnected(CloseReason::Peer { code: 1011, .. })), "{lost}");
    }
}

/// Lets `let me in` in, as the user `alice`; asks a while.
fn auth() -> AuthMiddleware {
    AuthMiddleware::new(|credentials: trunkline_transport::Credentials| async move {
        tokio::task::yield_now().await;
        if credentials.token == "let me in" {
            Ok(("alice", credentials.source))
        } else {
            Err(Refusal::new(4401, "unknown token"))
        }
    })
}

/// Tells who is there.
async fn whoami(mut session: Session) -> Result<(), trunkline_transport::TransportError> {
    let (user, source) = session.extension::<(&str, CredentialSource)>().expect("nobody comes here unproven");
    while let Some(packet) = session.recv().await? {
        session.send(packet.reply(format!("{user} by {source:?}"))).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_peers_prove_themselves_by_their_first_packet() {
    for kind in Kind::ALL {
        let serving =
            Serving::with(kind, TransportServerBuilder::new().with_middleware(auth()), whoami).await;
        let by_request = serving.client().await;
        let answer = within(async { by_request.request("let me in").await }).await.unwrap();
        assert_eq!(answer.payload, "", "the credential goes no further");
        let by_one_way = serving.client().await;
        by_one_way.send("let me in").await.unwrap();
        for client in [&by_request, &by_one_way] {
            let answer = within(async { client.request("who?").await }).await.unwrap();
            assert_eq!(answer.payload, "alice by FirstPacket", "{kind:?}");
        }
        let wrong = serving.client().await;
        let refused = within(async { wrong.request("guess").await }).await.unwrap_err();
        assert_eq!(
            refused,
            RequestError::Refused { code: 4401, reason: "unknown token".to_owned() },
            "{kind:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_who_has_not_proved_himself_gets_nothing_and_has_little_time() {
    // Side by side: each waits until the time is over.
    futures_util::future::join_all(Kind::ALL.map(stranger_on)).await;
}

async fn stranger_on(kind: Kind) {
    let in_time = auth().within(Duration::from_secs(2));
    let serving = Serving::events(kind, TransportServerBuilder::new().with_middleware(in_time)).await;
    let mut events = serving.server.events().unwrap();
    let proven = serving.client().await;
    within(async { proven.request("let me in").await }).await.unwrap();
    let stranger = serving.client().await;
    let mut told = stranger.events().unwrap();
    within(async {
        // A QUIC server sees a connection with its first frame, which a v2 client sends by itself.
        while serving.server.session_count() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(serving.server.broadcast("a secret").await.unwrap().queued, 1, "{kind:?}");
    assert_eq!(serving.server.active_sessions().len(), 1);
    within(async {
        loop {
            match told.next().await.unwrap() {
                TransportEvent::ConnectionEstablished { .. } => {}
                TransportEvent::ConnectionClosed { reason, .. } => {
                    let reason = match reason {
                        CloseReason::Peer { code: 1008, reason } => reason,
                        other => panic!("{kind:?}: {other:?}"),
                    };
                    break assert!(reason.contains("in time"), "{kind:?}: {reason}");
                }
                other => panic!("{kind:?}: {other:?}"),
            }
        }
    })
    .await;
    // The server's user has heard of one connection only.
    let first = within(events.next()).await.unwrap();
    let TransportEvent::ConnectionEstablished { session_id, .. } = first else { panic!("{first:?}") };
    assert_eq!(serving.server.active_sessions(), [session_id], "{kind:?}");
    proven.disconnect().await;
    let next = within(events.next()).await.unwrap();
    let TransportEvent::ConnectionClosed { session_id: closed, .. } = next else { panic!("{next:?}") };
    assert_eq!(closed, session_id, "{kind:?}: the stranger's end is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_a_header_proves_a_peer_before_its_handshake_is_answered() {
    for kind in [Kind::WebSocket, Kind::WebSocketTls, Kind::WebTransport] {
        let serving =
            Serving::with(kind, TransportServerBuilder::new().with_middleware(auth()), whoami).await;
        let with = async |token: &str| {
            let Reach::Network(_, trust) = &serving.reach else { unreachable!() };
            let at = serving.address();
            let builder = TransportClientBuilder::new();
            let builder = match kind {
                Kind::WebSocket => builder.with_protocol(
                    WebSocketClientConfig::new(format!("ws://{at}/")).header("authorization", token),
                ),
                Kind::WebSocketTls => builder.with_protocol(
                    WebSocketClientConfig::new(format!("wss://{at}/ws"))
                        .tls(trust.clone())
                        .header("authorization", token),
                ),
                _ => builder.with_protocol(
                    WebTransportClientConfig::new(format!("https://{at}/wt"))
                        .tls(trust.clone())
                        .header("authorization", token),
                ),
            };
            let client = builder.build().await.unwrap();
            first_request(&client).await
        };
        assert_eq!(with("Bearer let me in").await.unwrap().payload, "alice by Header", "{kind:?}");
        let error = with("Bearer guess").await.unwrap_err();
        if kind != Kind::WebTransport {
            assert!(error.contains("403"), "{kind:?}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_speaks_is_not_held() {
    let builder = TransportServerBuilder::new().first_packet_timeout(Duration::from_secs(1));
    let serving = Serving::with(Kind::Tcp, builder, echo).await;
    // One that has spoken may be silent then: msgtrans' own clients have no heartbeat.
    let mut spoken = tokio::net::TcpStream::connect(serving.address()).await.unwrap();
    let hello = Packet::one_way(1, "here").to_bytes(trunkline_transport::Wire::V1).unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut spoken, &hello).await.unwrap();
    let mut echoed = vec![0; hello.len()];
    within(spoken.read_exact(&mut echoed)).await.unwrap();
    let mut silent = tokio::net::TcpStream::connect(serving.address()).await.unwrap();
    assert_eq!(within(silent.read(&mut [0; 1])).await.unwrap_or(0), 0, "it is closed");
    within(async {
        while serving.server.session_count() != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
