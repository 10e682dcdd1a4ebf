//! The proxies do the damage they say, and no other.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic like the test itself")]

use std::{collections::HashSet, io::ErrorKind, net::SocketAddr, num::NonZeroU32, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};
use trunkline_transport::chaos::{Ending, StreamFaults, TcpProxy, UdpFaults, UdpProxy};

/// Long enough for a busy machine; a test that needs it has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server that sends back what it gets, for as long as the set lives.
async fn echo_server(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    address
}

async fn proxied(faults: StreamFaults) -> (TcpProxy, TcpStream, JoinSet<()>) {
    let mut tasks = JoinSet::new();
    let target = echo_server(&mut tasks).await;
    let proxy = TcpProxy::start(target, 7, faults).await.unwrap();
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    (proxy, stream, tasks)
}

/// Writes `length` bytes and reads until the end; how many came back.
async fn exchange(stream: &mut TcpStream, length: usize) -> Result<usize, ErrorKind> {
    let (mut reader, mut writer) = stream.split();
    let write = async {
        let _ = writer.write_all(&vec![7; length]).await;
        let _ = writer.shutdown().await;
    };
    let mut back = Vec::new();
    let ((), read) =
        timeout(DEADLINE, async { tokio::join!(write, reader.read_to_end(&mut back)) }).await.unwrap();
    assert!(back.iter().all(|byte| *byte == 7));
    read.map_err(|error| error.kind())
}

