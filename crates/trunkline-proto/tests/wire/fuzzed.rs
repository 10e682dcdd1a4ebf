//! R6: mutated frames through every decoder of the wire. What is read can be written again, in either dialect.

use bytes::Bytes;
use trunkline_proto::{Dialect, DownFrame, UpBody, UpFrame};

use crate::mutation::fuzz;
use crate::samples;

/// Keys of protobuf fields, and what JSON frames are made of.
const WORDS: &[&[u8]] = &[
    b"\x08",
    b"\x10",
    b"\x18",
    b"\x22",
    b"\x2a",
    b"\x32",
    b"\x82\x01",
    b"\x88\x01",
    b"\x90\x01",
    b"\xff\xff\x03",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"\"type\":\"start\"",
    b"\"payload\":{",
    b"\"data\":",
    b"\"data_base64\":\"",
    b"\\u0000",
    b"\\ud800",
    b"1e999",
    b"-1",
    b"9007199254740993",
];

fn read_up(dialect: Dialect, input: &[u8]) -> bool {
    let Ok(frame) = dialect.decode_up(&Bytes::copy_from_slice(input)) else { return false };
    for other in [Dialect::Protobuf, Dialect::Json] {
        let _written = other.encode_up(&frame);
    }
    true
}

fn read_down(dialect: Dialect, input: &[u8]) -> bool {
    let Ok(frame) = dialect.decode_down(&Bytes::copy_from_slice(input)) else { return false };
    for other in [Dialect::Protobuf, Dialect::Json] {
        let _written = other.encode_down(&frame);
    }
    true
}

fn up(dialect: Dialect) -> Vec<Vec<u8>> {
    samples::up().iter().map(|(_, frame, _): &(_, UpFrame, _)| dialect.encode_up(frame)).collect()
}

fn down(dialect: Dialect) -> Vec<Vec<u8>> {
    samples::down().iter().map(|(_, frame, _): &(_, DownFrame, _)| dialect.encode_down(frame)).collect()
}

#[test]
fn r6_protobuf_frames_up() {
    fuzz("protobuf frames up", &up(Dialect::Protobuf), WORDS, |input| read_up(Dialect::Protobuf, input));
}

#[test]
fn r6_protobuf_frames_down() {
    fuzz("protobuf frames down", &down(Dialect::Protobuf), WORDS, |input| {
        read_down(Dialect::Protobuf, input)
    });
}

#[test]
fn r6_json_frames_up() {
    fuzz("JSON frames up", &up(Dialect::Json), WORDS, |input| read_up(Dialect::Json, input));
}

#[test]
fn r6_json_frames_down() {
    fuzz("JSON frames down", &down(Dialect::Json), WORDS, |input| read_down(Dialect::Json, input));
}

/// The seed's two layouts of START are told apart by their fields' kinds, which mutation mixes.
#[test]
fn r6_start_layouts() {
    let payloads: [&[u8]; 4] = [
        b"\x0a\x05alice\x12\x03tok\x18\x11",
        b"\x0a\x05alice\x12\x06client\x1a\x03tok\x20\x11",
        b"\x0a\x05alice\x12\x06client\x1a\x03tok\x82\x01\x04more\x88\x01\x01",
        b"\x0a\x05alice\x12\x03tok\x18\x11\x82\x01\x06resume\x98\x01\x01",
    ];
    let words: &[&[u8]] =
        &[b"\x18\x05", b"\x1a\x02xy", b"\x20\x07", b"\x22\x02xy", b"\x82\x01\x01x", b"\x88\x01\x01"];
    fuzz("START layouts", &payloads.map(<[u8]>::to_vec), words, |payload| {
        let mut frame = vec![0x18, 1, 0x22];
        let mut length = payload.len();
        while length >= 128 {
            frame.push((length & 127) as u8 | 128);
            length >>= 7;
        }
        frame.push(length as u8);
        frame.extend_from_slice(payload);
        let Ok(frame) = Dialect::Protobuf.decode_up(&frame.into()) else { return false };
        assert!(matches!(frame.body, UpBody::Start(_)), "a START came out as {:?}", frame.body);
        true
    });
}
