//! What carries further streams: a QUIC connection, or a WebTransport session on one.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
#[cfg(feature = "webtransport")]
use web_transport_quinn as wt;

use super::StreamError;
use crate::{
    defaults::{LANE_STREAMS, STREAM_RECEIVE_WINDOW, STREAMS_SEND_WINDOW},
    quic::{FRAME_PRIORITY, QuicSource},
    sink::gather,
    source::Source,
};

/// Cheap to clone; it keeps the connection alive.
#[derive(Clone, Debug)]
pub(crate) struct Carrier {
    link: Link,
    /// A client's UDP socket, if it serves this connection alone.
    endpoint: Option<quinn::Endpoint>,
}

#[derive(Clone, Debug)]
enum Link {
    Quic(quinn::Connection),
    #[cfg(feature = "webtransport")]
    WebTransport(Box<wt::Session>),
}

#[derive(Debug)]
pub(super) enum SendHalf {
    Quic(quinn::SendStream),
    #[cfg(feature = "webtransport")]
    WebTransport(wt::SendStream),
}

#[derive(Debug)]
pub(super) enum RecvHalf {
    Quic(quinn::RecvStream),
    #[cfg(feature = "webtransport")]
    WebTransport(wt::RecvStream),
}

/// Asks whichever it is.
macro_rules! ask {
    ($kind:ident, $value:expr, $it:ident => $answer:expr) => {
        match $value {
            $kind::Quic($it) => $answer,
            #[cfg(feature = "webtransport")]
            $kind::WebTransport($it) => $answer,
        }
    };
}

impl Carrier {
    pub(crate) fn quic(connection: quinn::Connection, endpoint: Option<quinn::Endpoint>) -> Self {
        Self { link: Link::Quic(connection), endpoint }
    }

    #[cfg(feature = "webtransport")]
    pub(crate) fn web_transport(session: wt::Session, endpoint: Option<quinn::Endpoint>) -> Self {
        Self { link: Link::WebTransport(Box::new(session)), endpoint }
    }

    /// Gives the connection the send window of one with many streams.
    pub(super) fn widen(&self) {
        ask!(Link, &self.link, link => link.set_send_window(STREAMS_SEND_WINDOW));
    }

    pub(super) async fn open(&self) -> Result<(SendHalf, RecvHalf), StreamError> {
        ask!(Link, &self.link, link => link.open_bi().await.map(halves).map_err(lost))
    }

    pub(super) async fn accept(&self) -> Result<(SendHalf, RecvHalf), StreamError> {
        ask!(Link, &self.link, link => link.accept_bi().await.map(halves).map_err(lost))
    }

    pub(super) async fn accept_unidirectional(&self) -> Result<RecvHalf, StreamError> {
        ask!(Link, &self.link, link => link.accept_uni().await.map(Into::into).map_err(lost))
    }

    /// A stream for one lane, which leaves by turns with the frames.
    pub(super) async fn open_unidirectional(&self) -> Result<SendHalf, StreamError> {
        let half: SendHalf =
            ask!(Link, &self.link, link => link.open_uni().await.map(Into::into).map_err(lost)?);
        // It fails only on a closed stream, whose next use says so.
        ask!(SendHalf, &half, stream => drop(stream.set_priority(FRAME_PRIORITY)));
        Ok(half)
    }

    /// Lets the peer open the streams of its lanes, and gives each its window.
    pub(super) fn allow_lanes(&self) {
        let own = match &self.link {
            Link::Quic(_) => 0,
            #[cfg(feature = "webtransport")]
            Link::WebTransport(_) => crate::defaults::H3_UNI_STREAMS,
        };
        let window = STREAM_RECEIVE_WINDOW * (1 + LANE_STREAMS);
        ask!(Link, &self.link, link => {
            link.set_max_concurrent_uni_streams((own + LANE_STREAMS).into());
            link.set_receive_window(window.into());
        });
    }

