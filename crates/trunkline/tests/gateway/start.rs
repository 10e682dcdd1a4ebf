//! START: who gets a session, who does not, and what happens to those who ask twice.

use trunkline_proto::wire::{self, StartRequest, Verdict};
use trunkline_proto::{Dialect, UpBody, UpFrame};
use trunkline_testkit::{TestClient, TestServer, TestUpstream, Transport, Way};

use crate::common::{again, business, client, client_by, come_back, error, open_server, server};

/// A server that wants a token.
async fn closed_server() -> TestServer {
    server().start().await.unwrap()
}

#[tokio::test]
async fn s7_without_a_good_token_of_its_own_nobody_gets_in_and_the_victim_is_undisturbed() {
    let server = closed_server().await;
    let mut victim = server.client("victim", Way::TCP).await.unwrap();
    let token = server.token("victim", &[]).await.unwrap();
    let of_another = server.token("mallory", &[]).await.unwrap();
    let forged =
        format!("{}{}", &token[..token.len() - 4], if token.ends_with("AAAA") { "BBBB" } else { "AAAA" });
    for bad in ["", "nonsense", "a.b.c", of_another.as_str(), forged.as_str()] {
        let mut attacker = server.connect(Way::TCP).await.unwrap();
        let response = attacker.start(TestClient::start_request("victim", bad)).await.unwrap();
        assert!(!response.success && response.session_id.is_empty(), "{bad:?} got in");
        assert!(matches!(response.error.unwrap().error_code, 401 | 403), "{bad:?}");
        let code = attacker.close_code().await.unwrap();
        assert!((4300..4400).contains(&code), "{bad:?} was closed with {code}");
    }
    assert!(victim.drain().await.unwrap().is_empty(), "the victim hears nothing of it");
}

#[tokio::test]
async fn s7_a_token_is_good_until_it_expires() {
    let server = closed_server().await;
    let token = server.token("alice", &["--ttl", "1s"]).await.unwrap();
    let refused = async {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            ticks.tick().await;
            let mut alice = server.connect(Way::TCP).await.unwrap();
            let response = alice.start(TestClient::start_request("alice", &token)).await.unwrap();
            if !response.success {
                return alice.close_code().await.unwrap();
            }
        }
    };
    let code = tokio::time::timeout(trunkline_testkit::DEADLINE, refused).await.expect("it never expires");
    assert!(matches!(code, 4302 | 4303), "{code}");
}

#[tokio::test]
async fn a_first_frame_that_is_no_start_is_4402() {
    let (server, _upstream) = open_server().await;
    for body in [
        UpBody::Heartbeat(wire::HeartbeatRequest { client_timestamp: 1 }),
        UpBody::Business(wire::BusinessRequest { action: "echo".into(), ..Default::default() }),
        UpBody::Ack(wire::ClientAck::default()),
    ] {
        let mut client = server.connect(Way::TCP).await.unwrap();
        client.send(&UpFrame::new(1, 0, body)).await.unwrap();
        assert_eq!(client.close_code().await.unwrap(), 4402);
    }
}

#[tokio::test]
async fn whoever_says_nothing_is_closed_with_4403() {
    let server = server().anonymous().config("[limits]\nstart_timeout = \"200ms\"").start().await.unwrap();
    // Without a START there is no dialect: the notice is in the default one.
    for way in Way::ALL.into_iter().filter(|way| way.dialect == Dialect::Protobuf) {
        let mut silent = server.connect(way).await.unwrap();
        // QUIC tells nobody of a stream before its first byte.
        let _ = silent.send_raw(&[0]).await;
        assert_eq!(silent.close_code().await.unwrap(), 4403, "{way:?}");
    }
}

#[tokio::test]
async fn a_second_start_on_a_live_connection_is_400_eight_times_over() {
    let (server, _upstream) = open_server().await;
    let mut client = client(&server, "alice").await;
    for _ in 0..8 {
        let start = TestClient::start_request("alice", "");
        let answer = client.request(UpBody::Start(start.into())).await.unwrap();
        assert_eq!(error(answer).error_code, 400);
    }
    assert_eq!(business(client.call("echo", "alive").await.unwrap()).data, "alive");
}

