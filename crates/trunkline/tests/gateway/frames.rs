//! W2 and bad input: frames of every size and shape are answered or closed with a code, and nobody else notices.

use trunkline_proto::wire::{self, HeartbeatRequest};
use trunkline_proto::{Dialect, DownBody, UpBody, UpFrame};
use trunkline_testkit::{Transport, Way};

use crate::common::{business, client, client_by, error, open_server};

const LIMIT: usize = 1 << 20;

fn heartbeat(msg_id: u32) -> Vec<u8> {
    let beat = UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 5 });
    Dialect::Protobuf.encode_up(&UpFrame::new(msg_id, 0, beat))
}

fn framed(payload: &[u8]) -> Vec<u8> {
    [&u32::try_from(payload.len()).unwrap().to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn w2_a_frame_split_at_every_byte_is_one_frame() {
    let (server, _upstream) = open_server().await;
    let mut client = client(&server, "alice").await;
    let bytes = framed(&heartbeat(77));
    for at in 1..bytes.len() {
        client.send_raw(&bytes[..at]).await.unwrap();
        tokio::task::yield_now().await;
        client.send_raw(&bytes[at..]).await.unwrap();
        assert!(matches!(client.reply(77).await.unwrap().body, DownBody::HeartbeatResp(_)), "split at {at}");
    }
    for byte in &bytes {
        client.send_raw(&[*byte]).await.unwrap();
    }
    client.reply(77).await.unwrap();
}

#[tokio::test]
async fn w2_a_hundred_frames_in_one_write_are_a_hundred_frames() {
    let (server, _upstream) = open_server().await;
    let mut client = client(&server, "alice").await;
    let bytes: Vec<u8> = (1000..1100).flat_map(|msg_id| framed(&heartbeat(msg_id))).collect();
    client.send_raw(&bytes).await.unwrap();
    for msg_id in 1000..1100 {
        assert_eq!(client.frame().await.unwrap().msg_id, msg_id);
    }
}

#[tokio::test]
async fn w2_frames_in_one_write_are_dealt_with_in_their_order_up_to_the_one_that_ends_the_connection() {
    let (server, _upstream) = open_server().await;
    let mut client = client(&server, "alice").await;
    let call = |number: u32| {
        let request = wire::BusinessRequest {
            action: "trunkline.echo".into(),
            data: number.to_string().into_bytes().into(),
            ..wire::BusinessRequest::default()
        };
        framed(&Dialect::Protobuf.encode_up(&UpFrame::new(number, number.into(), UpBody::Business(request))))
    };
    let mut bytes: Vec<u8> = (1..=30).flat_map(call).collect();
    bytes.extend(framed(b"\xff\xff\xff"));
    bytes.extend(framed(&heartbeat(77)));
    bytes.extend(framed(br#"{"msg_id":99,"type":"heartbeat"}"#));
    bytes.extend(call(31));
    client.send_raw(&bytes).await.unwrap();
    for number in 1..=30 {
        let frame = client.frame_where(|frame| frame.msg_id > 0).await.unwrap();
        assert_eq!(frame.msg_id, number);
        assert_eq!(business(frame).data, number.to_string());
    }
    assert_eq!(error(client.push().await.unwrap()).error_code, 400);
    assert!(matches!(client.reply(77).await.unwrap().body, DownBody::HeartbeatResp(_)));
    match client.frame().await.unwrap().body {
        DownBody::Close(notice) => assert_eq!(notice.code, 4404),
        other => panic!("the frame behind the end was answered: {other:?}"),
    }
}

#[tokio::test]
async fn w2_a_frame_of_exactly_the_limit_passes_and_one_byte_more_is_4401() {
    let (server, _upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    let call = |length: usize| {
        let request = wire::BusinessRequest {
            action: "count".into(),
            data: vec![b'x'; length].into(),
            ..wire::BusinessRequest::default()
        };
        UpFrame::new(9, 1, UpBody::Business(request))
    };
    let overhead = Dialect::Protobuf.encode_up(&call(LIMIT - 100)).len() - (LIMIT - 100);
    let exact = Dialect::Protobuf.encode_up(&call(LIMIT - overhead));
    assert_eq!(exact.len(), LIMIT);
    alice.send_payload(&exact).await.unwrap();
    let answer = alice.reply(9).await.unwrap();
    assert_eq!(business(answer).data, "1");

    alice.send_raw(&u32::try_from(LIMIT + 1).unwrap().to_be_bytes()).await.unwrap();
    assert_eq!(alice.close_code().await.unwrap(), 4401, "told from the length alone");
    let mut huge = client(&server, "huge").await;
    huge.send_raw(&u32::MAX.to_be_bytes()).await.unwrap();
    assert_eq!(huge.close_code().await.unwrap(), 4401);
}

#[tokio::test]
async fn w2_an_empty_frame_is_an_unknown_type_and_the_session_lives() {
    let (server, _upstream) = open_server().await;
    let mut client = client(&server, "alice").await;
    client.send_payload(b"").await.unwrap();
    assert_eq!(error(client.push().await.unwrap()).error_code, 400);
    client.send_raw(&framed(&heartbeat(5))).await.unwrap();
    client.reply(5).await.unwrap();
}

#[tokio::test]
async fn a_frame_that_does_not_decode_is_400_and_ten_in_a_row_are_4400() {
    let (server, _upstream) = open_server().await;
    let mut client = client(&server, "alice").await;
    for _ in 0..9 {
        client.send_payload(b"\xff\xff\xff").await.unwrap();
        assert_eq!(error(client.push().await.unwrap()).error_code, 400);
    }
    // One that decodes begins the count anew.
    client.send_raw(&framed(&heartbeat(5))).await.unwrap();
    client.reply(5).await.unwrap();
    for _ in 0..10 {
        client.send_payload(b"\xff\xff\xff").await.unwrap();
    }
    assert_eq!(client.close_code().await.unwrap(), 4400);
}

#[tokio::test]
async fn an_unknown_type_is_400_with_its_msg_id() {
    let (server, _upstream) = open_server().await;
    for dialect in [Dialect::Protobuf, Dialect::Json] {
        let mut client = client_by(&server, "alice", Way { transport: Transport::Tcp, dialect }).await;
        let frame = match dialect {
            Dialect::Protobuf => b"\x08\x63\x18\x63".to_vec(),
            Dialect::Json => br#"{"msg_id":99,"type":"dance"}"#.to_vec(),
        };
        client.send_payload(&frame).await.unwrap();
        let answer = client.reply(99).await.unwrap();
        assert_eq!(error(answer).error_code, 400, "{dialect:?}");
    }
}

#[tokio::test]
async fn a_frame_in_the_other_dialect_is_4404() {
    let (server, _upstream) = open_server().await;
    let json = br#"{"msg_id":99,"type":"heartbeat"}"#;
    let mut protobuf = client(&server, "alice").await;
    protobuf.send_payload(json).await.unwrap();
    assert_eq!(protobuf.close_code().await.unwrap(), 4404);

    let web = Way { transport: Transport::WebSocket, dialect: Dialect::Json };
    let mut browser = client_by(&server, "bob", web).await;
    browser.send_message(tokio_tungstenite::tungstenite::Message::Binary(heartbeat(1).into())).await.unwrap();
    assert_eq!(browser.close_code().await.unwrap(), 4404);
}

#[tokio::test]
async fn bad_input_of_others_is_nobodys_business() {
    let (server, _upstream) = open_server().await;
    let mut healthy = client(&server, "healthy").await;
    for attack in
        [&b"\xff\xff\xff\xff"[..], b"\x00\x00\x00\x04\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", b""]
    {
        let mut other = server.connect(Way::TCP).await.unwrap();
        other.send_raw(attack).await.unwrap();
        let reply = business(healthy.call("echo", "well").await.unwrap());
        assert_eq!(reply.data, "well");
    }
}
