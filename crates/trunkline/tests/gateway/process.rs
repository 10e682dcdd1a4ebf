//! The process: signals, drain, what it leaves behind.

use std::time::Duration;

use trunkline_client::{Client, ClientTls, Event, Options};
use trunkline_proto::wire::{HeartbeatRequest, PushOutcome, Verdict};
use trunkline_proto::{Dialect, UpBody, UpFrame};
use trunkline_testkit::{DEADLINE, Signal, TestClient, TestUpstream, Transport, Way};

use crate::common::{
    again, business, client, client_by, come_back, open_server, position, published, server,
};

#[tokio::test]
async fn sigterm_tells_every_client_to_come_back_and_ends_well() {
    let mut server = server().anonymous().start().await.unwrap();
    let mut clients = Vec::new();
    for (number, way) in Way::ALL.into_iter().enumerate() {
        clients.push((way, client_by(&server, &format!("user{number}"), way).await));
    }
    server.signal(Signal::Terminate).unwrap();
    for (way, client) in &mut clients {
        assert_eq!(client.close_code().await.unwrap(), 4000, "{way:?}");
    }
    let status = server.exited().await.unwrap();
    assert!(status.success(), "{status}: {}", server.output());
}

#[tokio::test]
async fn a_running_call_is_answered_before_the_node_ends() {
    let (mut server, upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    let msg_id = alice.send_call("hold", &[], "").await.unwrap();
    upstream.until_requests(1).await.unwrap();
    server.signal(Signal::Terminate).unwrap();
    upstream.release(1);
    assert_eq!(business(alice.reply(msg_id).await.unwrap()).data, "released");
    assert_eq!(alice.close_code().await.unwrap(), 4000);
    assert!(server.exited().await.unwrap().success());
}

#[tokio::test]
async fn what_the_drain_deadline_cuts_is_told_in_one_line() {
    let config = "[limits]\ndrain = \"500ms\"";
    let mut server = server().anonymous().config(config).start().await.unwrap();
    let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    let mut alice = client(&server, "alice").await;
    alice.send_call("hold", &[], "").await.unwrap();
    upstream.until_requests(1).await.unwrap();
    server.signal(Signal::Terminate).unwrap();
    assert_eq!(alice.close_code().await.unwrap(), 4000);
    let status = server.exited().await.unwrap();
    assert!(status.success(), "a drain that cuts is an orderly end all the same: {status}");
    let said = server.output();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("the drain deadline")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("calls=1"), "{said}");
}

#[tokio::test]
async fn a_second_signal_ends_the_node_at_once() {
    for (first, second, name) in
        [(Signal::Terminate, Signal::Interrupt, "SIGINT"), (Signal::Interrupt, Signal::Terminate, "SIGTERM")]
    {
        let (mut server, upstream) = open_server().await;
        let mut alice = client(&server, "alice").await;
        let mut bob = client(&server, "bob").await;
        alice.send_call("hold", &[], "").await.unwrap();
        upstream.until_requests(1).await.unwrap();
        server.signal(first).unwrap();
        // Who runs no call is told at once: the drain has begun, and waits for the call.
        assert_eq!(bob.close_code().await.unwrap(), 4000);
        server.signal(second).unwrap();
        let status = server.exited().await.unwrap();
        assert_eq!(status.code(), Some(1), "{}", server.output());
        let said = server.output();
        assert!(said.contains(&format!("a second signal, {name}, ended the node at once")), "{said}");
        assert!(said.contains("1 calls were cut"), "{said}");
    }
}

#[tokio::test]
async fn a_node_that_stood_still_goes_on_without_loss() {
    let (server, upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    server.signal(Signal::Freeze).unwrap();
    let push = upstream.push_to_user("alice", "late");
    tokio::pin!(push);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut push).await.is_err(), "it stands still");
    server.signal(Signal::Thaw).unwrap();
    assert!(push.await.unwrap().success);
    assert_eq!(published(&alice.push().await.unwrap()).1, "late");
    assert_eq!(business(alice.call("echo", "on").await.unwrap()).data, "on");
}

#[tokio::test]
async fn u3_a_gateway_restart_needs_nothing_of_its_upstreams() {
    let data = tempfile::tempdir().unwrap();
    let mut first = server().anonymous().data_dir(data.path()).start().await.unwrap();
    let grpc = first.ready().grpc().unwrap();
    let upstream = TestUpstream::registered(grpc).await.unwrap();
    let mut alice = client(&first, "alice").await;
    assert_eq!(business(alice.call("echo", "1").await.unwrap()).data, "1");
    first.kill().await.unwrap();
    let second =
        server().anonymous().data_dir(data.path()).surface("grpc", grpc.to_string()).start().await.unwrap();
    let mut alice = client(&second, "alice").await;
    assert_eq!(
        business(alice.call("echo", "2").await.unwrap()).data,
        "2",
        "the first call after the restart"
    );
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_restarted_node_ends_the_quic_connections_of_its_former_life() {
    let data = tempfile::tempdir().unwrap();
    let mut first = server().anonymous().data_dir(data.path()).start().await.unwrap();
    let quic = first.ready().quic().unwrap();
    let mut clients = Vec::new();
    for (user, transport) in [("alice", Transport::Quic), ("bob", Transport::WebTransport)] {
        clients.push(first.client(user, Way { transport, dialect: Dialect::Protobuf }).await.unwrap());
    }
    first.kill().await.unwrap();
    let _second =
        server().anonymous().data_dir(data.path()).surface("quic", quic.to_string()).start().await.unwrap();
    for client in &mut clients {
        // One that has heard it already cannot send, which is as good.
        let beat = UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 1 });
        let _ = client.send(&UpFrame::new(9, 0, beat)).await;
        // Well within the 30 s after which a client that hears nothing gives up by itself.
        let ended = tokio::time::timeout(Duration::from_secs(15), client.closed()).await;
        let (_, closed) = ended.expect("nobody says that the connection is gone").unwrap();
        // WebTransport's library knows only that it ended.
        assert!(["reset by peer", "closed"].iter().any(|end| closed.text.ends_with(end)), "{closed:?}");
    }
}

