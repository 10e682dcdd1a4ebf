//! What servers listen on and clients connect with at the packet level: one configuration type per protocol, each
//! nothing but values until it is built.
//!
//! Names are resolved and sockets bound in `build()`; how a protocol frames packets, and which wire it has agreed on,
//! is known here and nowhere above.

mod custom;
mod dial;
mod listen;
mod memory;
#[cfg(feature = "tcp")]
mod network;
#[cfg(feature = "quic")]
mod quic;
#[cfg(feature = "tcp")]
mod tcp;
#[cfg(all(unix, feature = "unix"))]
mod unix;
#[cfg(feature = "webtransport")]
mod web_transport;
#[cfg(feature = "websocket")]
mod websocket;

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

pub(crate) use self::custom::CustomIo;
#[cfg(feature = "quic")]
pub use self::quic::{QuicClientConfig, QuicServerConfig};
#[cfg(feature = "tcp")]
pub use self::tcp::{TcpClientConfig, TcpServerConfig};
#[cfg(all(unix, feature = "unix"))]
pub use self::unix::{UnixClientConfig, UnixServerConfig};
#[cfg(feature = "webtransport")]
pub use self::web_transport::{WebTransportClientConfig, WebTransportServerConfig};
#[cfg(feature = "websocket")]
pub use self::websocket::{WebSocketClientConfig, WebSocketServerConfig};
use self::{custom::Custom, dial::Dial};
pub use self::{
    custom::{CustomProtocol, Link},
    memory::{MemoryClientConfig, MemoryServerConfig},
};
use crate::{
    BoxFuture, BuildError, ConnectError, Connection, ConnectionInfo, IsFull, MiddlewareStack, Wire,
    early::Early,
};

/// What a server listens on: made of any of the `…ServerConfig` types, of an [`crate::Endpoint`], or of a
/// [`CustomProtocol`].
#[derive(Debug)]
pub struct ServerProtocol(Box<dyn Listen>);

/// What a client connects with: made of any of the `…ClientConfig` types, of an [`crate::Endpoint`], or of a
/// [`CustomProtocol`].
#[derive(Clone, Debug)]
pub struct ClientProtocol(ClientKind);

#[derive(Clone, Debug)]
enum ClientKind {
    Dial(Dial),
    Memory(MemoryClientConfig),
    Custom(Custom),
}

/// A protocol that a server may listen on.
trait Listen: fmt::Debug + Send + Sync {
    /// Resolves names and binds.
    fn bind<'a>(
        self: Box<Self>,
        options: &'a ListenOptions,
    ) -> BoxFuture<'a, Result<Box<dyn Acceptor>, BuildError>>;
}

/// A listener that is bound.
pub(crate) trait Acceptor: fmt::Debug + Send {
    /// Where it listens; `None` where that is no address of the network.
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// The next connection; `None` once cancelled. Cancel-safe.
    fn accept(&mut self) -> BoxFuture<'_, Option<Connection>>;
}

/// What every listener is told by its server.
#[cfg_attr(not(feature = "quic"), allow(dead_code, reason = "each protocol reads what it has a use for"))]
#[derive(Clone, Debug)]
pub(crate) struct ListenOptions {
    /// The payload of a packet, before authentication if the server asks for it.
    pub(crate) max_message: usize,
    pub(crate) handshake_timeout: Duration,
    pub(crate) max_handshakes: usize,
    /// Connections that wait in the kernel.
    pub(crate) backlog: u32,
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
    /// What may be sent early, where a protocol sends so.
    #[cfg_attr(not(feature = "quic"), allow(dead_code, reason = "QUIC alone sends anything early"))]
    pub(crate) early: Option<Arc<Early>>,
}

impl ServerProtocol {
    fn of(protocol: impl Listen + 'static) -> Self {
        Self(Box::new(protocol))
    }

    /// Resolves names and binds.
    pub(crate) async fn bind(self, options: &ListenOptions) -> Result<Box<dyn Acceptor>, BuildError> {
        self.0.bind(options).await
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

    /// Whether it sends idempotent requests before its handshake is complete.
    pub(crate) fn sends_early(&self) -> bool {
        match &self.0 {
            ClientKind::Dial(dial) => dial.sends_early(),
            ClientKind::Memory(_) | ClientKind::Custom(_) => false,
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
