//! The decoder: pure, over whatever bytes have arrived.
//!
//! A partial frame is unmasked and, if it is text, checked as it arrives, so that a broken one is refused at
//! the first bad byte. Lengths are checked before anything is kept; what is kept grows with the bytes that
//! came, never with a declared length. After a close frame it must not be asked again.

use bytes::{Buf, BytesMut};

use super::{BINARY, CLOSE, CONTINUATION, FIN, MASKED, MAX_CONTROL, PING, PONG, RESERVED, TEXT, mask, utf8};
use crate::{Frame, FrameKind, Incoming, ReadError, Role, length::take, short};

/// Turns bytes into messages and control frames.
#[derive(Debug)]
pub(crate) struct Decoder {
    role: Role,
    limit: usize,
    /// The frame whose payload is arriving at the front of the chunk; its header is taken off already.
    current: Option<Header>,
    /// The fragmented message that is arriving.
    message: Option<Box<Message>>,
    /// The check of the text message, fragmented or not, that is arriving.
    text: utf8::Validator,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    fin: bool,
    opcode: u8,
    length: usize,
    key: [u8; 4],
    /// Payload bytes that were unmasked and checked already.
    done: usize,
}

#[derive(Debug)]
struct Message {
    kind: FrameKind,
    bytes: BytesMut,
}

impl Decoder {
    pub(crate) fn new(role: Role, limit: usize) -> Self {
        Self { role, limit, current: None, message: None, text: utf8::Validator::default() }
    }

    /// Whether a frame or a fragmented message is begun, beyond what lies in the chunk.
    pub(crate) fn is_mid_message(&self) -> bool {
        self.current.is_some() || self.message.is_some()
    }

    /// Bytes of a fragmented message that are held beyond what lies in the chunk.
    pub(crate) fn message_len(&self) -> usize {
        self.message.as_ref().map_or(0, |message| message.bytes.len())
    }

    /// The limit of messages whose next header has not been read yet.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The message of one frame that `bytes` are, no more and no less. What is none is left as it is.
    pub(crate) fn whole(role: Role, limit: usize, bytes: &mut [u8]) -> Option<Frame> {
        let (header, len) = Self::new(role, limit).header(bytes).ok()??;
        let payload = &mut bytes[len..];
        if !header.fin || !matches!(header.opcode, TEXT | BINARY) || payload.len() != header.length {
            return None;
        }
        mask::apply(payload, header.key, 0);
        if header.opcode == TEXT && simdutf8::basic::from_utf8(payload).is_err() {
            mask::apply(payload, header.key, 0);
            return None;
        }
        Some(Frame { kind: kind(header.opcode), bytes: short::copy(payload) })
    }

    /// Takes the next message or control frame off the front of `chunk`; `None` if it has not arrived whole.
    pub(crate) fn decode(&mut self, chunk: &mut BytesMut) -> Result<Option<Incoming>, ReadError> {
        loop {
            let header = match self.current.take() {
                Some(header) => header,
                None => match self.header(chunk)? {
                    Some((header, len)) => {
                        chunk.advance(len);
                        header
                    }
                    None => return Ok(None),
                },
            };
            let header = self.advance(header, chunk)?;
            if chunk.len() < header.length {
                self.current = Some(header);
                return Ok(None);
            }
            let payload = take(chunk, header.length);
            if let Some(incoming) = self.complete(header, payload)? {
                return Ok(Some(incoming));
            }
        }
    }

