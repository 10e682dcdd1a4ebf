//! How frames are told apart on a byte stream: headers and control frames, as bytes.
//!
//! Pure functions of their arguments (a client's WebSocket mask aside). Nothing here reads or writes a socket.

use bytes::Bytes;

use crate::{FrameKind, defaults::MAX_CLOSE_REASON, websocket_framing as ws};

/// Which side of a WebSocket connection we are. A client masks what it sends, a server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// We accepted the connection.
    Server,
    /// We opened the connection.
    Client,
}

/// The framing of a connection. Publications are encoded once per framing, so it is a cheap key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// A big-endian `u32` length, then the payload. Binary and text are not told apart.
    Length,
    /// A frame is a packet of the packet level, which tells its own length; see [`crate::Packet`]. A limit on frames
    /// is one on the packet's payload here.
    Packet,
    /// One frame is one WebSocket message (RFC 6455).
    WebSocket {
        /// Our side of the connection.
        role: Role,
    },
}

impl Framing {
    /// The longest header there is: a masked WebSocket frame with a 64-bit length.
    pub const MAX_HEADER: usize = 14;

    /// Bytes of the header of a frame with this payload.
    #[must_use]
    pub fn header_len(self, payload_len: usize) -> usize {
        match self {
            Self::Length => 4,
            Self::Packet => 0,
            Self::WebSocket { role } => ws::header_len(role, payload_len),
        }
    }

    /// Appends the header of a frame whose payload follows unchanged.
    ///
    /// The client role writes a mask of zeros here, under which the payload is its own masked form; use
    /// [`Framing::frame`] for a random mask. A payload over `u32::MAX` cannot be said under
    /// [`Framing::Length`]; every limit of ours is far below, and the length would saturate.
    pub fn write_header(self, kind: FrameKind, payload_len: usize, out: &mut Vec<u8>) {
        match self {
            Self::Length => {
                let length = u32::try_from(payload_len).unwrap_or(u32::MAX);
                out.extend_from_slice(&length.to_be_bytes());
            }
            Self::Packet => {}
            Self::WebSocket { role } => {
                ws::write_header(role, ws::opcode(kind), payload_len, [0; 4], out);
            }
        }
    }

    /// A whole frame.
    #[must_use]
    pub fn frame(self, kind: FrameKind, payload: &[u8]) -> Bytes {
        match self {
            Self::Length => {
                let mut out = Vec::with_capacity(4 + payload.len());
                self.write_header(kind, payload.len(), &mut out);
                out.extend_from_slice(payload);
                out.into()
            }
            Self::Packet => Bytes::copy_from_slice(payload),
            Self::WebSocket { role } => ws::frame(role, ws::opcode(kind), payload),
        }
    }

    /// A WebSocket ping; `None` where the framing has none. The payload is cut to 125 bytes.
    #[must_use]
    pub fn ping(self, payload: &[u8]) -> Option<Bytes> {
        self.control(ws::PING, payload)
    }

    /// A WebSocket pong; `None` where the framing has none. The payload is cut to 125 bytes.
    #[must_use]
    pub fn pong(self, payload: &[u8]) -> Option<Bytes> {
        self.control(ws::PONG, payload)
    }

    /// A WebSocket close frame; `None` where the framing has none. The reason is cut, at a character
    /// boundary, to the 123 bytes that fit. The codes 1005 and 1006 mean "no code" and are never sent: they
    /// give an empty close frame.
    #[must_use]
    pub fn close(self, code: u16, reason: &str) -> Option<Bytes> {
        if matches!(code, 1005 | 1006) {
            return self.control(ws::CLOSE, &[]);
        }
        let mut end = reason.len().min(MAX_CLOSE_REASON);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut payload = Vec::with_capacity(2 + end);
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(&reason.as_bytes()[..end]);
        self.control(ws::CLOSE, &payload)
    }

    fn control(self, opcode: u8, payload: &[u8]) -> Option<Bytes> {
        let Self::WebSocket { role } = self else { return None };
        let payload = &payload[..payload.len().min(ws::MAX_CONTROL)];
        Some(ws::frame(role, opcode, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::{Framing, Role};
    use crate::FrameKind::{Binary, Text};

    const SERVER: Framing = Framing::WebSocket { role: Role::Server };
    const CLIENT: Framing = Framing::WebSocket { role: Role::Client };

    #[test]
    fn golden_frames() {
        assert_eq!(Framing::Length.frame(Binary, b"abc"), &b"\0\0\0\x03abc"[..]);
        assert_eq!(SERVER.frame(Binary, b"abc"), &b"\x82\x03abc"[..]);
        assert_eq!(SERVER.frame(Text, b"abc"), &b"\x81\x03abc"[..]);
        assert_eq!(SERVER.ping(b"?").unwrap(), &b"\x89\x01?"[..]);
        assert_eq!(SERVER.pong(b"!").unwrap(), &b"\x8a\x01!"[..]);
        assert_eq!(SERVER.close(4000, "drain").unwrap(), &b"\x88\x07\x0f\xa0drain"[..]);
        assert_eq!(SERVER.close(1005, "never said").unwrap(), &b"\x88\x00"[..]);
        for none in [Framing::Length.ping(b""), Framing::Length.pong(b""), Framing::Length.close(1000, "")] {
            assert_eq!(none, None);
        }
    }

    #[test]
    fn a_header_is_as_long_as_it_says_and_in_its_shortest_form() {
        for framing in [Framing::Length, SERVER, CLIENT] {
            for length in [0, 125, 126, 65535, 65536, 1 << 20] {
                let mut header = Vec::new();
                framing.write_header(Binary, length, &mut header);
                assert_eq!(header.len(), framing.header_len(length), "{framing:?}, {length}");
                assert!(header.len() <= Framing::MAX_HEADER);
                assert_eq!(framing.frame(Binary, &vec![7; length]).len(), header.len() + length);
            }
        }
    }

    #[test]
    fn control_frames_are_cut_to_what_fits_without_breaking_a_character() {
        assert_eq!(SERVER.ping(&[0; 200]).unwrap().len(), 2 + 125);
        let reason = "é".repeat(100);
        let close = SERVER.close(4000, &reason).unwrap();
        assert_eq!(close.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&close[4..]).is_ok());
    }

    #[test]
    fn a_client_masks_and_each_frame_with_its_own_key() {
        let frames: Vec<_> = (0..4).map(|_| CLIENT.frame(Binary, b"the same")).collect();
        for frame in &frames {
            assert_eq!(frame[1] & 0x80, 0x80);
            let key = &frame[2..6];
            let payload: Vec<u8> =
                frame[6..].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            assert_eq!(payload, b"the same");
        }
        assert!(frames.iter().any(|frame| frame != &frames[0]), "four equal masks: not random");
    }
}
