//! What the tests of this binary share.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, timeout};
use trunkline_testkit::{DEADLINE, ServerBuilder, TestClient, TestServer, Way};

/// The binary under test.
pub(crate) fn server() -> ServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_trunkline")).anonymous()
}

/// A started client.
pub(crate) async fn client(server: &TestServer, user: &str) -> TestClient {
    let mut client = server.connect(Way::TCP).await.unwrap();
    let response = client.start_as(user, "").await.unwrap();
    assert!(response.success, "{user} was refused: {response:?}");
    client
}

/// The status and the body of a page.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(DEADLINE * 2, stream.read_to_end(&mut answer)).await.expect("no answer").unwrap();
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
    (status, answer.split_off(head + 4))
}

/// The value of a metric, by its name and labels as Prometheus shows them.
pub(crate) async fn metric(server: &TestServer, sample: &str) -> f64 {
    let (_, text) = get(server.ready().metrics().unwrap(), "/metrics").await;
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{sample} is missing:\n{text}")).parse().unwrap()
}

/// Waits until something is so; nothing tells of it.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    let mut ticks = interval(Duration::from_millis(20));
    while !is_so().await {
        assert!(begin.elapsed() < DEADLINE, "{what} does not come");
        ticks.tick().await;
    }
}
