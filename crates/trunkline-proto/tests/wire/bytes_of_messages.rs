//! W1: the bytes of every message, worked out by hand from the schema, not by this crate.

use bytes::Bytes;
use trunkline_proto::Dialect;

use crate::samples;

fn bytes(hex: &str) -> Bytes {
    let digits: Vec<u8> =
        hex.bytes().filter_map(|digit| (digit as char).to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn w1_every_frame_up_has_its_golden_bytes() {
    for (name, frame, hex) in samples::up() {
        assert_eq!(Dialect::Protobuf.encode_up(&frame), bytes(hex), "{name}");
        assert_eq!(Dialect::Protobuf.decode_up(&bytes(hex)).as_ref(), Ok(&frame), "{name}");
    }
}

#[test]
fn w1_every_frame_down_has_its_golden_bytes() {
    for (name, frame, hex) in samples::down() {
        assert_eq!(Dialect::Protobuf.encode_down(&frame), bytes(hex), "{name}");
        assert_eq!(Dialect::Protobuf.decode_down(&bytes(hex)).as_ref(), Ok(&frame), "{name}");
    }
}

#[test]
fn every_frame_survives_the_json_dialect() {
    for (name, frame, _) in samples::up() {
        let json = Dialect::Json.encode_up(&frame);
        assert_eq!(Dialect::Json.decode_up(&json.into()), Ok(frame), "{name}");
    }
    for (name, frame, _) in samples::down() {
        let json = Dialect::Json.encode_down(&frame);
        assert_eq!(Dialect::Json.decode_down(&json.into()), Ok(frame), "{name}");
    }
}

#[test]
fn encoding_into_a_buffer_keeps_what_it_holds() {
    for dialect in [Dialect::Protobuf, Dialect::Json] {
        for (name, frame, _) in samples::down() {
            let mut out = vec![1, 2, 3, 4];
            dialect.encode_down_into(&frame, &mut out);
            assert_eq!(out[..4], [1, 2, 3, 4], "{name}");
            assert_eq!(out[4..], dialect.encode_down(&frame), "{name}");
        }
    }
}

#[test]
fn no_protobuf_frame_can_be_taken_for_json() {
    for (name, frame, _) in samples::up() {
        for dialect in [Dialect::Protobuf, Dialect::Json] {
            let first = dialect.encode_up(&frame);
            assert_eq!(Dialect::of_first_frame(&first), dialect, "{name}");
        }
    }
}

#[test]
fn a_type_of_another_schema_is_unknown_and_not_an_error() {
    let up = Dialect::Protobuf.decode_up(&Bytes::from_static(&[0x08, 7, 0x18, 99])).unwrap();
    assert_eq!((up.msg_id, up.body), (7, trunkline_proto::UpBody::Unknown("99".into())));
    let down = Dialect::Protobuf.decode_down(&Bytes::from_static(&[0x18, 99])).unwrap();
    assert_eq!(down.body, trunkline_proto::DownBody::Unknown("99".into()));
}

#[test]
fn a_group_inside_a_group_is_refused() {
    let inner = trunkline_proto::DownFrame::new(0, trunkline_proto::DownBody::Group(Vec::new()));
    let outer = trunkline_proto::DownFrame::new(0, trunkline_proto::DownBody::Group(vec![inner]));
    for dialect in [Dialect::Protobuf, Dialect::Json] {
        assert!(dialect.decode_down(&dialect.encode_down(&outer).into()).is_err(), "{dialect:?}");
    }
}
