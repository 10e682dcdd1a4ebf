//! The read side of a connection: bytes in, frames out.
//!
//! A reader waits on readiness and reads into a buffer that all connections of a thread share; what it keeps
//! between reads are the bytes of a frame that has not arrived whole. Not polling it is the back-pressure: it
//! asks the link for nothing by itself. It answers nothing either (pings, closes): it has no write side.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;

use crate::{
    Frame, FrameKind, Framing, Incoming, ReadError,
    defaults::READ_BUFFER,
    length, packet, short,
    source::{End, Read, Source},
    websocket_framing::Decoder,
};

/// Frames from the peer, in order.
pub struct FrameReader {
    source: Source,
    framing: Framing,
    max_frame: usize,
    ended: bool,
    /// `None` while the connection is idle between frames, as mostly.
    held: Option<Box<Held>>,
}

/// What has arrived of a frame.
struct Held {
    decoder: FrameDecoder,
    /// Bytes that were read and not yet decoded.
    chunk: BytesMut,
    /// Whether a frame was cut from `chunk`, so that the rest would pin that frame's memory.
    shared: bool,
}

enum FrameDecoder {
    Length { limit: usize },
    Packet { limit: usize },
    WebSocket(Decoder),
}

/// What a read has brought.
enum Filled {
    /// One frame and nothing else.
    Frame(Frame),
    Bytes,
    End(End),
}

impl FrameReader {
    /// `read_ahead` are bytes that the handshake has read beyond its own end.
    pub(crate) fn new(source: Source, framing: Framing, max_frame: usize, read_ahead: &[u8]) -> Self {
        let mut reader = Self { source, framing, max_frame, ended: false, held: None };
        if !read_ahead.is_empty() {
            reader.held = Some(Box::new(Held::new(framing, max_frame, BytesMut::from(read_ahead))));
        }
        reader
    }

