//! What a connection is made of: its description, its two halves, and what can arrive on it.
//!
//! A [`Connection`] is plain data: it is taken apart by its owner. Dropping the writer ends the write side,
//! dropping every part ends the link.

use std::{fmt, io, net::SocketAddr};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    BoxFuture, ByteWriter, FrameReader, Framing, Streams, TlsInfo, early::Begun, sink::Sink, source::Source,
};

/// One live link to a peer.
pub struct Connection {
    /// Who and what is on the other side.
    pub info: ConnectionInfo,
    /// Frames from the peer.
    pub reader: FrameReader,
    /// Bytes to the peer.
    pub writer: ByteWriter,
    /// Further streams and datagrams, where the protocol has them.
    pub streams: Streams,
    /// What the hooks of its handshake have kept, where they ran before the last word of it.
    pub(crate) judged: Option<Box<http::Extensions>>,
    /// Its handshake is not complete yet.
    pub(crate) unproven: Option<Unproven>,
    /// Requests that were sent before it was there.
    pub(crate) begun: Option<Begun>,
}

/// A handshake that is not complete yet: whoever has recorded the client's first packets may have sent them again. So nothing
/// is taken from it but idempotent requests.
#[cfg_attr(not(feature = "quic"), allow(dead_code, reason = "QUIC alone has such"))]
pub(crate) struct Unproven {
    /// Until it is complete, or never will be.
    pub(crate) complete: BoxFuture<'static, ()>,
    /// When it has taken too long.
    pub(crate) until: Instant,
}

impl Connection {
    /// Frames one link; `read_ahead` is what was read from it already. Further streams have yet to be given.
    pub(crate) fn framed(
        info: ConnectionInfo,
        (source, sink): (Source, Sink),
        framing: Framing,
        max_frame: usize,
        read_ahead: &[u8],
    ) -> Self {
        Self {
            info,
            reader: FrameReader::new(source, framing, max_frame, read_ahead),
            writer: ByteWriter::new(sink, framing),
            streams: Streams::unsupported(),
            judged: None,
            unproven: None,
            begun: None,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("info", &self.info).finish_non_exhaustive()
    }
}

/// What is known of a connection when it is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// How the peer is connected.
    pub protocol: Protocol,
    /// The peer's address at the time of the handshake (a QUIC peer may move later).
    pub peer: Option<SocketAddr>,
    /// Our own address; for QUIC the address of the listening socket.
    pub local: Option<SocketAddr>,
    /// The application protocol that TLS or QUIC agreed on.
    pub alpn: Option<String>,
    /// What the handshake of TLS or QUIC has shown; `None` where nothing is encrypted. Behind a pointer, so that other
    /// connections do not pay for it.
    pub tls: Option<Box<TlsInfo>>,
    /// The `Origin` header of a WebSocket or WebTransport request.
    pub origin: Option<String>,
    /// The path of a WebSocket or WebTransport request, without its query.
    pub path: Option<String>,
    /// The query of a WebSocket or WebTransport request, without its `?`.
    pub query: Option<String>,
    /// The WebSocket subprotocol that was agreed on.
    pub subprotocol: Option<String>,
}

impl ConnectionInfo {
    /// A description that names the protocol and nothing else.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            peer: None,
            local: None,
            alpn: None,
            tls: None,
            origin: None,
            path: None,
            query: None,
            subprotocol: None,
        }
    }
}

/// The protocols that carry connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket over plain TCP.
    WebSocket,
    /// WebSocket over TLS.
    WebSocketTls,
    /// Raw QUIC.
    Quic,
    /// WebTransport over HTTP/3.
    WebTransport,
    /// A pair within one process.
    Memory,
    /// A Unix socket.
    Unix,
    /// A protocol of the user's own, by its name ([`crate::CustomProtocol`]).
    Custom(&'static str),
}

impl Protocol {
    /// Every protocol that the listeners of the connection level have, and memory, in a stable order that counters can
    /// use. [`Protocol::Unix`] and [`Protocol::Custom`] belong to the packet level.
    pub const ALL: [Self; 7] = [
        Self::Tcp,
        Self::Tls,
        Self::WebSocket,
        Self::WebSocketTls,
        Self::Quic,
        Self::WebTransport,
        Self::Memory,
    ];

    /// Whether it was compiled in; memory and custom protocols always are.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Tcp => cfg!(feature = "tcp"),
            Self::Tls => cfg!(feature = "tls"),
            Self::WebSocket => cfg!(feature = "websocket"),
            Self::WebSocketTls => cfg!(all(feature = "websocket", feature = "tls")),
            Self::Quic => cfg!(feature = "quic"),
            Self::WebTransport => cfg!(feature = "webtransport"),
            Self::Unix => cfg!(all(unix, feature = "unix")),
            Self::Memory | Self::Custom(_) => true,
        }
    }

    /// The name used in figures and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::WebSocket => "websocket",
            Self::WebSocketTls => "websocket-tls",
            Self::Quic => "quic",
            Self::WebTransport => "webtransport",
            Self::Memory => "memory",
            Self::Unix => "unix",
            Self::Custom(name) => name,
        }
    }

    /// Whether the bytes are encrypted, or never leave the process. Of a custom protocol nothing is known.
    #[must_use]
    pub fn is_encrypted(self) -> bool {
        !matches!(self, Self::Tcp | Self::WebSocket | Self::Unix | Self::Custom(_))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a frame's payload is text. Only WebSocket knows the difference; everything else is binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Any bytes.
    Binary,
    /// Valid UTF-8: the reader has checked it.
    Text,
}

/// One whole frame from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Binary or text.
    pub kind: FrameKind,
    /// The payload; it may share its memory with other frames of the same read.
    pub bytes: Bytes,
}

/// What a [`FrameReader`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A frame.
    Frame(Frame),
    /// A WebSocket ping: the owner of the write side answers it with [`crate::Framing::pong`].
    Ping(Bytes),
    /// A WebSocket pong.
    Pong(Bytes),
    /// The peer closed with a code: a WebSocket close frame (answer it with [`crate::Framing::close`]), or
    /// the application code of a QUIC or WebTransport connection. Nothing follows.
    Close {
        /// The code, absent when a WebSocket close frame has none.
        code: Option<u16>,
        /// The reason, often empty.
        reason: String,
    },
}

impl Incoming {
    /// A binary frame.
    pub(crate) fn binary(bytes: Bytes) -> Self {
        Self::Frame(Frame { kind: FrameKind::Binary, bytes })
    }
}

/// Why reading ended before the peer ended it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A frame declares more than the limit. Nothing was allocated for it.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    TooLarge {
        /// The declared length; for a fragmented message the sum so far.
        length: u64,
        /// The limit.
        limit: usize,
    },
    /// The peer broke the WebSocket protocol.
    #[error("protocol violation ({close_code}): {reason}")]
    Protocol {
        /// The WebSocket code to close with: 1002, or 1007 for text that is not UTF-8.
        close_code: u16,
        /// What was wrong.
        reason: &'static str,
    },
    /// The link failed, or ended in the middle of a frame.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ReadError {
    /// The WebSocket close code that says this: 1009 for a frame over the limit.
    #[must_use]
    pub fn close_code(&self) -> u16 {
        match self {
            Self::TooLarge { .. } => 1009,
            Self::Protocol { close_code, .. } => *close_code,
            Self::Io(_) => 1006,
        }
    }
}
