//! Login policies, devices, groups, and connections that must be encrypted.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trunkline_proto::Dialect;
use trunkline_proto::wire::{StartRequest, UnicastPushRequest};
use trunkline_testkit::{TestClient, TestServer, TestUpstream, Transport, Way};

use crate::common::{business, channel, error, published, server};

/// A server with this login policy.
async fn with_policy(policy: &str) -> TestServer {
    let config = format!("[auth]\nlogin = \"{policy}\"\ndevices = 3");
    server().anonymous().config(config).start().await.unwrap()
}

/// One more client of alice, on this device and platform.
async fn login(server: &TestServer, device: &str, platform: &str) -> (TestClient, bool) {
    let mut client = server.connect(Way::TCP).await.unwrap();
    let start = StartRequest {
        device_id: device.into(),
        platform: platform.into(),
        ..TestClient::start_request("alice", "")
    };
    let response = client.start(start).await.unwrap();
    (client, response.success)
}

async fn lives(client: &mut TestClient) -> bool {
    client.drain().await.is_ok()
}

#[tokio::test]
async fn by_device_each_has_one_session_and_there_are_not_too_many() {
    let server = with_policy("device").await;
    let (mut phone, _) = login(&server, "phone", "ios").await;
    let (mut laptop, _) = login(&server, "laptop", "web").await;
    let (mut tablet, _) = login(&server, "tablet", "ios").await;
    assert!(lives(&mut phone).await && lives(&mut laptop).await && lives(&mut tablet).await);
    let (mut fourth, success) = login(&server, "watch", "ios").await;
    assert!(!success, "three devices are the limit");
    assert_eq!(fourth.close_code().await.unwrap(), 4306);
    let (mut again, success) = login(&server, "phone", "ios").await;
    assert!(success && lives(&mut again).await, "a known device takes its own place");
    assert_eq!(phone.close_code().await.unwrap(), 4301);
    assert!(lives(&mut laptop).await && lives(&mut tablet).await);
}

#[tokio::test]
async fn by_platform_a_newer_one_replaces_its_like() {
    let server = with_policy("platform").await;
    let (mut phone, _) = login(&server, "phone", "ios").await;
    let (mut laptop, _) = login(&server, "laptop", "web").await;
    let (mut tablet, success) = login(&server, "tablet", "ios").await;
    assert!(success && lives(&mut tablet).await && lives(&mut laptop).await);
    assert_eq!(phone.close_code().await.unwrap(), 4301);
}

#[tokio::test]
async fn with_one_the_newest_stays_and_with_refuse_the_first() {
    let server = with_policy("one").await;
    let (mut first, _) = login(&server, "phone", "ios").await;
    let (mut second, success) = login(&server, "laptop", "web").await;
    assert!(success && lives(&mut second).await);
    assert_eq!(first.close_code().await.unwrap(), 4301);

    let server = with_policy("refuse").await;
    let (mut first, _) = login(&server, "phone", "ios").await;
    let (mut second, success) = login(&server, "laptop", "web").await;
    assert!(!success && lives(&mut first).await);
    assert_eq!(second.close_code().await.unwrap(), 4306);
}

#[tokio::test]
async fn with_many_only_the_count_is_a_limit() {
    let server = with_policy("many").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(login(&server, "phone", "ios").await);
    }
    for (client, success) in &mut clients {
        assert!(*success && lives(client).await);
    }
    let (mut fourth, success) = login(&server, "phone", "ios").await;
    assert!(!success);
    assert_eq!(fourth.close_code().await.unwrap(), 4306);
}

#[tokio::test]
async fn groups_come_from_the_token_and_hear_what_is_pushed_to_them() {
    let server = server().start().await.unwrap();
    let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    let mut members = Vec::new();
    for user in ["alice", "bob", "carol"] {
        let groups: &[&str] = if user == "carol" { &[] } else { &["--group", "staff"] };
        let token = server.token(user, groups).await.unwrap();
        let mut client = server.connect(Way::TCP).await.unwrap();
        assert!(client.start_as(user, &token).await.unwrap().success);
        members.push(client);
    }
    let push = UnicastPushRequest {
        target_type: "gid".into(),
        target_id: "staff".into(),
        title: "meeting".into(),
        ..UnicastPushRequest::default()
    };
    assert!(upstream.gateway().push_to_client(push).await.unwrap().into_inner().success);
    let mut carol = members.pop().unwrap();
    for mut member in members {
        let (at, title) = published(&member.push().await.unwrap());
        assert_eq!((at.channel.as_str(), title), ("group:staff", "meeting".into()));
    }
    assert!(carol.drain().await.unwrap().is_empty());
    assert_eq!(error(carol.subscribe("group:staff", None).await.unwrap()).error_code, 403);
}

#[tokio::test]
async fn where_tls_is_required_plain_connections_are_told_so() {
    let server = server().anonymous().config("[tls]\nmode = \"required\"").start().await.unwrap();
    let mut plain = server.connect(Way::TCP).await.unwrap();
    // It may be closed before it has said anything.
    let _ = plain.send_raw(&[0, 0, 0, 1]).await;
    assert_eq!(plain.close_code().await.unwrap(), 4406);
    let mut http = TcpStream::connect(server.ready().http().unwrap()).await.unwrap();
    http.write_all(b"GET / HTTP/1.1\r\nhost: gateway.example\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = http.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.starts_with("http/1.1 30") && answer.contains("location: https://"), "{answer}");
    for transport in [Transport::Tls, Transport::SecureWebSocket, Transport::Quic, Transport::WebTransport] {
        let way = Way { transport, dialect: Dialect::Protobuf };
        let mut client = server.connect(way).await.unwrap();
        assert!(client.start_as("alice", "").await.unwrap().success, "{transport:?}");
        channel(client.subscribe("room:1", None).await.unwrap());
        channel(client.publish("room:1", "secret").await.unwrap());
        assert_eq!(published(&client.push().await.unwrap()).1, "secret", "{transport:?}");
    }
}

#[tokio::test]
async fn the_last_word_is_the_newest_start_however_slow_the_others_are() {
    // One device, twenty connections; each START names an attempt, and they arrive in any order.
    let server = with_policy("device").await;
    let _upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    let start = TestClient::start_request("alice", "");
    let mut newest = server.connect(Way::TCP).await.unwrap();
    let first = newest.start(StartRequest { attempt: 20, ..start.clone() }).await.unwrap();
    newest.prove(first.fence).await.unwrap();
    newest.drain().await.unwrap();
    for attempt in 1..20 {
        let late = StartRequest { attempt, resume_token: first.resume_token.clone(), ..start.clone() };
        let mut client = server.connect(Way::TCP).await.unwrap();
        let response = client.start(late).await.unwrap();
        assert!(!response.success, "attempt {attempt} came after 20");
        assert_eq!(client.close_code().await.unwrap(), 4301);
    }
    assert_eq!(business(newest.call("echo", "still mine").await.unwrap()).data, "still mine");
}
