//! Requests and responses by hand: what is sent is exactly what the test says.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use trunkline_testkit::{DEADLINE, ServerBuilder, TestServer};

/// The binary under test, with a short time for a request's head.
pub(crate) fn server() -> ServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_trunkline"))
        .config("[limits]\nhandshake_timeout = \"300ms\"\n[session]\nheartbeat = \"25s\"\n")
}

/// A response as it came.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// By name in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text:?}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let headers = lines.filter_map(|line| line.split_once(": "));
        Response {
            status: status.parse().expect("a status"),
            headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
            body: body.to_owned(),
        }
    }
}

/// Sends these bytes and reads to the end of the connection.
pub(crate) async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let exchanged = async {
        // A server may refuse a request before it has read all of it, and reset the connection for the rest: what it
        // has answered counts.
        let _refused = stream.write_all(request).await;
        let _reset = stream.read_to_end(&mut answer).await;
    };
    timeout(DEADLINE, exchanged).await.expect("the server neither answers nor closes");
    answer
}

/// One request with this first line, `Connection: close` and further lines.
pub(crate) async fn ask(address: SocketAddr, first: &str, lines: &str) -> Response {
    let stream = TcpStream::connect(address).await.unwrap();
    Response::parse(&exchange(stream, &request(first, lines)).await)
}

/// The same on a stream of another kind.
pub(crate) async fn ask_on(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    first: &str,
    lines: &str,
) -> Response {
    Response::parse(&exchange(stream, &request(first, lines)).await)
}

fn request(first: &str, lines: &str) -> Vec<u8> {
    format!("{first} HTTP/1.1\r\nHost: node.example\r\nConnection: close\r\n{lines}\r\n").into_bytes()
}
