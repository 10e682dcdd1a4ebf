//! WebSocket's frames (RFC 6455 §5) as bytes: what [`crate::Framing::WebSocket`] reads and writes.
//!
//! Our own, because publications are written pre-framed from shared memory and idle connections must hold no
//! buffer. It knows no HTTP and no socket, so that it frames whatever carries bytes.

mod decode;
mod encode;
mod mask;
mod utf8;

pub(crate) use self::{
    decode::Decoder,
    encode::{frame, header_len, opcode, write_header, write_masked},
};

/// Opcodes (RFC 6455 §5.2).
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// The largest payload of a control frame.
pub(crate) const MAX_CONTROL: usize = 125;

/// "Final fragment", in the first byte.
pub(crate) const FIN: u8 = 0x80;
/// Reserved bits of the first byte; an extension would give them a meaning.
pub(crate) const RESERVED: u8 = 0x70;
/// "Masked", in the second byte.
pub(crate) const MASKED: u8 = 0x80;
