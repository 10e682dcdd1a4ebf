//! The listener for QUIC and WebTransport on one UDP port.
//!
//! Every handshake, up to the client's first bidirectional stream, is a task of its own under a deadline. When
//! half of the handshakes are taken, unvalidated addresses are sent a Retry first, so that forged Initials
//! cost nothing. It judges no path and no origin: they are told in the connection's description.

use std::{
    fmt, io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use http::{Extensions, HeaderMap};
use quinn_proto::{ConnectionIdGenerator, HashedConnectionIdGenerator};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    Allowance, H3, V2_ALPN, WithH3, agreed_on, alpn, early::accept_early, quic_connection, transport_config,
};
use crate::{
    ClientAuthority, Connection, ConnectionInfo, Handshake, IsFull, MiddlewareStack, Protocol, Refusal,
    ReloadableCertificate, Secret, Socket, TlsInfo,
    accept::sleep_until,
    defaults::{
        DATAGRAM_BUFFER, FIRST_STREAM_TIMEOUT, HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, INCOMING_BUFFER,
        INCOMING_BUFFERS, INCOMING_PER_HANDSHAKE, LONGEST, MAX_FRAME, MAX_HANDSHAKES, MAX_STREAMS,
        RESET_INTERVAL,
    },
    handshakes::Handshakes,
    tls::{EarlyData, quic_server_config},
};

/// Makes a connection-id generator for an endpoint, so that ids can carry a worker's number.
pub type ConnectionIdFactory = Arc<dyn Fn() -> Box<dyn ConnectionIdGenerator> + Send + Sync>;

/// Options of a [`QuicListener`].
#[derive(Clone)]
pub struct QuicOptions {
    /// What the server presents.
    pub certificate: ReloadableCertificate,
    /// Application protocols, in order of preference; `h3` is WebTransport (only with that feature), every other one raw
    /// QUIC.
    pub alpns: Vec<String>,
    /// Connection ids; quinn's own generator when absent.
    pub connection_ids: Option<ConnectionIdFactory>,
    /// Stateless resets: a process restarted with the same key ends the connections of the one before it with their
    /// next packet. Random when absent, and then they last until they are idle for too long. A generator of one's own
    /// has to take the ids of the former process for valid.
    pub reset_key: Option<Secret>,
    /// Retry and address-validation tokens; random when absent.
    pub token_key: Option<Secret>,
    /// TLS tickets; without a key there are none.
    pub ticket_key: Option<Secret>,
    /// For the QUIC and HTTP/3 handshakes.
    pub handshake_timeout: Duration,
    /// From the end of the handshake to the client's first bidirectional stream.
    pub first_stream_timeout: Duration,
    /// Handshakes at once.
    pub max_handshakes: usize,
    /// The limit of frames from the peer.
    pub max_frame: usize,
    /// Further bidirectional streams that a peer may have open at once. Each that nobody accepts holds what the
    /// peer sent on it: whoever takes none accepts them to refuse them ([`crate::Streams::refuse_all`]).
    pub max_streams: u32,
    /// Bytes of unread datagrams that a connection holds; 0 where nobody reads any.
    pub datagram_buffer: usize,
    /// A connection without a packet for this long is gone.
    pub idle_timeout: Duration,
    /// The one path that WebTransport is served at, any other is 404; without it any path will do.
    #[cfg(feature = "webtransport")]
    pub path: Option<String>,
    /// Where connections are recorded, those whose handshake fails too.
    #[cfg(feature = "qlog")]
    pub qlog: Option<super::Qlog>,
    /// Whether newcomers are refused.
    pub is_full: Option<IsFull>,
    /// Whose certificates clients prove themselves by, if they are asked for any.
    pub client_authority: Option<ClientAuthority>,
    /// Its `on_accept` judges newcomers before anything is spent on them, its `on_handshake` what they say.
    pub middleware: MiddlewareStack,
    /// Ends [`QuicListener::accept`].
    pub cancel: CancellationToken,
}

impl QuicOptions {
    /// The limits of [`crate::defaults`], and the application protocols `gatesvr`, `trunkline/1` and, with the feature
    /// `webtransport`, `h3`.
    #[must_use]
    pub fn new(certificate: ReloadableCertificate) -> Self {
        let mut alpns = vec!["gatesvr".to_owned(), "trunkline/1".to_owned()];
        if Protocol::WebTransport.is_available() {
            alpns.push(H3.to_owned());
        }
        Self {
            certificate,
            alpns,
            connection_ids: None,
            reset_key: None,
            token_key: None,
            ticket_key: None,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            first_stream_timeout: FIRST_STREAM_TIMEOUT,
            max_handshakes: MAX_HANDSHAKES,
            max_frame: MAX_FRAME,
            max_streams: MAX_STREAMS,
            datagram_buffer: DATAGRAM_BUFFER,
            idle_timeout: IDLE_TIMEOUT,
            #[cfg(feature = "webtransport")]
            path: None,
            #[cfg(feature = "qlog")]
            qlog: None,
            is_full: None,
            client_authority: None,
            middleware: MiddlewareStack::default(),
            cancel: CancellationToken::new(),
        }
    }

