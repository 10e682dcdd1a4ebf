//! Where a reader's bytes come from: one variant for each protocol that is compiled in.
//!
//! It reads into somebody else's buffer and keeps nothing.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, DuplexStream, ReadBuf, ReadHalf};

use crate::{Incoming, protocols::CustomIo};

/// One variant for each kind of link.
pub(crate) enum Source {
    #[cfg(feature = "tcp")]
    Tcp(tokio::net::tcp::OwnedReadHalf),
    #[cfg(feature = "tls")]
    Tls(crate::sink::SharedTls),
    #[cfg(feature = "quic")]
    Quic(Box<crate::quic::QuicSource>),
    #[cfg(feature = "webtransport")]
    WebTransport(Box<crate::quic::WebTransportSource>),
    #[cfg(all(unix, feature = "unix"))]
    Unix(tokio::net::unix::OwnedReadHalf),
    Memory(ReadHalf<DuplexStream>),
    Custom(ReadHalf<CustomIo>),
}

/// The result of one read.
pub(crate) enum Read {
    Bytes(usize),
    End(End),
}

/// How the bytes end: by the peer's last word where it said one, else it finished its side without any.
pub(crate) struct End {
    pub(crate) word: Option<Incoming>,
}

impl End {
    /// Without a word.
    pub(crate) fn finished() -> Self {
        Self { word: None }
    }
}

impl Source {
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<Read>> {
        match self {
            #[cfg(feature = "tcp")]
            Self::Tcp(half) => poll_stream(half, cx, scratch),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => poll_stream(&mut *tls.lock(), cx, scratch),
            #[cfg(feature = "quic")]
            Self::Quic(source) => source.poll_read(cx, scratch),
            #[cfg(feature = "webtransport")]
            Self::WebTransport(source) => source.poll_read(cx, scratch),
            #[cfg(all(unix, feature = "unix"))]
            Self::Unix(half) => poll_stream(half, cx, scratch),
            Self::Memory(half) => poll_stream(half, cx, scratch),
            Self::Custom(half) => poll_stream(half, cx, scratch),
        }
    }
}

fn poll_stream<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    scratch: &mut [u8],
) -> Poll<io::Result<Read>> {
    let mut buf = ReadBuf::new(scratch);
    match ready!(Pin::new(stream).poll_read(cx, &mut buf)) {
        Ok(()) if buf.filled().is_empty() => Poll::Ready(Ok(Read::End(End::finished()))),
        Ok(()) => Poll::Ready(Ok(Read::Bytes(buf.filled().len()))),
        Err(error) => Poll::Ready(Err(error)),
    }
}
