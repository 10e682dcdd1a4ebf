//! H9: the machine runs out of something while the node serves. It goes on with what it has, says no to the rest, and
//! is whole again when there is enough.

use std::os::unix::fs::PermissionsExt;

use tokio::net::TcpStream;
use trunkline_proto::wire::{ServicePublishRequest, StartRequest, Verdict};
use trunkline_proto::{DownBody, UpBody};
use trunkline_testkit::{Resource, TestClient, TestServer, TestUpstream, Way};

use crate::common::{client, get, metric, server, until};

#[tokio::test]
async fn h9_without_descriptors_who_is_there_is_served_and_others_come_in_later() {
    let server = server().start().await.unwrap();
    let mut alice = client(&server, "alice").await;
    let open = server.open_files().unwrap() as u64;
    server.limit(Resource::Nofile, open + 4).unwrap();
    // More than there are descriptors for: the system completes their handshakes, the node cannot take them.
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(TcpStream::connect(server.ready().tcp().unwrap()).await.unwrap());
    }
    until("the last descriptor", async || server.open_files().unwrap() as u64 >= open + 4).await;
    for _ in 0..20 {
        alice.call("trunkline.echo", "still served").await.unwrap();
    }
    server.limit(Resource::Nofile, open + 400).unwrap();
    drop(strangers);
    let mut bob = client(&server, "bob").await;
    bob.call("trunkline.echo", "in at last").await.unwrap();
    assert_eq!(get(server.ready().http().unwrap(), "/ready").await.0, 200);
}

#[tokio::test]
async fn h9_a_full_disk_refuses_what_must_be_kept_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let starter = folder.path().join("trunkline");
    // A write beyond the limit of a file's size fails like one on a full disk where the signal is ignored.
    let script = format!("#!/bin/sh\ntrap '' XFSZ\nexec '{}' \"$@\"\n", env!("CARGO_BIN_EXE_trunkline"));
    std::fs::write(&starter, script).unwrap();
    std::fs::set_permissions(&starter, std::fs::Permissions::from_mode(0o755)).unwrap();
    let server = TestServer::builder(&starter).anonymous().start().await.unwrap();
    let grpc = server.ready().grpc().unwrap();
    let _upstream = TestUpstream::registered(grpc).await.unwrap();
    let mut alice = client(&server, "alice").await;

    server.limit(Resource::Fsize, 0).unwrap();
    let late = TestUpstream::start(grpc).await.unwrap();
    let refused =
        late.register("*", "pay").await.expect_err("a registration was accepted that could not be kept");
    assert!(!format!("{refused:#}").is_empty());
    alice.call("echo", "with what is in memory").await.unwrap();
    let mut bob = client(&server, "bob").await;
    bob.call("echo", "and for new clients").await.unwrap();
    assert!(metric(&server, "trunkline_sessions_live").await >= 2.0);

    server.limit(Resource::Fsize, u64::MAX).unwrap();
    until("the registration", async || late.register("*", "pay").await.is_ok()).await;
}

#[tokio::test]
async fn h9_above_its_memory_a_node_begins_nothing_and_goes_on_when_there_is_room() {
    let config = |count: u32| {
        format!(
            "[limits]\nmemory = \"128 MiB\"\npublication_bytes = \"512 MiB\"\n[namespaces.room]\nhistory_count = {count}\nhistory_bytes = \"512 MiB\""
        )
    };
    let server = server().config(config(1_000)).start().await.unwrap();
    let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    let mut alice = client(&server, "alice").await;
    let start = TestClient::start_request("bob", "");
    let mut bob = server.connect(Way::TCP).await.unwrap();
    let started = bob.start(start.clone()).await.unwrap();
    bob.prove(started.fence).await.unwrap();
    alice.call("echo", "x").await.unwrap();
    bob.call("echo", "x").await.unwrap();

    let publish = async || {
        let data = vec![b'x'; 900_000].into();
        let request = ServicePublishRequest { channel: "room:big".into(), data, ..Default::default() };
        upstream.gateway().publish(request).await.unwrap();
    };
    let level = async || metric(&server, "trunkline_limit_level{limit=\"memory_bytes\"}").await;
    let mut published = 0;
    while level().await < 2.0 {
        assert!(published < 300, "270 MB of publications need no memory");
        publish().await;
        published += 1;
    }
    // What is new is refused, with a time to come back.
    let refused = alice.call("echo", "x").await.unwrap();
    assert!(
        matches!(&refused.body, DownBody::Error(error) if error.error_code == 503 && error.retry_after_ms > 0),
        "{refused:?}"
    );
    let mut late = server.connect(Way::TCP).await.unwrap();
    assert!(!late.start(TestClient::start_request("late", "")).await.unwrap().success);
    assert_eq!(late.close_code().await.unwrap(), 4005);
    // Heartbeats and resumes never are.
    let beat = alice.request(UpBody::Heartbeat(Default::default())).await.unwrap();
    assert!(matches!(beat.body, DownBody::HeartbeatResp(_)), "{beat:?}");
    drop(bob);
    let resume = StartRequest { resume_token: started.resume_token, attempt: 2, ..start };
    let mut bob = server.connect(Way::TCP).await.unwrap();
    let resumed = bob.start(resume).await.unwrap();
    assert_eq!(resumed.verdict(), Verdict::Resumed, "{resumed:?}");

    // The history becomes short, and its memory goes back to the system.
    std::fs::write(server.config_file(), config(1)).unwrap();
    until("the reload", async || metric(&server, "trunkline_reloads_total{result=\"applied\"}").await > 0.0)
        .await;
    publish().await;
    until("room", async || level().await < 2.0).await;
    until("a call", async || {
        matches!(alice.call("echo", "x").await.unwrap().body, DownBody::BusinessData(_))
    })
    .await;
    client(&server, "late").await;
}

/// glibc keeps blocks of the size of the largest one that was ever freed, unless the threshold is set: mallopt(3).
#[tokio::test]
async fn large_blocks_that_are_freed_go_back_to_the_system_unless_somebody_has_chosen() {
    const THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_=";
    const TUNABLES: &str = "GLIBC_TUNABLES=glibc.malloc.arena_max=2";
    let settings = |server: &TestServer| -> Vec<String> {
        let environment = std::fs::read_to_string(format!("/proc/{}/environ", server.ready().pid)).unwrap();
        let ours = |line: &&str| line.starts_with(THRESHOLD) || line.starts_with("GLIBC_TUNABLES=");
        environment.split('\0').filter(ours).map(str::to_owned).collect()
    };
    let usual = server().start().await.unwrap();
    assert_eq!(settings(&usual), [format!("{THRESHOLD}131072")]);
    let threshold = server().env("MALLOC_MMAP_THRESHOLD_", "65536").start().await.unwrap();
    assert_eq!(settings(&threshold), [format!("{THRESHOLD}65536")]);
    let (name, value) = TUNABLES.split_once('=').unwrap();
    let tunables = server().env(name, value).start().await.unwrap();
    assert_eq!(settings(&tunables), [TUNABLES]);
    // It is the same process, with its arguments: the one that was started answers.
    let mut alice = client(&usual, "alice").await;
    alice.call("trunkline.echo", "served").await.unwrap();
}