    /// The next thing from the peer; `None` once it has ended cleanly, and after an error or a close.
    ///
    /// Cancel-safe: all progress is kept in the reader.
    ///
    /// # Errors
    /// A frame over the limit, a broken WebSocket protocol, or a link that failed. Nothing follows an error.
    pub async fn next(&mut self) -> Result<Option<Incoming>, ReadError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Like [`FrameReader::next`], for hand-polled tasks. On `Pending` the task is woken when more has come.
    ///
    /// # Errors
    /// As [`FrameReader::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Incoming>, ReadError>> {
        loop {
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            if let Some(next) = self.next_buffered() {
                return Poll::Ready(next.map(Some));
            }
            self.release();
            match ready!(self.poll_fill(cx)) {
                Ok(Filled::Bytes) => {}
                Ok(Filled::Frame(frame)) => return Poll::Ready(Ok(Some(Incoming::Frame(frame)))),
                Ok(Filled::End(End { word: None })) => return self.finish(),
                Ok(Filled::End(End { word })) => {
                    self.ended = true;
                    return Poll::Ready(Ok(word));
                }
                Err(error) => return self.fail(error.into()),
            }
        }
    }

    /// The next thing that an earlier read has brought whole; `None` where there is no more of it. It asks the link for
    /// nothing and wakes nobody: after `None` comes [`FrameReader::poll_next`].
    ///
    /// # Errors
    /// As [`FrameReader::next`].
    pub fn next_buffered(&mut self) -> Option<Result<Incoming, ReadError>> {
        if self.ended {
            return None;
        }
        match self.decode() {
            Ok(incoming) => {
                let incoming = incoming?;
                if let Some(held) = &mut self.held {
                    held.shared = !held.chunk.is_empty();
                }
                self.ended = matches!(incoming, Incoming::Close { .. });
                Some(Ok(incoming))
            }
            Err(error) => {
                self.end();
                Some(Err(error))
            }
        }
    }

    /// Whether bytes of an unfinished frame are held.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_mid_frame())
    }

    /// Bytes of an unfinished frame that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        let Some(held) = &self.held else { return 0 };
        let message = match &held.decoder {
            FrameDecoder::WebSocket(decoder) => decoder.message_len(),
            FrameDecoder::Length { .. } | FrameDecoder::Packet { .. } => 0,
        };
        held.chunk.len() + message
    }

    /// Changes the limit of frames whose header has not been read yet.
    pub fn set_max_frame(&mut self, max_frame: usize) {
        self.max_frame = max_frame;
        match self.held.as_deref_mut().map(|held| &mut held.decoder) {
            Some(FrameDecoder::Length { limit } | FrameDecoder::Packet { limit }) => *limit = max_frame,
            Some(FrameDecoder::WebSocket(decoder)) => decoder.set_limit(max_frame),
            None => {}
        }
    }

    /// Reads and forgets until the peer ends, however it does so.
    pub(crate) async fn drain(&mut self) {
        self.held = None;
        poll_fn(|cx| {
            loop {
                let filled = ready!(self.poll_fill(cx));
                self.held = None;
                if matches!(filled, Ok(Filled::End(_)) | Err(_)) {
                    return Poll::Ready(());
                }
            }
        })
        .await;
    }

    fn decode(&mut self) -> Result<Option<Incoming>, ReadError> {
        let Some(Held { decoder, chunk, .. }) = self.held.as_deref_mut() else { return Ok(None) };
        if chunk.is_empty() {
            return Ok(None);
        }
        match decoder {
            FrameDecoder::Length { limit } => Ok(length::decode(chunk, *limit)?
                .map(|bytes| Incoming::Frame(Frame { kind: FrameKind::Binary, bytes }))),
            FrameDecoder::Packet { limit } => Ok(packet::stream::decode(chunk, *limit)?
                .map(|bytes| Incoming::Frame(Frame { kind: FrameKind::Binary, bytes }))),
            FrameDecoder::WebSocket(decoder) => decoder.decode(chunk),
        }
    }

    /// Before waiting: an empty chunk gives its memory back, and the rest of a shared one is copied out so
    /// that three bytes of a header cannot hold 64 KiB of frames that are long gone.
    fn release(&mut self) {
        let Some(held) = &mut self.held else { return };
        if !held.is_mid_frame() {
            self.held = None;
            return;
        }
        if held.chunk.is_empty() {
            held.chunk = BytesMut::new();
        } else if held.shared {
            held.chunk = BytesMut::from(&held.chunk[..]);
        }
        held.shared = false;
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Filled>> {
        let Self { source, framing, max_frame, held, .. } = self;
        with_scratch(|scratch| {
            let fresh = match ready!(source.poll_read(cx, scratch))? {
                Read::Bytes(n) => &mut scratch[..n],
                Read::End(end) => return Poll::Ready(Ok(Filled::End(end))),
            };
            match held {
                Some(held) if !held.chunk.is_empty() => held.chunk.extend_from_slice(fresh),
                Some(held) => held.chunk = BytesMut::from(&*fresh),
                None => {
                    if let Some(frame) = whole(*framing, *max_frame, fresh) {
                        return Poll::Ready(Ok(Filled::Frame(frame)));
                    }
                    let chunk = BytesMut::from(&*fresh);
                    *held = Some(Box::new(Held::new(*framing, *max_frame, chunk)));
                }
            }
            Poll::Ready(Ok(Filled::Bytes))
        })
    }

    fn finish(&mut self) -> Poll<Result<Option<Incoming>, ReadError>> {
        if self.is_mid_frame() {
            return self.fail(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.ended = true;
        Poll::Ready(Ok(None))
    }

    fn fail(&mut self, error: ReadError) -> Poll<Result<Option<Incoming>, ReadError>> {
        self.end();
        Poll::Ready(Err(error))
    }

    /// Nothing follows.
    fn end(&mut self) {
        self.ended = true;
        self.held = None;
    }
}

impl std::fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameReader")
            .field("held", &self.held.as_ref().map_or(0, |held| held.chunk.len()))
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Held {
    fn new(framing: Framing, max_frame: usize, chunk: BytesMut) -> Self {
        let decoder = match framing {
            Framing::Length => FrameDecoder::Length { limit: max_frame },
            Framing::Packet => FrameDecoder::Packet { limit: max_frame },
            Framing::WebSocket { role } => FrameDecoder::WebSocket(Decoder::new(role, max_frame)),
        };
        Held { decoder, chunk, shared: false }
    }

    fn is_mid_frame(&self) -> bool {
        !self.chunk.is_empty()
            || matches!(&self.decoder, FrameDecoder::WebSocket(decoder) if decoder.is_mid_message())
    }
}

/// The frame, where a read has brought just one, as it mostly does: it is copied once, and nothing is held for it.
/// Whatever else there is, broken or more or less than a frame, is left as it is.
fn whole(framing: Framing, max_frame: usize, fresh: &mut [u8]) -> Option<Frame> {
    let bytes = match framing {
        Framing::Length => length::whole(fresh, max_frame)?,
        Framing::Packet => packet::stream::whole(fresh, max_frame)?,
        Framing::WebSocket { role } => return Decoder::whole(role, max_frame, fresh),
    };
    Some(Frame { kind: FrameKind::Binary, bytes: short::copy(bytes) })
}

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Lends the thread's buffer out. It is taken rather than borrowed, so that a waker that polls another
/// connection from inside finds none and makes its own instead of panicking.
pub(crate) fn with_scratch<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; READ_BUFFER].into_boxed_slice());
    let result = f(&mut scratch);
    SCRATCH.set(Some(scratch));
    result
}

