//! TLS on the same port, and plain HTTP where TLS is required.

use trunkline_testkit::{TestServer, https};

use crate::exchange::{ask, ask_on, server};

fn with_tls(mode: &str) -> trunkline_testkit::ServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_trunkline"))
        .config(format!("[limits]\nhandshake_timeout = \"300ms\"\n[tls]\nmode = \"{mode}\"\n"))
}

#[tokio::test]
async fn plain_and_tls_share_the_port() {
    let server = server().start().await.unwrap();
    let http = server.ready().http().unwrap();
    let plain = ask(http, "GET /certificate", "").await;
    let secure = ask_on(https(server.ready()).await.unwrap(), "GET /certificate", "").await;
    assert_eq!((plain.status, secure.status), (200, 200));
    assert_eq!(plain.body, secure.body);
}

#[tokio::test]
async fn where_tls_is_required_plain_http_is_sent_to_https() {
    let server = with_tls("required").start().await.unwrap();
    let http = server.ready().http().unwrap();
    for (first, location) in [
        ("GET /api/status?a=1", "https://node.example/api/status?a=1"),
        ("GET /ws", "https://node.example/ws"),
        ("POST /anything", "https://node.example/anything"),
    ] {
        let answer = ask(http, first, "").await;
        assert_eq!((answer.status, answer.header("location")), (308, location), "{first}");
        assert_eq!(answer.body, "TLS is required here\n");
    }
    let page = ask_on(https(server.ready()).await.unwrap(), "GET /", "").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("<title>Trunkline</title>"));
}

#[tokio::test]
async fn where_tls_is_off_a_handshake_is_no_http() {
    let server = with_tls("off").start().await.unwrap();
    assert_eq!(ask(server.ready().http().unwrap(), "GET /ready", "").await.status, 200);
    assert!(https(server.ready()).await.is_err(), "TLS was spoken where it is off");
}
