//! The suite's side: writes raw frames, reads raw frames, judges what came back. And the server under test.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
    time::timeout,
};
use trunkline_transport::{
    Connection, Framing, Incoming, StreamOptions, WebSocketListener, WebSocketOptions, close,
};

use super::cases::{Case, End, Step};
use crate::harness::{DEADLINE, loopback, within};

/// How long "nothing may happen now" is watched. Too short can only miss a failure, never make one up.
const QUIET: Duration = Duration::from_millis(100);

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

/// A masked frame with any first byte.
pub(crate) fn raw_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut out = vec![first];
    match payload.len() {
        0..=125 => out.push(0x80 | payload.len() as u8),
        126..=0xFFFF => {
            out.push(0x80 | 126);
            out.extend((payload.len() as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend((payload.len() as u64).to_be_bytes());
        }
    }
    out.extend(KEY);
    out.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ KEY[i % 4]));
    out
}

/// A masked frame with FIN.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    raw_frame(0x80 | opcode, payload)
}

/// A masked frame without FIN.
pub(crate) fn fragment(opcode: u8, payload: &[u8]) -> Vec<u8> {
    raw_frame(opcode, payload)
}

/// A close frame.
pub(crate) fn close_frame(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(8, &[&code.to_be_bytes(), reason].concat())
}

/// Runs one case; panics with its number where the server behaves otherwise.
pub(crate) async fn run(address: SocketAddr, case: Case) {
    let (mut receiver, mut writer) = open(address).await;
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
            within(writer.write_all(&close_frame(1000, b""))).await.unwrap();
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
    // The server ends the TCP connection, not we.
    assert_eq!(timeout(deadline, receiver.next()).await, Ok(Received::End), "case {number}");
}

#[derive(Debug, PartialEq, Eq)]
enum Received {
    Event(Event),
    Close(Option<u16>),
    End,
}

struct Receiver {
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
                assert_eq!(self.start, self.buf.len(), "the server ends in the middle of a frame");
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
        // A reset is an end too: the server may drop what it has failed.
        matches!(self.half.read_buf(&mut self.buf).await, Ok(n) if n > 0)
    }

    fn parse(&mut self) -> Option<Received> {
        let buf = &self.buf[self.start..];
        let (&first, &second) = (buf.first()?, buf.get(1)?);
        assert_eq!(second & 0x80, 0, "a server does not mask");
        assert_eq!(first & 0xF0, 0x80, "whole frames without reserved bits");
        let (length, header) = match second {
            126 => (u16::from_be_bytes(buf.get(2..4)?.try_into().unwrap()) as usize, 4),
            127 => (u64::from_be_bytes(buf.get(2..10)?.try_into().unwrap()) as usize, 10),
            length => (length as usize, 2),
        };
        let payload = buf.get(header..header + length)?.to_vec();
        self.start += header + length;
        Some(match first & 0x0F {
            1 => Received::Event(Event::text(payload)),
            2 => Received::Event(Event::binary(payload)),
            8 => Received::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
            9 => Received::Event(Event::Ping(payload)),
            10 => Received::Event(Event::Pong(payload)),
            other => panic!("the server sends opcode {other}"),
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
            // The server may have failed the connection already: then the rest of the case goes nowhere.
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

async fn open(address: SocketAddr) -> (Receiver, OwnedWriteHalf) {
    let mut stream = within(TcpStream::connect(address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    within(stream.write_all(request.as_bytes())).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    let (half, writer) = stream.into_split();
    (Receiver { half, buf: Vec::new(), start: 0 }, writer)
}

/// An echo server on our codec. Dropping it ends it.
pub(crate) struct EchoServer {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl EchoServer {
    pub(crate) fn start() -> Self {
        let options = WebSocketOptions { max_frame: 16 << 20, ..WebSocketOptions::default() };
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
