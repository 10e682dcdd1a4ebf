//! Answers that are too large, garbage or no answers: each a typed failure, and the next call flows.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use trunkline_gateway::upstream::{InstanceSnapshot, UpstreamOptions, Upstreams};
use trunkline_service::Code;

use crate::fake::{Bench, Fake, Mode, call, caller, fixed, registration, within};

#[tokio::test(start_paused = true)]
async fn s6_an_answer_of_2_mib_is_too_large_and_the_next_call_flows() {
    let bench = Bench::new(|_| {});
    let fake = bench.fakes(1, "003").await.remove(0);
    for bytes in [2 * 1024 * 1024, 1024 * 1024, 64 * 1024 * 1024] {
        fake.set(Mode::Large(bytes));
        assert_eq!(bench.call("big").await.unwrap_err().code, Code::TooLarge, "{bytes}");
        fake.set(Mode::Good);
        assert_eq!(bench.who("small").await, "u1:1");
    }
    fake.set(Mode::Large(1_000_000));
    assert_eq!(bench.call("fits").await.unwrap().data.len(), 1_000_000);
    let snapshot = bench.router.snapshot();
    assert_eq!((snapshot.instances[0].state, snapshot.instances[0].failures), ("up", 0));
    assert_eq!(fake.seen.lock().connections, 1, "on the same connection");
}

/// A router with these two upstreams on TCP, whose probes must not disturb.
fn router(bench: &Bench, addresses: &[&str]) -> std::sync::Arc<Upstreams> {
    let statics = addresses.iter().map(|address| fixed(&registration(address, "*"))).collect();
    let mut options = UpstreamOptions { statics, ..UpstreamOptions::default() };
    options.call_timeout = std::time::Duration::from_secs(5);
    Upstreams::new(options, bench.broker.clone())
}

/// Accepts on TCP and does this with each connection.
async fn listen<F>(each: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> (String, JoinSet<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut life = JoinSet::new();
    life.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(each(stream));
        }
    });
    (address, life)
}

