//! A connection of the generator, as cheap as its transport allows.
//!
//! Plain TCP and WebSocket are read straight from the socket; everything else goes through the transport library. Of
//! WebSocket it knows what a node sends here: whole, unmasked messages.

use std::io;

use anyhow::bail;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trunkline_transport::{
    ByteWriter, ConnectOptions, Connection, Endpoint, FrameKind, FrameReader, Framing, Incoming, Protocol,
    Role, Streams, connect,
};

/// A frame that is longer is a mistake of the bench or of a peer.
const LONGEST: usize = 8 << 20;

/// A response head that is longer is none.
const LONGEST_HEAD: usize = 16 << 10;

/// See the module.
pub(super) enum Link {
    Plain(Plain),
    Framed(Box<Framed>),
}

pub(super) struct Plain {
    stream: TcpStream,
    wire: Wire,
    /// The beginning of a frame that has not arrived whole.
    held: BytesMut,
}

pub(super) struct Framed {
    reader: FrameReader,
    writer: ByteWriter,
    /// On QUIC and WebTransport they keep the connection.
    _streams: Streams,
}

/// How frames are told apart on a plain stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// A big-endian `u32` before each.
    Length,
    /// WebSocket, from a server.
    WebSocket,
}

/// One frame at the front of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// Where its payload begins and the whole frame ends.
    payload: usize,
    end: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Ping,
    Close,
    Other,
}

impl Link {
    /// Connects to a node.
    pub(super) async fn open(endpoint: &Endpoint, options: &ConnectOptions) -> anyhow::Result<Self> {
        let address = (endpoint.host.as_str(), endpoint.port);
        Ok(match endpoint.protocol {
            Protocol::Tcp => Link::Plain(Plain::connect(address, Wire::Length).await?),
            Protocol::WebSocket => {
                let mut plain = Plain::connect(address, Wire::WebSocket).await?;
                plain.upgrade(&endpoint.authority(), &endpoint.path_and_query).await?;
                Link::Plain(plain)
            }
            _ => {
                let Connection { reader, writer, streams, .. } = connect(endpoint, options).await?;
                Link::Framed(Box::new(Framed { reader, writer, _streams: streams }))
            }
        })
    }

    /// Appends this payload in the link's framing, for `write`.
    fn frame(&self, payload: &[u8], out: &mut Vec<u8>) {
        // A mask of zeros, under which the payload is its own masked form: masking is no part of what is measured.
        self.framing().write_header(FrameKind::Binary, payload.len(), out);
        out.extend_from_slice(payload);
    }

    /// Sends one frame.
    pub(super) async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut framed = Vec::with_capacity(Framing::MAX_HEADER + payload.len());
        self.frame(payload, &mut framed);
        self.write(&framed).await
    }

    /// Sends bytes that are framed already. Not cancel safe.
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Link::Plain(plain) => plain.stream.write_all(bytes).await,
            Link::Framed(framed) => framed.writer.write_all(bytes).await,
        }
    }

    /// Waits for one frame and takes it. Cancel safe.
    pub(super) async fn one(&mut self) -> anyhow::Result<Bytes> {
        match self {
            Link::Plain(plain) => plain.one().await,
            Link::Framed(framed) => framed.next().await,
        }
    }

    fn framing(&self) -> Framing {
        match self {
            Link::Plain(Plain { wire: Wire::Length, .. }) => Framing::Length,
            Link::Plain(Plain { wire: Wire::WebSocket, .. }) => Framing::WebSocket { role: Role::Client },
            Link::Framed(framed) => framed.writer.framing(),
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
    async fn connect(address: (&str, u16), wire: Wire) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Plain { stream, wire, held: BytesMut::new() })
    }

    /// Asks for WebSocket. Whether the answer's key is right is not this program's business: it measures.
    async fn upgrade(&mut self, authority: &str, path: &str) -> anyhow::Result<()> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dHJ1bmtsaW5lIGJlbmNoIQ==\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes()).await?;
        let mut head = BytesMut::with_capacity(1024);
        let end = loop {
            if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if head.len() > LONGEST_HEAD || self.stream.read_buf(&mut head).await? == 0 {
                bail!("no answer to the WebSocket request");
            }
        };
        if !head.starts_with(b"HTTP/1.1 101") {
            let line = head[..].split(|byte| *byte == b'\r').next().unwrap_or_default();
            bail!("the WebSocket request was answered {}", line.escape_ascii());
        }
        head.advance(end);
        self.held = head;
        Ok(())
    }

    async fn one(&mut self) -> anyhow::Result<Bytes> {
        loop {
            if let Some(cut) = cut(self.wire, &self.held)? {
                let mut frame = self.held.split_to(cut.end);
                frame.advance(cut.payload);
                match cut.kind {
                    Kind::Data => return Ok(frame.freeze()),
                    kind => aside(kind, &frame, &self.stream)?,
                }
                continue;
            }
            if self.stream.read_buf(&mut self.held).await? == 0 {
                bail!("the connection ended");
            }
        }
    }
}

