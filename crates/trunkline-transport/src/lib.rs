//! Live connections for Rust programs, as a library of two levels. It knows nothing of sessions, dialects or tokens, reads
//! no file and no environment variable.
//!
#![doc = include_str!("../README.md")]
//!
//! ## Two levels
//!
//! The **packet level** is [`TransportServer`] and [`TransportClient`]: packets, requests in both directions, broadcasts,
//! limits in bytes, an orderly end.
//!
//! The **connection level** below it is [`Connection`]: live connections that carry frames over any of the protocols.
//! Framing is a parameter ([`Framing`]), reading never waits for writing, an
//! idle connection holds no read buffer, and the write side is a raw byte sink so that already framed bytes
//! leave straight from shared memory. Listeners take an address or an already bound socket and keep every
//! handshake off their accept loop, capped and under a deadline.
//!
//! It spawns no task that it does not track: a connection that was handed over has no task of its own. The libraries
//! below it have theirs: quinn one for each endpoint and each connection, web-transport-quinn one for each session, which
//! reads the capsules of its CONNECT stream, and one while a session closes. They end with their connection.
//!
//! [`guide`] has the policies and limits, and each name of MsgTrans beside what it is here.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod accept;
#[cfg(feature = "tcp")]
mod addresses;
mod budget;
#[cfg(feature = "tls")]
pub mod certificate;
#[cfg(feature = "chaos")]
pub mod chaos;
mod client;
mod close;
pub mod codes;
mod compress;
mod connect;
mod connection;
pub mod defaults;
#[cfg(feature = "zstd")]
mod dictionary;
#[cfg_attr(not(feature = "quic"), allow(dead_code, reason = "QUIC alone sends anything early"))]
mod early;
mod endpoint;
mod error;
mod framing;
pub mod guide;
#[cfg(feature = "tcp")]
mod handshakes;
mod length;
mod limits;
pub mod memory;
mod middleware;
mod packet;
mod protocols;
#[cfg(feature = "quic")]
mod quic;
mod race;
mod rate_limit;
mod reader;
#[cfg(feature = "tls")]
mod secret;
mod server;
#[cfg(feature = "tcp")]
mod server_stream;
mod session;
mod short;
mod sink;
mod source;
#[cfg(feature = "tcp")]
mod stream_listener;
mod streams;
#[cfg(feature = "tcp")]
mod tcp_io;
#[cfg(feature = "tls")]
mod tls;
mod tls_info;
#[cfg(all(unix, feature = "unix"))]
mod unix;
#[cfg(feature = "websocket")]
pub mod websocket;
mod websocket_framing;
mod writer;

pub use accept::IsFull;
#[cfg(feature = "tls")]
pub use certificate::ReloadableCertificate;
pub use client::{RetryConfig, TransportClient, TransportClientBuilder};
pub use close::close;
#[cfg(feature = "quic")]
pub use connect::QuicClientSocket;
pub use connect::{ConnectError, ConnectOptions, connect};
pub use connection::{Connection, ConnectionInfo, Frame, FrameKind, Incoming, Protocol, ReadError};
#[cfg(feature = "zstd")]
pub use dictionary::{Dictionary, DictionaryError};
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
    ClientProtocol, CustomProtocol, Link, MemoryClientConfig, MemoryServerConfig, ServerProtocol,
};
#[cfg(feature = "quic")]
pub use protocols::{QuicClientConfig, QuicServerConfig};
#[cfg(feature = "tcp")]
pub use protocols::{TcpClientConfig, TcpServerConfig};
#[cfg(all(unix, feature = "unix"))]
pub use protocols::{UnixClientConfig, UnixServerConfig};
#[cfg(feature = "websocket")]
pub use protocols::{WebSocketClientConfig, WebSocketServerConfig};
#[cfg(feature = "webtransport")]
pub use protocols::{WebTransportClientConfig, WebTransportServerConfig};
#[cfg(feature = "qlog")]
pub use quic::Qlog;
#[cfg(feature = "quic")]
pub use quic::{ConnectionIdFactory, QuicListener, QuicOptions};
pub use rate_limit::{Excess, RateLimiterConfig};
pub use reader::FrameReader;
#[cfg(feature = "tls")]
pub use secret::Secret;
pub use server::{BroadcastReport, Cut, Missed, ShutdownReport, TransportServer, TransportServerBuilder};
#[cfg(feature = "tcp")]
pub use server_stream::ServerStream;
pub use session::{
    Delivery, EventStream, Flushed, Lane, Permit, ReplySender, ReplyStream, Request, RequestFuture, Sending,
    Session, Stats, TransportEvent,
};
pub use sink::Direct;
#[cfg(feature = "tls")]
pub use stream_listener::TlsPolicy;
#[cfg(feature = "tcp")]
pub use stream_listener::{Accepted, Socket, StreamListener, StreamOptions};
pub use streams::{RecvStream, SendStream, StreamError, Streams};
#[cfg(feature = "tls")]
pub use tls::{ClientAuthority, ClientTls, ServerTls, Tls, TlsError};
pub use tls_info::{TlsInfo, TlsVersion};
#[cfg(feature = "websocket")]
pub use websocket::{WebSocketListener, WebSocketOptions};
pub use writer::ByteWriter;
