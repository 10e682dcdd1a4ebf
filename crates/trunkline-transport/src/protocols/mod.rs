//! What servers listen on and clients connect with at the packet level: one configuration type per protocol, each
//! nothing but values until it is built.
//!
//! Names are resolved and sockets bound in `build()`; how a protocol frames packets, and which wire it has agreed on,
//! is known here and nowhere above.

mod custom;
mod dial;
mod local;
mod quic;
mod tcp;
mod websocket;

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::lookup_host;
use tokio_util::sync::CancellationToken;

pub(crate) use self::custom::CustomIo;
use self::{
    custom::{Custom, CustomAcceptor},
    dial::Dial,
    local::{MemoryAcceptor, UnixAcceptor},
};
pub use self::{
    custom::{CustomProtocol, Link},
    local::{MemoryClientConfig, MemoryServerConfig, UnixClientConfig, UnixServerConfig},
    quic::{QuicClientConfig, QuicServerConfig, WebTransportClientConfig, WebTransportServerConfig},
    tcp::{TcpClientConfig, TcpServerConfig},
    websocket::{WebSocketClientConfig, WebSocketServerConfig},
};
use crate::{
    BuildError, ConnectError, Connection, ConnectionInfo, IsFull, MiddlewareStack, QuicListener,
    StreamListener, WebSocketListener, Wire, tls::ServerTls,
};

/// What a server listens on: made of any of the `…ServerConfig` types, or of a [`CustomProtocol`].
#[derive(Debug)]
pub struct ServerProtocol(pub(crate) ServerKind);

#[derive(Debug)]
pub(crate) enum ServerKind {
    Tcp(TcpServerConfig),
    WebSocket(WebSocketServerConfig),
    Quic(QuicServerConfig),
    WebTransport(WebTransportServerConfig),
    Unix(UnixServerConfig),
    Memory(MemoryServerConfig),
    Custom(Custom),
}

/// What a client connects with: made of any of the `…ClientConfig` types, of an [`crate::Endpoint`], or of a
/// [`CustomProtocol`].
#[derive(Clone, Debug)]
pub struct ClientProtocol(pub(crate) ClientKind);

#[derive(Clone, Debug)]
pub(crate) enum ClientKind {
    Dial(Dial),
    Memory(MemoryClientConfig),
    Custom(Custom),
}

/// What every listener is told by its server.
#[derive(Clone, Debug)]
pub(crate) struct ListenOptions {
    /// The payload of a packet, before authentication if the server asks for it.
    pub(crate) max_message: usize,
    pub(crate) handshake_timeout: Duration,
    pub(crate) max_handshakes: usize,
    /// Where a protocol has a word for it, newcomers are refused by it while this says so.
    pub(crate) is_full: IsFull,
    pub(crate) middleware: MiddlewareStack,
    /// How long a peer may take for its first packet.
    pub(crate) first_packet: Duration,
    pub(crate) cancel: CancellationToken,
}

/// What every client is told by its builder.
#[derive(Clone, Debug)]
pub(crate) struct DialOptions {
    pub(crate) max_message: usize,
    pub(crate) timeout: Duration,
    pub(crate) wire: Wire,
}

/// A listener of any protocol.
#[derive(Debug)]
pub(crate) enum Bound {
    Stream { listener: Box<StreamListener>, max_message: usize },
    WebSocket(Box<WebSocketListener>),
    Quic(Box<QuicListener>),
    Unix(UnixAcceptor),
    Memory(MemoryAcceptor),
    Custom(CustomAcceptor),
}

impl ServerProtocol {
    /// Resolves names and binds.
    pub(crate) async fn bind(self, options: &ListenOptions) -> Result<Bound, BuildError> {
        match self.0 {
            ServerKind::Tcp(config) => config.bind(options).await,
            ServerKind::WebSocket(config) => config.bind(options).await,
            ServerKind::Quic(config) => config.bind(options).await,
            ServerKind::WebTransport(config) => config.bind(options).await,
            ServerKind::Unix(config) => config.bind(options).await,
            ServerKind::Memory(config) => Ok(config.bind(options)),
            ServerKind::Custom(protocol) => protocol.bind(options).await,
        }
    }
}