#[tokio::test]
async fn a_peer_that_speaks_no_http2_is_down_and_its_calls_are_503() {
    let bench = Bench::new(|_| {});
    let (garbage, _life) = listen(|mut stream| async move {
        let noise: Vec<u8> = (0..4_096).map(|at: u32| (at * 7 + 1) as u8).collect();
        let _gone = stream.write_all(&noise).await;
        let _gone = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let router = router(&bench, &[&garbage]);
    within("its being down", router.until(|all| all[0].state == "down")).await;
    let status = within("the call", router.call(&caller(), call("get.x"))).await.unwrap_err();
    assert_eq!(status.code, Code::Overloaded, "{status}");
    let good = Fake::listen_tcp().await;
    let both = self::router(&bench, &[&garbage, &good.address]);
    let states = |all: &[InstanceSnapshot]| all.iter().filter(|one| one.state == "up").count() == 1;
    within("the good one's being up", both.until(states)).await;
    for _ in 0..20 {
        let reply = within("the call", both.call(&caller(), call("put"))).await.unwrap();
        assert_eq!(reply.data, good.address);
    }
}

/// Connections of a peer: those that are open, and how many there ever were.
#[derive(Clone, Default)]
struct Connections {
    open: watch::Sender<usize>,
    seen: watch::Sender<usize>,
}

impl Connections {
    fn come(&self) {
        self.open.send_modify(|open| *open += 1);
        self.seen.send_modify(|seen| *seen += 1);
    }

    fn go(&self) {
        self.open.send_modify(|open| *open -= 1);
    }

    /// Three have been made one after the other, and those before the last have ended.
    async fn come_and_go(&self) {
        let mut seen = self.seen.subscribe();
        within("three of them", seen.wait_for(|seen| *seen >= 3)).await.unwrap();
        let mut open = self.open.subscribe();
        within("the former ones' ends", open.wait_for(|open| *open <= 1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_peer_that_takes_connections_and_says_nothing_keeps_none_of_them() {
    let bench = Bench::new(|_| {});
    let connections = Connections::default();
    let counted = connections.clone();
    let (silent, _life) = listen(move |mut stream| {
        let counted = counted.clone();
        async move {
            counted.come();
            let _end = stream.read_to_end(&mut Vec::new()).await;
            counted.go();
        }
    })
    .await;
    let statics = vec![fixed(&registration(&silent, "*"))];
    let mut options = UpstreamOptions { statics, ..UpstreamOptions::default() };
    options.connect_timeout = Duration::from_millis(50);
    let router = Upstreams::new(options, bench.broker.clone());
    connections.come_and_go().await;
    let status = within("the call", router.call(&caller(), call("get.x"))).await.unwrap_err();
    assert_eq!(status.code, Code::Overloaded, "nothing was sent: {status}");
}

#[tokio::test]
async fn a_peer_that_takes_no_call_keeps_no_connection() {
    let bench = Bench::new(|_| {});
    let connections = Connections::default();
    let counted = connections.clone();
    let (full, _life) = listen(move |stream| {
        let counted = counted.clone();
        async move {
            counted.come();
            let builder = h2::server::Builder::new().max_concurrent_streams(0).handshake::<_, Bytes>(stream);
            if let Ok(mut connection) = builder.await {
                while connection.accept().await.is_some_and(|request| request.is_ok()) {}
            }
            counted.go();
        }
    })
    .await;
    let options = UpstreamOptions {
        statics: vec![fixed(&registration(&full, "*"))],
        connect_timeout: Duration::from_millis(200),
        ..UpstreamOptions::default()
    };
    let router = Upstreams::new(options, bench.broker.clone());
    connections.come_and_go().await;
    let status = within("the call", router.call(&caller(), call("get.x"))).await.unwrap_err();
    assert_eq!(status.code, Code::Overloaded, "nothing was sent: {status}");
}

type Responding = h2::server::SendResponse<Bytes>;

/// What an instance says to a request.
type Answer = fn(Responding);

/// An HTTP/2 server without gRPC: probes are `UNIMPLEMENTED` for it, calls get `answer`.
async fn http2(answer: Answer) -> (String, JoinSet<()>) {
    let unimplemented = |mut respond: Responding| {
        let _gone = respond.send_response(head(200, Some("12")), true);
    };
    http2_probed(unimplemented, answer).await
}

/// The same with this answer to probes.
async fn http2_probed(probe: Answer, answer: Answer) -> (String, JoinSet<()>) {
    listen(move |stream| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, respond))) = connection.accept().await {
            match request.uri().path().ends_with("ProcessRequest") {
                true => answer(respond),
                false => probe(respond),
            }
        }
    })
    .await
}

/// A head of gRPC's, with a status or without one.
fn head(http: u16, status: Option<&'static str>) -> http::Response<()> {
    let head = http::Response::builder().status(http).header("content-type", "application/grpc");
    match status {
        Some(status) => head.header("grpc-status", status).body(()).unwrap(),
        None => head.body(()).unwrap(),
    }
}

/// A head, a body, and trailers with a status or none.
fn answer(
    mut respond: Responding,
    head: http::Response<()>,
    body: &'static [u8],
    status: Option<&'static str>,
) {
    let mut stream = respond.send_response(head, false).unwrap();
    stream.send_data(Bytes::from_static(body), status.is_none()).unwrap();
    if let Some(status) = status {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static(status));
        stream.send_trailers(trailers).unwrap();
    }
}

fn grpc_body(respond: Responding, body: &'static [u8]) {
    answer(respond, head(200, None), body, Some("0"));
}

#[tokio::test]
async fn garbage_in_an_answer_is_502_and_not_repeated() {
    let answers: [Answer; 6] = [
        // A message whose bytes are no protobuf.
        |respond| grpc_body(respond, b"\0\0\0\0\x05\xff\xff\xff\xff\xff"),
        // A message that is cut.
        |respond| grpc_body(respond, b"\0\0\0\xff\x05short"),
        // No message at all.
        |respond| grpc_body(respond, b""),
        // A flag that does not exist.
        |respond| grpc_body(respond, b"\x09\0\0\0\x01x"),
        // A web page.
        |respond| answer(respond, page(200), b"<html>no upstream here</html>", None),
        // A stream that is cut off.
        |mut respond| respond.send_reset(h2::Reason::INTERNAL_ERROR),
    ];
    for (at, answer) in answers.into_iter().enumerate() {
        let bench = Bench::new(|_| {});
        let (address, _life) = http2(answer).await;
        let router = router(&bench, &[&address]);
        within("its being up", router.until(|all| all[0].state == "up")).await;
        let status = within("the call", router.call(&caller(), call("put"))).await.unwrap_err();
        assert_eq!(status.code, Code::UpstreamFailed, "answer {at}: {status}");
        assert_eq!(router.snapshot().instances[0].calls, 1, "answer {at}");
    }
}

/// A web page's head.
fn page(http: u16) -> http::Response<()> {
    http::Response::builder().status(http).header("content-type", "text/html").body(()).unwrap()
}

#[tokio::test]
async fn a_server_of_the_web_passes_no_probe() {
    let probes: [(Answer, &str); 4] = [
        (|respond| answer(respond, page(404), b"<html>not found</html>", None), "HTTP status 404"),
        (
            |mut respond| {
                let _gone = respond.send_response(page(404), true);
            },
            "HTTP status 404",
        ),
        (|respond| answer(respond, page(200), b"<html>hello</html>", None), "Internal"),
        (|respond| answer(respond, page(404), b"", Some("0")), "HTTP status 404"),
    ];
    for (probe, why) in probes {
        let bench = Bench::new(|_| {});
        let (address, _life) = http2_probed(probe, |respond| grpc_body(respond, MESSAGE)).await;
        let good = Fake::listen_tcp().await;
        let router = router(&bench, &[&address, &good.address]);
        let of = |all: &[InstanceSnapshot]| -> InstanceSnapshot {
            all.iter().find(|one| one.address == address).expect("it is listed").clone()
        };
        let up = |all: &[InstanceSnapshot]| all.iter().filter(|one| one.state == "up").count();
        let judged = router.until(|all| of(all).state == "down" && up(all) == 1);
        within("its being down", judged).await;
        let told = of(&router.snapshot().instances).why;
        assert!(told.contains(why), "{told}");
        for _ in 0..20 {
            let reply = within("the call", router.call(&caller(), call("put"))).await.unwrap();
            assert_eq!(reply.data, good.address);
        }
        assert_eq!(of(&router.snapshot().instances).calls, 0, "nothing was sent there");
    }
}

/// `UNIMPLEMENTED` is gRPC's own word, wherever it stands: who says so speaks gRPC.
#[tokio::test]
async fn an_instance_without_get_status_passes_by_saying_so_in_grpc() {
    let probes: [Answer; 3] = [
        |respond| answer(respond, head(200, None), b"", Some("12")),
        |respond| answer(respond, head(200, Some("12")), b"", None),
        |mut respond| {
            let _gone = respond.send_response(head(404, Some("12")), true);
        },
    ];
    for probe in probes {
        let bench = Bench::new(|_| {});
        let (address, _life) = http2_probed(probe, |respond| grpc_body(respond, MESSAGE)).await;
        let router = router(&bench, &[&address]);
        within("its being up", router.until(|all| all[0].state == "up")).await;
        assert_eq!(within("the call", router.call(&caller(), call("put"))).await.unwrap().code, 200);
    }
}

/// An UpstreamResponse with code 200, in its frame.
const MESSAGE: &[u8] = b"\0\0\0\0\x03\x08\xc8\x01";

/// The protocol knows a status in a head only where nothing follows it (Trailers-Only); of an answer with a body the
/// trailers say how it ended, and without them nobody does.
#[tokio::test]
async fn a_status_in_the_head_counts_where_the_head_is_all() {
    let answers: [(Answer, Result<i32, Code>); 8] = [
        (|respond| answer(respond, head(200, Some("0")), MESSAGE, Some("0")), Ok(200)),
        (|respond| answer(respond, head(200, Some("5")), MESSAGE, Some("0")), Ok(200)),
        (|respond| answer(respond, head(200, Some("0")), MESSAGE, Some("5")), Err(Code::NotFound)),
        (|respond| answer(respond, head(200, Some("0")), MESSAGE, None), Err(Code::UpstreamFailed)),
        (|respond| answer(respond, head(200, Some("5")), MESSAGE, None), Err(Code::UpstreamFailed)),
        (|respond| answer(respond, head(200, Some("5")), b"", None), Err(Code::NotFound)),
        (
            |mut respond| {
                let _gone = respond.send_response(head(200, Some("5")), true);
            },
            Err(Code::NotFound),
        ),
        (
            |mut respond| {
                let _gone = respond.send_response(head(200, Some("0")), true);
            },
            Err(Code::UpstreamFailed),
        ),
    ];
    for (at, (answer, expected)) in answers.into_iter().enumerate() {
        let bench = Bench::new(|_| {});
        let (address, _life) = http2(answer).await;
        let router = router(&bench, &[&address]);
        within("its being up", router.until(|all| all[0].state == "up")).await;
        let said = within("the call", router.call(&caller(), call("put"))).await;
        assert_eq!(said.map(|reply| reply.code).map_err(|status| status.code), expected, "answer {at}");
    }
}

#[tokio::test]
async fn a_refused_stream_did_not_run_and_goes_elsewhere() {
    let bench = Bench::new(|_| {});
    let (refusing, _life) = http2(|mut respond| respond.send_reset(h2::Reason::REFUSED_STREAM)).await;
    let good = Fake::listen_tcp().await;
    let router = router(&bench, &[&refusing, &good.address]);
    within("both being up", router.until(|all| all.iter().all(|one| one.state == "up"))).await;
    for _ in 0..20 {
        let reply = within("the call", router.call(&caller(), call("put"))).await.unwrap();
        assert_eq!(reply.data, good.address);
    }
    assert!(router.snapshot().traffic.retries > 0, "some of them were refused first");
}

#[tokio::test]
async fn an_instance_that_dies_in_a_call_is_502() {
    let bench = Bench::new(|_| {});
    let fake = Fake::listen_tcp().await;
    fake.set(Mode::Hang);
    let router = router(&bench, &[&fake.address]);
    within("its being up", router.until(|all| all[0].state == "up")).await;
    let calling = router.clone();
    let mut calls = JoinSet::new();
    calls.spawn(async move { calling.call(&caller(), call("put")).await });
    fake.until(|seen| seen.running == 1).await;
    fake.kill();
    let status = within("the call", calls.join_next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code, Code::UpstreamFailed);
    within("its being down", router.until(|all| all[0].state == "down")).await;
}
