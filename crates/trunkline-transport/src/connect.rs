//! The client's side of every protocol: one function, the same [`Connection`].
//!
//! It connects once. Retrying, racing and resuming belong to whoever calls it.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::HeaderMap;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use web_transport_quinn as wt;

use crate::{
    ClientTls, Connection, ConnectionInfo, Endpoint, Framing, Protocol, Role, TlsError,
    addresses::{first_to_answer, resolve},
    defaults::{HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, MAX_FRAME},
    quic::{self, H3, quic_connection, transport_config, web_transport_connection},
    server_stream::Io,
    websocket::{ClientHandshakeError, client_handshake},
};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// What to trust; needed for `tls`, `wss`, `quic` and `wt`.
    pub tls: Option<ClientTls>,
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
    pub quic_socket: Option<QuicClientSocket>,
    /// A QUIC connection without a packet for this long is gone.
    pub idle_timeout: Duration,
    /// Interval of QUIC keep-alive packets; off when the frames themselves keep the connection alive.
    pub keep_alive: Option<Duration>,
}

impl Default for ConnectOptions {
    /// No trust, the ALPN `trunkline/1`, and the limits of [`crate::defaults`].
    fn default() -> Self {
        Self {
            tls: None,
            alpns: vec!["trunkline/1".to_owned()],
            timeout: HANDSHAKE_TIMEOUT,
            max_frame: MAX_FRAME,
            framing: Framing::Length,
            headers: HeaderMap::new(),
            quic_socket: None,
            idle_timeout: IDLE_TIMEOUT,
            keep_alive: None,
        }
    }
}

/// A UDP socket for QUIC and WebTransport clients. Clones share it.
#[derive(Clone, Debug)]
pub struct QuicClientSocket(quinn::Endpoint);

impl QuicClientSocket {
    /// Binds. Needs a tokio runtime.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        quinn::Endpoint::client(address).map(Self)
    }

    /// Moves every connection to another local address, as a change of network would.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn rebind(&self, address: SocketAddr) -> io::Result<()> {
        self.0.rebind(std::net::UdpSocket::bind(address)?)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Not within the time.
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
    /// The host name is unknown.
    #[error("the host {host:?} cannot be found: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// The link failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server's certificate is none of those that [`ConnectOptions::tls`] trusts.
    #[error("the server's certificate is not trusted: {0}")]
    Untrusted(String),
    /// The protocol needs [`ConnectOptions::tls`], or the host is no name for a certificate.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server does not speak WebSocket here.
    #[error("WebSocket: {0}")]
    WebSocket(#[source] ClientHandshakeError),
    /// The server takes nobody now: a QUIC server that is full, or refuses this address.
    #[error("the server refuses connections")]
    Refused,
    /// The QUIC handshake failed.
    #[error("QUIC: {0}")]
    Quic(String),
    /// The WebTransport handshake failed.
    #[error("WebTransport: {0}")]
    WebTransport(String),
    /// The address is no `host:port`.
    #[error("{0}")]
    Address(String),
    /// `memory` and custom protocols have no address.
    #[error("there is no address to connect to")]
    Memory,
}

impl ConnectError {
    /// Whether a further attempt may succeed where nothing is changed: the server was not there, was busy, or the way to
    /// it was broken. A certificate that is not trusted, an address that is none, a path that is not served stay so.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::TimedOut(_) | Self::Resolve { .. } | Self::Refused => true,
            Self::Io(error) => !matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ),
            Self::WebSocket(ClientHandshakeError::Status { status, .. }) => {
                matches!(status, 408 | 425 | 429 | 500 | 502..=504)
            }
            Self::WebSocket(_)
            | Self::Untrusted(_)
            | Self::Tls(_)
            | Self::Quic(_)
            | Self::WebTransport(_)
            | Self::Address(_)
            | Self::Memory => false,
        }
    }

    fn untrusted(why: &str) -> Self {
        let why = why.trim_start_matches("invalid peer certificate: ");
        Self::Untrusted(match why {
            "ApplicationVerificationFailure" => "it is not one of those that are pinned".to_owned(),
            "UnknownIssuer" => "no authority that is trusted here has issued it".to_owned(),
            why => why.to_owned(),
        })
    }
}

