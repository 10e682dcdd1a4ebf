//! What workers share as values: sockets that are bound already, ticket keys, connection-id generators.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use quinn_proto::{ConnectionIdGenerator, RandomConnectionIdGenerator};
use trunkline_transport::{
    Accepted, ClientTls, ConnectOptions, Endpoint, FrameKind, Protocol, QuicClientSocket, QuicListener,
    QuicOptions, ReloadableCertificate, Secret, ServerTls, Socket, StreamListener, StreamOptions, TlsPolicy,
    connect, defaults::NEW_TICKETS,
};

use crate::harness::{DEADLINE, Server, frame, loopback, trusted, within};

#[tokio::test]
async fn listeners_take_sockets_that_are_bound_already() {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = tcp.local_addr().unwrap();
    let mut listener = StreamListener::bind(Socket::Bound(tcp), StreamOptions::default()).unwrap();
    assert_eq!(listener.local_addr().unwrap(), address);
    let endpoint = Endpoint::from_url(&format!("tcp://{address}")).unwrap();
    let _client = within(connect(&endpoint, &ConnectOptions::default())).await.unwrap();
    assert!(matches!(within(listener.accept()).await, Some(Accepted::Stream(_))));

    let (certificate, trust) = trusted();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = udp.local_addr().unwrap();
    let mut listener = QuicListener::bind(Socket::Bound(udp), QuicOptions::new(certificate)).unwrap();
    assert_eq!(listener.local_addr(), address);
    let endpoint = Endpoint::from_url(&format!("quic://{address}")).unwrap();
    let options = ConnectOptions { tls: Some(trust), timeout: DEADLINE, ..ConnectOptions::default() };
    let connecting = async {
        let mut client = connect(&endpoint, &options).await.unwrap();
        client.writer.send(FrameKind::Binary, b"hello").await.unwrap();
        client
    };
    let (_client, server) = within(async { tokio::join!(connecting, listener.accept()) }).await;
    assert_eq!(frame(&mut server.unwrap()).await.bytes, "hello");
}

/// A listener for TLS with this ticket key.
fn tls(certificate: &ReloadableCertificate, key: Option<&Secret>) -> StreamListener {
    let tls = ServerTls::new(certificate, &[], key).unwrap();
    let options = StreamOptions { policy: TlsPolicy::Required, tls: Some(tls), ..StreamOptions::default() };
    StreamListener::bind(loopback(), options).unwrap()
}

/// The name is what a client keeps tickets under; the port does not matter.
fn reach(address: SocketAddr, trust: &ClientTls) -> (Endpoint, ConnectOptions) {
    let endpoint = Endpoint::from_url(&format!("tls://{address}")).unwrap();
    let options = ConnectOptions { tls: Some(trust.clone()), timeout: DEADLINE, ..ConnectOptions::default() };
    (endpoint, options)
}

/// One connection and a word each way: whether its handshake resumed.
async fn resumes(listener: &mut StreamListener, trust: &ClientTls) -> bool {
    let (endpoint, options) = reach(listener.local_addr().unwrap(), trust);
    let serving = async {
        let Some(Accepted::Stream(stream)) = listener.accept().await else { panic!("no TLS") };
        let was_resumed = stream.is_resumed();
        let mut server = stream.into_connection(1 << 20);
        assert_eq!(frame(&mut server).await.bytes, "hello");
        server.writer.send(FrameKind::Binary, b"welcome").await.unwrap();
        was_resumed
    };
    let connecting = async {
        let mut client = connect(&endpoint, &options).await.unwrap();
        client.writer.send(FrameKind::Binary, b"hello").await.unwrap();
        // The ticket comes before the first bytes of the server.
        assert_eq!(frame(&mut client).await.bytes, "welcome");
    };
    let ((), was_resumed) = within(async { tokio::join!(connecting, serving) }).await;
    was_resumed
}

/// A session that began on one listener resumes on another with the same ticket key, and on no other.
#[tokio::test]
async fn a_tls_session_resumes_where_the_ticket_key_is_the_same() {
    let (certificate, trust) = trusted();
    let (key, other) = (Secret::random(), Secret::random());
    let mut resumed = Vec::new();
    for key in [Some(&key), Some(&key), Some(&other), None] {
        resumed.push(resumes(&mut tls(&certificate, key), &trust).await);
    }
    assert_eq!(resumed, [false, true, false, false]);
}

/// Each attempt takes a ticket, and only a handshake that is complete brings new ones.
#[tokio::test]
async fn a_tls_session_resumes_after_attempts_that_failed() {
    let (certificate, trust) = trusted();
    let mut listener = tls(&certificate, Some(&Secret::random()));
    assert!(!resumes(&mut listener, &trust).await);
    let broken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    broken.set_nonblocking(true).unwrap();
    let broken = tokio::net::TcpListener::from_std(broken).unwrap();
    let (endpoint, options) = reach(broken.local_addr().unwrap(), &trust);
    for _ in 1..NEW_TICKETS {
        let hanging_up = async { broken.accept().await.map(drop) };
        let (failed, hung_up) =
            within(async { tokio::join!(connect(&endpoint, &options), hanging_up) }).await;
        assert!(failed.is_err());
        hung_up.unwrap();
    }
    for _ in 0..4 {
        assert!(resumes(&mut listener, &trust).await, "the last ticket, and what each brings");
    }
}

/// Puts a worker's number into the first byte, as steering by connection id needs.
struct Steering {
    inner: RandomConnectionIdGenerator,
    made: Arc<AtomicUsize>,
}

impl ConnectionIdGenerator for Steering {
    fn generate_cid(&mut self) -> quinn_proto::ConnectionId {
        self.made.fetch_add(1, Ordering::Relaxed);
        let mut id = self.inner.generate_cid().to_vec();
        id[0] = 0x2A;
        quinn_proto::ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        self.inner.cid_len()
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[tokio::test]
async fn connection_ids_come_from_the_generator_and_survive_a_change_of_address() {
    let (certificate, trust) = trusted();
    let made = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&made);
    let quic = QuicOptions {
        connection_ids: Some(Arc::new(move || {
            let made = Arc::clone(&counter);
            Box::new(Steering { inner: RandomConnectionIdGenerator::new(8), made })
        })),
        reset_key: Some(Secret::random()),
        token_key: Some(Secret::random()),
        ticket_key: Some(Secret::random()),
        ..QuicOptions::new(certificate)
    };
    let mut server = Server::with(Protocol::Quic, 1 << 20, trust, StreamOptions::default(), quic);
    let socket = QuicClientSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    server.options.quic_socket = Some(socket.clone());
    let (mut client, mut connection) = server.pair().await;
    assert!(made.load(Ordering::Relaxed) > 0);
    socket.rebind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    within(client.writer.send(FrameKind::Binary, b"from elsewhere")).await.unwrap();
    assert_eq!(frame(&mut connection).await.bytes, "from elsewhere");
    // The same socket carries further connections.
    server.pair().await;
}

#[test]
fn secrets_are_not_shown() {
    assert_eq!(format!("{:?}", Secret::new([7; 32])), "Secret(..)");
}
