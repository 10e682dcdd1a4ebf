//! The suite's side: writes raw frames, reads raw frames, judges what came back. And the server and the client under test.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use trunkline_transport::{
    ConnectOptions, Connection, Endpoint, Framing, Incoming, StreamOptions, WebSocketListener,
    WebSocketOptions, close, connect,
};

use super::cases::{Case, End, Step};
use crate::harness::{DEADLINE, loopback, within};

/// How long "nothing may happen now" is watched. Too short can only miss a failure, never make one up.
const QUIET: Duration = Duration::from_millis(100);

/// Ours on either side takes the largest message of the suite.
const MAX_FRAME: usize = 16 << 20;

/// What the peer receives.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Message { binary: bool, payload: Vec<u8> },
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

impl Event {
    pub(crate) fn text(payload: impl Into<Vec<u8>>) -> Self {
        Self::Message { binary: false, payload: payload.into() }
    }

    pub(crate) fn binary(payload: impl Into<Vec<u8>>) -> Self {
        Self::Message { binary: true, payload: payload.into() }
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, payload) = match self {
            Self::Message { binary: true, payload } => ("binary", payload),
            Self::Message { binary: false, payload } => ("text", payload),
            Self::Ping(payload) => ("ping", payload),
            Self::Pong(payload) => ("pong", payload),
        };
        write!(f, "{name} of {} bytes {:02x?}", payload.len(), &payload[..payload.len().min(40)])
    }
}

/// Which end of the connection the suite's peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// It connects to our server, and masks (RFC 6455 section 5.1).
    Client,
    /// Our client connects to it; it masks nothing.
    Server,
}

impl Peer {
    /// A frame with any first byte.
    pub(crate) fn raw_frame(self, first: u8, payload: &[u8]) -> Vec<u8> {
        const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
        let mask = if self == Self::Client { 0x80 } else { 0 };
        let mut out = vec![first];
        match payload.len() {
            0..=125 => out.push(mask | payload.len() as u8),
            126..=0xFFFF => {
                out.push(mask | 126);
                out.extend((payload.len() as u16).to_be_bytes());
            }
            _ => {
                out.push(mask | 127);
                out.extend((payload.len() as u64).to_be_bytes());
            }
        }
        match self {
            Self::Client => {
                out.extend(KEY);
                out.extend(masked(payload, KEY));
            }
            Self::Server => out.extend(payload),
        }
        out
    }

    /// A frame with FIN.
    pub(crate) fn frame(self, opcode: u8, payload: &[u8]) -> Vec<u8> {
        self.raw_frame(0x80 | opcode, payload)
    }

    /// A frame without FIN.
    pub(crate) fn fragment(self, opcode: u8, payload: &[u8]) -> Vec<u8> {
        self.raw_frame(opcode, payload)
    }

    /// A close frame.
    pub(crate) fn close_frame(self, code: u16, reason: &[u8]) -> Vec<u8> {
        self.frame(8, &[&code.to_be_bytes(), reason].concat())
    }
}

fn masked(payload: &[u8], key: [u8; 4]) -> impl Iterator<Item = u8> + '_ {
    payload.iter().enumerate().map(move |(i, byte)| byte ^ key[i % 4])
}

/// Runs one case against our server at this address; panics with its number where it behaves otherwise.
pub(crate) async fn run_as_client(address: SocketAddr, case: Case) {
    let link = open(address).await;
    run(Peer::Client, link, case).await;
}