#[tokio::test]
async fn eight_starts_of_one_device_at_once_leave_one_session() {
    let (server, _upstream) = open_server().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(server.connect(Way::TCP).await.unwrap());
    }
    let mut starts = tokio::task::JoinSet::new();
    for mut client in clients {
        starts.spawn(async move {
            let response = client.start_as("alice", "").await;
            (client, response)
        });
    }
    let mut fences = Vec::new();
    while let Some(started) = starts.join_next().await {
        let (client, response) = started.unwrap();
        // A START that lost the race may be closed before it is answered.
        if let Ok(response) = response {
            fences.push((response.fence, client));
        }
    }
    fences.sort_by_key(|(fence, _)| *fence);
    let (_, mut winner) = fences.pop().expect("one has won");
    assert_eq!(business(winner.call("echo", "mine").await.unwrap()).data, "mine");
    for (fence, mut loser) in fences {
        assert_eq!(loser.close_code().await.unwrap(), 4301, "fence {fence}");
    }
}

#[tokio::test]
async fn a_device_that_comes_anew_replaces_itself() {
    let (server, _upstream) = open_server().await;
    let mut old = client(&server, "alice").await;
    let mut new = client(&server, "alice").await;
    assert_eq!(old.close_code().await.unwrap(), 4301);
    assert_ne!(new.started.as_ref().unwrap().session_id, old.started.as_ref().unwrap().session_id);
    assert_eq!(business(new.call("echo", "x").await.unwrap()).data, "x");
}

#[tokio::test]
async fn s8_a_restarted_app_without_token_gets_a_fresh_session_and_its_numbers() {
    let (server, _upstream) = open_server().await;
    let mut app = client(&server, "alice").await;
    for _ in 0..3 {
        business(app.call("echo", "").await.unwrap());
    }
    drop(app);
    let mut restarted = client(&server, "alice").await;
    assert_eq!(restarted.started.as_ref().unwrap().verdict(), Verdict::Fresh);
    assert_eq!(business(restarted.call("echo", "one").await.unwrap()).data, "one", "number 1 is good again");
}

#[tokio::test]
async fn a_proven_token_retires_the_one_before_and_nobody_uses_anothers() {
    let (server, _upstream) = open_server().await;
    let mut alice = server.connect(Way::TCP).await.unwrap();
    let start = TestClient::start_request("alice", "");
    let first = alice.start(start.clone()).await.unwrap();
    drop(alice);
    // Not proven: the same token works again, and gives the same successor.
    let (cut, second) = come_back_unproven(&server, again(&start, &first, vec![])).await;
    assert_eq!(second.verdict(), Verdict::Resumed);
    drop(cut);
    let mut start = StartRequest { attempt: 3, ..again(&start, &first, vec![]) };
    let (mut proven, third) = come_back_unproven(&server, start.clone()).await;
    assert!(third.success, "{third:?}");
    assert_eq!(third.resume_token, second.resume_token, "the successor is one");
    proven.prove(third.fence).await.unwrap();
    proven.drain().await.unwrap();
    drop(proven);
    start.attempt = 4;
    let (mut refused, response) = come_back(server.ready(), Way::TCP, start.clone()).await;
    assert!(!response.success, "the old token was proven to be old");
    assert_eq!(refused.close_code().await.unwrap(), 4101);
    // Another user cannot use it at all.
    let stolen =
        StartRequest { resume_token: third.resume_token, ..TestClient::start_request("mallory", "") };
    let (mut thief, response) = come_back(server.ready(), Way::TCP, stolen).await;
    assert!(!response.success);
    assert_eq!(thief.close_code().await.unwrap(), 4101);
}

async fn come_back_unproven(server: &TestServer, start: StartRequest) -> (TestClient, wire::StartResponse) {
    let mut client = server.connect(Way::TCP).await.unwrap();
    let response = client.start(start).await.unwrap();
    (client, response)
}

#[tokio::test]
async fn positions_in_anothers_channel_are_refused_and_give_nothing() {
    let (server, upstream) = open_server().await;
    let mut spy = server.connect(Way::TCP).await.unwrap();
    let position = wire::ChannelPosition { channel: "user:victim".into(), epoch: 1, offset: 0 };
    let start = StartRequest { positions: vec![position], ..TestClient::start_request("spy", "") };
    let response = spy.start(start).await.unwrap();
    assert!(response.success);
    assert_eq!(response.refused.len(), 1, "{response:?}");
    assert_eq!(
        (response.refused[0].channel.as_str(), response.refused[0].error.as_ref().unwrap().error_code),
        ("user:victim", 403)
    );
    for channel in ["user:victim", "session:00000000000000000000000000000001", "group:staff"] {
        assert_eq!(error(spy.subscribe(channel, None).await.unwrap()).error_code, 403, "{channel}");
        assert_eq!(error(spy.publish(channel, "x").await.unwrap()).error_code, 403, "{channel}");
    }
    upstream.push_to_user("victim", "secret").await.unwrap();
    assert!(spy.drain().await.unwrap().is_empty());
}

