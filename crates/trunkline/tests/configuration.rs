//! Settings as a client feels them: a real node with a setting, and what it changes. And what a node leaves on the disk,
//! how it says where it is, and what it says when it cannot start.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trunkline_proto::wire::{ChannelPosition, StartRequest};
use trunkline_proto::{Dialect, DownBody};
use trunkline_testkit::{
    DEADLINE, ServerBuilder, Signal, TestClient, TestServer, TestUpstream, Transport, Way,
};

const BINARY: &str = env!("CARGO_BIN_EXE_trunkline");

/// A client's way that is TLS whatever the mode.
const TLS: Way = Way { transport: Transport::Tls, dialect: Dialect::Protobuf };

fn server() -> ServerBuilder {
    TestServer::builder(BINARY)
}

async fn configured(toml: &str) -> TestServer {
    server().config(toml).start().await.unwrap()
}

/// A plain connection that has said its first byte: before it, nobody knows whether TLS will follow.
async fn one_byte(server: &TestServer) -> TestClient {
    let mut client = server.connect(Way::TCP).await.unwrap();
    client.send_raw(&[0]).await.unwrap();
    client
}

/// What a server answers to a plain GET.
async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("an answer").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn node_json(data_dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(data_dir.join("node.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn a_node_says_where_it_is_until_it_ends() {
    let data = tempfile::tempdir().unwrap();
    let mut server = server().data_dir(data.path()).start().await.unwrap();
    let node = node_json(data.path());
    assert_eq!(node["pid"], server.ready().pid);
    assert_eq!(node["tcp"], server.ready().tcp().unwrap().to_string());
    assert_eq!(node["certificate_sha256"].as_str().unwrap().len(), 64);
    assert!(node.get("websocket").is_none(), "a surface that is off has no address");
    for said in [
        "Trunkline serves",
        node["http"].as_str().unwrap(),
        node["certificate_sha256"].as_str().unwrap(),
        "Ctrl-C",
    ] {
        assert!(server.output().contains(said), "{said} is missing: {}", server.output());
    }
    server.signal(Signal::Interrupt).unwrap();
    assert!(server.exited().await.unwrap().success());
    assert!(!data.path().join("node.json").exists());
}

#[tokio::test]
async fn a_data_directory_has_one_node_and_survives_a_killed_one() {
    let data = tempfile::tempdir().unwrap();
    let mut first = server().data_dir(data.path()).start().await.unwrap();
    let refused = server().data_dir(data.path()).start().await.err().expect("a second node started");
    assert!(format!("{refused:#}").contains("in use by another node"), "{refused:#}");
    let (pid, fingerprint) = (first.ready().pid, first.ready().certificate().unwrap());
    let token = first.token("alice", &[]).await.unwrap();
    first.kill().await.unwrap();
    assert_eq!(node_json(data.path())["pid"], pid, "nobody was left to remove it");
    let second = server().data_dir(data.path()).start().await.unwrap();
    assert_eq!(node_json(data.path())["pid"], second.ready().pid);
    assert_eq!(second.ready().certificate().unwrap(), fingerprint, "clients pinned it");
    let mut alice = second.connect(Way::TCP).await.unwrap();
    assert!(alice.start_as("alice", &token).await.unwrap().success, "tokens outlive the node");
}

#[tokio::test]
async fn a_port_in_use_is_told_with_the_surface_and_the_flag() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = server().surface("tcp", address.as_str()).start().await.err().expect("it started");
    let said = format!("{refused:#}");
    for word in ["listen.tcp", address.as_str(), "--tcp"] {
        assert!(said.contains(word), "{word} is missing: {said}");
    }
}

#[tokio::test]
async fn tls_required_closes_plain_tcp_with_4406_and_sends_http_to_https() {
    let server = configured("[tls]\nmode = \"required\"").await;
    let mut plain = one_byte(&server).await;
    assert_eq!(plain.close_code().await.unwrap(), 4406);
    server.client("alice", TLS).await.unwrap();
    let http = server.ready().http().unwrap();
    let answer = get(http, "/health").await;
    assert!(answer.starts_with("HTTP/1.1 308"), "{answer}");
    assert!(answer.contains(&format!("https://{http}/health")), "{answer}");
}

#[tokio::test]
async fn tls_off_leaves_plain_alone() {
    let server = configured("[tls]\nmode = \"off\"").await;
    server.client("alice", Way::TCP).await.unwrap();
    assert!(server.connect(TLS).await.is_err(), "TLS was spoken");
}

#[tokio::test]
async fn a_certificate_of_ones_own_is_what_clients_see() {
    let made = tempfile::tempdir().unwrap();
    let other = server().data_dir(made.path()).start().await.unwrap();
    let pem = made.path().join("keys/certificate.pem");
    let server = configured(&format!("[tls]\ncertificate = {pem:?}\nkey = {pem:?}")).await;
    assert_eq!(server.ready().certificate().unwrap(), other.ready().certificate().unwrap());
    assert!(!server.data_dir().join("keys/certificate.pem").exists(), "it made one of its own as well");
    server.client("alice", TLS).await.unwrap();
}

#[tokio::test]
async fn surfaces_can_be_off_and_websocket_can_have_a_port_of_its_own() {
    let server = server()
        .surface("http", "off")
        .surface("metrics", "off")
        .env("TRUNKLINE_LISTEN_WEBSOCKET", "127.0.0.1:0")
        .start()
        .await
        .unwrap();
    assert!(server.ready().http().is_err() && server.ready().metrics().is_err());
    let own = node_json(server.data_dir())["websocket"].as_str().unwrap().parse().unwrap();
    let way = Way { transport: Transport::WebSocket, dialect: Dialect::Json };
    let mut client = TestClient::connect(&server.ready().with_http(own), way).await.unwrap();
    let token = server.token("alice", &[]).await.unwrap();
    assert!(client.start_as("alice", &token).await.unwrap().success);
}

#[tokio::test]
async fn limits_of_connections_and_calls_hold() {
    let server = configured("[limits]\nconnections = 1\ncalls_per_second = 1\ncall_burst = 1").await;
    let _upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    let mut alice = server.client("alice", Way::TCP).await.unwrap();
    let mut one_too_many = one_byte(&server).await;
    assert_eq!(one_too_many.close_code().await.unwrap(), 4005);
    let mut sent = Vec::new();
    for text in ["1", "2", "3"] {
        sent.push((alice.next_client_seq, text, alice.send_call("echo", &[], text).await.unwrap()));
    }
    let mut refused = None;
    for (number, text, msg_id) in sent {
        if let DownBody::Error(error) = alice.reply(msg_id).await.unwrap().body {
            refused = Some((number, text, error));
        }
    }
    let (number, text, refused) = refused.expect("three calls at once passed a limit of one a second");
    assert_eq!(refused.error_code, 503);
    // A second's wait, and up to as much again so that not everybody comes at once.
    assert!((1..=2_000).contains(&refused.retry_after_ms), "{refused:?}");
    // The number stays usable: after the time that it was told, the same call runs.
    let wait = Duration::from_millis(refused.retry_after_ms.into());
    assert!(alice.recv_within(wait).await.unwrap().is_none());
    alice.next_client_seq = number;
    let again = alice.call("echo", text).await.unwrap();
    assert!(matches!(again.body, DownBody::BusinessData(_)), "{again:?}");
}

#[tokio::test]
async fn limits_of_frames_and_starts_hold() {
    let server =
        configured("[session]\nmax_frame_size = \"4 KiB\"\n[limits]\nstart_timeout = \"200ms\"").await;
    let mut silent = one_byte(&server).await;
    assert_eq!(silent.close_code().await.unwrap(), 4403);
    let mut alice = server.client("alice", Way::TCP).await.unwrap();
    alice.send_payload(&[0; 4097]).await.unwrap();
    assert_eq!(alice.close_code().await.unwrap(), 4401);
}

#[tokio::test]
async fn the_login_policy_refuses_the_second_device() {
    let server = configured("[auth]\nlogin = \"refuse\"").await;
    let _first = server.client("alice", Way::TCP).await.unwrap();
    let token = server.token("alice", &[]).await.unwrap();
    let mut second = server.connect(Way::TCP).await.unwrap();
    let start = TestClient::start_request("alice", &token);
    let response = second.start(StartRequest { device_id: "another".into(), ..start }).await.unwrap();
    assert!(!response.success);
    assert_eq!(second.close_code().await.unwrap(), 4306);
}

#[tokio::test]
async fn namespaces_give_rights_and_history() {
    let server = configured(
        "[namespaces.news]\nhistory_count = 2\nrights = [\"subscribe\", \"publish\"]\n[namespaces.closed]\nhistory_count = 1",
    )
    .await;
    let mut alice = server.client("alice", Way::TCP).await.unwrap();
    let before = alice.subscribe("news:a", None).await.unwrap();
    let DownBody::ChannelResp(before) = before.body else { panic!("{before:?}") };
    let since = ChannelPosition { channel: "news:a".into(), epoch: before.epoch, offset: before.offset };
    for text in ["1", "2"] {
        alice.publish("news:a", text).await.unwrap();
    }
    // Who comes later and says from where gets what the namespace keeps.
    let mut bob = server.client("bob", Way::TCP).await.unwrap();
    bob.subscribe("news:a", Some(since)).await.unwrap();
    for text in ["1", "2"] {
        let frame = bob.push().await.unwrap();
        assert!(
            matches!(&frame.body, DownBody::Publication(publication) if publication.data == text),
            "{frame:?}"
        );
    }
    for channel in ["closed:a", "other:a"] {
        let DownBody::ChannelResp(answer) = alice.subscribe(channel, None).await.unwrap().body else {
            panic!("no answer about {channel}")
        };
        assert_eq!(answer.error.expect("a refusal").error_code, 403, "{channel}");
    }
}

#[tokio::test]
async fn tokens_of_a_key_set_are_taken_and_what_they_must_have_is_asked_for() {
    // Made with the private key of RFC 8037, appendix A, whose public half is in the set.
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("set.json");
    let public = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    std::fs::write(&set, format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{public}"}}]}}"#)).unwrap();
    let server =
        configured(&format!("[auth.jwt]\njwks = {set:?}\nissuer = \"me\"\nrequired_claims = [\"exp\"]"))
            .await;
    for (claims, good) in [
        (serde_json::json!({ "sub": "alice", "iss": "me", "exp": 4_000_000_000_u64 }), true),
        (serde_json::json!({ "sub": "alice", "iss": "you", "exp": 4_000_000_000_u64 }), false),
        (serde_json::json!({ "sub": "alice", "iss": "me" }), false),
    ] {
        let mut client = server.connect(Way::TCP).await.unwrap();
        let response = client.start_as("alice", &signed(&claims)).await.unwrap();
        assert_eq!(response.success, good, "{claims}: {response:?}");
    }
}

/// A token signed with the private key of RFC 8037, appendix A, wrapped as PKCS #8.
fn signed(claims: &Value) -> String {
    use base64::Engine as _;
    let seed = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
        .unwrap();
    let mut pkcs8 = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    pkcs8.extend(seed);
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
    jsonwebtoken::encode(&header, claims, &jsonwebtoken::EncodingKey::from_ed_der(&pkcs8)).unwrap()
}

#[tokio::test]
async fn the_seeds_file_and_variables_start_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = folder.path().join("test-config.yaml");
    // The sample of its document, whose four ports the flags below replace.
    std::fs::write(&yaml, include_str!("../src/config/seed_sample.yaml")).unwrap();
    let server =
        server().arg("--config").arg(yaml.to_str().unwrap()).env("GATESVR_CERT_FILE", "").start().await;
    let refused = format!("{:#}", server.err().expect("an empty path was taken"));
    assert!(refused.contains("environment: GATESVR_CERT_FILE: wanted a path"), "{refused}");
    let server = self::server().arg("--config").arg(yaml.to_str().unwrap()).start().await.unwrap();
    for warned in ["server.ack_timeout: has no effect here", "tls.mode stays"] {
        assert!(server.output().contains(warned), "{warned} is missing: {}", server.output());
    }
    server.client("alice", Way::TCP).await.unwrap();
}
