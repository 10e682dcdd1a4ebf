//! R6: mutated bytes through every decoder of the transport library. What is taken means the same in one piece and in two.

use std::io;

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use trunkline_testkit::mutation::fuzz;
use trunkline_transport::{
    CloseReason, Compression, ConnectOptions, CustomProtocol, Dictionary, Endpoint, Flags, FrameKind,
    Framing, Incoming, Link, Middleware, Packet, Role, Session, Socket, StreamOptions,
    TransportServerBuilder, WebSocketListener, WebSocketOptions, Wire, connect, memory, websocket,
};

use crate::rig::{echo, within};

/// Limits are borders too, so they are small.
const LIMIT: usize = 4096;

const WORDS: &[&[u8]] = &[
    // Versions, types and compressions.
    &[1, 0, 0],
    &[2, 0, 1],
    &[2, 2, 2],
    &[2, 1, 0],
    &[2, 3, 0],
    &[2, 0, 16, 0],
    &[2, 0, 17, 0],
    &[2, 0, 18, 0],
    &[2, 0, 19, 0],
    &[2, 0, 20, 0],
    // Lengths at their limits.
    &[0, 0, 0x10, 0],
    &[0, 0, 0x10, 1],
    &[0xFF; 4],
    // Magic numbers of zstd and zlib.
    &[0x28, 0xB5, 0x2F, 0xFD],
    &[0x78, 0x9C],
];

fn packets() -> Vec<Packet> {
    let flagged = |packet: Packet, flags| {
        let mut packet = packet;
        packet.flags = flags;
        packet
    };
    let long = vec![b'x'; 2_000];
    vec![
        Packet::one_way(42, "hello world").with_biz_type(5),
        Packet::request(100, "ping").with_ext_header("route:abc"),
        Packet::response(100, "pong"),
        Packet::one_way(7, long.clone()).with_compression(Compression::Zlib),
        Packet::request(8, long.clone()).with_compression(Compression::Zstd),
        flagged(Packet::request(9, "many"), Flags::STREAM),
        flagged(Packet::response(9, "one of them"), Flags::MORE),
        flagged(Packet::response(10, vec![3, 0xF5, b'n', b'o']), Flags::ERROR),
        flagged(Packet::one_way(11, "by a lane"), Flags::from_bits(0x0700)),
        Packet::one_way(12, long),
    ]
}

/// The control packets of version 2, from the description of the wire: type, number, body.
fn controls() -> Vec<Vec<u8>> {
    let control = |kind: u8, id: u32, body: &[u8]| {
        let length = u32::try_from(body.len()).unwrap();
        [&[2, 0, kind, 0], &id.to_be_bytes()[..], &[0, 0], &length.to_be_bytes(), &[0, 0], body].concat()
    };
    vec![
        control(16, 0, &[0, 0, 0, 0, 0, 0, 0, 9, 3]),
        control(17, 0, &[0, 0, 0, 0, 0, 0, 0, 9, 3]),
        // It names a dictionary.
        control(17, 0, &[0, 0, 0, 0, 0, 0, 0, 9, 11, 1, 2, 3, 4, 5, 6, 7, 8]),
        control(18, 0, b"\x03\xE9going away"),
        control(19, 100, b""),
        control(20, 9, &[0, 0, 0x10, 0]),
    ]
}

/// A packet that is compressed with a dictionary, as far as that goes: its one block is as it is (RFC 8878, section 3.1.1).
fn with_dictionary(dictionary: &Dictionary) -> Vec<u8> {
    let [.., a, b, c, d] = dictionary.id().to_be_bytes();
    let frame = b"\x28\xB5\x2F\xFD\x20\x05\x29\0\0hello";
    let head = [2, 3, 0, 0, 0, 0, 0, 13, 0, 0, 0, 0, 0, 4 + frame.len() as u8, 0, 0];
    [&head[..], &[a, b, c, d], frame].concat()
}

fn encoded() -> Vec<Vec<u8>> {
    let write = |wire| packets().into_iter().map(move |packet| packet.to_bytes(wire).unwrap().to_vec());
    write(Wire::V1).chain(write(Wire::V2)).collect()
}