impl Bound {
    /// Where it listens; `None` where that is no address of the network.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Stream { listener, .. } => listener.local_addr().ok(),
            Self::WebSocket(listener) => listener.local_addr().ok(),
            Self::Quic(listener) => Some(listener.local_addr()),
            Self::Unix(_) | Self::Memory(_) => None,
            Self::Custom(acceptor) => acceptor.local_addr(),
        }
    }

    /// The next connection; `None` once cancelled. Cancel-safe.
    pub(crate) async fn accept(&mut self) -> Option<Connection> {
        match self {
            Self::Stream { listener, max_message } => tcp::accept(listener, *max_message).await,
            Self::WebSocket(listener) => listener.accept().await,
            Self::Quic(listener) => listener.accept().await,
            Self::Unix(acceptor) => acceptor.accept().await,
            Self::Memory(acceptor) => acceptor.accept().await,
            Self::Custom(acceptor) => acceptor.accept().await,
        }
    }
}

impl ClientProtocol {
    /// What can be known without connecting.
    pub(crate) fn judge(&self) -> Result<(), BuildError> {
        match &self.0 {
            ClientKind::Dial(dial) => dial.judge().map_err(BuildError::Endpoint),
            ClientKind::Memory(_) | ClientKind::Custom(_) => Ok(()),
        }
    }

    /// Whether it is QUIC or WebTransport.
    pub(crate) fn is_over_udp(&self) -> bool {
        match &self.0 {
            ClientKind::Dial(dial) => dial.is_over_udp(),
            ClientKind::Memory(_) | ClientKind::Custom(_) => false,
        }
    }

    /// Connects once.
    pub(crate) async fn connect(&self, options: &DialOptions) -> Result<Connection, ConnectError> {
        match &self.0 {
            ClientKind::Dial(dial) => dial.connect(options).await,
            ClientKind::Memory(config) => config.connect(options).await,
            ClientKind::Custom(protocol) => protocol.connect(options).await,
        }
    }
}

/// The wire that a handshake has agreed on; `None` leaves it to the first packet.
pub(crate) fn agreed_wire(info: &ConnectionInfo) -> Option<Wire> {
    match info.subprotocol.as_deref().or(info.alpn.as_deref()) {
        Some("msgtrans.v2" | "msgtrans/2") => Some(Wire::V2),
        Some("msgtrans.v1" | "msgtrans/1") => Some(Wire::V1),
        _ => None,
    }
}

/// The addresses of `host:port`.
async fn resolve(address: &str) -> Result<Vec<SocketAddr>, BuildError> {
    let fail = |error| BuildError::Address { address: address.to_owned(), error };
    let found: Vec<SocketAddr> = lookup_host(address).await.map_err(fail)?.collect();
    if found.is_empty() {
        return Err(fail(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(found)
}

/// Binds the first of the name's addresses that can be bound.
fn bind_first<T>(
    address: &str,
    found: &[SocketAddr],
    mut bind: impl FnMut(SocketAddr) -> io::Result<T>,
) -> Result<T, BuildError> {
    let mut failed = None;
    for candidate in found {
        match bind(*candidate) {
            Ok(bound) => return Ok(bound),
            Err(error) => failed = Some(error),
        }
    }
    let error = failed.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
    Err(BuildError::Bind { address: address.to_owned(), error })
}

/// The TLS of a listener, if it has any.
fn server_tls(tls: Option<&crate::Tls>, alpns: &[&str]) -> Result<Option<ServerTls>, BuildError> {
    Ok(tls.map(|tls| tls.server(alpns)).transpose()?)
}
