//! The real `msgtrans` as a peer of our tests: `serve KIND [CERTIFICATE KEY]` answers until its input ends, `ask KIND ADDRESS`
//! asks a server of ours and waits for that too. Both ask 10,000 requests and answer as many.
//!
//! KIND is `tcp`, `ws` or `quic`; QUIC has a certificate and its key in PEM files. It says `listening ADDRESS`, or `fine`, on its output; anything wrong is a panic.
//!
//! What both sides of a test agree on: a one-way packet is echoed with its extension header; a request is answered by its
//! payload, with `biz_type` 7 compressed by zlib and with 8 by zstd; a one-way packet of `biz_type` 99 wants to be asked, and
//! one of 98 says that this is done. `bench-serve` and `bench-load` are another peer: see `bench`.

mod bench;

use std::{
    collections::HashSet,
    future::Future,
    net::{TcpListener, UdpSocket},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use msgtrans::{
    ClientEvent, ClientEvents, CompressionType, Packet, QuicClientConfig, QuicServerConfig, RequestOptions,
    Responder, SendOptions, SessionHandler, SessionId, SessionSender, TcpClientConfig, TcpServerConfig,
    TransportClient, TransportClientBuilder, TransportServer, TransportServerBuilder, WebSocketClientConfig,
    WebSocketServerConfig,
};
use tokio::{
    io::AsyncReadExt,
    task::{JoinHandle, JoinSet},
};

/// Requests each way.
const REQUESTS: u32 = 10_000;
/// How many of them are in flight.
const AT_ONCE: u32 = 64;
/// Payloads from nothing to the largest that msgtrans takes.
const SIZES: [usize; 7] = [0, 1, 65_535, 65_536, 1 << 20, (16 << 20) - 1, 16 << 20];

const ASK_ME: u8 = 99;
const ASKED: u8 = 98;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", kind] => serve(kind, None).await,
        ["serve", kind, certificate, key] => serve(kind, Some([certificate, key])).await,
        ["ask", kind, address] => ask(kind, address).await,
        ["bench-serve", kind, folder] => bench::serve(kind, folder).await,
        ["bench-load", kind, address, pattern, connections, size, seconds, ..] => {
            bench::load(kind, address, pattern, [connections, size, seconds]).await;
        }
        _ => panic!("serve KIND [CERTIFICATE KEY] | ask KIND ADDRESS | bench-serve … | bench-load …"),
    }
}

/// Asks everything by `request` and checks each answer.
async fn ask_all<F, Fut>(request: F)
where
    F: Fn(Vec<u8>, RequestOptions) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Bytes> + Send,
{
    let patient = || RequestOptions::new().timeout(Duration::from_secs(100));
    let mut tasks = JoinSet::new();
    for worker in 0..AT_ONCE {
        let request = request.clone();
        tasks.spawn(async move {
            for i in (worker..REQUESTS).step_by(AT_ONCE as usize) {
                let answer = request(i.to_be_bytes().to_vec(), patient()).await;
                assert_eq!(answer[..], i.to_be_bytes());
            }
        });
    }
    tasks.join_all().await;
    for size in SIZES {
        let body = pattern(size);
        let options = patient().ext_header(Bytes::from(pattern(size.min(65_535))));
        let answer = request(body.clone(), options).await;
        assert!(answer[..] == body[..], "{size} bytes have changed");
    }
    for (how, biz_type) in [(CompressionType::Zlib, 7), (CompressionType::Zstd, 8)] {
        for size in [0, 100, 65_536, 8 << 20] {
            let options =
                patient().compression(how).biz_type(biz_type).ext_header(Bytes::from_static(b"route:abc"));
            let answer = request(vec![5; size], options).await;
            assert!(answer.len() == size && answer.iter().all(|byte| *byte == 5), "{how:?}, {size}");
        }
    }
}

/// How a request is answered.
fn answer_options(biz_type: u8) -> SendOptions {
    match biz_type {
        7 => SendOptions::new().compression(CompressionType::Zlib),
        8 => SendOptions::new().compression(CompressionType::Zstd),
        _ => SendOptions::new(),
    }
}

struct Echo(OnceLock<TransportServer>);

#[async_trait::async_trait]
impl SessionHandler for Echo {
    async fn on_message(&self, session: SessionId, packet: Packet, sender: SessionSender) {
        if packet.biz_type() == ASK_ME {
            let server = self.0.get().expect("it serves").clone();
            // Beside the handler, which is called one by one.
            tokio::spawn(async move {
                let asking = server.clone();
                ask_all(move |body, options| {
                    let server = asking.clone();
                    async move {
                        server.request_with_options(session, body.into(), options).await.expect("an answer")
                    }
                })
                .await;
                let asked = SendOptions::new().biz_type(ASKED);
                server
                    .send_with_options(session, Bytes::from_static(b"asked"), asked)
                    .await
                    .expect("it is sent");
            });
            return;
        }
        let mut options = SendOptions::new().biz_type(packet.biz_type());
        if packet.ext_header_len() > 0 {
            options = options.ext_header(Bytes::copy_from_slice(packet.ext_header()));
        }
        sender.send_data_with_options(packet.into_payload(), options).await.expect("the echo is sent");
    }

