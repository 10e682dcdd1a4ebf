//! The write side of a connection: a raw, poll-based sink for bytes that are framed already.
//!
//! It queues nothing of its own. TCP and memory hand bytes straight to the kernel or the peer; TLS and QUIC
//! copy at most 16 KiB at a time, and only while less than 64 KiB is unsent.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncWrite, DuplexStream, WriteHalf},
    net::tcp::OwnedWriteHalf,
};

use crate::{
    FrameKind, Framing,
    defaults::COPY,
    protocols::CustomIo,
    quic::{QuicSink, WebTransportSink},
    reader::with_scratch,
    tls_sink::TlsSink,
};

/// Bytes to the peer.
///
/// One task at a time waits on it: the waker of the last call that returned `Pending` is the one that is
/// woken. Dropping it ends the write side; what was accepted before is still sent.
pub struct ByteWriter {
    sink: Sink,
    framing: Framing,
}

/// Where bytes go.
pub(crate) enum Sink {
    Tcp(OwnedWriteHalf),
    Tls(TlsSink),
    Quic(Box<QuicSink>),
    WebTransport(Box<WebTransportSink>),
    Memory(WriteHalf<DuplexStream>),
    #[cfg(unix)]
    Unix(tokio::net::unix::OwnedWriteHalf),
    Custom(WriteHalf<CustomIo>),
}

impl ByteWriter {
    pub(crate) fn new(sink: Sink, framing: Framing) -> Self {
        Self { sink, framing }
    }