    pub(super) fn allowance(&self) -> Allowance {
        Allowance { streams: self.max_streams, datagrams: self.datagram_buffer }
    }
}

impl fmt::Debug for QuicOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicOptions")
            .field("certificate", &self.certificate)
            .field("alpns", &self.alpns)
            .field("handshake_timeout", &self.handshake_timeout)
            .field("max_handshakes", &self.max_handshakes)
            .field("max_frame", &self.max_frame)
            .field("max_streams", &self.max_streams)
            .finish_non_exhaustive()
    }
}

/// Accepts QUIC and WebTransport connections. Connections that were handed over outlive it.
pub struct QuicListener {
    endpoint: quinn::Endpoint,
    local: SocketAddr,
    options: Arc<QuicOptions>,
    early: EarlyData,
    handshakes: Handshakes<Connection>,
    /// What recorded connections have but for their record.
    #[cfg(feature = "qlog")]
    config: quinn::ServerConfig,
}

impl QuicListener {
    /// Binds. Needs a tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be bound, or the certificate cannot serve QUIC.
    pub fn bind(socket: Socket<UdpSocket>, options: QuicOptions) -> io::Result<Self> {
        Self::bind_with(socket, options, EarlyData::Refused)
    }

    /// As [`QuicListener::bind`]. Who takes early data has to tell what may be handled twice: packets of the second wire do.
    pub(crate) fn bind_with(
        socket: Socket<UdpSocket>,
        options: QuicOptions,
        early: EarlyData,
    ) -> io::Result<Self> {
        let socket = match socket {
            Socket::Bound(socket) => socket,
            Socket::Address(address) => UdpSocket::bind(address)?,
        };
        let local = socket.local_addr()?;
        let config = server_config(&options, early)?;
        let endpoint = quinn::Endpoint::new(
            endpoint_config(&options),
            Some(config.clone()),
            socket,
            Arc::new(quinn::TokioRuntime),
        )?;
        let handshakes = Handshakes::new(options.max_handshakes);
        Ok(Self {
            endpoint,
            local,
            options: Arc::new(options),
            early,
            handshakes,
            #[cfg(feature = "qlog")]
            config,
        })
    }

    /// The address that is listened on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next connection whose frame stream is open; `None` once cancelled. Cancel-safe.
    pub async fn accept(&mut self) -> Option<Connection> {
        loop {
            let wait_until = self.handshakes.room_at();
            tokio::select! {
                biased;
                () = self.options.cancel.cancelled() => return None,
                // Ended handshakes first: they make room for new ones.
                ended = self.handshakes.ended() => {
                    if ended.is_some() {
                        return ended;
                    }
                }
                () = sleep_until(wait_until), if wait_until.is_some() => {}
                incoming = self.endpoint.accept(), if wait_until.is_none() => self.admit(incoming?),
            }
        }
    }

    fn admit(&mut self, incoming: quinn::Incoming) {
        let is_welcome = self.options.middleware.accepts(Some(incoming.remote_address()));
        if !is_welcome || self.options.is_full.as_ref().is_some_and(IsFull::get) {
            incoming.refuse();
            return;
        }
        let busy = self.handshakes.len() >= self.options.max_handshakes / 2;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            // It fails only for an address that may not be asked again, which was just checked.
            drop(incoming.retry());
            return;
        }
        let peer = incoming.remote_address();
        let options = Arc::clone(&self.options);
        let (local, early) = (self.local, self.early);
        let accept = self.accepting();
        self.handshakes.begin(async move {
            handshake(accept(incoming), local, &options, early)
                .await
                .inspect_err(|error| tracing::debug!(%peer, %error, "QUIC handshake failed"))
                .ok()
        });
    }

    /// How a handshake begins, in its own task: its connection is recorded where that was asked for.
    fn accepting(
        &self,
    ) -> impl FnOnce(quinn::Incoming) -> Result<quinn::Connecting, quinn::ConnectionError> + Send + use<>
    {
        #[cfg(feature = "qlog")]
        let recorded = {
            let qlog = self.options.qlog.clone();
            qlog.map(|qlog| (qlog, Arc::clone(&self.options), self.config.clone()))
        };
        move |incoming| {
            #[cfg(feature = "qlog")]
            if let Some((qlog, options, mut config)) = recorded {
                let mut transport = server_transport(&options);
                qlog.record(&mut transport, super::Vantage::Server(incoming.orig_dst_cid()));
                config.transport_config(Arc::new(transport));
                return incoming.accept_with(Arc::new(config));
            }
            incoming.accept()
        }
    }
}