/// A WebSocket frame that is no message.
fn aside(kind: Kind, payload: &[u8], stream: &TcpStream) -> anyhow::Result<()> {
    match kind {
        Kind::Data | Kind::Other => Ok(()),
        Kind::Ping => {
            // A socket that takes no more six bytes is under load, and that is sign of life enough.
            if let Some(pong) = (Framing::WebSocket { role: Role::Client }).pong(payload) {
                let _ = stream.try_write(&pong);
            }
            Ok(())
        }
        Kind::Close => {
            let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            bail!("closed with {code:?} {}", payload.get(2..).unwrap_or_default().escape_ascii())
        }
    }
}

/// The frame at the front, if it is whole.
fn cut(wire: Wire, bytes: &[u8]) -> anyhow::Result<Option<Cut>> {
    let found = match wire {
        Wire::Length => bytes.first_chunk().map(|length| Cut {
            payload: 4,
            end: (u32::from_be_bytes(*length) as usize).saturating_add(4),
            kind: Kind::Data,
        }),
        Wire::WebSocket => message(bytes)?,
    };
    match found {
        Some(cut) if cut.end > LONGEST => bail!("a frame of {} bytes", cut.end),
        Some(cut) if cut.end <= bytes.len() => Ok(Some(cut)),
        _ => Ok(None),
    }
}

/// A server's WebSocket frame (RFC 6455 section 5.2).
fn message(bytes: &[u8]) -> anyhow::Result<Option<Cut>> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let kind = match first {
        0x81 | 0x82 => Kind::Data,
        0x88 => Kind::Close,
        0x89 => Kind::Ping,
        0x8a => Kind::Other,
        other => bail!("a WebSocket frame that begins with {other:#x}: neither whole nor known"),
    };
    let (payload, length) = match second {
        126 => match rest.first_chunk::<2>() {
            Some(length) => (4, usize::from(u16::from_be_bytes(*length))),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (10, usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX)),
            None => return Ok(None),
        },
        masked if masked & 0x80 != 0 => bail!("a masked frame from a server"),
        length => (2, usize::from(*length)),
    };
    Ok(Some(Cut { payload, end: length.saturating_add(payload), kind }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(wire: Wire, bytes: &[u8]) -> Option<(usize, usize)> {
        cut(wire, bytes).unwrap().map(|cut| (cut.payload, cut.end))
    }

    #[test]
    fn frames_are_cut_where_they_end_and_only_when_whole() {
        let frames: [(Wire, &[u8], usize); 3] = [
            (Wire::Length, b"\0\0\0\x02ab", 4),
            (Wire::WebSocket, b"\x82\x02ab", 2),
            (Wire::WebSocket, &[&[0x82, 126, 0, 130][..], &[7; 130]].concat(), 4),
        ];
        for (wire, frame, payload) in frames {
            let followed = [frame, frame].concat();
            assert_eq!(ends(wire, &followed), Some((payload, frame.len())), "{wire:?}");
            for short in 0..frame.len() {
                assert_eq!(ends(wire, &frame[..short]), None, "{wire:?} {short}");
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for (wire, bytes) in [
            (Wire::Length, &[0xff; 8][..]),
            (Wire::WebSocket, &[0x02, 1, 1]),
            (Wire::WebSocket, &[0x82, 0x81, 1, 2, 3, 4, 5]),
        ] {
            assert!(cut(wire, bytes).is_err(), "{wire:?} {}", bytes.escape_ascii());
        }
    }
}
