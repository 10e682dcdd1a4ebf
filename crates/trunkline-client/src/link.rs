//! One live connection, as typed frames: the dialect on top of the transport's framing.
//!
//! What is to be sent waits here, whole frames only, and leaves while other things are waited for: reading never
//! waits for writing. It knows no session.

use std::io;

use bytes::{Buf, BytesMut};
use trunkline_proto::{Dialect, DownFrame, UpFrame};
use trunkline_transport::{ByteWriter, Connection, FrameKind, FrameReader, Incoming, Protocol, ReadError};

/// The reading half.
pub(crate) struct Reader {
    frames: FrameReader,
    dialect: Dialect,
}

/// The writing half.
pub(crate) struct Writer {
    bytes: ByteWriter,
    dialect: Dialect,
    kind: FrameKind,
    unsent: BytesMut,
    /// TLS may hold ciphertext of bytes that were taken already.
    unflushed: bool,
}

/// What can arrive.
pub(crate) enum Arrived {
    /// A frame.
    Frame(Box<DownFrame>),
    /// A WebSocket ping, to be answered.
    Ping(bytes::Bytes),
    /// Nothing to act on.
    Nothing,
    /// The end, with the transport's close code where it has one.
    End { code: Option<u32>, reason: String },
}

/// Takes a connection apart.
pub(crate) fn split(connection: Connection, dialect: Dialect) -> (Reader, Writer) {
    let web_socket = matches!(connection.info.protocol, Protocol::WebSocket | Protocol::WebSocketTls);
    let kind = if web_socket && dialect == Dialect::Json { FrameKind::Text } else { FrameKind::Binary };
    let writer =
        Writer { bytes: connection.writer, dialect, kind, unsent: BytesMut::new(), unflushed: false };
    (Reader { frames: connection.reader, dialect }, writer)
}

impl Reader {
    /// What arrives next. Cancel safe.
    pub(crate) async fn next(&mut self) -> Arrived {
        match self.frames.next().await {
            Ok(Some(Incoming::Frame(frame))) => match self.dialect.decode_down(&frame.bytes) {
                Ok(frame) => Arrived::Frame(Box::new(frame)),
                // A newer gateway may say what we do not understand; sessions must survive that.
                Err(error) => {
                    tracing::warn!(%error, "a frame of the gateway does not decode; it is ignored");
                    Arrived::Nothing
                }
            },
            Ok(Some(Incoming::Ping(payload))) => Arrived::Ping(payload),
            Ok(Some(Incoming::Pong(_))) => Arrived::Nothing,
            Ok(Some(Incoming::Close { code, reason })) => Arrived::End { code: code.map(u32::from), reason },
            Ok(None) => Arrived::End { code: None, reason: "the connection ended".into() },
            Err(error) => Arrived::End { code: None, reason: told(&error) },
        }
    }
}

/// What a stream's error says. An HTTP server answers our first frame in its own words, whose first four bytes look
/// like the length of a frame.
fn told(error: &ReadError) -> String {
    match error {
        ReadError::TooLarge { length, .. } if *length == u64::from(u32::from_be_bytes(*b"HTTP")) => {
            "what listens there speaks HTTP: a WebSocket is reached with ws:// or wss:// and a path such as /ws".into()
        }
        error => error.to_string(),
    }
}

impl Writer {
    /// Queues a frame.
    pub(crate) fn queue(&mut self, frame: &UpFrame) {
        let payload = self.dialect.encode_up(frame);
        self.unsent.extend_from_slice(&self.bytes.framing().frame(self.kind, &payload));
        self.unflushed = true;
    }

    /// Queues the answer to a ping.
    pub(crate) fn pong(&mut self, payload: &[u8]) {
        if let Some(pong) = self.bytes.framing().pong(payload) {
            self.unsent.extend_from_slice(&pong);
            self.unflushed = true;
        }
    }

    /// Bytes that the transport has not taken yet.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Sends all that is queued; waits forever when that is nothing, so that it can stand in a `select!`. Cancel
    /// safe: what has left is forgotten, what has not stays.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if !self.unflushed {
            return std::future::pending().await;
        }
        while !self.unsent.is_empty() {
            let written = std::future::poll_fn(|cx| {
                self.bytes.poll_write_vectored(cx, &[io::IoSlice::new(&self.unsent)])
            })
            .await?;
            self.unsent.advance(written);
        }
        std::future::poll_fn(|cx| self.bytes.poll_flush(cx)).await?;
        self.unflushed = false;
        Ok(())
    }

    /// Nothing can be sent any more: forgets what was to be sent.
    pub(crate) fn give_up(&mut self) {
        self.unsent.clear();
        self.unflushed = false;
    }

    /// Ends the connection now, without a word.
    pub(crate) fn cut(&mut self) {
        self.bytes.abort(0, "");
    }
}
