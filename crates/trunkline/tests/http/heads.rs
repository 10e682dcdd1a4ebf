//! Heads that are too large, too slow or no heads at all, and clients that do not read: each ends, and nobody else
//! notices.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use trunkline_proto::Dialect;
use trunkline_testkit::{DEADLINE, TestServer, Transport, Way};

use crate::exchange::{ask, exchange, server};

async fn connect(server: &TestServer) -> TcpStream {
    TcpStream::connect(server.ready().http().unwrap()).await.unwrap()
}

async fn is_well(server: &TestServer) -> bool {
    ask(server.ready().http().unwrap(), "GET /ready", "").await.status == 200
}

/// The status of the answer to these bytes; `None` where the connection ends without one.
async fn status(server: &TestServer, request: &[u8]) -> Option<u16> {
    let answer = exchange(connect(server).await, request).await;
    let text = String::from_utf8_lossy(&answer);
    let status = text.strip_prefix("HTTP/1.1 ").or(text.strip_prefix("HTTP/1.0 "))?;
    status.get(..3)?.parse().ok()
}

#[tokio::test]
async fn a_head_over_the_limit_is_431() {
    let server = server().start().await.unwrap();
    let head = |lines: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n");
    let one = head(&format!("X-Large: {}\r\n", "x".repeat(64 << 10)));
    assert_eq!(status(&server, one.as_bytes()).await, Some(431));
    let many: String = (0..500).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_eq!(status(&server, head(&many).as_bytes()).await, Some(431));
    // Without an end: it is refused when the limit is reached, not when memory is.
    assert_eq!(status(&server, format!("GET /{}", "a".repeat(64 << 10)).as_bytes()).await, Some(431));
    let within = head(&format!("X-Large: {}\r\n", "x".repeat(8 << 10)));
    assert_eq!(status(&server, within.as_bytes()).await, Some(200));
    assert!(is_well(&server).await);
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let server = server().start().await.unwrap();
    for request in [
        b"\0\0\0\x05hello\r\n\r\n".as_slice(),
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHo st: a\r\n\r\n",
    ] {
        assert_eq!(status(&server, request).await, Some(400), "{:?}", String::from_utf8_lossy(request));
    }
    // The preface of HTTP/2: this surface speaks HTTP/1.1 only, and says so by closing.
    let preface = status(&server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(preface.is_none_or(|status| status >= 400), "{preface:?}");
    assert!(is_well(&server).await);
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut() {
    let server = server().start().await.unwrap();
    for begun in ["", "G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        assert_eq!(exchange(connect(&server).await, begun.as_bytes()).await, b"", "{begun:?}");
    }
    // One byte after the other does not make it longer.
    let mut slow = connect(&server).await;
    let dripped = async {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(20));
        loop {
            ticks.tick().await;
            if slow.write_all(b"x").await.is_err() {
                return;
            }
        }
    };
    timeout(DEADLINE, dripped).await.expect("a head that drips is read for ever");
    assert!(is_well(&server).await);
}

#[tokio::test]
async fn an_idle_connection_and_a_body_that_does_not_come_end() {
    let server = server().start().await.unwrap();
    // Kept alive: the second request is answered too, the third is waited for no longer than for a head.
    let twice = "GET /ready HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2);
    let answer = exchange(connect(&server).await, twice.as_bytes()).await;
    assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1 200 OK").count(), 2);
    let body = b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{";
    assert_eq!(status(&server, body).await, Some(405));
    let chunked = b"POST /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n";
    assert_eq!(status(&server, chunked).await, Some(405));
    assert!(is_well(&server).await);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let server = server().start().await.unwrap();
    let (mut unread, mut writer) = connect(&server).await.into_split();
    let request = "GET /status/status.js HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let asked = async { while writer.write_all(request.as_bytes()).await.is_ok() {} };
    timeout(DEADLINE, asked).await.expect("responses that nobody reads wait for ever");
    assert!(is_well(&server).await);
    // Only now, so that the socket was not closed from here.
    drop(unread.read(&mut [0]).await);
}

#[tokio::test]
async fn idle_connections_give_way_and_keep_no_client_out() {
    let config = "[limits]\nhttp_connections = 8\nhandshake_timeout = \"30s\"\n";
    let server = TestServer::builder(env!("CARGO_BIN_EXE_trunkline"))
        .config(config)
        .anonymous()
        .start()
        .await
        .unwrap();
    // Peers that ask for nothing, three times as many as there are places, one after the other.
    let mut idle = Vec::new();
    for _ in 0..24 {
        let mut stream = connect(&server).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").await.unwrap();
        idle.push(stream);
        assert!(is_well(&server).await, "a page waits behind idle connections");
    }
    // The first of them were closed for it, long before their time.
    for stream in &mut idle[..16] {
        let mut rest = Vec::new();
        drop(timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("it is still open"));
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
    // Clients need no place: twice as many as there are stay, and the pages go on.
    let way = Way { transport: Transport::WebSocket, dialect: Dialect::Protobuf };
    let mut clients = Vec::new();
    for number in 0..16 {
        clients.push(server.client(&format!("user{number}"), way).await.unwrap());
    }
    assert!(is_well(&server).await);
    for client in &mut clients {
        assert!(client.drain().await.unwrap().is_empty(), "a client was disturbed");
    }
}