    pub(super) fn send_datagram(&self, datagram: Bytes) -> Result<(), StreamError> {
        match &self.link {
            Link::Quic(connection) => connection.send_datagram(datagram).map_err(|error| match error {
                quinn::SendDatagramError::ConnectionLost(error) => lost(error),
                error => StreamError::Datagram(error.to_string()),
            }),
            #[cfg(feature = "webtransport")]
            Link::WebTransport(session) => session.send_datagram(datagram).map_err(|error| match error {
                wt::SessionError::ConnectionError(error) => lost(error),
                error => StreamError::Datagram(error.to_string()),
            }),
        }
    }

    pub(super) async fn read_datagram(&self) -> Result<Bytes, StreamError> {
        ask!(Link, &self.link, link => link.read_datagram().await.map_err(lost))
    }

    pub(super) fn max_datagram_size(&self) -> Option<usize> {
        match &self.link {
            Link::Quic(connection) => connection.max_datagram_size(),
            #[cfg(feature = "webtransport")]
            Link::WebTransport(session) => Some(session.max_datagram_size()).filter(|size| *size > 0),
        }
    }

    pub(super) fn rebind(&self, local: SocketAddr) -> io::Result<()> {
        let endpoint = self.endpoint.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        endpoint.rebind(std::net::UdpSocket::bind(local)?)
    }
}

fn halves(stream: (impl Into<SendHalf>, impl Into<RecvHalf>)) -> (SendHalf, RecvHalf) {
    (stream.0.into(), stream.1.into())
}

fn lost(error: impl std::fmt::Display) -> StreamError {
    StreamError::ConnectionLost(error.to_string())
}

impl SendHalf {
    pub(super) fn finish(&mut self) {
        // The only error is that it was finished or reset before.
        ask!(Self, self, stream => drop(stream.finish()));
    }

    pub(super) fn reset(&mut self, code: u32) {
        // The only error is that it was finished or reset before.
        match self {
            Self::Quic(stream) => drop(stream.reset(code.into())),
            #[cfg(feature = "webtransport")]
            Self::WebTransport(stream) => drop(stream.reset(code)),
        }
    }

    pub(super) async fn stopped(&self) -> Result<Option<u64>, StreamError> {
        ask!(Self, self, stream => stream.stopped().await.map(|code| code.map(u64::from)).map_err(lost))
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ask!(Self, self, stream => AsyncWrite::poll_write(Pin::new(stream), cx, buf))
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        gather(bufs, |buf| self.poll_write(cx, buf))
    }
}

impl RecvHalf {
    pub(super) fn stop(&mut self, code: u32) {
        // The only error is that it has ended already.
        match self {
            Self::Quic(stream) => drop(stream.stop(code.into())),
            #[cfg(feature = "webtransport")]
            Self::WebTransport(stream) => drop(stream.stop(code)),
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ask!(Self, self, stream => AsyncRead::poll_read(Pin::new(stream), cx, buf))
    }

    pub(super) fn into_source(self) -> Source {
        match self {
            Self::Quic(stream) => Source::Quic(Box::new(QuicSource::new(stream))),
            #[cfg(feature = "webtransport")]
            Self::WebTransport(stream) => {
                Source::WebTransport(Box::new(crate::quic::WebTransportSource::new(stream)))
            }
        }
    }
}

impl From<quinn::SendStream> for SendHalf {
    fn from(stream: quinn::SendStream) -> Self {
        Self::Quic(stream)
    }
}

impl From<quinn::RecvStream> for RecvHalf {
    fn from(stream: quinn::RecvStream) -> Self {
        Self::Quic(stream)
    }
}

#[cfg(feature = "webtransport")]
impl From<wt::SendStream> for SendHalf {
    fn from(stream: wt::SendStream) -> Self {
        Self::WebTransport(stream)
    }
}

#[cfg(feature = "webtransport")]
impl From<wt::RecvStream> for RecvHalf {
    fn from(stream: wt::RecvStream) -> Self {
        Self::WebTransport(stream)
    }
}
