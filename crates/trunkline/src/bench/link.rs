//! A connection of the generator, as cheap as its transport allows.
//!
//! Plain TCP and WebSocket are read straight from the socket, through a buffer that all connections of a thread share;
//! everything else goes through the transport library.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::ready;

use anyhow::bail;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use trunkline_transport::{
    ByteWriter, ConnectOptions, Connection, Endpoint, FrameKind, FrameReader, Framing, Incoming, Protocol,
    Role, Streams, connect,
};

use super::wire::{Cutter, Kind, Wire};

/// A response head that is longer is none.
const LONGEST_HEAD: usize = 16 << 10;

/// What one read may bring. Larger ones do not make a loaded reader faster.
const BUFFER: usize = 256 << 10;

thread_local! {
    /// An idle connection holds no buffer, and a thread reads one connection at a time.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// See the module.
pub(super) struct Link {
    pub(super) reader: LinkReader,
    pub(super) writer: LinkWriter,
}

/// What comes.
pub(super) enum LinkReader {
    Plain(Plain),
    Framed(Box<Framed>),
}

/// What goes.
pub(super) enum LinkWriter {
    Plain(OwnedWriteHalf, Wire),
    Framed(Box<ByteWriter>),
}

pub(super) struct Plain {
    stream: OwnedReadHalf,
    cutter: Cutter,
    /// The beginning of a frame that has not arrived whole.
    held: BytesMut,
}

pub(super) struct Framed {
    reader: FrameReader,
    /// On QUIC and WebTransport they keep the connection.
    _streams: Streams,
}

impl Link {
    /// Connects to a node; to one on loopback without TLS from this address.
    pub(super) async fn open(
        endpoint: &Endpoint,
        options: &ConnectOptions,
        source: Option<Ipv4Addr>,
    ) -> anyhow::Result<Self> {
        let address = (endpoint.host.as_str(), endpoint.port);
        Ok(match endpoint.protocol {
            Protocol::Tcp => Link::plain(address, source, Wire::Length).await?,
            Protocol::WebSocket => {
                Link::websocket(address, source, &endpoint.authority(), &endpoint.path_and_query).await?
            }
            _ => {
                let Connection { reader, writer, streams, .. } = connect(endpoint, options).await?;
                let reader = LinkReader::Framed(Box::new(Framed { reader, _streams: streams }));
                Link { reader, writer: LinkWriter::Framed(Box::new(writer)) }
            }
        })
    }

    /// Connects by plain TCP.
    pub(super) async fn plain(
        address: (&str, u16),
        source: Option<Ipv4Addr>,
        wire: Wire,
    ) -> anyhow::Result<Self> {
        let stream = stream(address, source).await?;
        Ok(Link::of(stream, wire, BytesMut::new()))
    }

    /// Connects, and asks for WebSocket. Whether the answer's key is right is not this program's business: it
    /// measures.
    pub(super) async fn websocket(
        address: (&str, u16),
        source: Option<Ipv4Addr>,
        authority: &str,
        path: &str,
    ) -> anyhow::Result<Self> {
        let mut stream = stream(address, source).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dHJ1bmtsaW5lIGJlbmNoIQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = BytesMut::with_capacity(1024);
        let end = loop {
            if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if head.len() > LONGEST_HEAD || stream.read_buf(&mut head).await? == 0 {
                bail!("no answer to the WebSocket request");
            }
        };
        if !head.starts_with(b"HTTP/1.1 101") {
            let line = head[..].split(|byte| *byte == b'\r').next().unwrap_or_default();
            bail!("the WebSocket request was answered {}", line.escape_ascii());
        }
        head.advance(end);
        Ok(Link::of(stream, Wire::WebSocket, head))
    }

    fn of(stream: TcpStream, wire: Wire, held: BytesMut) -> Self {
        let (reader, writer) = stream.into_split();
        let reader = LinkReader::Plain(Plain { stream: reader, cutter: Cutter::new(wire), held });
        Link { reader, writer: LinkWriter::Plain(writer, wire) }
    }
}

/// Connects; to a loopback address from this one, where it is named.
async fn stream(address: (&str, u16), source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let local = address.0.parse().ok().filter(Ipv4Addr::is_loopback);
    let stream = match local.zip(source) {
        Some((local, source)) => {
            let socket = TcpSocket::new_v4()?;
            socket.bind((source, 0).into())?;
            socket.connect(SocketAddr::from((local, address.1))).await?
        }
        None => TcpStream::connect(address).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl LinkWriter {
    /// Appends this payload in the link's framing, for `write`.
    pub(super) fn frame(&self, payload: &[u8], out: &mut Vec<u8>) {
        let framing = match self {
            LinkWriter::Plain(_, Wire::Length) => Framing::Length,
            LinkWriter::Plain(_, Wire::WebSocket) => Framing::WebSocket { role: Role::Client },
            // A command of Redis is its own frame.
            LinkWriter::Plain(_, Wire::Redis) => return out.extend_from_slice(payload),
            LinkWriter::Framed(writer) => writer.framing(),
        };
        // A mask of zeros, under which the payload is its own masked form: masking is no part of what is measured.
        framing.write_header(FrameKind::Binary, payload.len(), out);
        out.extend_from_slice(payload);
    }

    /// Sends one frame. Not cancel safe.
    pub(super) async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut framed = Vec::with_capacity(Framing::MAX_HEADER + payload.len());
        self.frame(payload, &mut framed);
        self.write(&framed).await
    }

    /// Sends bytes that are framed already. Not cancel safe.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            LinkWriter::Plain(stream, _) => stream.write_all(bytes).await,
            LinkWriter::Framed(writer) => writer.write_all(bytes).await,
        }
    }
}