#[test]
fn r6_packets() {
    fuzz("transport: packets", &encoded(), WORDS, |input| {
        let Ok(packet) = Packet::from_bytes(Bytes::copy_from_slice(input), LIMIT) else { return false };
        let wire = if input[0] == 1 { Wire::V1 } else { Wire::V2 };
        let again = packet.to_bytes(wire).unwrap();
        if packet.compression == Compression::None {
            assert_eq!(again, input, "a packet is written as it was read");
        }
        true
    });
}

/// What a reader makes of bytes that come in these pieces, and whether it took all of them.
fn read(framing: Framing, pieces: [&[u8]; 2]) -> (Vec<Incoming>, bool) {
    let (mut writer, mut reader) = memory::pair(framing, LIMIT);
    let mut got = Vec::new();
    for piece in pieces.into_iter().flat_map(|piece| piece.chunks(16 << 10)) {
        writer.writer.write_all(piece).now_or_never().expect("the pipe is empty").unwrap();
        loop {
            match reader.reader.next().now_or_never() {
                Some(Ok(Some(incoming))) => got.push(incoming),
                Some(Ok(None)) => return (got, true),
                Some(Err(_)) => return (got, false),
                None => break,
            }
        }
    }
    let is_whole = !reader.reader.is_mid_frame();
    (got, is_whole)
}

/// Bytes through a reader: whether it took some and broke off at none. How they were cut must not matter.
fn frames(framing: Framing, input: &[u8]) -> bool {
    let whole = read(framing, [input, &[]]);
    // Anywhere, but the same place each time.
    let sum = input.iter().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let (first, rest) = input.split_at(sum % (input.len() + 1));
    assert_eq!(read(framing, [first, rest]), whole, "cut at {}", first.len());
    whole.1 && !whole.0.is_empty()
}

#[test]
fn r6_streams_of_packets() {
    let mut seeds = encoded();
    seeds.extend(controls());
    seeds.push(seeds.concat());
    fuzz("transport: a stream of packets", &seeds, WORDS, |input| frames(Framing::Packet, input));
}

#[test]
fn r6_length_frames() {
    let bodies = [&b""[..], b"x", &[7; 300], &[8; LIMIT]];
    let mut seeds: Vec<_> =
        bodies.iter().map(|body| Framing::Length.frame(FrameKind::Binary, body).to_vec()).collect();
    seeds.push(seeds.concat());
    fuzz("transport: length-prefixed frames", &seeds, WORDS, |input| frames(Framing::Length, input));
}

/// Frames as this role writes them: text, bytes, a message in fragments with a ping between them, a close.
fn messages(role: Role) -> Vec<Vec<u8>> {
    let framing = Framing::WebSocket { role };
    let mut seeds = Vec::new();
    for text in ["", "hello", "grüße, ひらがな", &"x".repeat(200), &"y".repeat(LIMIT)] {
        seeds.push(framing.frame(FrameKind::Text, text.as_bytes()).to_vec());
        seeds.push(framing.frame(FrameKind::Binary, text.as_bytes()).to_vec());
    }
    seeds.push(framing.ping(b"are you there").unwrap().to_vec());
    seeds.push(framing.pong(b"yes").unwrap().to_vec());
    let mut begin = framing.frame(FrameKind::Text, "anfang ü".as_bytes()).to_vec();
    begin[0] &= 0x7F;
    let mut end = framing.frame(FrameKind::Text, "end".as_bytes()).to_vec();
    end[0] &= 0xF0;
    seeds.push([begin, framing.ping(b"").unwrap().to_vec(), end].concat());
    seeds.push(seeds.concat());
    seeds.push(framing.close(1000, "done").unwrap().to_vec());
    seeds
}

/// First bytes, lengths, keys, and pieces of characters.
const WEBSOCKET: &[&[u8]] = &[
    b"\x81",
    b"\x82",
    b"\x01",
    b"\x00",
    b"\x80",
    b"\x88",
    b"\x89",
    b"\x8A",
    b"\xC1",
    b"\x7E\x00\x7E",
    b"\x7F\0\0\0\0\0\x01\0\0",
    b"\xFE\x10\0",
    b"\xFE\x10\x01",
    b"\0\0\0\0",
    b"\xE3\x81",
    b"\xED\xA0\x80",
    b"\xF4\x90\x80\x80",
    b"\x03\xE8",
    b"\x03\xED",
];