#[tokio::test]
async fn without_faults_everything_passes_and_the_end_too() {
    let (proxy, mut stream, _tasks) = proxied(StreamFaults::default()).await;
    assert_eq!(exchange(&mut stream, 1 << 20).await, Ok(1 << 20));
    timeout(DEADLINE, proxy.until_open(0)).await.unwrap();
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
async fn a_connection_is_cut_at_its_byte() {
    let faults = StreamFaults { cut_after: Some(5..6), ..StreamFaults::default() };
    let (_proxy, mut stream, _tasks) = proxied(faults).await;
    stream.write_all(b"abc").await.unwrap();
    let mut back = [0; 8];
    let read = timeout(DEADLINE, stream.read(&mut back)).await.unwrap().unwrap();
    assert!(read <= 2, "three bytes up leave two for the way down");
    let rest = timeout(DEADLINE, stream.read(&mut back)).await.unwrap();
    assert!(matches!(rest, Ok(0) | Err(_)) || read < 2, "nothing beyond the cut: {rest:?}");
}

#[tokio::test]
async fn a_reset_is_seen_as_one() {
    let (proxy, mut stream, _tasks) = proxied(StreamFaults::default()).await;
    stream.write_all(b"x").await.unwrap();
    timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap();
    proxy.cut_all(Ending::Reset);
    let error = timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_cut_within_bytes_waits_for_them_and_spares_whoever_comes_later() {
    let (proxy, mut stream, _tasks) = proxied(StreamFaults::default()).await;
    stream.write_all(b"x").await.unwrap();
    timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap();
    proxy.cut_all_within(4..5, Ending::Reset);
    let mut later = TcpStream::connect(proxy.address()).await.unwrap();
    // One up and one down leave two of the four.
    stream.write_all(b"y").await.unwrap();
    assert_eq!(timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap(), b'y');
    stream.write_all(b"zzz").await.unwrap();
    let error = timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    timeout(DEADLINE, proxy.until_cut()).await.unwrap();
    assert_eq!(exchange(&mut later, 1_000).await, Ok(1_000));
}

#[tokio::test]
async fn a_half_open_connection_stays_silent_until_it_is_cut() {
    let (proxy, mut stream, _tasks) = proxied(StreamFaults::default()).await;
    stream.write_all(b"x").await.unwrap();
    timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap();
    proxy.cut_all(Ending::HalfOpen);
    stream.write_all(b"y").await.unwrap();
    assert!(timeout(Duration::from_millis(50), stream.read_u8()).await.is_err(), "silence, not an end");
    proxy.cut_all(Ending::Close);
    assert!(timeout(DEADLINE, stream.read_u8()).await.unwrap().is_err());
}

#[tokio::test]
async fn a_stalled_proxy_holds_back_and_goes_on() {
    let (proxy, mut stream, _tasks) = proxied(StreamFaults::default()).await;
    proxy.stall();
    stream.write_all(b"x").await.unwrap();
    assert!(timeout(Duration::from_millis(50), stream.read_u8()).await.is_err());
    proxy.go_on();
    assert_eq!(timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap(), b'x');
}

#[tokio::test(start_paused = true)]
async fn latency_and_a_slow_reader_take_their_time() {
    let faults = StreamFaults {
        latency: Duration::from_secs(2),
        down_bytes_per_second: NonZeroU32::new(10),
        ..StreamFaults::default()
    };
    let (_proxy, mut stream, _tasks) = proxied(faults).await;
    let begin = tokio::time::Instant::now();
    assert_eq!(exchange(&mut stream, 50).await, Ok(50));
    // Two seconds each way, then five for the bytes before the end of stream is passed on. Virtual time runs
    // ahead while the kernel carries bytes, so only the lower bound is exact.
    assert!(begin.elapsed() >= Duration::from_secs(9), "{:?}", begin.elapsed());
}

/// Sends `count` numbered datagrams through a proxy to an echo socket; what comes back until a pause.
async fn datagrams(faults: UdpFaults, count: u32) -> (Vec<u32>, (u64, u64)) {
    let echo = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let proxy = UdpProxy::start(echo.local_addr().unwrap(), 7, faults).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = echo.recv_from(&mut buffer).await {
            let _ = echo.send_to(&buffer[..length], from).await;
        }
    });
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(proxy.address()).await.unwrap();
    let mut back = Vec::new();
    for number in 0..count {
        client.send(&number.to_be_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut buffer = [0; 4];
    while let Ok(Ok(4)) = timeout(Duration::from_millis(300), client.recv(&mut buffer)).await {
        back.push(u32::from_be_bytes(buffer));
    }
    (back, proxy.counts())
}

#[tokio::test]
async fn datagrams_pass_without_faults() {
    let (back, (carried, lost)) = datagrams(UdpFaults::default(), 100).await;
    assert_eq!(back, (0..100).collect::<Vec<_>>());
    assert_eq!((carried, lost), (200, 0));
}

#[tokio::test]
async fn some_datagrams_are_lost_and_some_come_twice() {
    let faults = UdpFaults { loss: 0.3, duplicates: 0.3, ..UdpFaults::default() };
    let (back, (carried, lost)) = datagrams(faults, 100).await;
    let distinct: HashSet<_> = back.iter().collect();
    assert!(distinct.len() < 95 && distinct.len() > 20, "{} of 100", distinct.len());
    assert!(back.len() > distinct.len(), "no duplicates");
    assert!(carried > 0 && lost > 10, "{carried} carried, {lost} lost");
}

#[tokio::test]
async fn jitter_changes_the_order() {
    let faults = UdpFaults { jitter: Duration::from_millis(30), ..UdpFaults::default() };
    let (back, _) = datagrams(faults, 100).await;
    assert_eq!(back.len(), 100);
    assert!(!back.is_sorted());
}

#[tokio::test]
async fn nothing_leaves_a_black_hole() {
    let (back, (carried, lost)) = datagrams(UdpFaults { black_hole: true, ..UdpFaults::default() }, 10).await;
    assert_eq!((back.len(), carried, lost), (0, 0, 10));
}

#[tokio::test]
async fn a_slow_reader_gets_what_it_has_time_for() {
    let faults = |rate| UdpFaults { down_bytes_per_second: NonZeroU32::new(rate), ..UdpFaults::default() };
    let (mut back, (carried, lost)) = datagrams(faults(1_000_000), 100).await;
    back.sort_unstable();
    assert_eq!(back, (0..100).collect::<Vec<_>>());
    assert_eq!((carried, lost), (200, 0));
}

#[tokio::test]
async fn what_a_slow_reader_has_no_room_for_is_lost() {
    let echo = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let faults = UdpFaults { down_bytes_per_second: NonZeroU32::new(1), ..UdpFaults::default() };
    let proxy = UdpProxy::start(echo.local_addr().unwrap(), 7, faults).await.unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(proxy.address()).await.unwrap();
    let mut buffer = [0; 1_200];
    for sent in 1..=300_u64 {
        client.send(&[7; 1_200]).await.unwrap();
        let (length, from) = timeout(DEADLINE, echo.recv_from(&mut buffer)).await.unwrap().unwrap();
        echo.send_to(&buffer[..length], from).await.unwrap();
        // One at a time, so that the kernel has no reason to lose any.
        let passed = async {
            while proxy.counts().0 + proxy.counts().1 < 2 * sent {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, passed).await.unwrap();
    }
    // 208 KiB are 177 of them; at a byte a second no more are read while this test runs.
    assert_eq!(proxy.counts(), (300 + 177, 300 - 177));
}