impl LinkReader {
    /// Waits for one frame and takes it. Cancel safe.
    pub(super) async fn one(&mut self) -> anyhow::Result<Bytes> {
        match self {
            LinkReader::Plain(plain) => plain.one().await,
            LinkReader::Framed(framed) => framed.next().await,
        }
    }

    /// Waits until something comes, and takes all the frames that came with it. Cancel safe.
    pub(super) async fn some(&mut self, take: &mut impl FnMut(&[u8])) -> anyhow::Result<()> {
        match self {
            LinkReader::Plain(plain) => plain.some(take).await,
            LinkReader::Framed(framed) => framed.next().await.map(|frame| take(&frame)),
        }
    }
}

impl Framed {
    async fn next(&mut self) -> anyhow::Result<Bytes> {
        loop {
            match self.reader.next().await? {
                Some(Incoming::Frame(frame)) => return Ok(frame.bytes),
                Some(Incoming::Ping(_) | Incoming::Pong(_)) => {}
                Some(Incoming::Close { code, reason }) => bail!("closed with {code:?} {reason}"),
                None => bail!("the connection ended"),
            }
        }
    }
}

impl Plain {
    async fn one(&mut self) -> anyhow::Result<Bytes> {
        loop {
            if let Some(cut) = self.cutter.next(&self.held)? {
                let mut frame = self.held.split_to(cut.end);
                frame.truncate(cut.payload_end);
                frame.advance(cut.payload);
                match cut.kind {
                    Kind::Data => return Ok(frame.freeze()),
                    // Of Redis every value is waited for.
                    Kind::Other if self.cutter.wire() == Wire::Redis => return Ok(frame.freeze()),
                    kind => aside(kind, &frame, &self.stream)?,
                }
                continue;
            }
            if self.stream.read_buf(&mut self.held).await? == 0 {
                bail!("the connection ended");
            }
        }
    }

    async fn some(&mut self, take: &mut impl FnMut(&[u8])) -> anyhow::Result<()> {
        poll_fn(|cx| {
            READ.with_borrow_mut(|buffer| {
                let held = self.held.len();
                if held + BUFFER / 4 > buffer.len() {
                    buffer.resize(held + BUFFER, 0);
                }
                buffer[..held].copy_from_slice(&self.held);
                let mut read = ReadBuf::new(&mut buffer[held..]);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
                let came = held + read.filled().len();
                if came == held {
                    return std::task::Poll::Ready(Err(anyhow::anyhow!("the connection ended")));
                }
                std::task::Poll::Ready(self.take_all(&buffer[..came], take))
            })
        })
        .await
    }

    fn take_all(&mut self, bytes: &[u8], take: &mut impl FnMut(&[u8])) -> anyhow::Result<()> {
        let mut rest = bytes;
        while let Some(cut) = self.cutter.next(rest)? {
            let payload = &rest[cut.payload..cut.payload_end];
            match cut.kind {
                Kind::Data => take(payload),
                kind => aside(kind, payload, &self.stream)?,
            }
            rest = &rest[cut.end..];
        }
        self.held.clear();
        self.held.extend_from_slice(rest);
        Ok(())
    }
}

/// A frame that is no message.
fn aside(kind: Kind, payload: &[u8], stream: &OwnedReadHalf) -> anyhow::Result<()> {
    match kind {
        Kind::Data | Kind::Other => Ok(()),
        Kind::Ping => {
            // A socket that takes no more six bytes is under load, and that is sign of life enough.
            if let Some(pong) = (Framing::WebSocket { role: Role::Client }).pong(payload) {
                let _ = stream.as_ref().try_write(&pong);
            }
            Ok(())
        }
        Kind::Close => {
            let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            bail!("closed with {code:?} {}", payload.get(2..).unwrap_or_default().escape_ascii())
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_comes_from_the_address_that_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let other = Ipv4Addr::new(127, 0, 0, 3);
        for (host, source, wanted) in [
            ("127.0.0.1", None, Ipv4Addr::LOCALHOST),
            ("127.0.0.1", Some(other), other),
            ("localhost", Some(other), Ipv4Addr::LOCALHOST),
        ] {
            let connecting = stream((host, port), source);
            let (came, accepted) = tokio::join!(connecting, listener.accept());
            came.unwrap();
            assert_eq!(accepted.unwrap().1.ip(), wanted, "{host}");
        }
    }
}
