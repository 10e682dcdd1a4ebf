//! A peer over QUIC or WebTransport without the library: it opens streams and leaves them unread as it likes.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use trunkline_transport::{
    Packet, QuicServerConfig, ServerProtocol, Session, Tls, TransportError, TransportServerBuilder,
    WebTransportServerConfig, Wire, certificate,
};
use web_transport_quinn as wt;

use crate::harness::{Kind, Serving, within};

pub(crate) const WITH_STREAMS: [Kind; 2] = [Kind::Quic, Kind::WebTransport];

/// What a peer of version 2 says that it can do.
pub(crate) const TAKES_LANES: u8 = 1 << 2;

pub(crate) type Sending = Box<dyn AsyncWrite + Send + Sync + Unpin>;
pub(crate) type Receiving = Box<dyn AsyncRead + Send + Sync + Unpin>;

/// A server, and the certificate that its raw peers trust.
pub(crate) struct Server {
    pub(crate) serving: Serving,
    certificate: String,
}

impl Server {
    pub(crate) async fn with<F, Fut>(kind: Kind, builder: TransportServerBuilder, handler: F) -> Self
    where
        F: Fn(Session) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), TransportError>> + Send + 'static,
    {
        let made = certificate::self_signed(&[]).unwrap();
        let tls = Tls::from_pem(made.certificate_pem.as_bytes(), made.key_pem.as_bytes()).unwrap();
        let any = "127.0.0.1:0";
        let protocol: ServerProtocol = match kind {
            Kind::Quic => QuicServerConfig::new(any).tls(tls).into(),
            Kind::WebTransport => WebTransportServerConfig::new(any).tls(tls).into(),
            other => unreachable!("{other:?} has no streams"),
        };
        let server = builder.with_protocol(protocol).build().await.unwrap();
        Self { serving: Serving::of(kind, server, handler), certificate: made.certificate_pem }
    }

    /// A peer that says it can do this, and whose windows are these.
    pub(crate) async fn peer(&self, features: u8, stream_window: u32, send_window: u64) -> Peer {
        let kind = self.serving.kind;
        let mut transport = quinn::TransportConfig::default();
        transport
            .stream_receive_window(stream_window.into())
            .send_window(send_window)
            .max_concurrent_uni_streams(16_u32.into());
        let alpn = if kind == Kind::Quic { "msgtrans/2" } else { "h3" };
        let config = config(&self.certificate, alpn, transport);
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = self.serving.address();
        let connecting = endpoint.connect_with(config, address, "localhost").unwrap();
        let connection = within(connecting).await.unwrap();
        let mut peer = match kind {
            Kind::Quic => {
                let (send, recv) = connection.open_bi().await.unwrap();
                Peer::new(Link::Quic(connection), Box::new(send), Box::new(recv), endpoint)
            }
            _ => {
                let url = url::Url::parse(&format!("https://localhost:{}/", address.port())).unwrap();
                let connecting = wt::Session::connect(connection, wt::proto::ConnectRequest::new(url));
                let session = within(connecting).await.unwrap();
                let (send, recv) = session.open_bi().await.unwrap();
                Peer::new(Link::WebTransport(Box::new(session)), Box::new(send), Box::new(recv), endpoint)
            }
        };
        peer.hello(features).await;
        peer
    }
}

fn config(certificate: &str, alpn: &str, transport: quinn::TransportConfig) -> quinn::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    tls.enable_early_data = true;
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(Arc::new(transport));
    config
}

pub(crate) enum Link {
    Quic(quinn::Connection),
    WebTransport(Box<wt::Session>),
}

pub(crate) struct Peer {
    pub(crate) link: Link,
    pub(crate) send: Sending,
    pub(crate) recv: Receiving,
    _endpoint: quinn::Endpoint,
}

impl Peer {
    fn new(link: Link, send: Sending, recv: Receiving, endpoint: quinn::Endpoint) -> Self {
        Self { link, send, recv, _endpoint: endpoint }
    }

    /// Says what it can do.
    pub(crate) async fn hello(&mut self, features: u8) {
        let ping = [&[2, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0][..], &[0; 8], &[features]].concat();
        write(&mut self.send, &ping).await;
    }

    /// Asks, and waits for the answer: whatever was on its way to this peer before is here then.
    pub(crate) async fn ask(&mut self, message_id: u32) {
        let request = Packet::request(message_id, "?").to_bytes(Wire::V2).unwrap();
        write(&mut self.send, &request).await;
        loop {
            let packet = packet(&mut self.recv).await;
            if packet.packet_type == trunkline_transport::PacketType::Response {
                assert_eq!(packet.message_id, message_id);
                return;
            }
        }
    }

    pub(crate) async fn accept_uni(&self) -> Receiving {
        match &self.link {
            Link::Quic(connection) => Box::new(within(connection.accept_uni()).await.unwrap()),
            Link::WebTransport(session) => Box::new(within(session.accept_uni()).await.unwrap()),
        }
    }

    /// A stream if the server lets it have one more now.
    pub(crate) async fn try_open_uni(&self) -> Option<Sending> {
        let opening = async {
            match &self.link {
                Link::Quic(connection) => Box::new(connection.open_uni().await.unwrap()) as Sending,
                Link::WebTransport(session) => Box::new(session.open_uni().await.unwrap()) as Sending,
            }
        };
        tokio::select! {
            biased;
            stream = opening => Some(stream),
            () = std::future::ready(()) => None,
        }
    }
}

/// A frame.
pub(crate) async fn write(stream: &mut Sending, payload: &[u8]) {
    stream.write_all(&(payload.len() as u32).to_be_bytes()).await.unwrap();
    stream.write_all(payload).await.unwrap();
}

/// The next frame.
pub(crate) async fn frame(stream: &mut Receiving) -> Bytes {
    within(async {
        let length = stream.read_u32().await.unwrap();
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        payload.into()
    })
    .await
}

/// The next packet that is no control packet.
pub(crate) async fn packet(stream: &mut Receiving) -> Packet {
    loop {
        let frame = frame(stream).await;
        if frame[2] < 16 {
            return Packet::from_bytes(frame, 1 << 20).unwrap();
        }
    }
}

/// A client that sends early whatever it likes.
pub(crate) struct Rogue {
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
    address: SocketAddr,
}

impl Rogue {
    pub(crate) fn new(certificate: &str, address: SocketAddr) -> Self {
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let config = config(certificate, "msgtrans/2", quinn::TransportConfig::default());
        Self { endpoint, config, address }
    }

    fn connecting(&self) -> quinn::Connecting {
        self.endpoint.connect_with(self.config.clone(), self.address, "localhost").unwrap()
    }

    pub(crate) async fn connect(&self) -> (Sending, Receiving, quinn::Connection) {
        let connection = within(self.connecting()).await.unwrap();
        let (send, recv) = connection.open_bi().await.unwrap();
        (Box::new(send), Box::new(recv), connection)
    }

    /// Without waiting for anything.
    pub(crate) async fn connect_early(&self) -> (Sending, Receiving, quinn::Connection) {
        let Ok((connection, _complete)) = self.connecting().into_0rtt() else { panic!("it has no ticket") };
        let (send, recv) = connection.open_bi().await.unwrap();
        (Box::new(send), Box::new(recv), connection)
    }
}
