//! QUIC and WebTransport: one UDP port, told apart by ALPN.
//!
//! This module adapts quinn's streams to a connection's two halves, `web_transport` web-transport-quinn's;
//! [`QuicListener`] accepts, `connect` dials. Which codes mean what is not known here.

mod early;
mod keys;
mod listener;
#[cfg(feature = "qlog")]
mod qlog;
#[cfg(feature = "webtransport")]
mod web_transport;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use quinn::{ConnectionError, VarInt};

pub(crate) use self::early::connect_early;
pub use self::listener::{ConnectionIdFactory, QuicListener, QuicOptions};
#[cfg(feature = "qlog")]
pub use self::qlog::Qlog;
#[cfg(feature = "qlog")]
pub(crate) use self::qlog::Vantage;
#[cfg(feature = "webtransport")]
pub(crate) use self::web_transport::{WebTransportSink, WebTransportSource, web_transport_connection};
use crate::{
    Connection, ConnectionInfo, Framing, Incoming, Streams,
    defaults::{
        DATAGRAM_BUFFER, H3_DATAGRAM_BUFFER, H3_UNI_STREAMS, HANDSHAKE_WINDOW, IDLE_TIMEOUT, MTU_STEP,
        RECEIVE_WINDOW, STREAM_RECEIVE_WINDOW, UNSENT,
    },
    sink::{Outgoing, Sink, gather},
    source::{End, Read, Source},
    streams::Carrier,
};

/// The ALPN of packets of the second wire.
pub(crate) const V2_ALPN: &str = "msgtrans/2";

/// The ALPN of WebTransport.
pub(crate) const H3: &str = "h3";

/// Frames, those of lanes too, leave before the bytes of further streams.
pub(crate) const FRAME_PRIORITY: i32 = 1;

/// Settings that both sides use. How many streams the peer may open has yet to be said.
pub(crate) fn transport_config(idle: std::time::Duration) -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    let idle = quinn::IdleTimeout::try_from(idle).or_else(|_| IDLE_TIMEOUT.try_into()).ok();
    config
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .stream_receive_window(STREAM_RECEIVE_WINDOW.into())
        .receive_window(RECEIVE_WINDOW.into())
        .send_window(UNSENT as u64)
        .mtu_discovery_config(Some(mtu_discovery()))
        .max_idle_timeout(idle);
    config
}

/// Asks for the packets of Ethernet at once instead of nearing them in four steps: each step is a padded packet and its answer,
/// which together are as much work as the rest of a handshake. Where those do not pass, one step between is tried.
fn mtu_discovery() -> quinn::MtuDiscoveryConfig {
    let mut config = quinn::MtuDiscoveryConfig::default();
    config.minimum_change(MTU_STEP);
    config
}

/// What a listener lets a peer have open and send, which differs by ALPN and by how far the handshake is.
#[derive(Clone, Copy)]
struct Allowance {
    /// Further bidirectional streams.
    streams: u32,
    /// Bytes of datagrams that wait.
    datagrams: usize,
}

impl Allowance {
    /// For the handshake, before it is known which of the protocols on this port the peer speaks.
    fn begin(self, config: &mut quinn::TransportConfig, with_h3: WithH3) {
        let own = 1 + self.streams;
        let (bidi, uni, datagrams) = match with_h3 {
            WithH3::Yes => (own + 1, H3_UNI_STREAMS, self.datagrams.max(H3_DATAGRAM_BUFFER)),
            WithH3::No => (own, 0, self.datagrams),
        };
        config
            .max_concurrent_bidi_streams(bidi.into())
            .max_concurrent_uni_streams(uni.into())
            .datagram_receive_buffer_size((datagrams > 0).then_some(datagrams))
            .receive_window(HANDSHAKE_WINDOW.into());
    }

    /// For a raw QUIC connection, which has no use for what HTTP/3 needs.
    fn raw(self, connection: &quinn::Connection) {
        connection.set_max_concurrent_bi_streams((1 + self.streams).into());
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(0));
        self.established(connection);
    }

    /// Once the frame stream is there: its window and that of three further streams, as far as there may be any.
    fn established(self, connection: &quinn::Connection) {
        let window = STREAM_RECEIVE_WINDOW.saturating_mul(1 + self.streams.min(3));
        connection.set_receive_window(window.min(RECEIVE_WINDOW).into());
    }
}