    /// Judges the header that `bytes` begin with, and says how long it is.
    fn header(&self, bytes: &[u8]) -> Result<Option<(Header, usize)>, ReadError> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let (fin, opcode) = (first & FIN != 0, first & 0x0F);
        // What can be refused by the first two bytes is refused before more is waited for.
        if first & RESERVED != 0 {
            return Err(violation("a reserved bit is set"));
        }
        if (second & MASKED != 0) != (self.role == Role::Server) {
            return Err(violation(match self.role {
                Role::Server => "a client's frame is not masked",
                Role::Client => "a server's frame is masked",
            }));
        }
        let short = second & !MASKED;
        self.check_opcode(fin, opcode, short)?;
        let (length, length_len) = match short {
            126 => match rest.first_chunk::<2>() {
                Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 2),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(bytes) => (u64::from_be_bytes(*bytes), 8),
                None => return Ok(None),
            },
            short => (u64::from(short), 0),
        };
        if (short == 126 && length < 126) || (short == 127 && length <= 0xFFFF) || length >> 63 != 0 {
            return Err(violation("the length is not in its shortest form"));
        }
        let sum = self.message.as_ref().filter(|_| opcode == CONTINUATION).map_or(0, |m| m.bytes.len());
        let total = length.saturating_add(sum as u64);
        if total > self.limit as u64 && opcode < CLOSE {
            return Err(ReadError::TooLarge { length: total, limit: self.limit });
        }
        let mut key = [0; 4];
        let mut header_len = 2 + length_len;
        if self.role == Role::Server {
            let Some(bytes) = rest[length_len..].first_chunk::<4>() else { return Ok(None) };
            key = *bytes;
            header_len += 4;
        }
        // It is at most the limit (a usize) or, for control frames, 125.
        let length = length as usize;
        Ok(Some((Header { fin, opcode, length, key, done: 0 }, header_len)))
    }

    fn check_opcode(&self, fin: bool, opcode: u8, short: u8) -> Result<(), ReadError> {
        match opcode {
            CONTINUATION if self.message.is_none() => Err(violation("there is nothing to continue")),
            TEXT | BINARY if self.message.is_some() => Err(violation("the message before is not finished")),
            CONTINUATION | TEXT | BINARY => Ok(()),
            CLOSE | PING | PONG if !fin => Err(violation("a control frame is fragmented")),
            CLOSE | PING | PONG if usize::from(short) > MAX_CONTROL => {
                Err(violation("a control frame is longer than 125 bytes"))
            }
            CLOSE | PING | PONG => Ok(()),
            _ => Err(violation("the opcode is reserved")),
        }
    }

    /// Unmasks what has arrived of the payload, and checks it if it is text.
    fn advance(&mut self, mut header: Header, chunk: &mut BytesMut) -> Result<Header, ReadError> {
        let end = header.length.min(chunk.len());
        let fresh = &mut chunk[header.done..end];
        mask::apply(fresh, header.key, header.done);
        let is_text = match header.opcode {
            TEXT => true,
            CONTINUATION => self.message.as_ref().is_some_and(|message| message.kind == FrameKind::Text),
            _ => false,
        };
        if is_text {
            self.text.push(fresh).map_err(|utf8::Invalid| not_utf8())?;
        }
        header.done = end;
        Ok(header)
    }

    /// Judges a frame that is there: a whole message, a fragment, or a control frame.
    fn complete(&mut self, header: Header, payload: BytesMut) -> Result<Option<Incoming>, ReadError> {
        match header.opcode {
            PING => return Ok(Some(Incoming::Ping(payload.freeze()))),
            PONG => return Ok(Some(Incoming::Pong(payload.freeze()))),
            CLOSE => return close(&payload).map(Some),
            _ => {}
        }
        let (kind, bytes) = match (self.message.take(), header.fin) {
            (None, true) => (kind(header.opcode), payload.freeze()),
            (None, false) => {
                let message = Message { kind: kind(header.opcode), bytes: payload };
                self.message = Some(Box::new(message));
                return Ok(None);
            }
            (Some(mut message), fin) => {
                message.bytes.extend_from_slice(&payload);
                if !fin {
                    self.message = Some(message);
                    return Ok(None);
                }
                (message.kind, message.bytes.freeze())
            }
        };
        if kind == FrameKind::Text {
            self.text.finish().map_err(|utf8::Invalid| not_utf8())?;
        }
        Ok(Some(Incoming::Frame(Frame { kind, bytes })))
    }
}

fn kind(opcode: u8) -> FrameKind {
    if opcode == TEXT { FrameKind::Text } else { FrameKind::Binary }
}

fn close(payload: &[u8]) -> Result<Incoming, ReadError> {
    if payload.is_empty() {
        return Ok(Incoming::Close { code: None, reason: String::new() });
    }
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return Err(violation("a close frame of one byte"));
    };
    let code = u16::from_be_bytes(*code);
    // Registered codes of RFC 6455 §7.4.1 and the IANA registry; 1004–1006 and 1015 are never sent.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(violation("the close code may not be sent"));
    }
    let reason = simdutf8::basic::from_utf8(reason).map_err(|_| not_utf8())?;
    Ok(Incoming::Close { code: Some(code), reason: reason.to_owned() })
}

fn violation(reason: &'static str) -> ReadError {
    ReadError::Protocol { close_code: 1002, reason }
}

fn not_utf8() -> ReadError {
    ReadError::Protocol { close_code: 1007, reason: "text is not UTF-8" }
}

#[cfg(test)]
mod tests;
