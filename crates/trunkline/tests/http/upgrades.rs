//! `/ws`: what becomes a WebSocket connection, and what is told why it does not.

use trunkline_proto::wire::HeartbeatRequest;
use trunkline_proto::{DownBody, UpBody};
use trunkline_testkit::{Transport, Way};

use crate::exchange::{ask, server};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn a_request_that_is_no_upgrade_is_told_what_is_missing() {
    let server = server().start().await.unwrap();
    let http = server.ready().http().unwrap();
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    for (first, lines, status, said) in [
        ("GET /ws", String::new(), 426, "this address expects a WebSocket upgrade\n"),
        ("POST /ws", "Content-Length: 0\r\n".to_owned(), 426, "this address expects a WebSocket upgrade\n"),
        ("GET /ws", format!("{upgrade}{KEY}"), 426, "only version 13 of WebSocket is spoken\n"),
        (
            "GET /ws",
            format!("{upgrade}{KEY}Sec-WebSocket-Version: 8\r\n"),
            426,
            "only version 13 of WebSocket is spoken\n",
        ),
        ("GET /ws", format!("{upgrade}{version}"), 400, "Sec-WebSocket-Key is missing or malformed\n"),
        (
            "GET /ws",
            format!("{upgrade}{version}Sec-WebSocket-Key: short\r\n"),
            400,
            "Sec-WebSocket-Key is missing or malformed\n",
        ),
        ("POST /ws", format!("{upgrade}{version}{KEY}"), 405, "a WebSocket request is a GET\n"),
    ] {
        let answer = ask(http, first, &lines).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, said), "{first} {lines}");
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8", "{first} {lines}");
    }
    let old = ask(http, "GET /ws", &format!("{upgrade}{KEY}Sec-WebSocket-Version: 8\r\n")).await;
    assert_eq!((old.header("sec-websocket-version"), old.header("upgrade")), ("13", "websocket"));
    assert_eq!(
        ask(http, "GET /", &format!("{upgrade}{version}{KEY}")).await.status,
        200,
        "only /ws is upgraded"
    );
    assert_eq!(ask(server.ready().metrics().unwrap(), "GET /ws", "").await.status, 404);
}

#[tokio::test]
async fn after_all_refusals_a_websocket_client_is_served() {
    let server = server().start().await.unwrap();
    drop(ask(server.ready().http().unwrap(), "GET /ws", "").await);
    for way in Way::ALL
        .into_iter()
        .filter(|way| matches!(way.transport, Transport::WebSocket | Transport::SecureWebSocket))
    {
        let mut client = server.client("alice", way).await.unwrap();
        let answer =
            client.request(UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 7 })).await.unwrap();
        assert!(
            matches!(answer.body, DownBody::HeartbeatResp(beat) if beat.client_timestamp == 7),
            "{way:?}"
        );
    }
}
