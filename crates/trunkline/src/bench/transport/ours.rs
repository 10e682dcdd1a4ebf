//! The transport library as its users have it: the packet level with its defaults, one async function a connection on
//! both sides.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::oneshot;
use trunkline_transport::{
    ClientProtocol, ClientTls, Packet, QuicClientConfig, QuicServerConfig, ServerProtocol, Session,
    TcpClientConfig, TcpServerConfig, Tls, TransportClientBuilder, TransportError, TransportServer,
    TransportServerBuilder, WebSocketClientConfig, WebSocketServerConfig,
};

use super::load::{Link, Work, answered};
use super::stack::{Certificate, Over};

/// The `biz_type` of one-way messages that are sent back rather than counted.
pub(super) const ECHOED: u8 = 1;

pub(super) async fn bind(
    over: Over,
    at: SocketAddr,
    own: Option<&Certificate>,
) -> anyhow::Result<TransportServer> {
    let at = at.to_string();
    let protocol: ServerProtocol = match over {
        Over::Tcp => TcpServerConfig::new(at).into(),
        Over::Websocket => WebSocketServerConfig::new(at).into(),
        Over::Quic => {
            let own = own.context("QUIC needs --tls")?;
            QuicServerConfig::new(at).tls(Tls::from_pem(&own.chain, &own.key)?).into()
        }
    };
    Ok(TransportServerBuilder::new().with_protocol(protocol).build().await?)
}

/// Answers a request with its payload, or with the number of one-way messages where it has none, and sends back what is to
/// be echoed.
pub(super) async fn serve(mut session: Session) -> Result<(), TransportError> {
    let mut received: u64 = 0;
    while let Some(packet) = session.recv().await? {
        if !packet.is_request() && packet.biz_type != ECHOED {
            received += 1;
            continue;
        }
        let answer = match packet.payload.is_empty() {
            true => Bytes::copy_from_slice(&received.to_be_bytes()),
            false => packet.payload.clone(),
        };
        session.send(packet.reply(answer)).await?;
    }
    Ok(())
}

/// Makes connections, each a client of its own.
#[derive(Clone)]
pub(super) struct Client(ClientProtocol);

impl Client {
    pub(super) fn new(over: Over, server: SocketAddr, own: Option<&Certificate>) -> anyhow::Result<Self> {
        Ok(Client(match over {
            Over::Tcp => TcpClientConfig::new(server.to_string()).into(),
            Over::Websocket => WebSocketClientConfig::new(format!("ws://{server}/")).into(),
            Over::Quic => {
                let own = own.context("QUIC needs --tls")?;
                let trust = ClientTls::authority(&own.authority)?;
                QuicClientConfig::new(server.to_string()).tls(trust).into()
            }
        }))
    }

    pub(super) fn protocol(&self) -> ClientProtocol {
        self.0.clone()
    }

    /// One connection, whose own task does the work.
    pub(super) async fn run(self, work: Arc<Work>, at: usize) -> anyhow::Result<()> {
        let client = TransportClientBuilder::new().with_protocol(self.0).build().await?;
        let (tell, told) = oneshot::channel();
        let own = Arc::clone(&work);
        let handler = move |session| async move {
            // Nobody waits for it only if the process ends.
            let _ = tell.send(own.on(Handle(session), at).await);
            Ok(())
        };
        work.connect(async { Ok(client.connect_with(handler).await?) }).await?;
        told.await.context("a connection has ended early")?
    }
}

struct Handle(Session);

impl Link for Handle {
    async fn request(&mut self, body: &Bytes) -> anyhow::Result<u64> {
        let answer = self.0.request(Packet::new(body.clone())).await?;
        answered(body, &answer.payload)
    }

    async fn send(&mut self, body: &Bytes) -> anyhow::Result<()> {
        Ok(self.0.send(Packet::new(body.clone())).await?)
    }

    async fn receive(&mut self) -> anyhow::Result<usize> {
        let packet = self.0.recv().await?.context("the server has closed the connection")?;
        Ok(packet.payload.len())
    }
}
