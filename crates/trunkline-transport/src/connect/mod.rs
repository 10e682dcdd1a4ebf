//! The client's side of every protocol: one function, the same [`Connection`].
//!
//! It connects once. Retrying, racing and resuming belong to whoever calls it.

mod error;
#[cfg(feature = "quic")]
mod quic;
#[cfg(feature = "tcp")]
mod tcp;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "webtransport")]
mod web_transport;
#[cfg(feature = "websocket")]
mod websocket;

use std::time::Duration;

use http::HeaderMap;
use tokio::time::timeout;

pub use self::error::ConnectError;
#[cfg(feature = "quic")]
pub use self::quic::QuicClientSocket;
use crate::{
    Connection, Endpoint, Framing, Protocol,
    defaults::{HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, MAX_FRAME, MAX_STREAMS},
};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// What to trust; needed for `tls`, `wss`, `quic` and `wt`.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::ClientTls>,
    /// Application protocols to offer over `quic`, in order of preference (`wt` always offers `h3`).
    pub alpns: Vec<String>,
    /// For everything until the connection is there, name look-up included.
    pub timeout: Duration,
    /// The limit of frames from the server.
    pub max_frame: usize,
    /// How frames are told apart over `tcp` and `tls`.
    pub framing: Framing,
    /// Further headers of the WebSocket or WebTransport request, such as `Origin`.
    pub headers: HeaderMap,
    /// A UDP socket to share between many connections; without it each has its own.
    #[cfg(feature = "quic")]
    pub quic_socket: Option<QuicClientSocket>,
    /// Where attempts and connections of QUIC and WebTransport are recorded.
    #[cfg(feature = "qlog")]
    pub qlog: Option<crate::Qlog>,
    /// A QUIC connection without a packet for this long is gone.
    pub idle_timeout: Duration,
    /// Further bidirectional streams that a QUIC or WebTransport server may have open at once, as
    /// [`crate::QuicOptions::max_streams`].
    pub max_streams: u32,
    /// Interval of QUIC keep-alive packets; off when the frames themselves keep the connection alive.
    pub keep_alive: Option<Duration>,
}

impl Default for ConnectOptions {
    /// No trust, the ALPN `trunkline/1`, and the limits of [`crate::defaults`].
    fn default() -> Self {
        Self {
            #[cfg(feature = "tls")]
            tls: None,
            alpns: vec!["trunkline/1".to_owned()],
            timeout: HANDSHAKE_TIMEOUT,
            max_frame: MAX_FRAME,
            framing: Framing::Length,
            headers: HeaderMap::new(),
            #[cfg(feature = "quic")]
            quic_socket: None,
            #[cfg(feature = "qlog")]
            qlog: None,
            idle_timeout: IDLE_TIMEOUT,
            max_streams: MAX_STREAMS,
            keep_alive: None,
        }
    }
}

/// As [`connect`], over QUIC: sends what is offered early, where a former connection lets it.
#[cfg(feature = "quic")]
pub(crate) async fn connect_early(
    endpoint: &Endpoint,
    options: &ConnectOptions,
    early: &std::sync::Arc<crate::early::Early>,
) -> Result<Connection, ConnectError> {
    let attempt = quic::connect_early(endpoint, options, early);
    timeout(options.timeout, attempt).await.map_err(|_| ConnectError::TimedOut(options.timeout))?
}

/// Connects. On QUIC and WebTransport the frame stream is opened; a QUIC server sees it with the first frame.
///
/// # Errors
/// No connection within the time, for one of the reasons of [`ConnectError`].
pub async fn connect(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Connection, ConnectError> {
    let attempt = async {
        match endpoint.protocol {
            #[cfg(feature = "tcp")]
            Protocol::Tcp => tcp::connect(endpoint, options).await,
            #[cfg(feature = "tls")]
            Protocol::Tls => tcp::connect(endpoint, options).await,
            #[cfg(feature = "websocket")]
            Protocol::WebSocket => websocket::connect(endpoint, options).await,
            #[cfg(all(feature = "websocket", feature = "tls"))]
            Protocol::WebSocketTls => websocket::connect(endpoint, options).await,
            #[cfg(feature = "quic")]
            Protocol::Quic => quic::connect(endpoint, options).await,
            #[cfg(feature = "webtransport")]
            Protocol::WebTransport => web_transport::connect(endpoint, options).await,
            #[cfg(all(unix, feature = "unix"))]
            Protocol::Unix => {
                let stream = tokio::net::UnixStream::connect(&endpoint.path_and_query).await?;
                Ok(crate::unix::connection(stream, options.framing, options.max_frame))
            }
            Protocol::Memory | Protocol::Custom(_) => Err(ConnectError::Memory),
            #[allow(unreachable_patterns, reason = "with every feature there is no other")]
            other => Err(ConnectError::NotCompiledIn(other)),
        }
    };
    timeout(options.timeout, attempt).await.map_err(|_| ConnectError::TimedOut(options.timeout))?
}
