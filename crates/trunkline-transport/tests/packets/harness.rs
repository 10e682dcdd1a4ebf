//! A server and clients of any protocol, and the deadline that every wait has.

use std::{future::Future, net::SocketAddr, time::Duration};

use trunkline_transport::{
    ClientProtocol, ServerProtocol, Session, TcpClientConfig, TcpServerConfig, TransportClient,
    TransportClientBuilder, TransportError, TransportServer, TransportServerBuilder,
};

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
}

impl Kind {
    pub(crate) const ALL: [Self; 1] = [Self::Tcp];

    pub(crate) fn server(self) -> ServerProtocol {
        match self {
            Self::Tcp => TcpServerConfig::new("127.0.0.1:0").into(),
        }
    }

    pub(crate) fn client(self, address: SocketAddr) -> ClientProtocol {
        match self {
            Self::Tcp => TcpClientConfig::new(address.to_string()).into(),
        }
    }
}

/// A server that serves until it is dropped.
pub(crate) struct Serving {
    pub(crate) server: TransportServer,
    pub(crate) kind: Kind,
    _task: tokio::task::JoinSet<()>,
}

impl Serving {
    /// Serves each connection by `handler`.
    pub(crate) async fn with<F, Fut>(kind: Kind, builder: TransportServerBuilder, handler: F) -> Self
    where
        F: Fn(Session) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), TransportError>> + Send + 'static,
    {
        let server = builder.with_protocol(kind.server()).build().await.unwrap();
        let mut task = tokio::task::JoinSet::new();
        let serving = server.clone();
        task.spawn(async move { serving.serve_with(handler).await.unwrap() });
        Self { server, kind, _task: task }
    }

    /// Serves by events.
    pub(crate) async fn events(kind: Kind, builder: TransportServerBuilder) -> Self {
        let server = builder.with_protocol(kind.server()).build().await.unwrap();
        let mut task = tokio::task::JoinSet::new();
        let serving = server.clone();
        task.spawn(async move { serving.serve().await.unwrap() });
        Self { server, kind, _task: task }
    }

    /// The README's echo.
    pub(crate) async fn echo(kind: Kind) -> Self {
        Self::with(kind, TransportServerBuilder::new(), echo).await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.local_addrs()[0]
    }

    /// A connected client.
    pub(crate) async fn client(&self) -> TransportClient {
        self.client_of(TransportClientBuilder::new()).await
    }

    pub(crate) async fn client_of(&self, builder: TransportClientBuilder) -> TransportClient {
        let client = builder.with_protocol(self.kind.client(self.address())).build().await.unwrap();
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
