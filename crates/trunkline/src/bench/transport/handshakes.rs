//! QUIC handshakes on the connection level, full and resumed, beside quinn with the same TLS: connect, one frame and its
//! echo, close; one after the other on so many places.
//!
//! Full ones are with a server that gives no tickets. Resumed ones are with one that does, after a first handshake. All
//! clients of a process share one UDP socket, on both sides of the comparison.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;
use trunkline_transport::{
    ClientTls, ConnectOptions, Connection, Endpoint, FrameKind, Incoming, QuicClientSocket, QuicListener,
    QuicOptions, ReloadableCertificate, Secret, Socket, connect,
};

use super::bare;
use super::load::Link;
use super::stack::{Certificate, Pattern, Stack};

const ALPN: &str = "msgtrans/1";

/// Of each echoed frame.
const LARGEST: usize = 1 << 10;

/// A listener of the connection level.
pub(super) fn bind(at: SocketAddr, own: &Certificate, pattern: Pattern) -> anyhow::Result<QuicListener> {
    let certificate = ReloadableCertificate::from_pem(&own.chain, &own.key)?;
    let options = QuicOptions {
        alpns: vec![ALPN.to_owned()],
        ticket_key: (pattern == Pattern::Resume).then(Secret::random),
        max_frame: LARGEST,
        max_streams: 0,
        ..QuicOptions::new(certificate)
    };
    Ok(QuicListener::bind(Socket::Address(at), options)?)
}

pub(super) async fn serve(mut listener: QuicListener) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let connection = listener.accept().await.context("the listener has closed")?;
        connections.spawn(async move {
            // A connection that fails is its client's to report.
            let _ = echo(connection).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn echo(mut connection: Connection) -> anyhow::Result<()> {
    while let Some(incoming) = connection.reader.next().await? {
        if let Incoming::Frame(frame) = incoming {
            connection.writer.send(FrameKind::Binary, &frame.bytes).await?;
        }
    }
    Ok(())
}

/// Makes connections of one stack.
#[derive(Clone)]
pub(super) enum Connector {
    Ours { endpoint: Arc<Endpoint>, options: Arc<ConnectOptions> },
    Bare { endpoint: quinn::Endpoint, server: SocketAddr },
}

impl Connector {
    pub(super) fn new(stack: Stack, server: SocketAddr, own: &Certificate) -> anyhow::Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Ok(match stack {
            Stack::Ours => {
                let options = ConnectOptions {
                    tls: Some(ClientTls::authority(&own.authority)?),
                    alpns: vec![ALPN.to_owned()],
                    quic_socket: Some(QuicClientSocket::bind(any)?),
                    max_frame: LARGEST,
                    ..ConnectOptions::default()
                };
                let endpoint = Arc::new(Endpoint::from_url(&format!("quic://{server}"))?);
                Connector::Ours { endpoint, options: Arc::new(options) }
            }
            Stack::Bare => {
                let mut endpoint = quinn::Endpoint::client(any)?;
                endpoint.set_default_client_config(bare::quic::client(own)?);
                Connector::Bare { endpoint, server }
            }
            Stack::BareBatched | Stack::Msgtrans => bail!("handshakes are compared with bare"),
        })
    }

    /// One more client on the same UDP socket. Its tickets are its own: rustls keeps eight for each server, which many who
    /// connect at once use up.
    pub(super) fn beside(&self, own: &Certificate) -> anyhow::Result<Self> {
        let mut another = self.clone();
        match &mut another {
            Connector::Ours { options, .. } => {
                Arc::make_mut(options).tls = Some(ClientTls::authority(&own.authority)?);
            }
            Connector::Bare { endpoint, .. } => endpoint.set_default_client_config(bare::quic::client(own)?),
        }
        Ok(another)
    }

    /// One whole connection.
    pub(super) async fn once(&self, body: &Bytes) -> anyhow::Result<()> {
        match self {
            Connector::Ours { endpoint, options } => {
                let mut connection = connect(endpoint, options).await?;
                connection.writer.send(FrameKind::Binary, body).await?;
                let Some(Incoming::Frame(frame)) = connection.reader.next().await? else {
                    bail!("the server has closed the connection")
                };
                ensure!(frame.bytes == *body, "an echo that is none");
                connection.writer.abort(0, "");
                Ok(())
            }
            Connector::Bare { endpoint, server } => {
                let connection = endpoint.connect(*server, "localhost")?.await?;
                bare::quic::link(&connection, 1).await?.request(body).await?;
                connection.close(0_u32.into(), b"");
                Ok(())
            }
        }
    }
}
