//! A10: the real `msgtrans` 2.0.0-beta.3 talks to ours, in both roles, over TCP, WebSocket and QUIC.
//!
//! The peer is `tests/peers/msgtrans`, a workspace of its own, which says what both sides agree on. Each side asks the other
//! 10,000 requests with 64 in flight, then every size up to 16 MiB and both compressions; one-way packets and extension
//! headers come back as they went; and the end is clean on both sides.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::{sync::mpsc, task::spawn_blocking};
use trunkline_transport::{
    ClientTls, CloseReason, Compression, Limits, Packet, QuicClientConfig, QuicServerConfig,
    ReloadableCertificate, Session, TcpClientConfig, TcpServerConfig, Tls, TransportClientBuilder,
    TransportError, TransportServerBuilder, WebSocketClientConfig, WebSocketServerConfig, Wire, certificate,
};

use crate::harness::{pattern, within};

const REQUESTS: u32 = 10_000;
const AT_ONCE: usize = 64;
/// From nothing to the largest payload that msgtrans takes.
const SIZES: [usize; 7] = [0, 1, 65_535, 65_536, 1 << 20, (16 << 20) - 1, 16 << 20];
const ASK_ME: u8 = 99;
const ASKED: u8 = 98;

fn limits() -> Limits {
    // Each way there may be one of the largest, and what is unread of it.
    Limits::new().message(16 << 20).queued_bytes(32 << 20).received_bytes(32 << 20)
}

/// The peer program; built if it is not there, which takes two minutes once. `./test` has built it before.
fn program() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../peers/msgtrans");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/peers/msgtrans/Cargo.toml");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--manifest-path", manifest, "--target-dir"]).arg(&target);
    let built = build.status().expect("cargo runs");
    assert!(built.success(), "tests/peers/msgtrans does not build");
    target.join("debug/msgtrans-peer")
}

/// A running peer; it is ended with the test.
struct Peer {
    child: Child,
    lines: mpsc::Receiver<String>,
    input: Option<ChildStdin>,
}

impl Peer {
    async fn start(arguments: &[&str]) -> Self {
        let program = spawn_blocking(program).await.unwrap();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the peer starts");
        let output = BufReader::new(child.stdout.take().unwrap());
        let (say, lines) = mpsc::channel(8);
        // It ends with the peer's output.
        drop(spawn_blocking(move || {
            for line in output.lines().map_while(Result::ok) {
                if say.blocking_send(line).is_err() {
                    break;
                }
            }
        }));
        let input = child.stdin.take();
        Self { child, lines, input }
    }

    async fn line(&mut self) -> String {
        within(self.lines.recv()).await.expect("the peer says something: its errors stand above")
    }