/// Whether a port offers WebTransport.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WithH3 {
    Yes,
    No,
}

/// The read half of a raw QUIC connection's frame stream.
pub(crate) struct QuicSource(quinn::RecvStream);

/// The write half of a raw QUIC connection's frame stream, and the connection.
pub(crate) struct QuicSink {
    stream: quinn::SendStream,
    connection: quinn::Connection,
    /// A client's endpoint, if it serves this connection alone: closing waits until the peer has been told.
    endpoint: Option<quinn::Endpoint>,
}

/// Makes a connection of a raw QUIC connection and its frame stream.
pub(crate) fn quic_connection(
    info: ConnectionInfo,
    connection: quinn::Connection,
    (send, recv): (quinn::SendStream, quinn::RecvStream),
    max_frame: usize,
    endpoint: Option<quinn::Endpoint>,
) -> Connection {
    // It fails only on a closed stream, whose next use says so.
    let _ = send.set_priority(FRAME_PRIORITY);
    let streams = Streams::of(Carrier::quic(connection.clone(), endpoint.clone()));
    let sink = Sink::Quic(Box::new(QuicSink { stream: send, connection, endpoint }));
    let source = Source::Quic(Box::new(QuicSource(recv)));
    let framed = Connection::framed(info, (source, sink), Framing::Length, max_frame, &[]);
    Connection { streams, ..framed }
}

/// What TLS agreed on.
pub(crate) fn alpn(connection: &quinn::Connection) -> Option<String> {
    agreed_on(connection.handshake_data()?)
}

/// The same, of a handshake that is not complete.
fn agreed_on(handshake: Box<dyn std::any::Any>) -> Option<String> {
    let data = handshake.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    Some(String::from_utf8_lossy(&data.protocol?).into_owned())
}

impl QuicSource {
    pub(crate) fn new(stream: quinn::RecvStream) -> Self {
        Self(stream)
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<Read>> {
        Poll::Ready(match ready!(self.0.poll_read(cx, buf)) {
            Ok(0) => Ok(Read::End(End::finished())),
            Ok(n) => Ok(Read::Bytes(n)),
            Err(quinn::ReadError::ConnectionLost(ConnectionError::ApplicationClosed(close))) => {
                Ok(Read::End(closed(close.error_code.into_inner(), &close.reason)))
            }
            Err(quinn::ReadError::ConnectionLost(ConnectionError::LocallyClosed)) => {
                Ok(Read::End(End::finished()))
            }
            Err(error) => Err(error.into()),
        })
    }
}

/// The last word of a peer that closed. Code 0 is what QUIC says when an end is simply dropped: it ends as a TCP
/// connection does.
fn closed(code: u64, reason: &[u8]) -> End {
    let word = (code != 0).then(|| Incoming::Close {
        code: Some(u16::try_from(code).unwrap_or(u16::MAX)),
        reason: String::from_utf8_lossy(reason).into_owned(),
    });
    End { word }
}

impl QuicSink {
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf).map_err(Into::into)
    }
}

impl Outgoing for QuicSink {
    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        gather(bufs, |buf| self.poll_write(cx, buf))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.connection.close_reason() {
            Some(error) => Err(error.into()),
            // Finishing twice is harmless.
            None => {
                drop(self.stream.finish());
                Ok(())
            }
        })
    }

    fn abort(&mut self, code: u32, reason: &str) {
        self.connection.close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Until the peer has all of the stream, or will never have it.
    async fn acknowledged(&mut self) -> bool {
        drop(self.stream.stopped().await);
        true
    }

    /// Until a client's own endpoint has told the peer of the close.
    async fn gone(&mut self) {
        idle(self.endpoint.as_ref()).await;
    }
}

async fn idle(endpoint: Option<&quinn::Endpoint>) {
    if let Some(endpoint) = endpoint {
        endpoint.wait_idle().await;
    }
}
