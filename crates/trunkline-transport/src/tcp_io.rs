//! A TCP stream of either side, plain or inside TLS, before it is framed.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{
    Connection, ConnectionInfo, Framing, TlsInfo,
    sink::{SharedTcp, Sink},
    source::Source,
};

/// See the module.
#[derive(Debug)]
pub(crate) enum Io {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

/// Asks whichever it is.
macro_rules! ask {
    ($io:expr, $stream:ident => $answer:expr) => {
        match $io {
            Io::Plain($stream) => $answer,
            #[cfg(feature = "tls")]
            Io::Tls($stream) => $answer,
        }
    };
}

impl Io {
    /// Frames this stream; `read_ahead` is what was read from it already.
    pub(crate) fn into_connection(
        self,
        info: ConnectionInfo,
        framing: Framing,
        max_frame: usize,
        read_ahead: &[u8],
    ) -> Connection {
        let halves = match self {
            Self::Plain(stream) => {
                let (read, write) = stream.into_split();
                (Source::Tcp(read), Sink::Tcp(SharedTcp::new(write)))
            }
            #[cfg(feature = "tls")]
            Self::Tls(stream) => {
                use crate::sink::{SharedTls, TlsSink};

                let shared = SharedTls::new(parking_lot::Mutex::new(*stream));
                (Source::Tls(SharedTls::clone(&shared)), Sink::Tls(TlsSink::new(shared)))
            }
        };
        Connection::framed(info, halves, framing, max_frame, read_ahead)
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// What the handshake has shown, once it is complete.
    pub(crate) fn tls_info(&self) -> Option<Box<TlsInfo>> {
        match self {
            Self::Plain(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => TlsInfo::of_tls(stream.get_ref().1).map(Box::new),
        }
    }

    /// The application protocol that TLS agreed on.
    pub(crate) fn alpn(&self) -> Option<String> {
        match self {
            Self::Plain(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => {
                let alpn = stream.get_ref().1.alpn_protocol()?;
                Some(String::from_utf8_lossy(alpn).into_owned())
            }
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ask!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ask!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ask!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ask!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ask!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
