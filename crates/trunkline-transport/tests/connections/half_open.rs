//! Handshakes that do not go on: they delay nobody, they end at their deadline, and the cap replaces them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};
use trunkline_transport::{
    Accepted, ConnectOptions, Endpoint, Incoming, Protocol, QuicOptions, StreamListener, StreamOptions,
    TlsPolicy, connect,
};

use crate::harness::{DEADLINE, Server, loopback, tls_options, trusted, within};

const HOUR: Duration = Duration::from_secs(3600);

/// The beginning of a TLS record with a ClientHello that never comes whole.
const HALF_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];

const HALF_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websock";

/// A server whose handshakes may take an hour, so that only order can help the others.
fn patient(protocol: Protocol, max_handshakes: usize, handshake_timeout: Duration) -> Server {
    let (certificate, trust) = trusted();
    let policy = if protocol.is_encrypted() { TlsPolicy::Required } else { TlsPolicy::Optional };
    let streams = StreamOptions { handshake_timeout, max_handshakes, ..tls_options(&certificate, policy) };
    let quic = QuicOptions { handshake_timeout, max_handshakes, ..QuicOptions::new(certificate) };
    Server::with(protocol, 1 << 20, trust, streams, quic)
}

fn address(server: &Server) -> SocketAddr {
    server.endpoint.authority().parse().unwrap()
}