#[test]
fn r6_websocket_frames() {
    // The first end of a pair has the role given, and writes what the other one reads.
    for (what, role) in [
        ("transport: WebSocket frames of a client", Role::Client),
        ("transport: WebSocket frames of a server", Role::Server),
    ] {
        fuzz(what, &messages(role), WEBSOCKET, |input| frames(Framing::WebSocket { role }, input));
    }
}

#[test]
fn r6_endpoints() {
    let seeds = [
        "tcp://127.0.0.1:80",
        "tls://host.example:443/",
        "ws://[::1]:8080/path?query=1",
        "wss://host/ws",
        "quic://host:4433",
        "wt://host",
        "https://host/wt",
        "unix:///run/socket",
    ];
    let words: [&[u8]; 10] = [b"://", b":", b"/", b"[", b"]", b"@", b"?", b"#", b":65536", b"%00"];
    let seeds: Vec<_> = seeds.iter().map(|url| url.as_bytes().to_vec()).collect();
    fuzz("transport: endpoints", &seeds, &words, |input| {
        let Ok(endpoint) = Endpoint::from_url(&String::from_utf8_lossy(input)) else { return false };
        let again = Endpoint::from_url(&endpoint.to_string());
        assert_eq!(again.as_ref(), Ok(&endpoint), "{endpoint}");
        true
    });
}

/// A protocol whose peers are byte streams that a test has made.
struct Pipes {
    newcomers: Mutex<Option<Receiver<Link>>>,
}

impl CustomProtocol for Pipes {
    type Listener = Receiver<Link>;

    fn name(&self) -> &'static str {
        "pipes"
    }

    async fn bind(&self) -> io::Result<Receiver<Link>> {
        self.newcomers.lock().take().ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }

    async fn accept(listener: &mut Receiver<Link>) -> io::Result<Link> {
        listener.recv().await.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    async fn connect(&self) -> io::Result<Link> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

/// Tells how each connection has ended.
struct Ends(Sender<CloseReason>);

impl Middleware for Ends {
    fn on_close(&self, _: &Session, reason: &CloseReason) {
        // There is one at a time, and somebody waits for it.
        self.0.try_send(reason.clone()).expect("room for one");
    }
}

/// Time passes when there is nothing else to do, so that no deadline is waited for.
fn timeless() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Whole connections: control packets, answers that nobody waits for, streams that nobody has asked for, compressed payloads.
#[test]
fn r6_sessions() {
    let runtime = timeless();
    let (arrive, newcomers) = channel(1);
    let (end, mut ended) = channel(1);
    let dictionary = Dictionary::new("what many messages begin with").unwrap();
    let mut serve = tokio::task::JoinSet::new();
    runtime.block_on(async {
        let pipes = Pipes { newcomers: Mutex::new(Some(newcomers)) };
        let limits = trunkline_transport::Limits::new().message(LIMIT);
        let builder = TransportServerBuilder::new().limits(limits).with_middleware(Ends(end));
        let builder = builder.dictionary(dictionary.clone());
        let server = builder.with_protocol(pipes).build().await.unwrap();
        serve.spawn(async move { server.serve_with(echo).await });
    });
    let mut seeds = encoded();
    seeds.extend(controls());
    seeds.push(with_dictionary(&dictionary));
    let all: Vec<u8> = controls().concat().into_iter().chain(seeds.concat()).collect();
    seeds.push(all);
    fuzz("transport: a connection", &seeds, WORDS, |input| {
        runtime.block_on(async {
            let (mut ours, theirs) = duplex(1 << 20);
            arrive.send(Link::bytes(theirs)).await.unwrap();
            // It may have hung up.
            let _ = ours.write_all(input).await;
            let _ = ours.shutdown().await;
            let _ = ours.read_to_end(&mut Vec::new()).await;
            ended.recv().await.unwrap().is_clean()
        })
    });
}

const REQUEST: &str = "GET /chat?x=1 HTTP/1.1\r\nHost: host.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: msgtrans.v1, msgtrans.v2\r\n\
     Sec-WebSocket-Version: 13\r\n\r\n";

/// A word that stands for the answer to the client's key.
const KEY: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const HTTP: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b": ",
    b",",
    b"HTTP/1.1 101",
    b"HTTP/1.0 200 OK",
    b"GET",
    b"POST",
    b"Upgrade: websocket\r\n",
    b"Connection: close\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Sec-WebSocket-Version: 8\r\n",
    b"Sec-WebSocket-Key: ",
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
    b"Location: //",
    b"\0",
    b"\xFF",
    b"h2c",
    b"13",
    b"=",
];

