//! WebTransport on a QUIC connection: its handshake, and its frame stream as a connection's two halves.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use quinn::ConnectionError;
use tokio::time::{Instant, timeout, timeout_at};
use web_transport_quinn as wt;
use wt::generic::poll::RecvStream as _;

use super::{FRAME_PRIORITY, QuicOptions, closed, idle, listener::judge};
use crate::{
    Connection, ConnectionInfo, Framing, Protocol, Refusal, Streams,
    sink::{Outgoing, Sink, gather},
    source::{End, Read, Source},
    streams::Carrier,
};

/// The read half of a WebTransport session's frame stream.
pub(crate) struct WebTransportSource(wt::RecvStream);

/// The write half of a WebTransport session's frame stream, and the session.
pub(crate) struct WebTransportSink {
    stream: wt::SendStream,
    session: wt::Session,
    endpoint: Option<quinn::Endpoint>,
}

/// Makes a connection of a WebTransport session and its frame stream.
pub(crate) fn web_transport_connection(
    info: ConnectionInfo,
    session: wt::Session,
    (send, recv): (wt::SendStream, wt::RecvStream),
    max_frame: usize,
    endpoint: Option<quinn::Endpoint>,
) -> Connection {
    // It fails only on a closed stream, whose next use says so.
    let _ = send.set_priority(FRAME_PRIORITY);
    let streams = Streams::of(Carrier::web_transport(session.clone(), endpoint.clone()));
    let sink = Sink::WebTransport(Box::new(WebTransportSink { stream: send, session, endpoint }));
    let source = Source::WebTransport(Box::new(WebTransportSource(recv)));
    let framed = Connection::framed(info, (source, sink), Framing::Length, max_frame, &[]);
    Connection { streams, ..framed }
}

/// Why a QUIC connection does not become a WebTransport session.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("too slow")]
    TimedOut(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    Request(#[from] wt::ServerError),
    #[error(transparent)]
    Session(#[from] wt::SessionError),
    #[error("nothing is served at this path")]
    Path,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// From an agreement on HTTP/3 to the client's first stream.
pub(super) async fn handshake(
    connection: quinn::Connection,
    mut info: ConnectionInfo,
    deadline: Instant,
    options: &QuicOptions,
) -> Result<Connection, HandshakeError> {
    info.protocol = Protocol::WebTransport;
    let request = timeout_at(deadline, wt::Request::accept(connection)).await??;
    info.path = Some(request.url.path().to_owned());
    info.query = request.url.query().map(str::to_owned);
    info.origin = request
        .headers
        .get(http::header::ORIGIN)
        .map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned());
    if options.path.is_some() && options.path != info.path {
        reject(request, http::StatusCode::NOT_FOUND, deadline).await?;
        return Err(HandshakeError::Path);
    }
    let judged = match timeout_at(deadline, judge(&info, &request.headers, options)).await? {
        Ok(judged) => judged,
        Err(refusal) => {
            reject(request, refusal.http_status(), deadline).await?;
            return Err(refusal.into());
        }
    };
    let session = timeout_at(deadline, request.ok()).await??;
    let stream = timeout(options.first_stream_timeout, session.accept_bi()).await??;
    options.allowance().established(&session);
    let made = web_transport_connection(info, session, stream, options.max_frame, None);
    Ok(Connection { judged, ..made })
}

/// Refuses a request, and keeps its connection until the client closes it: dropped before, it would take the answer back that
/// may still be on its way, and the client could not tell a refusal from a broken link.
async fn reject(
    request: wt::Request,
    status: http::StatusCode,
    deadline: Instant,
) -> Result<(), HandshakeError> {
    let connection = request.conn().clone();
    timeout_at(deadline, request.reject(status)).await??;
    // One that stays open has had its answer, and its time.
    drop(timeout_at(deadline, connection.closed()).await);
    Ok(())
}

impl WebTransportSource {
    pub(crate) fn new(stream: wt::RecvStream) -> Self {
        Self(stream)
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<Read>> {
        Poll::Ready(match ready!(self.0.poll_read(cx, buf)) {
            Ok(None) => Ok(Read::End(End::finished())),
            Ok(Some(n)) => Ok(Read::Bytes(n)),
            Err(wt::ReadError::SessionError(wt::SessionError::WebTransportError(
                wt::WebTransportError::Closed(code, reason),
            ))) => Ok(Read::End(closed(code.into(), reason.as_bytes()))),
            Err(wt::ReadError::SessionError(wt::SessionError::ConnectionError(
                ConnectionError::LocallyClosed,
            ))) => Ok(Read::End(End::finished())),
            Err(error) => Err(io::Error::new(io::ErrorKind::ConnectionReset, error)),
        })
    }
}

impl WebTransportSink {
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        tokio::io::AsyncWrite::poll_write(Pin::new(&mut self.stream), cx, buf)
    }
}

impl Outgoing for WebTransportSink {
    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        gather(bufs, |buf| self.poll_write(cx, buf))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.session.close_reason() {
            Some(error) => Err(io::Error::new(io::ErrorKind::ConnectionReset, error)),
            // Finishing twice is harmless.
            None => {
                drop(self.stream.finish());
                Ok(())
            }
        })
    }

    fn abort(&mut self, code: u32, reason: &str) {
        self.session.close(code, reason.as_bytes());
    }

    /// Until the peer has all of the stream, or will never have it.
    async fn acknowledged(&mut self) -> bool {
        drop(self.stream.stopped().await);
        true
    }

    /// Until the close capsule has arrived (the session allows it three round trips), and a client's own
    /// endpoint is done.
    async fn gone(&mut self) {
        drop(self.session.closed().await);
        idle(self.endpoint.as_ref()).await;
    }
}
