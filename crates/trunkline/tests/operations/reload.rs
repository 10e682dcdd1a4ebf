//! Reloads: what changes in a running node, what does not, and that a wrong file changes nothing.

use std::path::Path;

use trunkline_proto::DownBody;
use trunkline_testkit::{DEADLINE, Signal, TestClient, TestServer, TestUpstream, Way};

use crate::common::{client, metric, server, until};

const APPLIED: &str = "trunkline_reloads_total{result=\"applied\"}";
const REFUSED: &str = "trunkline_reloads_total{result=\"refused\"}";

async fn started(config: &str) -> TestServer {
    server().config(config).start().await.unwrap()
}

/// Replaces a file as editors do: a reader sees the old one or the new one.
fn replace(file: &Path, text: impl AsRef<[u8]>) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// Changes the configuration and waits until it is in force. That the file has changed is noticed without a signal.
async fn change(server: &TestServer, config: &str) {
    let before = metric(server, APPLIED).await;
    replace(&server.config_file(), config);
    until("the reload", async || metric(server, APPLIED).await > before).await;
}

async fn hang_up(server: &TestServer) {
    let before = metric(server, APPLIED).await;
    server.signal(Signal::Reload).unwrap();
    until("the reload", async || metric(server, APPLIED).await > before).await;
}

async fn refuse(server: &TestServer, config: &str) {
    let before = metric(server, REFUSED).await;
    replace(&server.config_file(), config);
    until("the refusal", async || metric(server, REFUSED).await > before).await;
}

async fn said(server: &TestServer, words: &str) {
    until(words, async || server.output().contains(words)).await;
}

/// The close code of a connection that is not let in, or `None`.
async fn refused(server: &TestServer) -> Option<u32> {
    let mut client = server.connect(Way::TCP).await.unwrap();
    match client.start_as("late", "").await {
        Ok(response) if response.success => None,
        _ => Some(client.close_code().await.unwrap()),
    }
}

#[tokio::test]
async fn limits_of_connections_change_and_who_is_there_stays() {
    let server = started("[limits]\nconnections = 1").await;
    let mut alice = client(&server, "alice").await;
    assert_eq!(refused(&server).await, Some(4005));
    change(&server, "[limits]\nconnections = 5").await;
    assert_eq!(refused(&server).await, None);
    change(&server, "[limits]\nconnections = 1").await;
    alice.call("trunkline.echo", "still there").await.unwrap();
}

#[tokio::test]
async fn limits_of_calls_change() {
    let server = started("[limits]\ncalls_per_second = 1\ncall_burst = 1").await;
    let mut alice = client(&server, "alice").await;
    let failed = async |alice: &mut TestClient| {
        let mut failed = 0;
        for _ in 0..5 {
            failed += usize::from(matches!(
                alice.call("trunkline.echo", "").await.unwrap().body,
                DownBody::Error(error) if error.error_code == 503
            ));
        }
        failed
    };
    assert!(failed(&mut alice).await > 0);
    change(&server, "").await;
    assert_eq!(failed(&mut alice).await, 0);
}

