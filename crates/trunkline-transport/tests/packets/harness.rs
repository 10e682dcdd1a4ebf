//! A server and clients of any protocol, and the deadline that every wait has.

use std::{future::Future, net::SocketAddr, time::Duration};

use trunkline_transport::{
    ClientProtocol, ClientTls, MemoryClientConfig, MemoryServerConfig, QuicClientConfig, QuicServerConfig,
    ServerProtocol, Session, TcpClientConfig, TcpServerConfig, Tls, TransportClient, TransportClientBuilder,
    TransportError, TransportServer, TransportServerBuilder, UnixClientConfig, UnixServerConfig,
    WebSocketClientConfig, WebSocketServerConfig, WebTransportClientConfig, WebTransportServerConfig,
    chaos::{Disturbed, Ending, StreamChaos, StreamFaults, TcpProxy, UdpFaults, UdpProxy, UnixProxy},
};

use crate::custom::Pipes;

/// Long enough for a busy machine; a test that needs it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// What has not happened by the deadline never will.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("this should have happened by now")
}

/// The protocols that a test goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Tls,
    WebSocket,
    WebSocketTls,
    Quic,
    WebTransport,
    Unix,
    Memory,
    Custom,
}

impl Kind {
    pub(crate) const ALL: [Self; 9] = [
        Self::Tcp,
        Self::Tls,
        Self::WebSocket,
        Self::WebSocketTls,
        Self::Quic,
        Self::WebTransport,
        Self::Unix,
        Self::Memory,
        Self::Custom,
    ];

    /// A listener, and what tells a client how to reach it once its address is known.
    pub(crate) fn listener(self) -> (ServerProtocol, Reach) {
        let any = "127.0.0.1:0";
        let tls = Tls::self_signed_dev().unwrap();
        let trust = ClientTls::pinned(vec![tls.fingerprint()]).unwrap();
        let network = |server: ServerProtocol| (server, Reach::Network(self, trust.clone()));
        match self {
            Self::Tcp => network(TcpServerConfig::new(any).into()),
            Self::Tls => network(TcpServerConfig::new(any).tls(tls).into()),
            Self::WebSocket => network(WebSocketServerConfig::new(any).into()),
            Self::WebSocketTls => network(WebSocketServerConfig::new(any).path("/ws").tls(tls).into()),
            Self::Quic => network(QuicServerConfig::new(any).tls(tls).into()),
            Self::WebTransport => network(WebTransportServerConfig::new(any).path("/wt").tls(tls).into()),
            Self::Unix => {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("socket");
                (UnixServerConfig::new(&path).into(), Reach::Unix(folder))
            }
            Self::Memory => {
                let (server, client) = MemoryServerConfig::new();
                (server.into(), Reach::Memory(client))
            }
            Self::Custom => {
                let pipes = Pipes::new();
                (pipes.clone().into(), Reach::Custom(pipes))
            }
        }
    }
}

/// How to reach a listener.
pub(crate) enum Reach {
    Network(Kind, ClientTls),
    Unix(tempfile::TempDir),
    Memory(MemoryClientConfig),
    Custom(Pipes),
    Own,
}

impl Reach {
    pub(crate) fn client(&self, address: Option<SocketAddr>) -> ClientProtocol {
        let at = address.map(|address| address.to_string()).unwrap_or_default();
        match self {
            Self::Network(kind, trust) => {
                let trust = trust.clone();
                match kind {
                    Kind::Tcp => TcpClientConfig::new(at).into(),
                    Kind::Tls => TcpClientConfig::new(at).tls(trust).into(),
                    Kind::WebSocket => WebSocketClientConfig::new(format!("ws://{at}/any")).into(),
                    Kind::WebSocketTls => {
                        WebSocketClientConfig::new(format!("wss://{at}/ws")).tls(trust).into()
                    }
                    Kind::Quic => QuicClientConfig::new(at).tls(trust).into(),
                    Kind::WebTransport => {
                        WebTransportClientConfig::new(format!("https://{at}/wt")).tls(trust).into()
                    }
                    Kind::Unix | Kind::Memory | Kind::Custom => unreachable!("they have their own way"),
                }
            }
            Self::Unix(folder) => {
                UnixClientConfig::new(folder.path().join("socket").to_str().unwrap()).into()
            }
            Self::Memory(client) => client.clone().into(),
            Self::Custom(pipes) => pipes.clone().into(),
            Self::Own => unreachable!("the test knows"),
        }
    }
}

/// A server that serves until it is dropped.
pub(crate) struct Serving {
    pub(crate) server: TransportServer,
    pub(crate) kind: Kind,
    pub(crate) reach: Reach,
    _task: tokio::task::JoinSet<()>,
}