impl fmt::Debug for QuicListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicListener")
            .field("local", &self.local)
            .field("handshakes", &self.handshakes.len())
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("too slow")]
    TimedOut(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    Quic(#[from] quinn::ConnectionError),
    #[cfg(feature = "webtransport")]
    #[error(transparent)]
    WebTransport(#[from] super::web_transport::HandshakeError),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

async fn handshake(
    accepted: Result<quinn::Connecting, quinn::ConnectionError>,
    local: SocketAddr,
    options: &QuicOptions,
    early: EarlyData,
) -> Result<Connection, HandshakeError> {
    let deadline = Instant::now() + options.handshake_timeout.min(LONGEST);
    let mut connecting = accepted?;
    let takes_early = early == EarlyData::Taken && {
        let said = timeout_at(deadline, connecting.handshake_data()).await??;
        // Other peers cannot say what may be handled twice: what they send early waits for the handshake.
        agreed_on(said).as_deref() == Some(V2_ALPN)
    };
    let (connection, first) = if takes_early {
        accept_early(connecting, deadline).await?
    } else {
        (timeout_at(deadline, connecting).await??, None)
    };
    let mut info = ConnectionInfo::new(Protocol::Quic);
    info.alpn = alpn(&connection);
    info.tls = Some(Box::new(TlsInfo::of_quic(&connection)));
    info.peer = Some(connection.remote_address());
    info.local = Some(local);
    #[cfg(feature = "webtransport")]
    if info.alpn.as_deref() == Some(H3) {
        return Ok(super::web_transport::handshake(connection, info, deadline, options).await?);
    }
    let none = HeaderMap::new();
    let judged = timeout_at(deadline, judge(&info, &none, options)).await?;
    let judged = judged.inspect_err(|refusal| {
        connection.close(u32::from(refusal.code).into(), refusal.reason.as_bytes());
    })?;
    let (stream, unproven) = match first {
        Some((stream, unproven)) => (stream, Some(unproven)),
        None => (timeout(options.first_stream_timeout, connection.accept_bi()).await??, None),
    };
    options.allowance().raw(&connection);
    let made = quic_connection(info, connection, stream, options.max_frame, None);
    Ok(Connection { judged, unproven, ..made })
}

/// Asks the middleware: what it keeps for the session.
pub(super) async fn judge(
    info: &ConnectionInfo,
    headers: &HeaderMap,
    options: &QuicOptions,
) -> Result<Option<Box<Extensions>>, Refusal> {
    if options.middleware.is_empty() {
        return Ok(None);
    }
    let mut handshake = Handshake::new(info.clone(), headers.clone());
    options.middleware.judge(&mut handshake).await?;
    Ok(Some(Box::new(handshake.extensions)))
}

fn endpoint_config(options: &QuicOptions) -> quinn::EndpointConfig {
    let mut config = quinn::EndpointConfig::default();
    if let Some(key) = &options.reset_key {
        config.reset_key(Arc::new(key.reset_key())).min_reset_interval(RESET_INTERVAL);
    }
    match (options.connection_ids.clone(), &options.reset_key) {
        (Some(factory), _) => drop(config.cid_generator(move || factory())),
        (None, Some(key)) => {
            // Only an id that the generator knows is answered with a reset.
            let key = key.connection_id_key();
            config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
        }
        (None, None) => {}
    }
    config
}

fn server_config(options: &QuicOptions, early: EarlyData) -> io::Result<quinn::ServerConfig> {
    let unusable = |error: &dyn fmt::Display| io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
    let alpns: Vec<&str> = options.alpns.iter().map(String::as_str).collect();
    let tls = quic_server_config(options, &alpns, early).map_err(|error| unusable(&error))?;
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).map_err(|error| unusable(&error))?;
    let token_key = options.token_key.clone().unwrap_or_else(Secret::random);
    let mut config = quinn::ServerConfig::new(Arc::new(crypto), Arc::new(token_key.token_key()));
    config.transport_config(Arc::new(server_transport(options)));
    config.max_incoming(options.max_handshakes.saturating_mul(INCOMING_PER_HANDSHAKE));
    config.incoming_buffer_size(INCOMING_BUFFER).incoming_buffer_size_total(INCOMING_BUFFERS);
    Ok(config)
}

fn server_transport(options: &QuicOptions) -> quinn::TransportConfig {
    let has_h3 = Protocol::WebTransport.is_available() && options.alpns.iter().any(|alpn| alpn == H3);
    let with_h3 = if has_h3 { WithH3::Yes } else { WithH3::No };
    let mut transport = transport_config(options.idle_timeout);
    options.allowance().begin(&mut transport, with_h3);
    transport
}