    /// How frames are to be written.
    #[must_use]
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Writes from the front of `bufs`, whose bytes are framed already, and says how many were taken.
    /// `Ready(Ok(0))` only when there was nothing to write.
    ///
    /// # Errors
    /// The link is gone.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(first) = bufs.iter().position(|buf| !buf.is_empty()) else { return Poll::Ready(Ok(0)) };
        let bufs = &bufs[first..];
        let written = match &mut self.sink {
            Sink::Tcp(half) => Pin::new(half).poll_write_vectored(cx, bufs),
            Sink::Memory(half) => Pin::new(half).poll_write_vectored(cx, bufs),
            Sink::Custom(half) => Pin::new(half).poll_write_vectored(cx, bufs),
            #[cfg(unix)]
            Sink::Unix(half) => Pin::new(half).poll_write_vectored(cx, bufs),
            Sink::Tls(tls) => gather(bufs, |buf| tls.poll_write(cx, buf)),
            Sink::Quic(sink) => gather(bufs, |buf| sink.poll_write(cx, buf)),
            Sink::WebTransport(sink) => gather(bufs, |buf| sink.poll_write(cx, buf)),
        };
        match ready!(written)? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            n => Poll::Ready(Ok(n)),
        }
    }

    /// Moves TLS ciphertext that the socket did not take yet, and what a custom protocol holds back; ready at once on
    /// everything else. After a
    /// `Pending` from here or from a write, poll it again when woken: nobody else does.
    ///
    /// # Errors
    /// The link is gone.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.sink {
            Sink::Tls(tls) => tls.poll_flush(cx),
            Sink::Custom(half) => Pin::new(half).poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Ends the write side after everything accepted: half-closes TCP, sends TLS `close_notify`, finishes
    /// the QUIC stream. A WebSocket close frame is bytes: its owner writes it first.
    ///
    /// # Errors
    /// The link is gone.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.sink {
            Sink::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Sink::Memory(half) => Pin::new(half).poll_shutdown(cx),
            Sink::Custom(half) => Pin::new(half).poll_shutdown(cx),
            #[cfg(unix)]
            Sink::Unix(half) => Pin::new(half).poll_shutdown(cx),
            Sink::Tls(tls) => tls.poll_close(cx),
            Sink::Quic(sink) => Poll::Ready(sink.finish()),
            Sink::WebTransport(sink) => Poll::Ready(sink.finish()),
        }
    }

    /// Ends the whole connection now. QUIC and WebTransport close with the application code and reason and
    /// drop what is unsent; TCP and TLS shut the socket down in both directions, so that the reader ends too.
    pub fn abort(&mut self, code: u32, reason: &str) {
        // A socket that is gone already cannot be shut down; there is nobody to tell.
        match &mut self.sink {
            Sink::Tcp(half) => drop(SockRef::from(half.as_ref()).shutdown(Shutdown::Both)),
            Sink::Tls(tls) => tls.abort(),
            Sink::Quic(sink) => sink.close(code, reason),
            Sink::WebTransport(sink) => sink.close(code, reason),
            #[cfg(unix)]
            Sink::Unix(half) => drop(SockRef::from(half.as_ref()).shutdown(Shutdown::Both)),
            Sink::Memory(half) => {
                let mut cx = Context::from_waker(Waker::noop());
                drop(Pin::new(half).poll_shutdown(&mut cx));
            }
            Sink::Custom(half) => {
                let mut cx = Context::from_waker(Waker::noop());
                drop(Pin::new(half).poll_shutdown(&mut cx));
            }
        }
    }

    /// Frames `payload`, writes all of it and flushes: for simple users.
    ///
    /// Not cancel-safe: dropped half way, a part of the frame may have been written.
    ///
    /// # Errors
    /// The link is gone.
    pub async fn send(&mut self, kind: FrameKind, payload: &[u8]) -> io::Result<()> {
        let frame = self.framing.frame(kind, payload);
        self.write_all(&frame).await
    }

    /// Writes all of `bytes`, which are framed already, and flushes.
    ///
    /// Not cancel-safe, as [`ByteWriter::send`].
    ///
    /// # Errors
    /// The link is gone.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = poll_fn(|cx| self.poll_write_vectored(cx, &[IoSlice::new(bytes)])).await?;
            bytes = &bytes[n..];
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Ends the write side; see [`ByteWriter::poll_close`].
    ///
    /// # Errors
    /// The link is gone.
    pub async fn finish(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_close(cx)).await
    }

    /// Lets the kernel ask after `idle` whether a silent TCP peer is still there; nothing elsewhere.
    pub(crate) fn set_keepalive(&self, idle: std::time::Duration) -> io::Result<()> {
        let keepalive = socket2::TcpKeepalive::new().with_time(idle);
        match &self.sink {
            Sink::Tcp(half) => SockRef::from(half.as_ref()).set_tcp_keepalive(&keepalive),
            Sink::Tls(tls) => tls.set_keepalive(&keepalive),
            _ => Ok(()),
        }
    }

    /// The UDP socket of a client's connection that has one of its own.
    pub(crate) fn endpoint(&self) -> Option<quinn::Endpoint> {
        match &self.sink {
            Sink::Quic(sink) => sink.endpoint(),
            Sink::WebTransport(sink) => sink.endpoint(),
            _ => None,
        }
    }

    pub(crate) fn sink(&mut self) -> &mut Sink {
        &mut self.sink
    }
}

impl std::fmt::Debug for ByteWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteWriter").field("framing", &self.framing).finish_non_exhaustive()
    }
}

/// Gives `write` up to 16 KiB from the front of `bufs` in one piece: full TLS records, one QUIC copy, instead
/// of one for each small frame.
fn gather(
    bufs: &[IoSlice<'_>],
    write: impl FnOnce(&[u8]) -> Poll<io::Result<usize>>,
) -> Poll<io::Result<usize>> {
    if bufs.len() == 1 || bufs[0].len() >= COPY {
        return write(&bufs[0][..bufs[0].len().min(COPY)]);
    }
    with_scratch(|scratch| {
        let mut filled = 0;
        for buf in bufs {
            let n = buf.len().min(COPY - filled);
            scratch[filled..filled + n].copy_from_slice(&buf[..n]);
            filled += n;
            if filled == COPY {
                break;
            }
        }
        write(&scratch[..filled])
    })
}