impl Serving {
    /// Serves each connection by `handler`.
    pub(crate) async fn with<F, Fut>(kind: Kind, builder: TransportServerBuilder, handler: F) -> Self
    where
        F: Fn(Session) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), TransportError>> + Send + 'static,
    {
        let (protocol, reach) = kind.listener();
        let server = builder.with_protocol(protocol).build().await.unwrap();
        Self { reach, ..Self::of(kind, server, handler) }
    }

    /// Serves by `handler` on a server that the test has built; how to reach it, it knows.
    pub(crate) fn of<F, Fut>(kind: Kind, server: TransportServer, handler: F) -> Self
    where
        F: Fn(Session) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), TransportError>> + Send + 'static,
    {
        let mut task = tokio::task::JoinSet::new();
        let serving = server.clone();
        task.spawn(async move { serving.serve_with(handler).await.unwrap() });
        Self { server, kind, reach: Reach::Own, _task: task }
    }

    /// Serves by events.
    pub(crate) async fn events(kind: Kind, builder: TransportServerBuilder) -> Self {
        let (protocol, reach) = kind.listener();
        let server = builder.with_protocol(protocol).build().await.unwrap();
        let mut task = tokio::task::JoinSet::new();
        let serving = server.clone();
        task.spawn(async move { serving.serve().await.unwrap() });
        Self { server, kind, reach, _task: task }
    }

    /// The README's echo.
    pub(crate) async fn echo(kind: Kind) -> Self {
        Self::with(kind, TransportServerBuilder::new(), echo).await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.local_addrs()[0]
    }

    pub(crate) fn protocol(&self) -> ClientProtocol {
        self.reach.client(self.server.local_addrs().first().copied())
    }

    /// A network between the server and those who connect by [`Between::protocol`].
    pub(crate) async fn between(&self) -> Between {
        self.between_with(StreamFaults::default()).await
    }

    /// Such a network, with these faults where it carries streams.
    pub(crate) async fn between_with(&self, faults: StreamFaults) -> Between {
        const SEED: u64 = 7;
        let chaos = || StreamChaos::new(SEED, faults.clone());
        match &self.reach {
            Reach::Network(Kind::Quic | Kind::WebTransport, _) => {
                let proxy = UdpProxy::start(self.address(), SEED, UdpFaults::default()).await.unwrap();
                Between { protocol: self.reach.client(Some(proxy.address())), network: Network::Udp(proxy) }
            }
            Reach::Network(..) => {
                let proxy = TcpProxy::start(self.address(), SEED, faults).await.unwrap();
                Between { protocol: self.reach.client(Some(proxy.address())), network: Network::Tcp(proxy) }
            }
            Reach::Unix(folder) => {
                let target = folder.path().join("socket");
                let proxy = UnixProxy::start(folder.path().join("proxy"), target, SEED, faults).unwrap();
                let protocol = UnixClientConfig::new(proxy.path().to_str().unwrap()).into();
                Between { protocol, network: Network::Unix(proxy) }
            }
            Reach::Memory(client) => {
                let chaos = chaos();
                Between { protocol: client.clone().through(&chaos).into(), network: Network::Within(chaos) }
            }
            Reach::Custom(pipes) => {
                let chaos = chaos();
                let protocol = Disturbed::new(pipes.clone(), &chaos).into();
                Between { protocol, network: Network::Within(chaos) }
            }
            Reach::Own => unreachable!("the test knows"),
        }
    }

    /// A connected client.
    pub(crate) async fn client(&self) -> TransportClient {
        self.client_of(TransportClientBuilder::new()).await
    }

    pub(crate) async fn client_of(&self, builder: TransportClientBuilder) -> TransportClient {
        let client = builder.with_protocol(self.protocol()).build().await.unwrap();
        within(client.connect()).await.unwrap();
        client
    }
}

/// What stands between a server and its clients, whatever the protocol.
pub(crate) struct Between {
    pub(crate) protocol: ClientProtocol,
    network: Network,
}

enum Network {
    Tcp(TcpProxy),
    Unix(UnixProxy),
    Within(StreamChaos),
    Udp(UdpProxy),
}

impl Between {
    /// A client that is connected through it.
    pub(crate) async fn client_of(&self, builder: TransportClientBuilder) -> TransportClient {
        let client = builder.with_protocol(self.protocol.clone()).build().await.unwrap();
        within(client.connect()).await.unwrap();
        client
    }

    /// Nothing passes any more: bytes of streams are held back, datagrams lost.
    pub(crate) fn stall(&self) {
        match self.streams() {
            Ok(chaos) => chaos.stall(),
            Err(udp) => udp.set_faults(UdpFaults { black_hole: true, ..UdpFaults::default() }),
        }
    }

    /// What happens to datagrams from now on.
    pub(crate) fn disturb(&self, faults: UdpFaults) {
        match self.streams() {
            Ok(_) => unreachable!("no stream loses anything"),
            Err(udp) => udp.set_faults(faults),
        }
    }

    /// Everything passes again.
    pub(crate) fn go_on(&self) {
        match self.streams() {
            Ok(chaos) => chaos.go_on(),
            Err(udp) => udp.set_faults(UdpFaults::default()),
        }
    }

    /// Ends every connection, as a reset where there are resets. Datagrams have none: nothing passes any more.
    pub(crate) fn cut(&self) {
        match self.streams() {
            Ok(chaos) => chaos.cut_all(Ending::Reset),
            Err(_) => self.stall(),
        }
    }

    fn streams(&self) -> Result<&StreamChaos, &UdpProxy> {
        match &self.network {
            Network::Tcp(proxy) => Ok(proxy),
            Network::Unix(proxy) => Ok(proxy),
            Network::Within(chaos) => Ok(chaos),
            Network::Udp(proxy) => Err(proxy),
        }
    }
}

pub(crate) async fn echo(mut session: Session) -> Result<(), TransportError> {
    while let Some(packet) = session.recv().await? {
        session.send(packet.reply(packet.payload.clone())).await?;
    }
    Ok(())
}

/// Recognisable bytes.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + (i >> 8)) as u8).collect()
}
