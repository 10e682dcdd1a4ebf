//! The JSON dialect's rules, one by one.

use bytes::Bytes;
use trunkline_proto::wire::{self, BusinessResponse};
use trunkline_proto::{Dialect, DownBody, DownFrame, UpBody, UpFrame};

fn reply(data: &[u8]) -> DownFrame {
    let data = Bytes::copy_from_slice(data);
    DownFrame::new(1, DownBody::BusinessData(BusinessResponse { data, ..BusinessResponse::default() }))
}

fn text_of(frame: &DownFrame) -> String {
    String::from_utf8(Dialect::Json.encode_down(frame)).unwrap()
}

fn up(text: &str) -> Option<UpFrame> {
    Dialect::Json.decode_up(&Bytes::copy_from_slice(text.as_bytes())).ok()
}

fn up_data(text: &str) -> Option<Bytes> {
    match up(text)?.body {
        UpBody::Business(call) => Some(call.data),
        other => panic!("not a call: {other:?}"),
    }
}

#[test]
fn data_that_is_json_is_spliced_verbatim() {
    let values = [
        "1.0",
        "-0",
        "1e400",
        "123456789012345678901234567890",
        "null",
        "true",
        "\"text\"",
        "{\"b\":1, \"a\" :\t[ ] }",
        "{\n \"k\": 1\r\n}",
        "{\"k\":1,\"k\":2}",
        r#""\ud800""#,
        r#""\u0041\/""#,
        "\"ä\u{2028}\"",
        "[]",
    ];
    for value in values {
        let frame = reply(value.as_bytes());
        let text = text_of(&frame);
        assert!(text.contains(&format!("\"data\":{value}")), "{text}");
        assert_eq!(Dialect::Json.decode_down(&text.into()), Ok(frame), "{value}");
        assert_eq!(
            up_data(&format!(r#"{{"type":"business","payload":{{"data": {value} }}}}"#)),
            Some(Bytes::copy_from_slice(value.as_bytes()))
        );
    }
}

#[test]
fn data_that_is_not_exactly_one_json_value_is_base64() {
    let deep = [b"[".repeat(65), b"]".repeat(65)].concat();
    let bomb = b"[".repeat(100_000);
    let others: [&[u8]; 14] = [
        b"text",
        b"{",
        b"{} {}",
        b"1 ",
        b" 1",
        b"{}\n",
        b"1,\"code\":2",
        b"01",
        b"NaN",
        b"\"\n\"",
        b"\xff\xfe",
        b"\"\xc3\x28\"",
        &deep,
        &bomb,
    ];
    for data in others {
        let frame = reply(data);
        let text = text_of(&frame);
        assert!(text.contains("\"data_base64\":\""), "{text}");
        assert!(!text.contains("\"data\":"), "{text}");
        assert_eq!(Dialect::Json.decode_down(&text.into()), Ok(frame));
    }
}

#[test]
fn brackets_in_text_are_no_depth() {
    let data = format!("\"{}\\\"{}\"", "[".repeat(100), "{".repeat(100));
    assert!(text_of(&reply(data.as_bytes())).contains("\"data\":"));
    let flat = format!("[{}[]]", "[],".repeat(1000));
    assert!(text_of(&reply(flat.as_bytes())).contains("\"data\":"), "many, but side by side");
}

#[test]
fn quoted_text_stands_for_its_bytes_with_the_quotes() {
    let data = up_data(r#"{"type":"business","payload":{"action":"echo","data":"text"}}"#);
    assert_eq!(data, Some(Bytes::from_static(b"\"text\"")));
    let data = up_data(r#"{"type":"business","payload":{"action":"echo","data_base64":"AAEC/w=="}}"#);
    assert_eq!(data, Some(Bytes::from_static(b"\x00\x01\x02\xff")));
}

#[test]
fn no_data_is_left_out_and_read_as_none() {
    assert_eq!(text_of(&reply(b"")), r#"{"msg_id":1,"type":"business_data"}"#);
    assert_eq!(up_data(r#"{"type":"business"}"#), Some(Bytes::new()));
}

#[test]
fn both_forms_of_data_at_once_do_not_decode() {
    assert_eq!(up(r#"{"type":"business","payload":{"data":1,"data_base64":"AA=="}}"#), None);
}

#[test]
fn unknown_members_are_ignored_and_null_is_a_default() {
    let text = r#"{"type":"subscribe","msg_id":3,"later":{"x":[1]},"headers":null,
                   "payload":{"channel":"room:1","since":null,"more":[{}]}}"#;
    let expected = wire::ChannelRequest { channel: "room:1".into(), since: None };
    assert_eq!(up(text), Some(UpFrame::new(3, 0, UpBody::Subscribe(expected))));
}

#[test]
fn an_unknown_type_is_told_and_not_an_error() {
    let unknown = |text: &str| up(text).map(|frame| (frame.msg_id, frame.body));
    assert_eq!(
        unknown(r#"{"msg_id":9,"type":"dance","payload":7}"#),
        Some((9, UpBody::Unknown("dance".into())))
    );
    assert_eq!(unknown(r#"{"msg_id":9}"#), Some((9, UpBody::Unknown("unknown".into()))));
    assert_eq!(unknown(r#"{"type":"START"}"#), Some((0, UpBody::Unknown("START".into()))), "lower case only");
}

#[test]
fn members_of_the_wrong_type_do_not_decode() {
    for text in [
        "",
        "{",
        "[]",
        "{} {}",
        r#"{"type":1}"#,
        r#"{"type":"ack","msg_id":-1}"#,
        r#"{"type":"ack","msg_id":4294967296}"#,
        r#"{"type":"ack","msg_id":1.5}"#,
        r#"{"type":"ack","headers":{"a":1}}"#,
        r#"{"type":"ack","payload":[]}"#,
        r#"{"type":"ack","payload":{"positions":{}}}"#,
        r#"{"type":"ack","payload":{"positions":[null]}}"#,
        r#"{"type":"stop","payload":{"reason":"boredom"}}"#,
        r#"{"type":"business","payload":{"data_base64":"?"}}"#,
    ] {
        assert_eq!(up(text), None, "{text}");
    }
}

#[test]
fn numbers_stay_under_two_to_the_53() {
    let ack = |number: &str| up(&format!(r#"{{"type":"ack","payload":{{"start_fence":{number}}}}}"#));
    assert!(ack("9007199254740991").is_some());
    assert!(ack("9007199254740992").is_none());
    let beat =
        |number: &str| up(&format!(r#"{{"type":"heartbeat","payload":{{"client_timestamp":{number}}}}}"#));
    assert!(beat("-9007199254740991").is_some());
    assert!(beat("-9007199254740992").is_none());
    assert!(up(r#"{"type":"ack","seq_id":9007199254740992}"#).is_none());
}

#[test]
fn success_verdict_and_positions_are_written_even_as_defaults() {
    let refused = DownFrame::new(1, DownBody::StartResp(Box::default()));
    assert_eq!(text_of(&refused), r#"{"msg_id":1,"type":"start_resp","payload":{"success":false}}"#);
    let fresh = wire::StartResponse {
        success: true,
        session_id: "s".into(),
        positions: vec![wire::ChannelPosition { channel: "all".into(), ..wire::ChannelPosition::default() }],
        ..wire::StartResponse::default()
    };
    assert_eq!(
        text_of(&DownFrame::new(1, DownBody::StartResp(fresh.into()))),
        r#"{"msg_id":1,"type":"start_resp","payload":{"success":true,"session_id":"s","verdict":"fresh","positions":[{"channel":"all","epoch":0,"offset":0}]}}"#
    );
    let head = wire::ChannelResponse { channel: "c".into(), epoch: 5, ..wire::ChannelResponse::default() };
    assert_eq!(
        text_of(&DownFrame::new(2, DownBody::ChannelResp(head))),
        r#"{"msg_id":2,"type":"channel_resp","payload":{"channel":"c","epoch":5,"offset":0}}"#
    );
    let publication = DownFrame::publication(
        wire::ChannelPosition { channel: "c".into(), ..wire::ChannelPosition::default() },
        DownBody::Publication(wire::Publication::default()),
    );
    assert_eq!(text_of(&publication), r#"{"type":"publication","channel":"c","epoch":0,"offset":0}"#);
}

#[test]
fn an_error_never_tells_what_the_frame_held() {
    let frame = Bytes::from_static(br#"{"type":"start","payload":{"auth_token":{"secret":"hunter2"}}}"#);
    let error = Dialect::Json.decode_up(&frame).unwrap_err().to_string();
    assert!(!error.contains("hunter2") && !error.contains("secret"), "{error}");
    let frame = Bytes::from_static(br#"{"type":"stop","payload":{"reason":"hunter2"}}"#);
    assert!(!Dialect::Json.decode_up(&frame).unwrap_err().to_string().contains("hunter2"));
}
