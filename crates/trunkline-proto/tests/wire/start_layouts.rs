//! W3: two layouts of StartRequest are on the wire; the tags tell which, in any order of fields.

use bytes::Bytes;
use trunkline_proto::wire::StartRequest;
use trunkline_proto::{Dialect, UpBody};

/// `(tag, value)` pairs to a START frame, in the given order.
fn start(fields: &[(u8, Field)]) -> Option<StartRequest> {
    let mut payload = Vec::new();
    for (tag, field) in fields {
        match field {
            Field::Text(text) => {
                payload.extend(key(*tag, 2));
                payload.push(text.len() as u8);
                payload.extend(text.as_bytes());
            }
            Field::Number(number) => {
                assert!(*number < 128, "one byte is enough for a test");
                payload.extend(key(*tag, 0));
                payload.push(*number);
            }
        }
    }
    let mut frame = vec![0x18, 1, 0x22, payload.len() as u8];
    frame.extend(payload);
    match Dialect::Protobuf.decode_up(&Bytes::from(frame)).ok()?.body {
        UpBody::Start(start) => Some(*start),
        other => panic!("a START came out as {other:?}"),
    }
}

#[derive(Clone, Copy)]
enum Field {
    Text(&'static str),
    Number(u8),
}
use Field::{Number, Text};

fn key(tag: u8, kind: u8) -> Vec<u8> {
    let key = u16::from(tag) << 3 | u16::from(kind);
    if key < 128 { vec![key as u8] } else { vec![key as u8 | 0x80, (key >> 7) as u8] }
}

fn readme(token: &str, acked: u64) -> StartRequest {
    StartRequest {
        openid: "alice".into(),
        auth_token: token.into(),
        last_acked_seq_id: acked,
        ..StartRequest::default()
    }
}

fn legacy(client: &str, token: &str, acked: u64) -> StartRequest {
    StartRequest { device_id: client.into(), ..readme(token, acked) }
}

#[test]
fn w3_field_3_as_a_number_is_the_readme_layout() {
    assert_eq!(start(&[(1, Text("alice")), (2, Text("tok")), (3, Number(17))]), Some(readme("tok", 17)));
    assert_eq!(start(&[(3, Number(17)), (2, Text("tok")), (1, Text("alice"))]), Some(readme("tok", 17)));
}

#[test]
fn w3_without_fields_3_and_4_it_is_the_readme_layout() {
    assert_eq!(start(&[(1, Text("alice")), (2, Text("tok"))]), Some(readme("tok", 0)));
    assert_eq!(start(&[]), Some(StartRequest::default()));
}

#[test]
fn w3_field_3_as_bytes_is_the_legacy_layout() {
    let fields = [(1, Text("alice")), (2, Text("c1")), (3, Text("tok")), (4, Number(17))];
    assert_eq!(start(&fields), Some(legacy("c1", "tok", 17)));
    assert_eq!(start(&fields[..3]), Some(legacy("c1", "tok", 0)), "never acked anything");
    let mut reversed = fields;
    reversed.reverse();
    assert_eq!(start(&reversed), Some(legacy("c1", "tok", 17)));
    assert_eq!(start(&[(1, Text("alice")), (3, Text("tok"))]), Some(legacy("", "tok", 0)), "no client id");
}

#[test]
fn w3_field_4_alone_is_the_legacy_layout() {
    let fields = [(4, Number(5)), (2, Text("c1")), (1, Text("alice"))];
    assert_eq!(start(&fields), Some(legacy("c1", "", 5)));
}

#[test]
fn w3_extensions_mean_the_same_in_both_layouts() {
    let legacy_fields =
        [(20, Number(1)), (3, Text("tok")), (1, Text("alice")), (2, Text("c1")), (22, Text("web"))];
    let expected = StartRequest { protocol: 1, platform: "web".into(), ..legacy("c1", "tok", 0) };
    assert_eq!(start(&legacy_fields), Some(expected));
    let named = [(3, Text("tok")), (2, Text("c1")), (18, Text("phone"))];
    assert_eq!(
        start(&named).map(|start| start.device_id),
        Some("phone".into()),
        "device_id wins over client_id"
    );
}

#[test]
fn w3_layouts_that_contradict_themselves_do_not_decode() {
    assert_eq!(start(&[(3, Number(1)), (3, Text("tok"))]), None);
    assert_eq!(start(&[(3, Number(1)), (4, Number(1))]), None);
    assert_eq!(start(&[(4, Text("x"))]), None);
}
