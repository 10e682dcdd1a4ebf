//! Live connections for Rust programs: one business code, and the protocol by configuration.
//!
//! It has two levels. The **packet level** is [`TransportServer`] and [`TransportClient`]: packets, requests in both
//! directions, broadcasts, limits in bytes, an orderly end; a `msgtrans` 2.0.0-beta.3 peer talks to it.
//!
//! The **connection level** below it is [`Connection`]: live connections that carry frames over TCP, TLS, WebSocket,
//! QUIC, WebTransport and memory. Framing is a parameter ([`Framing`]), reading never waits for writing, an
//! idle connection holds no read buffer, and the write side is a raw byte sink so that already framed bytes
//! leave straight from shared memory. Listeners take an address or an already bound socket and keep every
//! handshake off their accept loop, capped and under a deadline.
//!
//! It knows nothing of sessions, dialects or tokens, reads no file and no environment variable, and spawns
//! no task that it does not track: a connection that was handed over has no task of its own. The libraries below it
//! have theirs: quinn one for each endpoint and each connection, web-transport-quinn one for each session, which reads
//! the capsules of its CONNECT stream, and one while a session closes. They end with their connection.

mod accept;
mod addresses;
mod budget;
pub mod certificate;
mod client;
mod close;
pub mod codes;
mod compress;
mod connect;
mod connection;
pub mod defaults;
mod endpoint;
mod error;
mod framing;
mod length;
mod limits;
pub mod memory;
mod middleware;
mod packet;
mod protocols;
mod quic;
mod rate_limit;
mod reader;
mod server;
mod server_stream;
mod session;
mod stream_listener;
mod streams;
mod tls;
mod tls_sink;
#[cfg(unix)]
mod unix;
pub mod websocket;
mod writer;

pub use accept::IsFull;
pub use certificate::ReloadableCertificate;
pub use client::{RetryConfig, TransportClient, TransportClientBuilder};
pub use close::close;
pub use connect::{ConnectError, ConnectOptions, QuicClientSocket, connect};
pub use connection::{Connection, ConnectionInfo, Frame, FrameKind, Incoming, Protocol, ReadError};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{
    BuildError, CloseReason, EventsError, RecvError, RequestError, SendError, ServeError, SessionId,
    TransportError,
};
pub use framing::{Framing, Role};
pub use limits::{Limits, Overflow, SlowConsumer};
pub use middleware::{
    AuthMiddleware, BoxFuture, CredentialSource, Credentials, Handshake, LoggingMiddleware, Middleware,
    MiddlewareStack, Refusal, Verdict,
};
pub use packet::{Compression, Flags, Packet, PacketType, Wire, WireError};
pub use protocols::{
    ClientProtocol, CustomProtocol, Link, MemoryClientConfig, MemoryServerConfig, QuicClientConfig,
    QuicServerConfig, ServerProtocol, TcpClientConfig, TcpServerConfig, UnixClientConfig, UnixServerConfig,
    WebSocketClientConfig, WebSocketServerConfig, WebTransportClientConfig, WebTransportServerConfig,
};
pub use quic::{ConnectionIdFactory, QuicListener, QuicOptions, Secret};
pub use rate_limit::{Excess, RateLimiterConfig};
pub use reader::FrameReader;
pub use server::{BroadcastReport, Cut, Missed, ShutdownReport, TransportServer, TransportServerBuilder};
pub use server_stream::ServerStream;
pub use session::{
    Delivery, EventStream, Flushed, Lane, Permit, ReplySender, ReplyStream, Request, RequestFuture, Sending,
    Session, Stats, TransportEvent,
};
pub use stream_listener::{Accepted, Socket, StreamListener, StreamOptions, TlsPolicy};
pub use streams::{RecvStream, SendStream, StreamError, Streams};
pub use tls::{ClientTls, ServerTls, Tls, TlsError};
pub use websocket::{WebSocketListener, WebSocketOptions};
pub use writer::ByteWriter;