    /// The peer is told to end, and does so well.
    async fn end(mut self) {
        drop(self.input.take());
        assert_eq!(self.line().await, "fine");
        let status = spawn_blocking(move || self.child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Long gone, unless the test has failed.
        drop(self.child.kill());
    }
}

/// What our side of a connection does, whichever role it has.
async fn answer(
    mut session: Session,
    ends: mpsc::Sender<Result<(), String>>,
    echoes: mpsc::Sender<Packet>,
) -> Result<(), TransportError> {
    let served = session
        .serve_requests(move |session, packet| {
            let echoes = echoes.clone();
            async move {
                match (packet.is_request(), packet.biz_type) {
                    (true, 7) => packet.reply(packet.payload.clone()).with_compression(Compression::Zlib),
                    (true, 8) => packet.reply(packet.payload.clone()).with_compression(Compression::Zstd),
                    (true, _) => packet.reply(packet.payload.clone()),
                    (false, ASK_ME) => {
                        ask(&session).await;
                        session.send(Packet::text("asked").with_biz_type(ASKED)).await.unwrap();
                        packet
                    }
                    // Of the one that has sent them these are echoes, of the other what is to be echoed.
                    (false, _) => {
                        if echoes.try_send(packet.clone()).is_err() {
                            let echo = packet.reply(packet.payload.clone());
                            session.send(echo.with_ext_header(packet.ext_header.clone())).await.unwrap();
                        }
                        packet
                    }
                }
            }
        })
        .await;
    let end = served.as_ref().copied().map_err(ToString::to_string);
    ends.send(end).await.expect("the test waits for it");
    served
}

/// Asks everything and checks each answer.
async fn ask(session: &Session) {
    let patience = Duration::from_secs(100);
    stream::iter(0..REQUESTS)
        .for_each_concurrent(AT_ONCE, |i| async move {
            let answer = session.request(i.to_be_bytes().to_vec()).timeout(patience).await.unwrap();
            assert_eq!(answer.payload, i.to_be_bytes()[..]);
        })
        .await;
    for size in SIZES {
        let packet = Packet::new(pattern(size)).with_ext_header(pattern(size.min(65_535)));
        let answer = session.request(packet).timeout(patience).await.unwrap();
        assert!(answer.payload == pattern(size), "{size} bytes have changed");
    }
    for (how, biz_type) in [(Compression::Zlib, 7), (Compression::Zstd, 8)] {
        for size in [0, 100, 65_536, 8 << 20] {
            let packet = Packet::new(vec![5; size]).with_compression(how).with_biz_type(biz_type);
            let packet = packet.with_ext_header("route:abc");
            let answer = session.request(packet).timeout(patience).await.unwrap();
            assert!(answer.payload == vec![5; size], "{how:?}, {size}");
            assert_eq!(answer.biz_type, biz_type, "{size}");
            // An empty payload need not be compressed.
            assert!(answer.compression == how || size == 0, "{how:?}, {size}");
        }
    }
}

async fn their_server(kind: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let own = certificate::self_signed(&[]).unwrap();
    std::fs::write(file("certificate.pem"), &own.certificate_pem).unwrap();
    std::fs::write(file("key.pem"), &own.key_pem).unwrap();
    let trust = ClientTls::pinned(vec![Tls::new(ReloadableCertificate::from(&own)).fingerprint()]).unwrap();
    let tls = [file("certificate.pem"), file("key.pem")];
    let arguments = if kind == "quic" { &["serve", kind, &tls[0], &tls[1]][..] } else { &["serve", kind] };
    let mut peer = Peer::start(arguments).await;
    let line = peer.line().await;
    let at = line.strip_prefix("listening ").expect("an address");
    let builder = TransportClientBuilder::new().wire(Wire::V1).limits(limits());
    let builder = match kind {
        "tcp" => builder.with_protocol(TcpClientConfig::new(at)),
        "ws" => builder.with_protocol(WebSocketClientConfig::new(format!("ws://{at}/ws"))),
        _ => builder.with_protocol(QuicClientConfig::new(at).tls(trust)),
    };
    let client = builder.build().await.unwrap();
    let (ends, mut ended) = mpsc::channel(1);
    let (echoes, mut echoed) = mpsc::channel(1100);
    // It may begin to listen a little after it has said so.
    within(async {
        while let Err(error) =
            client.connect_with(|session| answer(session, ends.clone(), echoes.clone())).await
        {
            assert!(error.is_retryable(), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let session = client.session().unwrap();
    assert_eq!(session.wire(), Wire::V1);
    let mut missing: HashSet<Bytes> = (0..1000_u32).map(|i| Bytes::from(i.to_be_bytes().to_vec())).collect();
    for body in missing.clone() {
        session.send(Packet::new(body).with_biz_type(3).with_ext_header("x")).await.unwrap();
    }
    within(async {
        while !missing.is_empty() {
            let echo = echoed.recv().await.unwrap();
            assert_eq!((echo.biz_type, &echo.ext_header[..]), (3, &b"x"[..]));
            assert!(missing.remove(&echo.payload), "an echo that was not asked for");
        }
    })
    .await;
    ask(&session).await;
    session.send(Packet::text("ask me").with_biz_type(ASK_ME)).await.unwrap();
    assert_eq!(within(echoed.recv()).await.unwrap().biz_type, ASKED);
    client.disconnect().await;
    assert!(matches!(session.closed().await, CloseReason::Closed { code: 1000, .. }));
    assert_eq!(within(ended.recv()).await.unwrap(), Ok(()));
    peer.end().await;
}

async fn their_client(kind: &str) {
    let any = "127.0.0.1:0";
    let builder = TransportServerBuilder::new().limits(limits());
    let builder = match kind {
        "tcp" => builder.with_protocol(TcpServerConfig::new(any)),
        "ws" => builder.with_protocol(WebSocketServerConfig::new(any).path("/ws")),
        _ => builder.with_protocol(QuicServerConfig::new(any).tls(Tls::self_signed_dev().unwrap())),
    };
    let server = builder.build().await.unwrap();
    let at = server.local_addrs()[0].to_string();
    let (ends, mut ended) = mpsc::channel(1);
    // Nobody here waits for echoes: what comes is echoed.
    let echoes = mpsc::channel(1).0;
    let serving = server.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        serving.serve_with(move |session| answer(session, ends.clone(), echoes.clone())).await
    });
    let mut peer = Peer::start(&["ask", kind, &at]).await;
    assert_eq!(peer.line().await, "fine");
    assert_eq!(within(ended.recv()).await.unwrap(), Ok(()), "its end was clean");
    drop(peer.input.take());
    let status = spawn_blocking(move || peer.child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    let stats = server.stats();
    assert!(stats.received_requests >= u64::from(REQUESTS) && stats.sent_requests >= u64::from(REQUESTS));
    let report = within(server.shutdown()).await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_a_msgtrans_server_over_tcp() {
    their_server("tcp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_a_msgtrans_server_over_websocket() {
    their_server("ws").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_a_msgtrans_server_over_quic() {
    their_server("quic").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_a_msgtrans_client_over_tcp() {
    their_client("tcp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_a_msgtrans_client_over_websocket() {
    their_client("ws").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_a_msgtrans_client_over_quic() {
    their_client("quic").await;
}