    async fn on_request(&self, _: SessionId, request: Packet, responder: Responder) {
        let options = answer_options(request.biz_type());
        responder.respond_with_options(request.into_payload(), options).await.expect("the answer is sent");
    }
}

async fn serve(kind: &str, tls: Option<[&str; 2]>) {
    let tls = tls.map(|files| files.map(|file| std::fs::read_to_string(file).expect("a PEM file")));
    let (builder, address) = listen_on(TransportServerBuilder::new(), kind, tls);
    let echo = Arc::new(Echo(OnceLock::new()));
    let server = builder.build(echo.clone()).await.expect("it is built");
    assert!(echo.0.set(server.clone()).is_ok());
    let serving = server.clone();
    let task = tokio::spawn(async move { serving.serve().await });
    println!("listening {address}");
    until_input_ends().await;
    server.shutdown().await;
    task.await.expect("it served").expect("it served well");
    println!("fine");
}

/// With a free port of this machine, and the address; `tls` is a certificate and its key.
fn listen_on(
    builder: TransportServerBuilder,
    kind: &str,
    tls: Option<[String; 2]>,
) -> (TransportServerBuilder, String) {
    // msgtrans tells no port that it has chosen, so one is chosen for it.
    let tcp = || TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let udp = || UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let address = if kind == "quic" { udp() } else { tcp() }.expect("a free port").to_string();
    let builder = match kind {
        "tcp" => builder.protocol(TcpServerConfig::new(&address).expect("an address")),
        "ws" | "websocket" => {
            builder.protocol(WebSocketServerConfig::new(&address).expect("an address").path("/ws"))
        }
        "quic" => {
            let [certificate, key] = tls.expect("QUIC needs a certificate");
            let config = QuicServerConfig::new(&address).expect("an address");
            builder.protocol(config.cert_pem(certificate).key_pem(key))
        }
        other => panic!("no kind {other}"),
    };
    (builder, address)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + (i >> 8)) as u8).collect()
}

async fn connect(kind: &str, address: &str) -> TransportClient {
    let mut client = client(kind, address).await;
    client.connect().await.expect("it connects");
    client
}

/// One that is not connected.
async fn client(kind: &str, address: &str) -> TransportClient {
    let builder = TransportClientBuilder::new();
    let builder = match kind {
        "tcp" => builder.protocol(TcpClientConfig::new(address).expect("an address")),
        "ws" | "websocket" => {
            builder.protocol(WebSocketClientConfig::new(&format!("ws://{address}/ws")).expect("a URL"))
        }
        "quic" => {
            builder.protocol(QuicClientConfig::new(address).expect("an address").danger_skip_verification())
        }
        other => panic!("no kind {other}"),
    };
    builder.build().await.expect("it is built")
}

async fn ask(kind: &str, address: &str) {
    let client = Arc::new(connect(kind, address).await);
    let listening = listen(client.events().await.expect("its events"));
    // One-way, and back.
    for i in 0..1000_u32 {
        let options = SendOptions::new().biz_type(3).ext_header(Bytes::from_static(b"x"));
        client.send_with_options(i.to_be_bytes().to_vec(), options).await.expect("it is sent");
    }
    let asking = Arc::clone(&client);
    ask_all(move |body, options| {
        let client = Arc::clone(&asking);
        async move { client.request_with_options(body.into(), options).await.expect("an answer") }
    })
    .await;
    let ask_me = SendOptions::new().biz_type(ASK_ME);
    client.send_with_options(Bytes::from_static(b"ask me"), ask_me).await.expect("it is sent");
    listening.await.expect("every echo and every question");
    client.disconnect().await.expect("it disconnects");
    println!("fine");
    // Over QUIC its end is only told some time after it has disconnected, if the process lives so long.
    until_input_ends().await;
}

async fn until_input_ends() {
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await.expect("the input ends");
}

/// Answers what is asked, until every echo is there and everything has been asked.
fn listen(mut events: ClientEvents) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut missing: HashSet<Bytes> =
            (0..1000_u32).map(|i| Bytes::from(i.to_be_bytes().to_vec())).collect();
        let mut answers = JoinSet::new();
        loop {
            match events.next().await.expect("an event") {
                ClientEvent::Message(message) if message.biz_type() == ASKED => break,
                ClientEvent::Message(message) => {
                    assert_eq!((message.biz_type(), message.ext_header()), (3, Some(&b"x"[..])));
                    assert!(missing.remove(message.payload()), "an echo that was not asked for");
                }
                ClientEvent::Request(request) => {
                    answers.spawn(async move {
                        let options = answer_options(request.biz_type());
                        let body = request.payload().clone();
                        request.respond_with_options(body, options).await.expect("the answer is sent");
                    });
                }
                ClientEvent::Disconnected { reason } => panic!("{reason:?}"),
                _ => {}
            }
            while let Some(answered) = answers.try_join_next() {
                answered.expect("an answer");
            }
        }
        answers.join_all().await;
        assert!(missing.is_empty(), "{} echoes are missing", missing.len());
    })
}
