//! Where a writer's bytes go: one variant for each protocol that is compiled in, all asked the same.
//!
//! It queues nothing of its own. TCP and memory hand bytes straight to the kernel or the peer; TLS and QUIC
//! copy at most 16 KiB at a time, and only while less than 64 KiB is unsent (1 MiB at a QUIC client).

#[cfg(feature = "tls")]
mod copying;
#[cfg(feature = "tcp")]
mod tcp;
#[cfg(feature = "tls")]
mod tls;
#[cfg(all(unix, feature = "unix"))]
mod unix;

use std::{
    future::{Future, ready},
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::io::{AsyncWrite, DuplexStream, WriteHalf};

#[cfg(feature = "tcp")]
pub(crate) use self::tcp::SharedTcp;
#[cfg(feature = "tls")]
pub(crate) use self::{
    copying::gather,
    tls::{SharedTls, TlsSink},
};
use crate::protocols::CustomIo;

/// What every kind of link does for its writer; see [`crate::ByteWriter`].
pub(crate) trait Outgoing {
    /// Writes from the front of `bufs`, of which the first is not empty.
    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Moves on what the link itself holds back.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// Ends the write side after everything accepted.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends both directions now; the code and the reason are said where the protocol has a word for them.
    fn abort(&mut self, code: u32, reason: &str);

    /// Lets the kernel ask after `idle` whether a silent peer is still there, where it can.
    fn set_keepalive(&self, idle: Duration) -> io::Result<()> {
        let _ = idle;
        Ok(())
    }

    /// Waits until the peer has everything; false at once where nothing but the peer's own end tells.
    fn acknowledged(&mut self) -> impl Future<Output = bool> + Send {
        ready(false)
    }

    /// Waits until the peer has been told of the end, where that takes more than the kernel.
    fn gone(&mut self) -> impl Future<Output = ()> + Send {
        ready(())
    }
}

/// A link that takes bytes beside its writer, from whoever has some, in whole or in part: [`crate::ByteWriter::direct`].
/// Dropping it changes nothing for the writer.
pub struct Direct(Shared);

enum Shared {
    #[cfg(feature = "tcp")]
    Tcp(SharedTcp),
}

impl Direct {
    /// What the link takes at once, which may be nothing: then the writer is to wait until it takes something again. The
    /// first of `bufs` must not be empty. It never waits.
    ///
    /// # Errors
    /// The link is gone. Nobody else is told: a socket gives an error once, and whoever reads then finds an end that looks
    /// like the peer's own.
    pub fn write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let _ = bufs;
        match self.0 {
            #[cfg(feature = "tcp")]
            Shared::Tcp(ref tcp) => match tcp::try_write(tcp, bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                written => written,
            },
        }
    }
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Direct")
    }
}

impl Sink {
    /// Where the kernel takes bytes from anybody without anything of ours between.
    pub(crate) fn direct(&self) -> Option<Direct> {
        match self {
            #[cfg(feature = "tcp")]
            Self::Tcp(tcp) => Some(Direct(Shared::Tcp(SharedTcp::clone(tcp)))),
            _ => None,
        }
    }
}

/// One variant for each kind of link.
pub(crate) enum Sink {
    #[cfg(feature = "tcp")]
    Tcp(SharedTcp),
    #[cfg(feature = "tls")]
    Tls(TlsSink),
    #[cfg(feature = "quic")]
    Quic(Box<crate::quic::QuicSink>),
    #[cfg(feature = "webtransport")]
    WebTransport(Box<crate::quic::WebTransportSink>),
    #[cfg(all(unix, feature = "unix"))]
    Unix(tokio::net::unix::OwnedWriteHalf),
    Memory(WriteHalf<DuplexStream>),
    Custom(WriteHalf<CustomIo>),
}

/// Asks whichever it is.
macro_rules! ask {
    ($sink:expr, $link:ident => $answer:expr) => {
        match $sink {
            #[cfg(feature = "tcp")]
            Sink::Tcp($link) => $answer,
            #[cfg(feature = "tls")]
            Sink::Tls($link) => $answer,
            #[cfg(feature = "quic")]
            Sink::Quic($link) => $answer,
            #[cfg(feature = "webtransport")]
            Sink::WebTransport($link) => $answer,
            #[cfg(all(unix, feature = "unix"))]
            Sink::Unix($link) => $answer,
            Sink::Memory($link) => $answer,
            Sink::Custom($link) => $answer,
        }
    };
}

impl Outgoing for Sink {
    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ask!(self, link => link.poll_write_vectored(cx, bufs))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ask!(self, link => link.poll_flush(cx))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ask!(self, link => link.poll_close(cx))
    }

    fn abort(&mut self, code: u32, reason: &str) {
        ask!(self, link => link.abort(code, reason));
    }

    fn set_keepalive(&self, idle: Duration) -> io::Result<()> {
        ask!(self, link => link.set_keepalive(idle))
    }

    async fn acknowledged(&mut self) -> bool {
        ask!(self, link => link.acknowledged().await)
    }

    async fn gone(&mut self) {
        ask!(self, link => link.gone().await);
    }
}

/// Pairs within the process, and custom protocols.
impl<T: AsyncWrite + Send> Outgoing for WriteHalf<T> {
    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write_vectored(Pin::new(self), cx, bufs)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(self), cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), cx)
    }

    fn abort(&mut self, _: u32, _: &str) {
        let mut cx = Context::from_waker(Waker::noop());
        drop(Pin::new(self).poll_shutdown(&mut cx));
    }
}