/// The opening handshake as servers read it.
#[test]
fn r6_websocket_requests() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (mut listener, at) = runtime.block_on(async {
        let options =
            WebSocketOptions { subprotocols: vec!["msgtrans.v2".to_owned()], ..WebSocketOptions::default() };
        let any = Socket::Address(([127, 0, 0, 1], 0).into());
        let listener = WebSocketListener::bind(any, StreamOptions::default(), options).unwrap();
        let at = listener.local_addr().unwrap();
        (listener, at)
    });
    let seeds = [REQUEST.as_bytes().to_vec(), REQUEST.replace("msgtrans", "other").into_bytes()];
    fuzz("transport: WebSocket requests", &seeds, HTTP, |input| {
        let asking = async {
            let mut socket = TcpStream::connect(at).await.unwrap();
            let _ = socket.write_all(input).await;
            let _ = socket.shutdown().await;
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer).await;
            answer.starts_with(b"HTTP/1.1 101 ")
        };
        // Who is let in is let go again.
        let serving = async { while listener.accept().await.is_some() {} };
        runtime.block_on(within(async {
            tokio::select! {
                is_in = asking => is_in,
                () = serving => unreachable!("it listens"),
            }
        }))
    });
}

/// The opening handshake as clients read it.
#[test]
fn r6_websocket_answers() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let endpoint = Endpoint::from_url(&format!("ws://{}/chat", listener.local_addr().unwrap())).unwrap();
    let options = ConnectOptions::default();
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {KEY}\r\n\r\n"
    );
    let seeds = [
        answer.clone().into_bytes(),
        [answer.as_bytes(), b"\x82\x01x"].concat(),
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 308 Permanent Redirect\r\nLocation: https://host/\r\n\r\n".to_vec(),
    ];
    fuzz("transport: WebSocket answers", &seeds, HTTP, |input| {
        let answering = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(
                    socket.read_buf(&mut request).await.unwrap() > 0,
                    "a request ends with an empty line"
                );
            }
            let _ = socket.write_all(&with_key(input, &request)).await;
            let _ = socket.shutdown().await;
            // Until the client is done.
            let _ = socket.read_to_end(&mut Vec::new()).await;
        };
        let connecting = async { connect(&endpoint, &options).await.is_ok() };
        runtime.block_on(within(async { tokio::join!(answering, connecting) })).1
    });
}

/// The answer with the right key in place of the word for it.
fn with_key(answer: &[u8], request: &[u8]) -> Vec<u8> {
    let Some(at) = answer.windows(KEY.len()).position(|part| part == KEY.as_bytes()) else {
        return answer.to_vec();
    };
    let request = String::from_utf8_lossy(request);
    let key =
        request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("the client's key");
    let head = http::Request::get("/")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", key)
        .body(())
        .unwrap();
    let response = websocket::accept_request(&head.into_parts().0, &[]).unwrap().response();
    let key = response.headers()["sec-websocket-accept"].as_bytes();
    [&answer[..at], key, &answer[at + KEY.len()..]].concat()
}

#[test]
fn the_seeds_are_what_is_meant_by_them() {
    assert!(encoded().iter().all(|bytes| frames(Framing::Packet, bytes)));
    assert!(controls().iter().all(|bytes| frames(Framing::Packet, bytes)));
    for role in [Role::Client, Role::Server] {
        assert!(messages(role).iter().all(|bytes| frames(Framing::WebSocket { role }, bytes)));
    }
}
