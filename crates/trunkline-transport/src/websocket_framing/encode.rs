//! Frames as bytes. Server frames are the same for every receiver; client frames carry a random mask.

use bytes::Bytes;

use super::{BINARY, FIN, MASKED, TEXT, mask};
use crate::{FrameKind, Framing, Role};

/// The opcode of a message of this kind.
pub(crate) fn opcode(kind: FrameKind) -> u8 {
    match kind {
        FrameKind::Binary => BINARY,
        FrameKind::Text => TEXT,
    }
}

/// Bytes of the header of an unfragmented frame.
pub(crate) fn header_len(role: Role, payload_len: usize) -> usize {
    let length = match payload_len {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    };
    match role {
        Role::Server => length,
        Role::Client => length + 4,
    }
}

/// Appends the header of an unfragmented frame. The mask is written for the client role only.
pub(crate) fn write_header(role: Role, opcode: u8, payload_len: usize, key: [u8; 4], out: &mut Vec<u8>) {
    out.push(FIN | opcode);
    let masked = if role == Role::Client { MASKED } else { 0 };
    // The shortest form is required (§5.2); each conversion is in range by the arm that it stands in.
    match payload_len {
        0..=125 => out.push(masked | payload_len as u8),
        126..=0xFFFF => {
            out.push(masked | 126);
            out.extend_from_slice(&(payload_len as u16).to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(payload_len as u64).to_be_bytes());
        }
    }
    if role == Role::Client {
        out.extend_from_slice(&key);
    }
}

/// Appends a client's binary frame made of `pieces`, `total` bytes together, under a fresh mask.
pub(crate) fn write_masked(out: &mut Vec<u8>, total: usize, pieces: &[&[u8]]) {
    let key = rand::random();
    write_header(Role::Client, BINARY, total, key, out);
    let start = out.len();
    for piece in pieces {
        out.extend_from_slice(piece);
    }
    mask::apply(&mut out[start..], key, 0);
}

/// A whole unfragmented frame.
pub(crate) fn frame(role: Role, opcode: u8, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(Framing::MAX_HEADER + payload.len());
    let key = if role == Role::Client { rand::random() } else { [0; 4] };
    write_header(role, opcode, payload.len(), key, &mut out);
    let start = out.len();
    out.extend_from_slice(payload);
    if role == Role::Client {
        mask::apply(&mut out[start..], key, 0);
    }
    out.into()
}
