//! A byte stream that a [`crate::StreamListener`] accepted, plain or TLS, not yet framed.
//!
//! It becomes a connection by [`ServerStream::into_connection`], or is driven by an HTTP server first and
//! becomes a WebSocket connection from there.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{Connection, ConnectionInfo, Framing, Protocol, tcp_io::Io};

/// An accepted byte stream. `TCP_NODELAY` is on.
#[derive(Debug)]
pub struct ServerStream {
    io: Io,
    peer: SocketAddr,
    local: Option<SocketAddr>,
}

impl ServerStream {
    pub(crate) fn new(io: Io, peer: SocketAddr) -> Self {
        let local = io.tcp().local_addr().ok();
        Self { io, peer, local }
    }

    /// The peer's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Our own address, unless the socket is gone already.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Whether this is TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.io.is_tls()
    }

    /// Frames under [`Framing::Length`]; a frame over `max_frame` is refused.
    #[must_use]
    pub fn into_connection(self, max_frame: usize) -> Connection {
        self.into_framed(Framing::Length, max_frame)
    }

    /// Frames under a framing of the caller's choice; see [`ServerStream::into_connection`].
    #[must_use]
    pub fn into_framed(self, framing: Framing, max_frame: usize) -> Connection {
        let info = self.info(Protocol::Tcp, Protocol::Tls);
        self.io.into_connection(info, framing, max_frame, &[])
    }

    pub(crate) fn info(&self, plain: Protocol, tls: Protocol) -> ConnectionInfo {
        let mut info = ConnectionInfo::new(if self.is_tls() { tls } else { plain });
        info.peer = Some(self.peer);
        info.local = self.local;
        info.alpn = self.io.alpn();
        info.tls = self.io.tls_info();
        info
    }

    #[cfg(feature = "websocket")]
    pub(crate) fn into_io(self) -> Io {
        self.io
    }
}

#[cfg(feature = "tls")]
impl ServerStream {
    /// Whether this is TLS that went on from an earlier session's ticket.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        match &self.io {
            Io::Plain(_) => false,
            Io::Tls(stream) => stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        }
    }

    /// Whether the peer has proved itself by a certificate of an authority that the listener was given
    /// ([`crate::ServerTls::verifying_clients`]). By which one, [`ConnectionInfo::tls`] says.
    #[must_use]
    pub fn is_client_verified(&self) -> bool {
        // rustls keeps a client's certificates only if its verifier accepted them, and asks for none without one.
        matches!(&self.io, Io::Tls(stream) if stream.get_ref().1.peer_certificates().is_some())
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