/// Runs one case against our client, which connects and sends back what it receives, as the suite's clients do.
pub(crate) async fn run_as_server(case: Case) {
    let listener = within(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    let url =
        format!("ws://{}/runCase?case={}", listener.local_addr().unwrap(), case.number.replace(' ', "_"));
    let mut client = JoinSet::new();
    client.spawn(async move {
        let options = ConnectOptions { max_frame: MAX_FRAME, timeout: DEADLINE, ..ConnectOptions::default() };
        echo(connect(&Endpoint::from_url(&url).unwrap(), &options).await.unwrap()).await;
    });
    let link = answer(&listener).await;
    run(Peer::Server, link, case).await;
    // Once the server has ended, so does our client.
    within(client.join_next()).await.unwrap().unwrap();
}

async fn run(peer: Peer, (mut receiver, mut writer): Link, case: Case) {
    let mut expected = case.expected.into_iter();
    let number = &case.number;
    let deadline = if case.quick { QUIET } else { DEADLINE };
    for step in case.steps {
        match step {
            Step::Write(bytes) => write_while_reading(&mut receiver, &mut writer, &bytes, None).await,
            Step::Chops(bytes, size) => {
                write_while_reading(&mut receiver, &mut writer, &bytes, Some(size)).await;
            }
            Step::Await => {
                let event = expected.next().expect("the case awaits what it expects");
                let got = timeout(deadline, receiver.next()).await;
                assert_eq!(got, Ok(Received::Event(event)), "case {number}");
            }
            Step::Quiet => {
                let got = timeout(QUIET, receiver.next()).await;
                assert!(got.is_err(), "case {number}: too early: {got:?}");
            }
        }
    }
    for event in expected {
        let got = timeout(deadline, receiver.next()).await;
        assert_eq!(got, Ok(Received::Event(event)), "case {number}");
    }
    let (codes, clean): (&[u16], bool) = match &case.end {
        End::WeClose => {
            within(writer.write_all(&peer.close_frame(1000, b""))).await.unwrap();
            (&[1000], true)
        }
        End::Closed { codes, clean } => (codes, *clean),
    };
    match timeout(deadline, receiver.next()).await {
        Ok(Received::Close(code)) => assert!(
            code.is_none_or(|code| codes.contains(&code)),
            "case {number}: closed with {code:?} where {codes:?} was right"
        ),
        Ok(Received::End) if !clean => {}
        other => panic!("case {number}: {other:?} where a close was due"),
    }
    // A server ends the TCP connection first: ours, or we.
    if peer == Peer::Server {
        // The client may have ended it already.
        let _ = within(writer.shutdown()).await;
    }
    assert_eq!(timeout(deadline, receiver.next()).await, Ok(Received::End), "case {number}");
}

#[derive(Debug, PartialEq, Eq)]
enum Received {
    Event(Event),
    Close(Option<u16>),
    End,
}

/// Both halves of a connection that is open.
type Link = (Receiver, OwnedWriteHalf);

struct Receiver {
    peer: Peer,
    half: OwnedReadHalf,
    buf: Vec<u8>,
    start: usize,
}

impl Receiver {
    /// The next frame that came whole. Cancel-safe.
    async fn next(&mut self) -> Received {
        loop {
            if let Some(received) = self.parse() {
                return received;
            }
            if !self.fill().await {
                assert_eq!(self.start, self.buf.len(), "it ends in the middle of a frame");
                return Received::End;
            }
        }
    }

    async fn fill(&mut self) -> bool {
        if self.start > 0 {
            self.buf.drain(..self.start);
            self.start = 0;
        }
        self.buf.reserve(64 << 10);
        // A reset is an end too: who has failed a connection may drop it.
        matches!(self.half.read_buf(&mut self.buf).await, Ok(n) if n > 0)
    }

    fn parse(&mut self) -> Option<Received> {
        let buf = &self.buf[self.start..];
        let (&first, &second) = (buf.first()?, buf.get(1)?);
        let masks = second & 0x80 != 0;
        assert_eq!(masks, self.peer == Peer::Server, "a client masks, a server does not");
        assert_eq!(first & 0xF0, 0x80, "whole frames without reserved bits");
        let (length, header) = match second & 0x7F {
            126 => (u16::from_be_bytes(buf.get(2..4)?.try_into().unwrap()) as usize, 4),
            127 => (u64::from_be_bytes(buf.get(2..10)?.try_into().unwrap()) as usize, 10),
            length => (length as usize, 2),
        };
        let key: [u8; 4] = match masks {
            true => buf.get(header..header + 4)?.try_into().unwrap(),
            false => [0; 4],
        };
        let begin = header + if masks { 4 } else { 0 };
        let payload = masked(buf.get(begin..begin + length)?, key).collect::<Vec<_>>();
        self.start += begin + length;
        Some(match first & 0x0F {
            1 => Received::Event(Event::text(payload)),
            2 => Received::Event(Event::binary(payload)),
            8 => Received::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
            9 => Received::Event(Event::Ping(payload)),
            10 => Received::Event(Event::Pong(payload)),
            other => panic!("opcode {other} was sent"),
        })
    }
}

/// Writes, and takes in what comes meanwhile, so that neither side can stall the other.
async fn write_while_reading(
    receiver: &mut Receiver,
    writer: &mut OwnedWriteHalf,
    bytes: &[u8],
    chop: Option<usize>,
) {
    let writing = async {
        for piece in bytes.chunks(chop.unwrap_or(usize::MAX)) {
            // The connection may have been failed already: then the rest of the case goes nowhere.
            if writer.write_all(piece).await.is_err() {
                return;
            }
            if chop.is_some() {
                tokio::task::yield_now().await;
            }
        }
    };
    let reading = async {
        while receiver.fill().await {}
        std::future::pending::<()>().await;
    };
    within(async {
        tokio::select! {
            biased;
            () = writing => {}
            () = reading => {}
        }
    })
    .await;
}

async fn open(address: SocketAddr) -> Link {
    let mut stream = within(TcpStream::connect(address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    within(stream.write_all(request.as_bytes())).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    link(Peer::Client, stream)
}

/// Upgrades the next client.
async fn answer(listener: &TcpListener) -> Link {
    let (mut stream, _) = within(listener.accept()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("GET /runCase?case="), "{head}");
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    within(stream.write_all(answer.as_bytes())).await.unwrap();
    link(Peer::Server, stream)
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn link(peer: Peer, stream: TcpStream) -> Link {
    let (half, writer) = stream.into_split();
    (Receiver { peer, half, buf: Vec::new(), start: 0 }, writer)
}

/// An echo server on our codec. Dropping it ends it.
pub(crate) struct EchoServer {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl EchoServer {
    pub(crate) fn start() -> Self {
        let options = WebSocketOptions { max_frame: MAX_FRAME, ..WebSocketOptions::default() };
        let mut listener = WebSocketListener::bind(loopback(), StreamOptions::default(), options).unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut echoes = JoinSet::new();
            loop {
                let connection = listener.accept().await.unwrap();
                echoes.spawn(echo(connection));
            }
        });
        Self { address, _tasks: tasks }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn echo(connection: Connection) {
    let Connection { mut reader, mut writer, .. } = connection;
    let framing: Framing = writer.framing();
    let (code, reason) = loop {
        let answer = match reader.next().await {
            Ok(Some(Incoming::Frame(frame))) => framing.frame(frame.kind, &frame.bytes),
            Ok(Some(Incoming::Ping(payload))) => framing.pong(&payload).unwrap(),
            Ok(Some(Incoming::Pong(_))) => continue,
            Ok(Some(Incoming::Close { code, .. })) => break (code.unwrap_or(1005), String::new()),
            Ok(None) => return,
            Err(error) => break (error.close_code(), error.to_string()),
        };
        if writer.write_all(&answer).await.is_err() {
            return;
        }
    };
    if let Some(frame) = framing.close(code, &reason)
        && writer.write_all(&frame).await.is_ok()
    {
        close(reader, writer, code.into(), &reason, DEADLINE).await;
    }
}