#[tokio::test]
async fn rights_come_from_the_token_and_end_with_it() {
    let server = closed_server().await;
    let token = server.token("reader", &["--right", "room:*=subscribe"]).await.unwrap();
    let mut reader = server.connect(Way::TCP).await.unwrap();
    assert!(reader.start_as("reader", &token).await.unwrap().success);
    reader.subscribe("room:1", None).await.map(crate::common::channel).unwrap();
    assert_eq!(error(reader.publish("room:1", "x").await.unwrap()).error_code, 403);
    assert_eq!(error(reader.subscribe("other:1", None).await.unwrap()).error_code, 403);
}

#[tokio::test]
async fn the_bodys_openid_changes_nothing_after_start() {
    let (server, upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    // The frame's field 6, which the seed trusted: msg_id 40, call 1, "echo", openid "victim".
    let frame = b"\x08\x28\x10\x01\x18\x04\x22\x06\x0a\x04echo\x32\x06victim";
    alice.send_payload(frame).await.unwrap();
    business(alice.reply(40).await.unwrap());
    let asked = upstream.requests();
    assert_eq!(asked.last().unwrap().openid, "alice");
    assert_eq!(asked.last().unwrap().caller.as_ref().unwrap().user, "alice");
}

#[tokio::test]
async fn an_upstream_can_check_tokens() {
    let server = server().config("[auth]\nmode = \"upstream\"").start().await.unwrap();
    let mut early = server.connect(Way::TCP).await.unwrap();
    let response = early.start(TestClient::start_request("alice", "ALICE")).await.unwrap();
    assert!(!response.success, "nobody can answer for her yet");
    assert_eq!(early.close_code().await.unwrap(), 4005);
    let upstream = TestUpstream::start(server.ready().grpc().unwrap()).await.unwrap();
    upstream.register("*", "auth").await.unwrap();
    let mut alice = server.connect(Way::TCP).await.unwrap();
    assert!(alice.start_as("alice", "ALICE").await.unwrap().success);
    let mut mallory = server.connect(Way::TCP).await.unwrap();
    assert!(!mallory.start_as("mallory", "ALICE").await.unwrap().success);
    assert!((4300..4400).contains(&mallory.close_code().await.unwrap()));
}

#[tokio::test]
async fn a_start_that_can_never_succeed_is_refused_with_400_and_stays_away() {
    let server = closed_server().await;
    let long = "g".repeat(250);
    let token = server.token("alice", &[]).await.unwrap();
    let grouped = server.token("alice", &["--group", &long]).await.unwrap();
    let good = TestClient::start_request("alice", &token);
    for (what, start) in [
        ("an unknown protocol", StartRequest { protocol: 7, ..good.clone() }),
        ("a long name", StartRequest { device_id: "d".repeat(129), ..good.clone() }),
        ("a group that is no channel", TestClient::start_request("alice", &grouped)),
    ] {
        let mut client = server.connect(Way::TCP).await.unwrap();
        let response = client.start(start).await.unwrap();
        assert!(!response.success, "{what}");
        assert_eq!(response.error.unwrap().error_code, 400, "{what}");
        let code = client.close_code().await.unwrap();
        assert!((4300..4400).contains(&code), "{what} was closed with {code}");
    }
}

#[tokio::test]
async fn a_seed_sessions_token_begins_a_fresh_session_in_protocol_1() {
    let (server, _upstream) = open_server().await;
    let seed = StartRequest { protocol: 0, ..TestClient::start_request("alice", "default-token") };
    let mut old = server.connect(Way::TCP).await.unwrap();
    let first = old.start(seed.clone()).await.unwrap();
    assert!(first.success && !first.resume_token.is_empty(), "{first:?}");
    let start = StartRequest { protocol: 1, ..again(&seed, &first, Vec::new()) };
    let (_client, response) = come_back(server.ready(), Way::TCP, start).await;
    assert!(response.success, "{response:?}");
    assert_eq!(response.verdict, Verdict::Fresh as i32);
    assert_ne!(response.session_id, first.session_id);
}

#[tokio::test]
async fn a_quic_or_http3_connection_that_goes_no_further_ends_at_its_deadline() {
    let config = "[limits]\nhandshake_timeout = \"300ms\"\nstart_timeout = \"300ms\"";
    let server = server().anonymous().config(config).start().await.unwrap();
    for alpn in ["h3", "gatesvr"] {
        trunkline_testkit::half_open_quic(server.ready(), alpn).await.expect(alpn);
    }
    client_by(&server, "alice", Way { transport: Transport::WebTransport, dialect: Dialect::Json }).await;
}
