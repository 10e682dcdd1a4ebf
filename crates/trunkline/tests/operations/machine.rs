//! H9: the machine runs out of something while the node serves. It goes on with what it has, says no to the rest, and
//! is whole again when there is enough.

use std::os::unix::fs::PermissionsExt;

use tokio::net::TcpStream;
use trunkline_testkit::{Resource, TestServer, TestUpstream};

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