impl From<ClientHandshakeError> for ConnectError {
    fn from(error: ClientHandshakeError) -> Self {
        match error {
            ClientHandshakeError::Io(error) => Self::Io(error),
            error => Self::WebSocket(error),
        }
    }
}

impl From<TlsError> for ConnectError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error.to_string())
    }
}

/// Connects. On QUIC and WebTransport the frame stream is opened; a QUIC server sees it with the first frame.
///
/// # Errors
/// No connection within the time, for one of the reasons of [`ConnectError`].
pub async fn connect(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Connection, ConnectError> {
    let attempt = async {
        match endpoint.protocol {
            Protocol::Tcp | Protocol::Tls => {
                let (io, info) = open(endpoint, options, &[]).await?;
                Ok(io.into_connection(info, options.framing, options.max_frame, &[]))
            }
            Protocol::WebSocket | Protocol::WebSocketTls => web_socket(endpoint, options).await,
            Protocol::Quic => raw_quic(endpoint, options).await,
            Protocol::WebTransport => web_transport(endpoint, options).await,
            #[cfg(unix)]
            Protocol::Unix => unix(endpoint, options).await,
            #[cfg(not(unix))]
            Protocol::Unix => Err(ConnectError::Io(io::ErrorKind::Unsupported.into())),
            Protocol::Memory | Protocol::Custom(_) => Err(ConnectError::Memory),
        }
    };
    timeout(options.timeout, attempt).await.map_err(|_| ConnectError::TimedOut(options.timeout))?
}

/// A TCP stream to the first of the host's addresses that answers, inside TLS if the protocol says so.
async fn open(
    endpoint: &Endpoint,
    options: &ConnectOptions,
    alpns: &[&str],
) -> Result<(Io, ConnectionInfo), ConnectError> {
    let connected = first_to_answer(resolve(endpoint).await?, TcpStream::connect).await;
    let stream = connected.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))?;
    stream.set_nodelay(true)?;
    let mut info = ConnectionInfo::new(endpoint.protocol);
    info.peer = stream.peer_addr().ok();
    info.local = stream.local_addr().ok();
    if !matches!(endpoint.protocol, Protocol::Tls | Protocol::WebSocketTls) {
        return Ok((Io::Plain(stream), info));
    }
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|_| ConnectError::Tls(format!("{:?} is no name for a certificate", endpoint.host)))?;
    let stream = TlsConnector::from(trust(options)?.tcp_config(alpns)).connect(name, stream).await;
    let stream = stream.map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(why)) => ConnectError::untrusted(&why.to_string()),
        _ => ConnectError::Io(error),
    })?;
    let io = Io::Tls(Box::new(tokio_rustls::TlsStream::Client(stream)));
    info.alpn = io.alpn();
    Ok((io, info))
}

