//! Further streams and datagrams of a connection, beside its frames: QUIC and WebTransport have them, the
//! others answer [`StreamError::Unsupported`].
//!
//! Nothing here says what a stream carries, and nothing accepts one by itself: an unaccepted stream waits
//! within the peer's stream limit.

#[cfg(not(feature = "quic"))]
#[path = "nowhere.rs"]
mod carrier;
#[cfg(feature = "quic")]
mod carrier;

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) use self::carrier::Carrier;
use self::carrier::{RecvHalf, SendHalf};
use crate::source::Source;

/// Opens and accepts further streams. Cheap to clone; it keeps the connection alive.
#[derive(Clone, Debug)]
pub struct Streams(Option<Carrier>);

/// Why there is no stream or datagram.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The protocol has no streams beside its frames.
    #[error("this protocol has no further streams")]
    Unsupported,
    /// The datagram is larger than the path allows, or the peer takes none.
    #[error("the datagram cannot be sent: {0}")]
    Datagram(String),
    /// The connection is gone.
    #[error("connection lost: {0}")]
    ConnectionLost(String),
}

impl Streams {
    pub(crate) fn unsupported() -> Self {
        Self(None)
    }

    #[cfg(feature = "quic")]
    pub(crate) fn of(carrier: Carrier) -> Self {
        Self(Some(carrier))
    }

    /// Whether streams and datagrams exist here.
    #[must_use]
    pub fn are_supported(&self) -> bool {
        self.0.is_some()
    }

    /// Opens a bidirectional stream; waits while the peer's limit is reached. The peer learns of it with the
    /// first byte written. From the first further stream on, the connection's send window is 1 MiB instead of
    /// 64 KiB. Cancel-safe.
    ///
    /// # Errors
    /// Not supported, or the connection is gone.
    pub async fn open_stream(&self) -> Result<(SendStream, RecvStream), StreamError> {
        let carrier = self.carrier()?;
        carrier.widen();
        let (send, recv) = carrier.open().await?;
        Ok((SendStream { half: send }, RecvStream { half: recv }))
    }

    /// The next bidirectional stream that the peer opens. Cancel-safe.
    ///
    /// # Errors
    /// Not supported, or the connection is gone.
    pub async fn accept_stream(&self) -> Result<(SendStream, RecvStream), StreamError> {
        let carrier = self.carrier()?;
        let (send, recv) = carrier.accept().await?;
        carrier.widen();
        Ok((SendStream { half: send }, RecvStream { half: recv }))
    }

    /// Refuses each further stream that the peer opens: what it sent is dropped, it is asked to stop, and its reads
    /// fail, both with `code`. Resolves when the connection is gone; at once where there are no streams. Cancel-safe:
    /// what comes later waits within the peer's limit.
    pub async fn refuse_all(&self, code: u32) {
        let Ok(carrier) = self.carrier() else { return };
        loop {
            let stream = tokio::select! {
                stream = carrier.accept() => stream.map(|(send, recv)| (Some(send), recv)),
                stream = carrier.accept_unidirectional() => stream.map(|recv| (None, recv)),
            };
            let Ok((send, mut recv)) = stream else { return };
            recv.stop(code);
            if let Some(mut send) = send {
                send.reset(code);
            }
        }
    }

    /// Sends a datagram, unreliable and unordered. When the send buffer is full the oldest one is dropped.
    ///
    /// # Errors
    /// Not supported, too large, or the connection is gone.
    pub fn send_datagram(&self, datagram: Bytes) -> Result<(), StreamError> {
        self.carrier()?.send_datagram(datagram)
    }

    /// The next datagram from the peer. Cancel-safe.
    ///
    /// # Errors
    /// Not supported, or the connection is gone.
    pub async fn read_datagram(&self) -> Result<Bytes, StreamError> {
        self.carrier()?.read_datagram().await
    }

    /// The largest datagram that can be sent now; `None` where there are none.
    #[must_use]
    pub fn max_datagram_size(&self) -> Option<usize> {
        self.0.as_ref()?.max_datagram_size()
    }

    /// Lets the peer open the streams of its lanes.
    pub(crate) fn allow_lanes(&self) {
        if let Some(carrier) = &self.0 {
            carrier.allow_lanes();
        }
    }

    /// Opens the stream of a lane; waits while the peer's limit is reached. Cancel-safe.
    pub(crate) async fn open_lane(&self) -> Result<SendStream, StreamError> {
        let carrier = self.carrier()?;
        carrier.widen();
        Ok(SendStream { half: carrier.open_unidirectional().await? })
    }

    /// What the next stream brings that the peer opens for a lane. Cancel-safe.
    pub(crate) async fn accept_lane(&self) -> Result<Source, StreamError> {
        Ok(self.carrier()?.accept_unidirectional().await?.into_source())
    }

    /// Moves a client's connection to another local address; see [`crate::Session::rebind`].
    pub(crate) fn rebind(&self, local: SocketAddr) -> io::Result<()> {
        match &self.0 {
            Some(carrier) => carrier.rebind(local),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn carrier(&self) -> Result<&Carrier, StreamError> {
        self.0.as_ref().ok_or(StreamError::Unsupported)
    }
}

/// The sending half of a further stream. Dropped without [`SendStream::reset`], it is finished.
#[derive(Debug)]
pub struct SendStream {
    half: SendHalf,
}

impl SendStream {
    /// Says that nothing more will be written. Harmless when repeated.
    pub fn finish(&mut self) {
        self.half.finish();
    }

    /// Abandons the stream: what is unsent is dropped, and the peer's reads fail with `code`.
    pub fn reset(&mut self, code: u32) {
        self.half.reset(code);
    }

    /// Waits until the peer has taken everything after [`SendStream::finish`], or stopped reading: then the
    /// code it gave.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn stopped(&self) -> Result<Option<u64>, StreamError> {
        self.half.stopped().await
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().half.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(first) = bufs.iter().position(|buf| !buf.is_empty()) else { return Poll::Ready(Ok(0)) };
        self.get_mut().half.poll_write_vectored(cx, &bufs[first..])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().finish();
        Poll::Ready(Ok(()))
    }
}

/// The receiving half of a further stream. Dropped before its end, it asks the peer to stop.
#[derive(Debug)]
pub struct RecvStream {
    half: RecvHalf,
}

impl RecvStream {
    /// Asks the peer to stop sending, with a code; what has arrived unread is dropped.
    pub fn stop(&mut self, code: u32) {
        self.half.stop(code);
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().half.poll_read(cx, buf)
    }
}