async fn half_open(address: SocketAddr, bytes: &[u8], count: usize) -> Vec<TcpStream> {
    let mut out = Vec::new();
    for _ in 0..count {
        let mut stream = within(TcpStream::connect(address)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        out.push(stream);
    }
    out
}

#[tokio::test]
async fn a4_half_open_handshakes_do_not_delay_others() {
    for (protocol, bytes) in [
        (Protocol::Tls, &b""[..]),
        (Protocol::Tls, HALF_HELLO),
        (Protocol::Tcp, HALF_HELLO),
        (Protocol::WebSocket, b""),
        (Protocol::WebSocket, HALF_REQUEST),
        (Protocol::WebSocketTls, HALF_HELLO),
    ] {
        let mut server = patient(protocol, 1024, HOUR);
        let _held = half_open(address(&server), bytes, 100).await;
        for _ in 0..3 {
            server.pair().await;
        }
    }
}

#[tokio::test]
async fn half_open_handshakes_end_at_their_deadline() {
    for (protocol, bytes) in [
        (Protocol::Tls, &b""[..]),
        (Protocol::Tls, HALF_HELLO),
        (Protocol::WebSocket, b""),
        (Protocol::WebSocket, HALF_REQUEST),
        (Protocol::WebSocketTls, HALF_HELLO),
    ] {
        let mut server = patient(protocol, 1024, Duration::from_millis(50));
        let mut held = half_open(address(&server), bytes, 1).await;
        let ended = async {
            let mut end = [0; 64];
            // An end, or a reset because bytes were left unread.
            while held[0].read(&mut end).await.is_ok_and(|n| n > 0) {}
        };
        within(async {
            tokio::select! {
                () = ended => {}
                _ = server.accept() => panic!("{protocol}: a half-open handshake became a connection"),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn quic_handshakes_that_stop_end_at_their_deadline() {
    // Nobody opens a stream; nobody sends the request of WebTransport. (Its client writes as soon as it has a session.)
    for alpn in ["trunkline/1", "h3"] {
        let (certificate, trust) = trusted();
        let deadline = Duration::from_secs(1);
        let quic = QuicOptions {
            handshake_timeout: deadline,
            first_stream_timeout: deadline,
            ..QuicOptions::new(certificate)
        };
        let mut server = Server::with(Protocol::Quic, 1 << 20, trust, StreamOptions::default(), quic);
        let mut options = server.options.clone();
        options.alpns = vec![alpn.to_owned()];
        let endpoint = server.endpoint.clone();
        let ended = async {
            // Where the machine is too busy for the handshake, that is what the deadline ends.
            if let Ok(mut stopped) = connect(&endpoint, &options).await {
                let end = stopped.reader.next().await;
                assert!(!matches!(end, Ok(Some(Incoming::Frame(_)))), "{alpn}: {end:?}");
            }
        };
        within(async {
            tokio::select! {
                () = ended => {}
                _ = server.accept() => panic!("{alpn}: half a handshake became a connection"),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn at_the_cap_the_oldest_handshake_makes_room() {
    for (protocol, bytes) in [(Protocol::Tls, HALF_HELLO), (Protocol::WebSocket, HALF_REQUEST)] {
        let mut server = patient(protocol, 4, HOUR);
        let _held = half_open(address(&server), bytes, 9).await;
        server.pair().await;
    }
}

/// The first datagram of a real client, as an attacker would replay it.
async fn captured_initial() -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = Endpoint::from_url(&format!("quic://{}", socket.local_addr().unwrap())).unwrap();
    let (_, trust) = trusted();
    let options = ConnectOptions { tls: Some(trust), timeout: DEADLINE, ..ConnectOptions::default() };
    let mut datagram = vec![0; 2048];
    let length = within(async {
        tokio::select! {
            _ = connect(&endpoint, &options) => panic!("nobody answers there"),
            received = socket.recv(&mut datagram) => received.unwrap(),
        }
    })
    .await;
    datagram.truncate(length);
    assert!(datagram.len() >= 1200 && datagram[0] & 0xC0 == 0xC0, "an Initial packet");
    datagram
}

#[tokio::test]
async fn a4_and_d4_a_replayed_quic_initial_delays_nobody() {
    let initial = captured_initial().await;
    for (protocol, cap) in [(Protocol::Quic, 1024), (Protocol::WebTransport, 1024), (Protocol::Quic, 4)] {
        let mut server = patient(protocol, cap, HOUR);
        let mut held = Vec::new();
        for _ in 0..50 {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            socket.send_to(&initial, address(&server)).await.unwrap();
            held.push(socket);
        }
        for _ in 0..3 {
            server.pair().await;
        }
    }
}

#[tokio::test]
async fn a_quic_client_without_a_stream_delays_nobody() {
    let mut server = patient(Protocol::Quic, 1024, HOUR);
    let (endpoint, options) = (server.endpoint.clone(), server.options.clone());
    // Connected, but nothing was written, so the server has not seen a stream.
    let _idle = within(async {
        tokio::select! {
            idle = connect(&endpoint, &options) => idle.unwrap(),
            _ = server.accept() => panic!("a connection without a stream"),
        }
    })
    .await;
    server.pair().await;
}

#[tokio::test]
async fn cancelling_ends_accept() {
    let (certificate, _) = trusted();
    let options = tls_options(&certificate, TlsPolicy::Optional);
    let cancel = options.cancel.clone();
    let mut listener = StreamListener::bind(loopback(), options).unwrap();
    let quic = QuicOptions { cancel: cancel.clone(), ..QuicOptions::new(certificate) };
    let mut quic = trunkline_transport::QuicListener::bind(loopback(), quic).unwrap();
    cancel.cancel();
    assert!(within(listener.accept()).await.is_none());
    assert!(within(quic.accept()).await.is_none());
}

/// Runs itself once more in a process with few descriptors: accept fails there with EMFILE until some are
/// given back, and must neither spin for ever nor end.
#[test]
fn running_out_of_descriptors_pauses_accept_and_no_more() {
    const NAME: &str = "half_open::running_out_of_descriptors_pauses_accept_and_no_more";
    const CHILD: &str = "TRUNKLINE_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let output = Command::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\" --nocapture"])
            .arg(std::env::current_exe().unwrap())
            .arg(NAME)
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("accepted after EMFILE"), "{text}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut listener = StreamListener::bind(loopback(), StreamOptions::default()).unwrap();
        let address = listener.local_addr().unwrap();
        // One connection waits in the backlog; its client needs a descriptor, its server side has none left.
        let _client = within(TcpStream::connect(address)).await.unwrap();
        let mut held = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            held.push(file);
        }
        let blocked = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
        assert!(blocked.is_err(), "accepted without a descriptor");
        drop(held);
        assert!(matches!(within(listener.accept()).await, Some(Accepted::Stream(_))));
        println!("accepted after EMFILE");
    });
}
