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

#[test]
fn a_partial_frame_keeps_what_arrived_and_not_what_it_declares() {
    let mut decoder = Decoder::new(Role::Server, 1 << 20);
    let mut chunk = BytesMut::from(&[0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 2, 3, 4, 9, 9][..]);
    assert_eq!(decoder.decode(&mut chunk).unwrap(), None);
    assert!(chunk.capacity() < 64, "{} bytes for two", chunk.capacity());
}

#[test]
fn every_length_that_is_not_the_shortest_is_refused() {
    for header in [
        &[0x82, 0x80 | 126, 0, 125][..],
        &[0x82, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF],
        &[0x82, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let mut decoder = Decoder::new(Role::Server, usize::MAX);
        let error = decoder.decode(&mut BytesMut::from(header)).unwrap_err();
        assert_eq!(error.close_code(), 1002, "{header:?}");
    }
}

#[test]
fn masks_are_required_of_clients_and_forbidden_to_servers() {
    for (role, second) in [(Role::Server, 0), (Role::Client, 0x80)] {
        let mut decoder = Decoder::new(role, 100);
        let error = decoder.decode(&mut BytesMut::from(&[0x82, second][..])).unwrap_err();
        assert_eq!(error.close_code(), 1002);
    }
}

/// Text is refused at the byte that decides, in the middle of a frame and over fragments (Autobahn 6.4.1–4).
#[test]
fn broken_text_is_refused_before_its_frame_is_whole() {
    let text = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited";
    let mut framed = vec![0x01, 0x80 | text.len() as u8, 0, 0, 0, 0];
    let header = framed.len();
    framed.extend_from_slice(text);
    for end in 0..framed.len() {
        let mut decoder = Decoder::new(Role::Server, 100);
        let result = decoder.decode(&mut BytesMut::from(&framed[..end]));
        match end {
            // Up to 0xF4 a valid continuation is possible, 0x90 makes it impossible.
            end if end <= header + 12 => assert_eq!(result.unwrap(), None, "after {end} bytes"),
            _ => assert_eq!(result.unwrap_err().close_code(), 1007, "after {end} bytes"),
        }
    }
}

mod random {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use crate::{Incoming, Role, websocket_framing::Decoder};

    /// What a stream decodes to: everything up to the first error, and that error's close code.
    fn outcome(role: Role, pieces: &[&[u8]]) -> (Vec<Incoming>, Option<u16>) {
        let mut decoder = Decoder::new(role, 300);
        let mut chunk = BytesMut::new();
        let mut out = Vec::new();
        for piece in pieces {
            chunk.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut chunk) {
                    Ok(Some(close @ Incoming::Close { .. })) => {
                        out.push(close);
                        return (out, None);
                    }
                    Ok(Some(incoming)) => out.push(incoming),
                    Ok(None) => break,
                    Err(error) => return (out, Some(error.close_code())),
                }
            }
        }
        (out, None)
    }

    /// A frame that is right, or wrong in one of the ways a header can be.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let opcode = prop_oneof![8 => prop::sample::select(vec![0u8, 1, 2, 8, 9, 10]), 1 => 0u8..16];
        let payload = prop_oneof![
            any::<String>().prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..140),
        ];
        let bits =
            prop_oneof![6 => Just(0x80u8), 3 => Just(0u8), 1 => any::<u8>().prop_map(|bits| bits & 0xF0)];
        (opcode, bits, payload, any::<[u8; 4]>(), any::<bool>()).prop_map(
            |(opcode, bits, payload, key, masked)| {
                let mut out = vec![bits | opcode];
                let flag = if masked { 0x80 } else { 0 };
                match payload.len() {
                    0..=125 => out.push(flag | payload.len() as u8),
                    length => {
                        out.push(flag | 126);
                        out.extend((length as u16).to_be_bytes());
                    }
                }
                if masked {
                    out.extend(key);
                    out.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]));
                } else {
                    out.extend(payload);
                }
                out
            },
        )
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(frame(), 0..6).prop_map(|frames| frames.concat()),
            prop::collection::vec(any::<u8>(), 0..64),
            (prop::collection::vec(frame(), 1..4), any::<prop::sample::Index>(), any::<u8>()).prop_map(
                |(frames, index, byte)| {
                    let mut bytes = frames.concat();
                    let index = index.index(bytes.len());
                    bytes[index] = byte;
                    bytes
                }
            ),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// No bytes panic, and no way of cutting them changes what they mean.
        #[test]
        fn any_bytes_in_any_pieces_mean_the_same(
            bytes in stream(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            client in any::<bool>(),
        ) {
            let role = if client { Role::Client } else { Role::Server };
            let whole = outcome(role, &[&bytes]);
            let octets: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(&outcome(role, &octets), &whole);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(&outcome(role, &pieces), &whole);
        }
    }
}