/// What answers a call: 200, or the code of an error.
async fn code(client: &mut TestClient, action: &str) -> i32 {
    match client.call(action, "x").await.unwrap().body {
        DownBody::BusinessData(reply) => reply.code,
        DownBody::Error(error) => error.error_code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_limit_of_the_node_has_its_new_value_at_once() {
    let server = started("").await;
    for (key, value, name, shown) in [
        ("connections", "9", "connections", 9.0),
        ("sessions", "7", "sessions", 7.0),
        ("calls_per_second", "50", "calls_per_second", 50.0),
        ("calls_in_flight", "5", "calls_in_flight", 5.0),
        ("call_bytes", "\"1 MiB\"", "call_bytes", 1_048_576.0),
        ("reply_queue", "\"2 MiB\"", "reply_queue_bytes", 2_097_152.0),
        ("memory", "\"64 GiB\"", "memory_bytes", 68_719_476_736.0),
    ] {
        let limit = format!("trunkline_limit{{limit=\"{name}\"}}");
        assert_ne!(metric(&server, &limit).await, shown, "{key}");
        change(&server, &format!("[limits]\n{key} = {value}")).await;
        // The memory is read by a watcher of its own.
        until(key, async || metric(&server, &limit).await == shown).await;
        assert_eq!(metric(&server, "trunkline_restart_needed").await, 0.0, "{key}");
    }
}

#[tokio::test]
async fn limits_that_change_hold_for_what_comes_next() {
    let server = started("").await;
    let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    let mut alice = client(&server, "alice").await;
    let mut bob = client(&server, "bob").await;
    change(&server, "[limits]\nsessions = 2").await;
    assert_eq!(refused(&server).await, Some(4005));
    change(&server, "[limits]\ncall_bytes = 1").await;
    assert_eq!(code(&mut bob, "echo").await, 503);
    change(&server, "").await;
    assert_eq!(code(&mut bob, "echo").await, 200);
    let held = alice.send_call("hold", &[], "").await.unwrap();
    upstream.until_requests(2).await.unwrap();
    change(&server, "[limits]\ncalls_in_flight = 1").await;
    assert_eq!(code(&mut bob, "echo").await, 503);
    change(&server, "[limits]\nsessions = 100\nwarn_percent = 2").await;
    assert_eq!(code(&mut bob, "echo").await, 200);
    let level = "trunkline_limit_level{limit=\"sessions\"}";
    assert_eq!(metric(&server, level).await, 1.0, "two of a hundred are near");
    change(&server, "[limits]\nsessions = 100\nwarn_percent = 3").await;
    assert_eq!(metric(&server, level).await, 0.0);
    // What is under way is not touched by any of it.
    upstream.release(1);
    assert!(matches!(alice.reply(held).await.unwrap().body, DownBody::BusinessData(_)));
    assert_eq!(refused(&server).await, None);
}

#[tokio::test]
async fn rights_of_namespaces_change() {
    let server = TestServer::builder(env!("CARGO_BIN_EXE_trunkline"))
        .config("[namespaces.news]\nrights = []")
        .start()
        .await
        .unwrap();
    let mut alice = server.client("alice", Way::TCP).await.unwrap();
    let code = async |alice: &mut TestClient, channel: &str| match alice
        .subscribe(channel, None)
        .await
        .unwrap()
        .body
    {
        DownBody::ChannelResp(answer) => answer.error.map_or(0, |error| error.error_code),
        other => panic!("{other:?}"),
    };
    assert_eq!(code(&mut alice, "news:a").await, 403);
    change(&server, "[namespaces.news]\nrights = [\"subscribe\"]").await;
    assert_eq!(code(&mut alice, "news:a").await, 0);
    change(&server, "").await;
    assert_eq!(code(&mut alice, "news:b").await, 403);
}

#[tokio::test]
async fn the_login_policy_changes() {
    let server = started("").await;
    let _first = client(&server, "late").await;
    change(&server, "[auth]\nlogin = \"refuse\"").await;
    assert_eq!(refused(&server).await, Some(4306));
    change(&server, "[auth]\nlogin = \"many\"").await;
    assert_eq!(refused(&server).await, None);
}

#[tokio::test]
async fn routes_and_static_upstreams_change() {
    let server = started("").await;
    let upstream = TestUpstream::start(server.ready().grpc().unwrap()).await.unwrap();
    let mut alice = client(&server, "alice").await;
    let refused = alice.call("echo", "1").await.unwrap();
    assert!(matches!(&refused.body, DownBody::Error(error) if error.error_code == 503), "{refused:?}");
    let instance = format!("{{ address = \"{}\", zone = \"*\"", upstream.address());
    change(&server, &format!("[upstreams]\ninstances = [{instance} }}]")).await;
    let answered = alice.call("echo", "2").await.unwrap();
    assert!(matches!(&answered.body, DownBody::BusinessData(reply) if reply.data == "2"), "{answered:?}");
    // It serves another service now, and only what is routed there reaches it.
    let config =
        |routes: &str| format!("[upstreams]\ninstances = [{instance}, service = \"pay\" }}]\n{routes}");
    change(&server, &config("routes = { \"pay.\" = \"pay\" }")).await;
    let refused = alice.call("echo", "3").await.unwrap();
    assert!(matches!(&refused.body, DownBody::Error(error) if error.error_code == 503), "{refused:?}");
    change(&server, &config("routes = { \"ec\" = \"pay\" }")).await;
    let answered = alice.call("echo", "4").await.unwrap();
    assert!(matches!(&answered.body, DownBody::BusinessData(reply) if reply.data == "4"), "{answered:?}");
}

#[tokio::test]
async fn the_level_of_the_log_changes() {
    let server = started("[log]\nlevel = \"error\"").await;
    let lines = || server.output().lines().filter(|line| line.contains("DEBUG")).count();
    change(&server, "[log]\nlevel = \"debug\"").await;
    until("a line of level debug", async || {
        // A request that is none.
        let mut garbage = tokio::net::TcpStream::connect(server.ready().http().unwrap()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut garbage, b"\x00\x01\r\n\r\n").await.unwrap();
        lines() > 0
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_is_replaced_in_its_files_is_used_and_announced() {
    let made = tempfile::tempdir().unwrap();
    let pem = |number: u8| {
        let made = trunkline_transport::certificate::self_signed(&[format!("n{number}.example")]).unwrap();
        format!("{}{}", made.certificate_pem, made.key_pem)
    };
    let file = made.path().join("node.pem");
    std::fs::write(&file, pem(1)).unwrap();
    let tls = format!("[tls]\ncertificate = {file:?}\nkey = {file:?}");
    let server = started(&tls).await;
    let first = server.ready().certificate().unwrap();
    replace(&file, pem(2));
    until("the new certificate", async || server.announced().unwrap().certificate().unwrap() != first).await;
    let second = server.announced().unwrap();
    // Who pins what is announced gets in.
    let tls_way =
        Way::ALL.into_iter().find(|way| way.transport == trunkline_testkit::Transport::Tls).unwrap();
    let mut alice = TestClient::connect(&second, tls_way).await.unwrap();
    assert!(alice.start_as("alice", "").await.unwrap().success);

    // Half a file is no certificate: the old one stays, and the whole file is taken when it is there.
    let (whole, refused) = (pem(3), metric(&server, REFUSED).await);
    replace(&file, &whole[..whole.len() / 2]);
    until("the refusal", async || metric(&server, REFUSED).await > refused).await;
    assert_eq!(metric(&server, "trunkline_reload_refused").await, 1.0);
    assert_eq!(server.announced().unwrap().certificate().unwrap(), second.certificate().unwrap());
    replace(&file, &whole);
    until("the third certificate", async || {
        server.announced().unwrap().certificate().unwrap() != second.certificate().unwrap()
    })
    .await;
    until("no refusal", async || metric(&server, "trunkline_reload_refused").await == 0.0).await;

    // Without files of ones own the node makes one, and back.
    let third = server.announced().unwrap().certificate().unwrap();
    change(&server, "").await;
    until("the node's own", async || server.announced().unwrap().certificate().unwrap() != third).await;
    change(&server, &tls).await;
    until("the third again", async || server.announced().unwrap().certificate().unwrap() == third).await;
}

#[tokio::test]
async fn a_wrong_file_changes_nothing_and_says_so() {
    let good = "[limits]\nconnections = 1";
    let server = started(good).await;
    let _alice = client(&server, "alice").await;
    // What is right in it does not count either.
    for (wrong, words) in [
        ("[limits]\nconnections = 5\nconections = 6", "did you mean limits.connections?"),
        ("[limits]\nconnections = 5\n[log]\nlevel = \"a=b=c\"", "log.level"),
        ("[limits]\nconnections = 5\n[auth.jwt]\njwks = \"/nowhere.json\"", "/nowhere.json cannot be read"),
        ("[limits\n", "this is not TOML"),
    ] {
        refuse(&server, wrong).await;
        said(&server, words).await;
        assert_eq!(refused(&server).await, Some(4005), "{wrong}");
        assert_eq!(metric(&server, "trunkline_reload_refused").await, 1.0);
    }
    assert!(server.output().contains("the configuration from before stays in force"), "{}", server.output());
    change(&server, "[limits]\nconnections = 5").await;
    assert_eq!(metric(&server, "trunkline_reload_refused").await, 0.0);
    assert_eq!(refused(&server).await, None);
}

#[tokio::test]
async fn a_key_that_needs_a_restart_is_named_and_the_rest_is_taken() {
    let server = started("").await;
    change(&server, "[session]\nresume_window = \"1s\"\n[limits]\nconnections = 1").await;
    said(&server, "session.resume_window has changed and needs a restart").await;
    assert_eq!(metric(&server, "trunkline_restart_needed").await, 1.0);
    let _alice = client(&server, "alice").await;
    assert_eq!(refused(&server).await, Some(4005), "what can change has changed");
    change(&server, "").await;
    assert_eq!(metric(&server, "trunkline_restart_needed").await, 0.0);
}

#[tokio::test]
async fn sighup_reloads_and_opens_the_log_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (file, moved) = (folder.path().join("node.log"), folder.path().join("moved.log"));
    let server = started(&format!("[log]\nfile = {file:?}")).await;
    until("the first line", async || {
        let _client = client(&server, "alice").await;
        server.signal(Signal::Reload).unwrap();
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("reloaded"))
    })
    .await;
    std::fs::rename(&file, &moved).unwrap();
    hang_up(&server).await;
    until("the new file", async || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("the configuration was reloaded"))
    })
    .await;
}

#[tokio::test]
async fn the_drain_of_a_node_is_what_the_newest_configuration_says() {
    let mut server = started("[limits]\ndrain = \"1h\"").await;
    let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    let mut alice = client(&server, "alice").await;
    alice.send_call("hold", &[], "").await.unwrap();
    upstream.until_requests(1).await.unwrap();
    change(&server, "[limits]\ndrain = \"500ms\"").await;
    server.signal(Signal::Terminate).unwrap();
    let status = tokio::time::timeout(DEADLINE, server.exited()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn keys_of_a_key_set_change_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("set.json");
    std::fs::write(&set, r#"{"keys":[]}"#).unwrap();
    let server = TestServer::builder(env!("CARGO_BIN_EXE_trunkline"))
        .config(format!("[auth.jwt]\njwks = {set:?}"))
        .start()
        .await
        .unwrap();
    let token = signed_by_rfc_8037(&serde_json::json!({ "sub": "alice" }));
    let taken = async || {
        let mut client = server.connect(Way::TCP).await.unwrap();
        client.start_as("alice", &token).await.unwrap().success
    };
    assert!(!taken().await, "nobody has signed for this node yet");
    let key = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    replace(&set, key);
    until("the new key", async || taken().await).await;
}

/// A token signed with the private key of RFC 8037, appendix A, wrapped as PKCS #8.
fn signed_by_rfc_8037(claims: &serde_json::Value) -> String {
    use base64::Engine as _;
    let seed = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
        .unwrap();
    let mut pkcs8 = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    pkcs8.extend(seed);
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
    jsonwebtoken::encode(&header, claims, &jsonwebtoken::EncodingKey::from_ed_der(&pkcs8)).unwrap()
}
