//! WebSocket (RFC 6455) on a raw stream: codec, upgrade, listener, client handshake.
//!
//! Our own, because publications are written pre-framed from shared memory and idle connections must hold no
//! buffer. It never answers by itself (pings and closes surface to the owner of the write side) and speaks no
//! extension.

mod client;
mod decode;
mod encode;
mod handshake;
mod listener;
mod mask;
mod upgrade;
mod utf8;

pub use self::{
    client::ClientHandshakeError,
    handshake::{Accept, UpgradeError, accept_request},
    listener::{WebSocketListener, redirect_to_https},
    upgrade::{Upgrade, WebSocketOptions, upgrade},
};
pub(crate) use self::{
    client::handshake as client_handshake,
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
