use bytes::BytesMut;

use super::Decoder;
use crate::{FrameKind, Framing, Incoming, ReadError, Role};

fn client_frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
    Framing::WebSocket { role: Role::Client }.frame(kind, payload).to_vec()
}

#[test]
fn a_frame_decodes_however_its_bytes_arrive() {
    let bytes = client_frame(FrameKind::Text, "grüße".as_bytes());
    for cut in 0..=bytes.len() {
        let mut decoder = Decoder::new(Role::Server, 1024);
        let mut chunk = BytesMut::from(&bytes[..cut]);
        if cut < bytes.len() {
            assert_eq!(decoder.decode(&mut chunk).unwrap(), None, "cut at {cut}");
        }
        chunk.extend_from_slice(&bytes[cut..]);
        let Some(Incoming::Frame(frame)) = decoder.decode(&mut chunk).unwrap() else {
            panic!("cut at {cut}")
        };
        assert_eq!((frame.kind, &frame.bytes[..]), (FrameKind::Text, "grüße".as_bytes()));
        assert!(chunk.is_empty() && !decoder.is_mid_message());
    }
}

#[test]
fn a_message_over_the_limit_is_refused_by_its_header() {
    let mut decoder = Decoder::new(Role::Server, 1000);
    let mut chunk = BytesMut::from(&[0x82, 0xFF, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF][..]);
    let error = decoder.decode(&mut chunk).unwrap_err();
    assert!(matches!(error, ReadError::TooLarge { length: 0xFFFF_FFFF, limit: 1000 }), "{error}");
}

#[test]
fn fragments_count_together() {
    let mut decoder = Decoder::new(Role::Server, 10);
    let mut chunk = BytesMut::from(&[0x02, 0x86, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 0x80, 0x85, 0, 0, 0, 0][..]);
    let error = decoder.decode(&mut chunk).unwrap_err();
    assert!(matches!(error, ReadError::TooLarge { length: 11, limit: 10 }), "{error}");
}
