//! Connecting over QUIC.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use super::{ConnectError, ConnectOptions, tls::trust};
use crate::{
    Connection, ConnectionInfo, Endpoint, Protocol, TlsInfo,
    addresses::resolve,
    defaults::{CLIENT_SEND_WINDOW, H3_UNI_STREAMS},
    early::Early,
    quic::{self, quic_connection, transport_config},
    race::first_to_answer,
    tls::EarlyData,
};

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

/// Frames on a stream of their own.
pub(super) async fn connect(
    endpoint: &Endpoint,
    options: &ConnectOptions,
) -> Result<Connection, ConnectError> {
    let alpns: Vec<&str> = options.alpns.iter().map(String::as_str).collect();
    let (connection, own) = dial(endpoint, options, &alpns).await?;
    let info = quic_info(endpoint, &connection);
    let stream = connection.open_bi().await?;
    Ok(quic_connection(info, connection, stream, options.max_frame, own))
}

/// As [`connect`], and what is offered meanwhile is sent before the handshake is complete, where that can be.
pub(super) async fn connect_early(
    endpoint: &Endpoint,
    options: &ConnectOptions,
    early: &Arc<Early>,
) -> Result<Connection, ConnectError> {
    let alpns: Vec<&str> = options.alpns.iter().map(String::as_str).collect();
    let config = client_config(options, &alpns, EarlyData::Taken)?;
    let handshake = |connecting| quic::connect_early(connecting, early);
    let ((connection, begun), own) = dial_with(endpoint, options, config, handshake).await?;
    let info = quic_info(endpoint, &connection);
    let (stream, begun) = match begun {
        Some(begun) => (begun.stream, Some(begun.begun)),
        None => (connection.open_bi().await?, None),
    };
    let made = quic_connection(info, connection, stream, options.max_frame, own);
    Ok(Connection { begun, ..made })
}

pub(super) fn quic_info(endpoint: &Endpoint, connection: &quinn::Connection) -> ConnectionInfo {
    let mut info = ConnectionInfo::new(endpoint.protocol);
    info.peer = Some(connection.remote_address());
    info.alpn = quic::alpn(connection);
    info.tls = Some(Box::new(TlsInfo::of_quic(connection)));
    info
}

/// A QUIC connection, and its endpoint if nobody shares it.
pub(super) async fn dial(
    endpoint: &Endpoint,
    options: &ConnectOptions,
    alpns: &[&str],
) -> Result<(quinn::Connection, Option<quinn::Endpoint>), ConnectError> {
    let config = client_config(options, alpns, EarlyData::Refused)?;
    dial_with(endpoint, options, config, |connecting| connecting).await
}

fn client_config(
    options: &ConnectOptions,
    alpns: &[&str],
    early: EarlyData,
) -> Result<quinn::ClientConfig, ConnectError> {
    let mut tls = trust(options)?.quic_config(alpns);
    tls.enable_early_data = early == EarlyData::Taken;
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls)
        .map_err(|error| ConnectError::Quic(error.to_string()))?;
    Ok(quinn::ClientConfig::new(Arc::new(crypto)))
}

/// The settings of one attempt, which is recorded where that was asked for.
fn client_transport(endpoint: &Endpoint, options: &ConnectOptions) -> quinn::TransportConfig {
    let mut transport = transport_config(options.idle_timeout);
    let uni_streams = if endpoint.protocol == Protocol::WebTransport { H3_UNI_STREAMS } else { 0 };
    transport
        .max_concurrent_bidi_streams(options.max_streams.into())
        .max_concurrent_uni_streams(uni_streams.into())
        .keep_alive_interval(options.keep_alive)
        .send_window(CLIENT_SEND_WINDOW);
    #[cfg(feature = "qlog")]
    if let Some(qlog) = &options.qlog {
        qlog.record(&mut transport, quic::Vantage::Client);
    }
    transport
}

/// What comes of the first handshake that succeeds, and its endpoint if nobody shares it.
async fn dial_with<T, F: Future<Output = Result<T, quinn::ConnectionError>>>(
    endpoint: &Endpoint,
    options: &ConnectOptions,
    config: quinn::ClientConfig,
    handshake: impl Fn(quinn::Connecting) -> F,
) -> Result<(T, Option<quinn::Endpoint>), ConnectError> {
    let fail = |error: &dyn std::fmt::Display| ConnectError::Quic(error.to_string());
    let handshake = &handshake;
    let attempt = |address| {
        let mut config = config.clone();
        async move {
            config.transport_config(Arc::new(client_transport(endpoint, options)));
            let (socket, own) = match &options.quic_socket {
                Some(shared) => (shared.0.clone(), None),
                None => {
                    let own = quinn::Endpoint::client(unspecified(address))?;
                    (own.clone(), Some(own))
                }
            };
            let connecting = socket.connect_with(config, address, &endpoint.host);
            let connected = handshake(connecting.map_err(|error| fail(&error))?).await;
            Ok((connected?, own))
        }
    };
    let connected = first_to_answer(resolve(endpoint).await?, attempt).await;
    connected.unwrap_or_else(|| Err(fail(&"the host has no address")))
}

fn unspecified(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
