//! One server and one client of any protocol, and the deadline that every wait has.

use std::{future::Future, net::Ipv4Addr, time::Duration};

use trunkline_transport::{
    Accepted, ClientTls, ConnectOptions, Connection, Endpoint, Frame, FrameKind, Framing, Incoming, Protocol,
    QuicListener, QuicOptions, ReloadableCertificate, ServerTls, Socket, StreamListener, StreamOptions,
    TlsPolicy, WebSocketListener, WebSocketOptions, certificate, connect, memory,
};

/// Long enough for a busy machine; a test that needs it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What has not happened by the deadline never will.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("this should have happened by now")
}

/// A fresh certificate, and a client that trusts it alone.
pub(crate) fn trusted() -> (ReloadableCertificate, ClientTls) {
    let certificate = ReloadableCertificate::from(&certificate::self_signed(&[]).unwrap());
    let trust = ClientTls::pinned(vec![certificate.fingerprint()]).unwrap();
    (certificate, trust)
}

/// Any free port of the loopback interface.
pub(crate) fn loopback<S>() -> Socket<S> {
    Socket::Address((Ipv4Addr::LOCALHOST, 0).into())
}

/// Options of a listener that speaks TLS by this policy.
pub(crate) fn tls_options(certificate: &ReloadableCertificate, policy: TlsPolicy) -> StreamOptions {
    let tls = ServerTls::new(certificate, &[], None).unwrap();
    StreamOptions { policy, tls: Some(tls), ..StreamOptions::default() }
}

/// A listener of one protocol, and how to reach it.
pub(crate) struct Server {
    listener: Listener,
    max_frame: usize,
    pub(crate) endpoint: Endpoint,
    pub(crate) options: ConnectOptions,
}

enum Listener {
    Stream(StreamListener),
    WebSocket(WebSocketListener),
    Quic(QuicListener),
}

impl Server {
    /// Listens; readers on both sides take frames up to `max_frame`.
    pub(crate) fn start(protocol: Protocol, max_frame: usize) -> Self {
        let (certificate, trust) = trusted();
        let policy = if protocol.is_encrypted() { TlsPolicy::Required } else { TlsPolicy::Optional };
        let streams = tls_options(&certificate, policy);
        let quic = QuicOptions { max_frame, ..QuicOptions::new(certificate) };
        Self::with(protocol, max_frame, trust, streams, quic)
    }

    pub(crate) fn with(
        protocol: Protocol,
        max_frame: usize,
        trust: ClientTls,
        streams: StreamOptions,
        quic: QuicOptions,
    ) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, protocol, max_frame, trust, streams, quic)
    }

    pub(crate) fn at(
        host: Ipv4Addr,
        protocol: Protocol,
        max_frame: usize,
        trust: ClientTls,
        streams: StreamOptions,
        quic: QuicOptions,
    ) -> Self {
        let address = (host, 0).into();
        let (scheme, listener, address) = match protocol {
            Protocol::Tcp | Protocol::Tls => {
                let listener = StreamListener::bind(Socket::Address(address), streams).unwrap();
                let address = listener.local_addr().unwrap();
                (protocol.as_str(), Listener::Stream(listener), address)
            }
            Protocol::WebSocket | Protocol::WebSocketTls => {
                let options = WebSocketOptions { max_frame, ..WebSocketOptions::default() };
                let listener = WebSocketListener::bind(Socket::Address(address), streams, options).unwrap();
                let address = listener.local_addr().unwrap();
                let scheme = if protocol.is_encrypted() { "wss" } else { "ws" };
                (scheme, Listener::WebSocket(listener), address)
            }
            Protocol::Quic | Protocol::WebTransport => {
                let listener = QuicListener::bind(Socket::Address(address), quic).unwrap();
                let address = listener.local_addr();
                let scheme = if protocol == Protocol::Quic { "quic" } else { "wt" };
                (scheme, Listener::Quic(listener), address)
            }
            Protocol::Memory | Protocol::Unix | Protocol::Custom(_) => {
                unreachable!("they have no listener here")
            }
        };
        let endpoint = Endpoint::from_url(&format!("{scheme}://{address}/path?query=1")).unwrap();
        let options =
            ConnectOptions { tls: Some(trust), timeout: DEADLINE, max_frame, ..ConnectOptions::default() };
        Self { listener, max_frame, endpoint, options }
    }

    pub(crate) async fn accept(&mut self) -> Connection {
        match &mut self.listener {
            Listener::Stream(listener) => match listener.accept().await.unwrap() {
                Accepted::Stream(stream) => stream.into_connection(self.max_frame),
                Accepted::PlainRefused(stream) => panic!("{} speaks plain", stream.peer()),
            },
            Listener::WebSocket(listener) => listener.accept().await.unwrap(),
            Listener::Quic(listener) => listener.accept().await.unwrap(),
        }
    }

    /// A client and its connection on the server, after a first frame up (a QUIC stream is told by it).
    pub(crate) async fn pair(&mut self) -> (Connection, Connection) {
        let (endpoint, options) = (self.endpoint.clone(), self.options.clone());
        let client = async {
            let mut client = connect(&endpoint, &options).await.unwrap();
            client.writer.send(FrameKind::Binary, b"hello").await.unwrap();
            client
        };
        let server = async {
            let mut server = self.accept().await;
            assert_eq!(frame(&mut server).await.bytes, "hello");
            server
        };
        within(async { tokio::join!(client, server) }).await
    }
}

/// A connected pair of any protocol: client, server.
pub(crate) async fn pair(protocol: Protocol, max_frame: usize) -> (Connection, Connection) {
    if protocol == Protocol::Memory {
        return memory::pair(Framing::Length, max_frame);
    }
    Server::start(protocol, max_frame).pair().await
}

/// The next frame, and nothing else.
pub(crate) async fn frame(connection: &mut Connection) -> Frame {
    match within(connection.reader.next()).await.unwrap() {
        Some(Incoming::Frame(frame)) => frame,
        other => panic!("no frame but {other:?}"),
    }
}

/// Recognisable bytes.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + (i >> 8)) as u8).collect()
}