#[cfg(test)]
mod tests {
    use std::{
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use super::FrameReader;
    use crate::{ByteWriter, FrameKind, Framing, Incoming, ReadError, Role, memory};

    /// Fails instead of hanging when more is written than the pipe holds.
    async fn write(writer: &mut ByteWriter, bytes: &[u8]) {
        tokio::time::timeout(Duration::from_secs(30), writer.write_all(bytes)).await.unwrap().unwrap();
    }

    /// Polls until there is nothing more, and says how many frames came.
    fn drain(reader: &mut FrameReader) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        let mut frames = 0;
        while let Poll::Ready(next) = reader.poll_next(&mut cx) {
            assert!(next.unwrap().is_some(), "no end");
            frames += 1;
        }
        frames
    }

    const FRAMINGS: [Framing; 2] = [Framing::Length, Framing::WebSocket { role: Role::Client }];

    #[tokio::test]
    async fn an_idle_connection_holds_no_read_buffer() {
        for framing in FRAMINGS {
            let (mut client, mut server) = memory::pair(framing, 1 << 20);
            for payload in [vec![], vec![1; 100], vec![2; 20_000]] {
                for _ in 0..3 {
                    write(&mut client.writer, &framing.frame(FrameKind::Binary, &payload)).await;
                }
                // While it hands over what one read brought it may hold the rest of that.
                assert!(drain(&mut server.reader) > 0);
                assert!(server.reader.held.is_none(), "{framing:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_one_read_has_brought_comes_without_another() {
        for framing in FRAMINGS {
            let (mut client, mut server) = memory::pair(framing, 1 << 20);
            let mut bytes = Vec::new();
            for payload in [&b"one"[..], b"two", b"three"] {
                bytes.extend_from_slice(&framing.frame(FrameKind::Binary, payload));
            }
            let whole = bytes.len();
            bytes.extend_from_slice(&framing.frame(FrameKind::Binary, b"four"));
            write(&mut client.writer, &bytes[..whole + 3]).await;
            assert!(server.reader.next_buffered().is_none(), "nothing was read yet");
            let payload = |incoming| match incoming {
                Incoming::Frame(frame) => frame.bytes,
                other => panic!("{other:?}"),
            };
            assert_eq!(payload(server.reader.next().await.unwrap().unwrap()), "one");
            let mut rest = std::iter::from_fn(|| server.reader.next_buffered());
            assert_eq!(payload(rest.next().unwrap().unwrap()), "two");
            assert_eq!(payload(rest.next().unwrap().unwrap()), "three");
            assert!(rest.next().is_none(), "the fourth is not whole");
            write(&mut client.writer, &bytes[whole + 3..]).await;
            assert!(server.reader.next_buffered().is_none(), "its rest was not read");
            assert_eq!(payload(server.reader.next().await.unwrap().unwrap()), "four");
        }
    }

    #[tokio::test]
    async fn a_frame_that_comes_alone_is_the_same_as_one_in_pieces() {
        for framing in FRAMINGS {
            let (mut client, mut server) = memory::pair(framing, 1 << 20);
            for (kind, payload) in [
                (FrameKind::Binary, vec![]),
                (FrameKind::Binary, vec![0xC3; 64]),
                (FrameKind::Binary, vec![7; 30_000]),
                (FrameKind::Text, "gr\u{fc}\u{df}e".repeat(40).into_bytes()),
            ] {
                let bytes = framing.frame(kind, &payload);
                for cut in [bytes.len(), bytes.len() - 1, 1] {
                    write(&mut client.writer, &bytes[..cut]).await;
                    if cut < bytes.len() {
                        assert_eq!(drain(&mut server.reader), 0, "{cut} of {}", bytes.len());
                        write(&mut client.writer, &bytes[cut..]).await;
                    }
                    let Incoming::Frame(frame) = server.reader.next().await.unwrap().unwrap() else {
                        panic!("no frame")
                    };
                    assert_eq!(frame.bytes, payload, "{framing:?}, {cut} of {}", bytes.len());
                    assert!(frame.kind == kind || framing == Framing::Length);
                }
            }
        }
    }

    #[tokio::test]
    async fn what_comes_alone_and_is_broken_is_refused() {
        let framing = Framing::WebSocket { role: Role::Client };
        let (mut client, mut server) = memory::pair(framing, 1000);
        write(&mut client.writer, &framing.frame(FrameKind::Text, b"gr\xFC\xDFe")).await;
        let error = server.reader.next().await.unwrap_err();
        assert_eq!(error.close_code(), 1007, "{error}");
        for framing in FRAMINGS {
            let (mut client, mut server) = memory::pair(framing, 1000);
            write(&mut client.writer, &framing.frame(FrameKind::Binary, &[0; 1001])).await;
            let error = server.reader.next().await.unwrap_err();
            assert!(matches!(error, ReadError::TooLarge { length: 1001, limit: 1000 }), "{error}");
        }
    }

    #[tokio::test]
    async fn nothing_follows_an_error_of_what_was_read() {
        let (mut client, mut server) = memory::pair(Framing::Length, 100);
        let mut bytes = Framing::Length.frame(FrameKind::Binary, b"good").to_vec();
        Framing::Length.write_header(FrameKind::Binary, 101, &mut bytes);
        write(&mut client.writer, &bytes).await;
        assert!(server.reader.next().await.unwrap().is_some());
        let error = server.reader.next_buffered();
        assert!(matches!(error, Some(Err(ReadError::TooLarge { length: 101, limit: 100 }))), "{error:?}");
        assert!(server.reader.next_buffered().is_none());
        assert!(server.reader.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_rest_of_a_read_does_not_hold_the_frames_before_it() {
        for framing in FRAMINGS {
            let (mut client, mut server) = memory::pair(framing, 1 << 20);
            let mut bytes = framing.frame(FrameKind::Binary, &[7; 50_000]).to_vec();
            let next = framing.frame(FrameKind::Binary, &[8; 1000]);
            bytes.extend_from_slice(&next[..3]);
            write(&mut client.writer, &bytes).await;
            assert_eq!(drain(&mut server.reader), 1);
            assert!(server.reader.is_mid_frame());
            let held = server.reader.held.as_ref().map_or(0, |held| held.chunk.capacity());
            assert!(held < 100, "{framing:?}: {held}");
            write(&mut client.writer, &next[3..]).await;
            assert_eq!(drain(&mut server.reader), 1);
            assert!(!server.reader.is_mid_frame());
        }
    }

    #[tokio::test]
    async fn a_declared_length_reserves_nothing() {
        for framing in FRAMINGS {
            let (mut client, mut server) = memory::pair(framing, 1 << 20);
            let mut header = Vec::new();
            framing.write_header(FrameKind::Binary, 1 << 20, &mut header);
            header.extend([0; 10]);
            write(&mut client.writer, &header).await;
            assert_eq!(drain(&mut server.reader), 0);
            let held = server.reader.held.as_ref().map_or(0, |held| held.chunk.capacity());
            assert!(held < 100, "{framing:?}: {held}");
        }
    }

    /// What every connection costs here, idle: a few cache lines.
    #[test]
    fn the_halves_are_small() {
        assert!(size_of::<FrameReader>() <= 144, "{}", size_of::<FrameReader>());
        assert!(size_of::<ByteWriter>() <= 32, "{}", size_of::<ByteWriter>());
    }
}