async fn web_socket(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Connection, ConnectError> {
    let (mut io, mut info) = open(endpoint, options, &["http/1.1"]).await?;
    let agreed =
        client_handshake(&mut io, &endpoint.authority(), &endpoint.path_and_query, &options.headers).await?;
    info.path = Some(endpoint.path_and_query.clone());
    info.subprotocol = agreed.subprotocol;
    let framing = Framing::WebSocket { role: Role::Client };
    Ok(io.into_connection(info, framing, options.max_frame, &agreed.read_ahead))
}

async fn raw_quic(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Connection, ConnectError> {
    let alpns: Vec<&str> = options.alpns.iter().map(String::as_str).collect();
    let (connection, own) = dial(endpoint, options, &alpns).await?;
    let info = quic_info(endpoint, &connection);
    let stream = connection.open_bi().await.map_err(|error| ConnectError::Quic(error.to_string()))?;
    Ok(quic_connection(info, connection, stream, options.max_frame, own))
}

async fn web_transport(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Connection, ConnectError> {
    let fail = |error: &dyn std::fmt::Display| ConnectError::WebTransport(error.to_string());
    let url = format!("https://{}{}", endpoint.authority(), endpoint.path_and_query);
    let url = url::Url::parse(&url).map_err(|error| fail(&error))?;
    let (connection, own) = dial(endpoint, options, &[H3]).await?;
    let mut info = quic_info(endpoint, &connection);
    info.path = Some(endpoint.path_and_query.clone());
    let request = wt::proto::ConnectRequest::new(url).with_headers(options.headers.clone());
    let session = wt::Session::connect(connection, request).await.map_err(|error| fail(&error))?;
    let stream = session.open_bi().await.map_err(|error| fail(&error))?;
    Ok(web_transport_connection(info, session, stream, options.max_frame, own))
}

#[cfg(unix)]
async fn unix(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Connection, ConnectError> {
    let stream = tokio::net::UnixStream::connect(&endpoint.path_and_query).await?;
    Ok(crate::unix::connection(stream, options.framing, options.max_frame))
}

fn quic_info(endpoint: &Endpoint, connection: &quinn::Connection) -> ConnectionInfo {
    let mut info = ConnectionInfo::new(endpoint.protocol);
    info.peer = Some(connection.remote_address());
    info.alpn = quic::alpn(connection);
    info
}

/// A QUIC connection, and its endpoint if nobody shares it.
async fn dial(
    endpoint: &Endpoint,
    options: &ConnectOptions,
    alpns: &[&str],
) -> Result<(quinn::Connection, Option<quinn::Endpoint>), ConnectError> {
    let fail = |error: &dyn std::fmt::Display| ConnectError::Quic(error.to_string());
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(trust(options)?.quic_config(alpns))
        .map_err(|error| fail(&error))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = transport_config(options.idle_timeout);
    transport.keep_alive_interval(options.keep_alive);
    config.transport_config(Arc::new(transport));
    let attempt = |address| {
        let config = config.clone();
        async move {
            let (socket, own) = match &options.quic_socket {
                Some(shared) => (shared.0.clone(), None),
                None => {
                    let own = quinn::Endpoint::client(unspecified(address))?;
                    (own.clone(), Some(own))
                }
            };
            let connecting = socket.connect_with(config, address, &endpoint.host);
            let connected = connecting.map_err(|error| fail(&error))?.await;
            connected.map(|connection| (connection, own)).map_err(|error| refused(&error))
        }
    };
    let connected = first_to_answer(resolve(endpoint).await?, attempt).await;
    connected.unwrap_or_else(|| Err(fail(&"the host has no address")))
}

/// Why a QUIC handshake failed.
fn refused(error: &quinn::ConnectionError) -> ConnectError {
    /// The alerts of TLS about certificates (RFC 8446 section 6.2), as QUIC has them (RFC 9001 section 4.8).
    const CERTIFICATE_ALERTS: [u64; 7] = [0x12A, 0x12B, 0x12C, 0x12D, 0x12E, 0x130, 0x131];
    match error {
        // Ours: what the peer says is another kind.
        quinn::ConnectionError::TransportError(error)
            if CERTIFICATE_ALERTS.contains(&u64::from(error.code)) =>
        {
            ConnectError::untrusted(&error.reason)
        }
        quinn::ConnectionError::ConnectionClosed(close)
            if close.error_code == quinn_proto::TransportErrorCode::CONNECTION_REFUSED =>
        {
            ConnectError::Refused
        }
        quinn::ConnectionError::TimedOut => ConnectError::Io(io::ErrorKind::TimedOut.into()),
        quinn::ConnectionError::Reset => ConnectError::Io(io::ErrorKind::ConnectionReset.into()),
        error => ConnectError::Quic(error.to_string()),
    }
}

fn unspecified(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn trust(options: &ConnectOptions) -> Result<&ClientTls, ConnectError> {
    options.tls.as_ref().ok_or_else(|| ConnectError::Tls("say which certificates to trust".to_owned()))
}
