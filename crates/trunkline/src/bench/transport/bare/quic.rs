//! quinn as it comes, with TLS by ring; one bidirectional stream a connection, and a UDP socket for each client, as our
//! own client has. Where idle connections are weighed it is set as our listener is.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, RecvStream, SendStream, TransportConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::JoinSet;
use trunkline_transport::defaults;

use super::frame::Prefix;
use super::stream::{self, StreamLink};
use crate::bench::transport::load::Link;
use crate::bench::transport::stack::{Certificate, Pattern};

/// That of msgtrans' v1 wire.
const ALPN: &[u8] = b"msgtrans/1";

pub(in crate::bench::transport) fn bind(
    at: SocketAddr,
    own: &Certificate,
    pattern: Pattern,
) -> anyhow::Result<Endpoint> {
    let chain = CertificateDer::pem_slice_iter(&own.chain).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&own.key)?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    if pattern == Pattern::Resume {
        tls.ticketer = rustls::crypto::ring::Ticketer::new()?;
    } else {
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    }
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    if pattern == Pattern::Idle {
        config.transport_config(Arc::new(set_as_ours()?));
    }
    Ok(Endpoint::server(config, at)?)
}

fn set_as_ours() -> anyhow::Result<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(1_u32.into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(defaults::STREAM_RECEIVE_WINDOW.into())
        .receive_window(defaults::STREAM_RECEIVE_WINDOW.into())
        .send_window(defaults::UNSENT as u64)
        .max_idle_timeout(Some(defaults::IDLE_TIMEOUT.try_into()?));
    Ok(config)
}

pub(in crate::bench::transport) async fn serve(endpoint: Endpoint) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let incoming = endpoint.accept().await.context("the endpoint has closed")?;
        connections.spawn(async move {
            // A connection that fails is its client's to report.
            let _ = connection(incoming).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(incoming: quinn::Incoming) -> anyhow::Result<()> {
    let connection = incoming.await?;
    let (out, read) = connection.accept_bi().await?;
    stream::serve(read, out, Prefix::Length).await
}

/// What clients trust.
pub(in crate::bench::transport) fn client(own: &Certificate) -> anyhow::Result<quinn::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&own.authority)?)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)))
}

pub(in crate::bench::transport) async fn connect(
    address: SocketAddr,
    config: quinn::ClientConfig,
    batch: usize,
) -> anyhow::Result<QuicLink> {
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    let connection = endpoint.connect_with(config, address, "localhost")?.await?;
    Ok(QuicLink { stream: link(&connection, batch).await?, _connection: connection, _endpoint: endpoint })
}

/// The stream of frames of a connection that is kept elsewhere.
pub(in crate::bench::transport) async fn link(
    connection: &Connection,
    batch: usize,
) -> anyhow::Result<StreamLink<RecvStream, SendStream>> {
    let (out, read) = connection.open_bi().await?;
    Ok(StreamLink::new(read, out, Prefix::Length, batch))
}

/// A client's connection, which lives as long as this does.
pub(in crate::bench::transport) struct QuicLink {
    stream: StreamLink<RecvStream, SendStream>,
    _connection: Connection,
    _endpoint: Endpoint,
}

impl Link for QuicLink {
    async fn request(&mut self, body: &bytes::Bytes) -> anyhow::Result<u64> {
        self.stream.request(body).await
    }

    async fn send(&mut self, body: &bytes::Bytes) -> anyhow::Result<()> {
        self.stream.send(body).await
    }

    async fn receive(&mut self) -> anyhow::Result<usize> {
        self.stream.receive().await
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
