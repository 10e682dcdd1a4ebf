//! A server and clients of any protocol, and the deadline that every wait has.

use std::{future::Future, net::SocketAddr, time::Duration};

use trunkline_transport::{
    ClientProtocol, ClientTls, MemoryClientConfig, MemoryServerConfig, QuicClientConfig, QuicServerConfig,
    ServerProtocol, Session, TcpClientConfig, TcpServerConfig, Tls, TransportClient, TransportClientBuilder,
    TransportError, TransportServer, TransportServerBuilder, UnixClientConfig, UnixServerConfig,
    WebSocketClientConfig, WebSocketServerConfig, WebTransportClientConfig, WebTransportServerConfig,
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
