//! `proto/frames.json`: each frame is read, written again as the same JSON, and carried through protobuf.

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;
use trunkline_proto::Dialect;

#[derive(serde::Deserialize)]
struct Golden<'a> {
    way: String,
    #[serde(borrow)]
    frame: &'a RawValue,
}

const FRAMES: &str = include_str!("../../../../proto/frames.json");

fn value(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

#[test]
fn golden_frames_are_read_and_written_alike_in_both_dialects() {
    let golden: Vec<Golden<'_>> = serde_json::from_str(FRAMES).unwrap();
    assert!(golden.len() >= 26, "only {} golden frames", golden.len());
    for Golden { way, frame } in golden {
        let text = frame.get();
        let json = Bytes::copy_from_slice(text.as_bytes());
        let (again, through_protobuf) = if way == "up" {
            let frame = Dialect::Json.decode_up(&json).unwrap();
            assert!(!matches!(frame.body, trunkline_proto::UpBody::Unknown(_)), "{text}");
            let carried = Dialect::Protobuf.decode_up(&Dialect::Protobuf.encode_up(&frame).into()).unwrap();
            assert_eq!(carried, frame, "{text}");
            (Dialect::Json.encode_up(&frame), Dialect::Json.encode_up(&carried))
        } else {
            let frame = Dialect::Json.decode_down(&json).unwrap();
            assert!(!matches!(frame.body, trunkline_proto::DownBody::Unknown(_)), "{text}");
            let carried =
                Dialect::Protobuf.decode_down(&Dialect::Protobuf.encode_down(&frame).into()).unwrap();
            assert_eq!(carried, frame, "{text}");
            (Dialect::Json.encode_down(&frame), Dialect::Json.encode_down(&carried))
        };
        assert_eq!(value(&again), value(text.as_bytes()));
        assert_eq!(again, through_protobuf, "{text}");
    }
}

#[test]
fn golden_data_keeps_its_form() {
    let golden: Vec<Golden<'_>> = serde_json::from_str(FRAMES).unwrap();
    let mut seen = 0;
    for Golden { way, frame } in golden.iter().filter(|golden| golden.frame.get().contains("1.0")) {
        let json = Bytes::copy_from_slice(frame.get().as_bytes());
        let again = match way.as_str() {
            "up" => Dialect::Json.encode_up(&Dialect::Json.decode_up(&json).unwrap()),
            _ => Dialect::Json.encode_down(&Dialect::Json.decode_down(&json).unwrap()),
        };
        assert!(String::from_utf8(again).unwrap().contains(r#"{"any": ["json", 1.0]}"#));
        seen += 1;
    }
    assert_eq!(seen, 2);
}
