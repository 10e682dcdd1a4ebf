//! The write side of a connection: a raw, poll-based sink for bytes that are framed already.
//!
//! It queues nothing of its own. TCP and memory hand bytes straight to the kernel or the peer; TLS and QUIC
//! copy at most 16 KiB at a time, and only while less than 64 KiB is unsent (1 MiB at a QUIC client).

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use crate::{
    FrameKind, Framing,
    sink::{Direct, Outgoing, Sink},
};

/// Bytes to the peer.
///
/// One task at a time waits on it: the waker of the last call that returned `Pending` is the one that is
/// woken. Dropping it ends the write side; what was accepted before is still sent.
pub struct ByteWriter {
    sink: Sink,
    framing: Framing,
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
        match ready!(self.sink.poll_write_vectored(cx, &bufs[first..]))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            n => Poll::Ready(Ok(n)),
        }
    }

    /// Moves TLS ciphertext that the socket did not take yet, and what a custom protocol holds back; ready at once on
    /// everything else. After a `Pending` from here or from a write, poll it again when woken: nobody else does.
    ///
    /// # Errors
    /// The link is gone.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink.poll_flush(cx)
    }

    /// Ends the write side after everything accepted: half-closes TCP, sends TLS `close_notify`, finishes
    /// the QUIC stream. A WebSocket close frame is bytes: its owner writes it first.
    ///
    /// # Errors
    /// The link is gone.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink.poll_close(cx)
    }

    /// Ends the whole connection now. QUIC and WebTransport close with the application code and reason and
    /// drop what is unsent; TCP and TLS shut the socket down in both directions, so that the reader ends too.
    pub fn abort(&mut self, code: u32, reason: &str) {
        self.sink.abort(code, reason);
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
        self.sink.set_keepalive(idle)
    }

    /// The same link for those who write in this writer's place: plain TCP, and WebSocket over it; `None` elsewhere. Bytes
    /// go out in the order of the writes, so whoever shares it sees to it that one writes at a time, each from where the
    /// other has left off: one lock over both and over what is to be written.
    #[must_use]
    pub fn direct(&self) -> Option<Direct> {
        self.sink.direct()
    }

    /// Waits until the peer has everything, where the protocol tells; false at once where only the peer's own end does.
    pub(crate) async fn acknowledged(&mut self) -> bool {
        self.sink.acknowledged().await
    }

    /// Waits until the peer has been told of the end, where that takes more than the kernel.
    pub(crate) async fn gone(&mut self) {
        self.sink.gone().await;
    }
}

impl std::fmt::Debug for ByteWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteWriter").field("framing", &self.framing).finish_non_exhaustive()
    }
}