#[tokio::test]
async fn an_idle_quic_client_comes_back_to_a_restarted_node_by_itself() {
    let data = tempfile::tempdir().unwrap();
    // No heartbeat falls within the test.
    let node = || server().anonymous().data_dir(data.path()).config("[session]\nheartbeat = \"10m\"");
    let mut first = node().start().await.unwrap();
    let quic = first.ready().quic().unwrap();
    let tls = ClientTls::pinned(vec![first.ready().certificate().unwrap()]).unwrap();
    let mut options = Options::new("alice", "").endpoint(format!("quic://{quic}").parse().unwrap());
    options.tls = Some(tls);
    let client = Client::connect(options).await.unwrap();
    let mut events = client.pushes();
    first.kill().await.unwrap();
    let _second = node().surface("quic", quic.to_string()).start().await.unwrap();
    let back = async {
        let mut was_lost = false;
        loop {
            match events.next().await.expect("events go on") {
                Event::Started(_) if was_lost => break,
                Event::Lost { .. } => was_lost = true,
                _ => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, back).await.expect("nobody tells an idle client that the node is another");
}

#[tokio::test]
async fn a_lost_client_can_resume_until_its_window_ends() {
    let server = server().anonymous().config("[session]\nresume_window = \"300ms\"").start().await.unwrap();
    let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    let mut alice = server.connect(Way::TCP).await.unwrap();
    let start = TestClient::start_request("alice", "");
    let started = alice.start(start.clone()).await.unwrap();
    alice.prove(started.fence).await.unwrap();
    drop(alice);
    // A push says what the gateway thinks of her.
    let mut seen = Vec::new();
    let over = async {
        while seen.last() != Some(&PushOutcome::OutcomeOffline) {
            let outcome = upstream.push_to_user("alice", "x").await.unwrap().outcome();
            if seen.last() != Some(&outcome) {
                seen.push(outcome);
            }
        }
    };
    tokio::time::timeout(DEADLINE, over).await.expect("the window never ends");
    assert!(seen.ends_with(&[PushOutcome::OutcomeQueued, PushOutcome::OutcomeOffline]), "{seen:?}");
    let positions = vec![position(&started, "user:alice")];
    let (mut alice, response) = come_back(server.ready(), Way::TCP, again(&start, &started, positions)).await;
    assert_eq!(response.verdict(), Verdict::Fresh, "{response:?}");
    assert_ne!(response.session_id, started.session_id);
    assert_eq!(published(&alice.push().await.unwrap()).1, "x", "the channel's history is still there");
}

#[tokio::test]
async fn what_a_killed_node_said_is_gone_before_a_port_is_bound() {
    let data = tempfile::tempdir().unwrap();
    let mut killed = server().data_dir(data.path()).start().await.unwrap();
    killed.kill().await.unwrap();
    let (own, ready) = (data.path().join("node.json"), data.path().join("ready.json"));
    assert!(own.exists(), "a killed node cannot take back what it said");
    std::fs::copy(&own, &ready).unwrap();
    // The next one gets as far as its ports and no further: what is gone then went before.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut next = tokio::process::Command::new(env!("CARGO_BIN_EXE_trunkline"));
    next.args(["serve", "--http", &taken.local_addr().unwrap().to_string(), "--data-dir"])
        .arg(data.path())
        .arg("--ready-file")
        .arg(&ready)
        .kill_on_drop(true);
    let ended = tokio::time::timeout(DEADLINE, next.output()).await.expect("it does not end").unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains("cannot be bound"), "{said}");
    assert!(!own.exists() && !ready.exists(), "a watcher would read where the killed node was");
}

#[tokio::test]
async fn a_renewed_certificate_is_announced_where_the_node_is() {
    let data = tempfile::tempdir().unwrap();
    let mut first = server().data_dir(data.path()).start().await.unwrap();
    let old = first.ready().certificate().unwrap();
    first.signal(Signal::Terminate).unwrap();
    first.exited().await.unwrap();
    // Its note says when it ends. Three days and a moment from now: the next node begins with it, and renews it soon.
    let file = data.path().join("keys/certificate.pem");
    let pem = std::fs::read_to_string(&file).unwrap();
    let (_, rest) = pem.split_once('\n').unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    std::fs::write(&file, format!("# trunkline {} \n{rest}", now + 3 * 86_400 + 5)).unwrap();
    let second = server().anonymous().data_dir(data.path()).start().await.unwrap();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let renewed = async {
        // The file is never half written, whenever it is read.
        while second.announced().unwrap().certificate().unwrap() == old {
            ticks.tick().await;
        }
        second.announced().unwrap()
    };
    let renewed = tokio::time::timeout(DEADLINE, renewed).await.expect("the certificate is not renewed");
    let own = std::fs::read_to_string(data.path().join("node.json")).unwrap();
    assert_eq!(own, std::fs::read_to_string(second.ready_file()).unwrap(), "both files say the same");
    // Who pins what is announced gets in.
    let pinning = |way: &Way| matches!(way.transport, Transport::Tls | Transport::Quic);
    for way in Way::ALL.into_iter().filter(pinning) {
        let mut alice = TestClient::connect(&renewed, way).await.unwrap();
        assert!(alice.start_as("alice", "").await.unwrap().success, "{way:?}");
    }
}
