//! Further streams and datagrams of a connection, beside its frames: QUIC and WebTransport have them, the
//! others answer [`StreamError::Unsupported`].
//!
//! Nothing here says what a stream carries, and nothing accepts one by itself: an unaccepted stream waits
//! within the peer's stream limit.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use web_transport_quinn as wt;

use crate::defaults::STREAMS_SEND_WINDOW;

/// Opens and accepts further streams. Cheap to clone; it keeps the connection alive.
#[derive(Clone, Debug)]
pub struct Streams(Option<Carrier>);

#[derive(Clone, Debug)]
enum Carrier {
    Quic(quinn::Connection),
    WebTransport(Box<wt::Session>),
}

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

    pub(crate) fn quic(connection: quinn::Connection) -> Self {
        Self(Some(Carrier::Quic(connection)))
    }

    pub(crate) fn web_transport(session: wt::Session) -> Self {
        Self(Some(Carrier::WebTransport(Box::new(session))))
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
        match self.carrier()? {
            Carrier::Quic(connection) => {
                connection.set_send_window(STREAMS_SEND_WINDOW);
                let (send, recv) = connection.open_bi().await.map_err(lost)?;
                Ok((SendStream(Send::Quic(send)), RecvStream(Recv::Quic(recv))))
            }
            Carrier::WebTransport(session) => {
                session.set_send_window(STREAMS_SEND_WINDOW);
                let (send, recv) = session.open_bi().await.map_err(lost)?;
                Ok((SendStream(Send::WebTransport(send)), RecvStream(Recv::WebTransport(recv))))
            }
        }
    }

    /// The next bidirectional stream that the peer opens. Cancel-safe.
    ///
    /// # Errors
    /// Not supported, or the connection is gone.
    pub async fn accept_stream(&self) -> Result<(SendStream, RecvStream), StreamError> {
        let carrier = self.carrier()?;
        let stream = carrier.accept().await?;
        match carrier {
            Carrier::Quic(connection) => connection.set_send_window(STREAMS_SEND_WINDOW),
            Carrier::WebTransport(session) => session.set_send_window(STREAMS_SEND_WINDOW),
        }
        Ok(stream)
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
        match self.carrier()? {
            Carrier::Quic(connection) => connection.send_datagram(datagram).map_err(|error| match error {
                quinn::SendDatagramError::ConnectionLost(error) => lost(error),
                error => StreamError::Datagram(error.to_string()),
            }),
            Carrier::WebTransport(session) => session.send_datagram(datagram).map_err(|error| match error {
                wt::SessionError::ConnectionError(error) => lost(error),
                error => StreamError::Datagram(error.to_string()),
            }),
        }
    }

    /// The next datagram from the peer. Cancel-safe.
    ///
    /// # Errors
    /// Not supported, or the connection is gone.
    pub async fn read_datagram(&self) -> Result<Bytes, StreamError> {
        match self.carrier()? {
            Carrier::Quic(connection) => connection.read_datagram().await.map_err(lost),
            Carrier::WebTransport(session) => session.read_datagram().await.map_err(lost),
        }
    }

    /// The largest datagram that can be sent now; `None` where there are none.
    #[must_use]
    pub fn max_datagram_size(&self) -> Option<usize> {
        match self.0.as_ref()? {
            Carrier::Quic(connection) => connection.max_datagram_size(),
            Carrier::WebTransport(session) => Some(session.max_datagram_size()).filter(|size| *size > 0),
        }
    }

    fn carrier(&self) -> Result<&Carrier, StreamError> {
        self.0.as_ref().ok_or(StreamError::Unsupported)
    }
}

impl Carrier {
    async fn accept(&self) -> Result<(SendStream, RecvStream), StreamError> {
        match self {
            Carrier::Quic(connection) => {
                let (send, recv) = connection.accept_bi().await.map_err(lost)?;
                Ok((SendStream(Send::Quic(send)), RecvStream(Recv::Quic(recv))))
            }
            Carrier::WebTransport(session) => {
                let (send, recv) = session.accept_bi().await.map_err(lost)?;
                Ok((SendStream(Send::WebTransport(send)), RecvStream(Recv::WebTransport(recv))))
            }
        }
    }

    async fn accept_unidirectional(&self) -> Result<RecvStream, StreamError> {
        let recv = match self {
            Carrier::Quic(connection) => Recv::Quic(connection.accept_uni().await.map_err(lost)?),
            Carrier::WebTransport(session) => Recv::WebTransport(session.accept_uni().await.map_err(lost)?),
        };
        Ok(RecvStream(recv))
    }
}

fn lost(error: impl std::fmt::Display) -> StreamError {
    StreamError::ConnectionLost(error.to_string())
}

/// The sending half of a further stream. Dropped without [`SendStream::reset`], it is finished.
#[derive(Debug)]
pub struct SendStream(Send);

#[derive(Debug)]
enum Send {
    Quic(quinn::SendStream),
    WebTransport(wt::SendStream),
}

impl SendStream {
    /// Says that nothing more will be written. Harmless when repeated.
    pub fn finish(&mut self) {
        // The only error is that it was finished or reset before.
        match &mut self.0 {
            Send::Quic(stream) => drop(stream.finish()),
            Send::WebTransport(stream) => drop(stream.finish()),
        }
    }

    /// Abandons the stream: what is unsent is dropped, and the peer's reads fail with `code`.
    pub fn reset(&mut self, code: u32) {
        // The only error is that it was finished or reset before.
        match &mut self.0 {
            Send::Quic(stream) => drop(stream.reset(code.into())),
            Send::WebTransport(stream) => drop(stream.reset(code)),
        }
    }

    /// Waits until the peer has taken everything after [`SendStream::finish`], or stopped reading: then the
    /// code it gave.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn stopped(&self) -> Result<Option<u64>, StreamError> {
        match &self.0 {
            Send::Quic(stream) => {
                stream.stopped().await.map(|code| code.map(quinn::VarInt::into_inner)).map_err(lost)
            }
            Send::WebTransport(stream) => {
                stream.stopped().await.map(|code| code.map(u64::from)).map_err(lost)
            }
        }
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Send::Quic(stream) => AsyncWrite::poll_write(Pin::new(stream), cx, buf),
            Send::WebTransport(stream) => AsyncWrite::poll_write(Pin::new(stream), cx, buf),
        }
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
pub struct RecvStream(Recv);

#[derive(Debug)]
enum Recv {
    Quic(quinn::RecvStream),
    WebTransport(wt::RecvStream),
}

impl RecvStream {
    /// Asks the peer to stop sending, with a code; what has arrived unread is dropped.
    pub fn stop(&mut self, code: u32) {
        // The only error is that it has ended already.
        match &mut self.0 {
            Recv::Quic(stream) => drop(stream.stop(code.into())),
            Recv::WebTransport(stream) => drop(stream.stop(code)),
        }
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Recv::Quic(stream) => AsyncRead::poll_read(Pin::new(stream), cx, buf),
            Recv::WebTransport(stream) => AsyncRead::poll_read(Pin::new(stream), cx, buf),
        }
    }
}
