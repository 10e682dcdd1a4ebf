//! Live connections that carry frames: TCP, TLS, WebSocket, QUIC, WebTransport and memory behind one
//! [`Connection`] type.
//!
//! This is the connection level. Framing is a parameter ([`Framing`]), reading never waits for writing, an
//! idle connection holds no read buffer, and the write side is a raw byte sink so that already framed bytes
//! leave straight from shared memory. Listeners take an address or an already bound socket and keep every
//! handshake off their accept loop, capped and under a deadline.
//!
//! It knows nothing of sessions, dialects or tokens, reads no file and no environment variable, and spawns
//! no task that it does not track: a connection that was handed over has no task of its own (QUIC: quinn's).

mod accept;
pub mod certificate;
mod close;
mod connect;
mod connection;
pub mod defaults;
mod endpoint;
mod framing;
mod length;
pub mod memory;
mod quic;
mod reader;
mod server_stream;
mod stream_listener;
mod streams;
mod tls;
pub mod websocket;
mod writer;

pub use certificate::ReloadableCertificate;
pub use close::close;
pub use connect::{ConnectError, ConnectOptions, QuicClientSocket, connect};
pub use connection::{Connection, ConnectionInfo, Frame, FrameKind, Incoming, Protocol, ReadError};
pub use endpoint::{Endpoint, EndpointError};
pub use framing::{Framing, Role};
pub use quic::{ConnectionIdFactory, QuicListener, QuicOptions, Secret};
pub use reader::FrameReader;
pub use server_stream::ServerStream;
pub use stream_listener::{Accepted, Socket, StreamListener, StreamOptions, TlsPolicy};
pub use streams::{RecvStream, SendStream, StreamError, Streams};
pub use tls::{ClientTls, ServerTls, TlsError};
pub use websocket::{WebSocketListener, WebSocketOptions};
pub use writer::ByteWriter;
