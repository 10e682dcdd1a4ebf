//! A4: peers that begin a handshake and never go on. Full size: `./prove A4`.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};
use trunkline_transport::{
    ClientTls, QuicClientConfig, TransportClientBuilder, TransportServerBuilder, defaults::MAX_HANDSHAKES,
};

use crate::rig::{DEADLINE, Rig, Way, echo, ms, within};
use crate::sizes::{percentile, reading, size};

/// The beginning of a TLS record, of a request, and nothing at all.
const BEGINNINGS: [&[u8]; 3] = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3], b"GET / HTTP/1.1\r\nUpgr", b""];

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a4_half_open_peers_delay_nobody() {
    let (silent, initials) = (size("A4_SILENT", 40), size("A4_INITIALS", 5));
    let connects = size("A4_CONNECTS", 3);
    // They are not saved by a deadline: handshakes may take an hour.
    let builder = TransportServerBuilder::new().handshakes(HOUR, MAX_HANDSHAKES);
    let rig = Rig::start(builder, &Way::ALL, echo).await;
    let calm = connected(&rig, connects).await;
    let (mut half_open, mut replayed) = (Vec::new(), Vec::new());
    for way in [Way::Tcp, Way::Tls, Way::WebSocket, Way::WebSocketTls] {
        // On plain TCP there is no handshake: whoever says nothing is a connection without a packet.
        let beginnings = if way == Way::Tcp { &BEGINNINGS[2..] } else { &BEGINNINGS[..] };
        for beginning in beginnings.iter().cycle().take(usize::try_from(silent).unwrap()) {
            // What is no HTTP is refused where HTTP is spoken, and the other way round.
            let is_tls = matches!(way, Way::Tls | Way::WebSocketTls);
            let fits = beginning.first().is_none_or(|first| (*first == 0x16) == is_tls);
            half_open.push(begin(rig.address(way), if fits { beginning } else { b"" }).await);
        }
    }
    for _ in 0..initials {
        // Each is another client's: one that is repeated belongs to the handshake that it has begun.
        let initial = captured_initial().await;
        for way in [Way::Quic, Way::WebTransport] {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            socket.send_to(&initial, rig.address(way)).await.unwrap();
            replayed.push(socket);
        }
    }
    let disturbed = connected(&rig, connects).await;
    for (mut before, (way, mut times)) in calm.into_iter().map(|(_, times)| times).zip(disturbed) {
        reading(&format!("a4_{}_p99_ms", way.name()), ms(percentile(&mut times, 99)));
        reading(&format!("a4_{}_longest_ms", way.name()), ms(percentile(&mut times, 100)));
        reading(&format!("a4_{}_calm_ms", way.name()), ms(percentile(&mut before, 99)));
    }
    // It was measured beside them: the server has held on to every one.
    for peer in half_open {
        let end = peer.into_std().unwrap().read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(end, Err(ErrorKind::WouldBlock), "a silent peer was let go");
    }
    drop(replayed);
}

async fn begin(at: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut peer = within(TcpStream::connect(at)).await.unwrap();
    peer.write_all(bytes).await.unwrap();
    peer
}

/// How long it takes to connect and have the first answer, so many times on each way, one after the other.
async fn connected(rig: &Rig, times: u64) -> Vec<(Way, Vec<Duration>)> {
    let mut all: Vec<_> = Way::ALL.into_iter().map(|way| (way, Vec::new())).collect();
    for _ in 0..times {
        for (way, times) in &mut all {
            let begun = Instant::now();
            let client = rig.client(*way).await;
            within(async { client.request("in").await }).await.unwrap();
            times.push(begun.elapsed());
            client.disconnect().await;
        }
    }
    all
}

/// The first datagram of a client, as an attacker would send it.
async fn captured_initial() -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let anybody = ClientTls::pinned(Vec::new()).unwrap();
    let config = QuicClientConfig::new(socket.local_addr().unwrap().to_string()).tls(anybody);
    let client = TransportClientBuilder::new().with_protocol(config).connect_timeout(DEADLINE);
    let client = client.build().await.unwrap();
    let mut datagram = vec![0; 2048];
    let length = within(async {
        tokio::select! {
            _ = client.connect() => panic!("nobody answers there"),
            received = socket.recv(&mut datagram) => received.unwrap(),
        }
    })
    .await;
    datagram.truncate(length);
    datagram
}
