//! Calls: each runs once, whatever is sent again; refusals leave the session alone.

use trunkline_proto::wire::{self, UpstreamResponse};
use trunkline_proto::{DownBody, ErrorCode};
use trunkline_testkit::{TestClient, TestUpstream, Way};

use crate::common::{again, business, call_frame, client, come_back, error, open_server, server};

#[tokio::test]
async fn s4_an_ack_of_the_future_is_400_and_the_session_lives() {
    let (server, upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    let start = alice.started.clone().unwrap();
    let mut future = crate::common::position(&start, "user:alice");
    future.offset += 1000;
    alice.ack_position(future).await.unwrap();
    assert_eq!(error(alice.push().await.unwrap()).error_code, 400);
    // c4: what comes after is not taken for stale.
    upstream.push_to_user("alice", "still here").await.unwrap();
    let frame = alice.push().await.unwrap();
    assert_eq!(crate::common::published(&frame).1, "still here");
    let mut old = frame.position.unwrap();
    alice.ack_position(old.clone()).await.unwrap();
    old.offset -= 1;
    alice.ack_position(old).await.unwrap();
    assert!(alice.drain().await.unwrap().is_empty(), "a lower ack is ignored");
}

#[tokio::test]
async fn s5_the_65th_outstanding_call_is_503_and_its_number_stays_good() {
    let (server, upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    for number in 1..=64 {
        alice.send(&call_frame(number, u64::from(number), "hold", &[], "")).await.unwrap();
    }
    alice.send(&call_frame(65, 65, "count", &[("key", "k")], "")).await.unwrap();
    let refusal = error(alice.reply(65).await.unwrap());
    assert_eq!((refusal.error_code, refusal.name.as_str()), (503, "OVERLOADED"));
    assert!(refusal.retry_after_ms > 0);
    upstream.release(64);
    for number in 1..=64 {
        assert_eq!(business(alice.reply(number).await.unwrap()).data, "released");
    }
    // c2: number n again, and n + 1.
    alice.send(&call_frame(165, 65, "count", &[("key", "k")], "")).await.unwrap();
    assert_eq!(business(alice.reply(165).await.unwrap()).data, "1");
    alice.send(&call_frame(66, 66, "count", &[("key", "k")], "")).await.unwrap();
    assert_eq!(business(alice.reply(66).await.unwrap()).data, "2");
}

#[tokio::test]
async fn s6_a_reply_over_the_limit_is_one_error_and_the_next_flows() {
    let server = server().anonymous().start().await.unwrap();
    let upstream = TestUpstream::start_with(server.ready().grpc().unwrap(), |request| {
        (request.action == "big").then(|| {
            Ok(UpstreamResponse { code: 200, data: vec![b'x'; 2 << 20].into(), ..Default::default() })
        })
    })
    .await
    .unwrap();
    upstream.register("*", "").await.unwrap();
    let mut alice = client(&server, "alice").await;
    let answer = error(alice.call("big", "").await.unwrap());
    assert!(matches!(answer.error_code, 413 | 502), "{answer:?}");
    // c3: nothing is wedged.
    assert_eq!(business(alice.call("echo", "next").await.unwrap()).data, "next");
}

#[tokio::test]
async fn c12_a_number_again_is_answered_from_the_cache_and_runs_once() {
    let (server, upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    for msg_id in [10, 11, 12] {
        alice.send(&call_frame(msg_id, 1, "count", &[("key", "k")], "")).await.unwrap();
        assert_eq!(business(alice.reply(msg_id).await.unwrap()).data, "1");
    }
    assert_eq!(upstream.count("k"), 1);
    alice.send(&call_frame(13, 1, "count", &[("key", "other")], "")).await.unwrap();
    let answer = error(alice.reply(13).await.unwrap());
    assert_eq!((answer.error_code, answer.name.as_str()), (409, "SEQ_REUSED"));
    assert_eq!(upstream.count("other"), 0);
}

#[tokio::test]
async fn a_jump_of_numbers_is_400_and_changes_nothing() {
    let (server, _upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    alice.send(&call_frame(1, 700, "echo", &[], "a")).await.unwrap();
    assert_eq!(business(alice.reply(1).await.unwrap()).data, "a", "the first may be any");
    alice.send(&call_frame(2, 702, "echo", &[], "b")).await.unwrap();
    assert_eq!(error(alice.reply(2).await.unwrap()).error_code, 400);
    alice.send(&call_frame(3, 701, "echo", &[], "c")).await.unwrap();
    assert_eq!(business(alice.reply(3).await.unwrap()).data, "c");
    // Far older than the window: what became of it is not remembered, and it does not run.
    for number in 702..=790 {
        alice.send(&call_frame(4, number, "echo", &[], "")).await.unwrap();
        alice.reply(4).await.unwrap();
    }
    alice.send(&call_frame(5, 700, "echo", &[], "a")).await.unwrap();
    assert_eq!(error(alice.reply(5).await.unwrap()).name, ErrorCode::ResultUnknown.name());
}

#[tokio::test]
async fn c12_a_call_that_a_cut_interrupts_runs_once_and_its_reply_is_fetched() {
    let (server, upstream) = open_server().await;
    let mut alice = server.connect(Way::TCP).await.unwrap();
    let start = TestClient::start_request("alice", "");
    let started = alice.start(start.clone()).await.unwrap();
    alice.send(&call_frame(1, 1, "count", &[("key", "k")], "")).await.unwrap();
    alice.send(&call_frame(2, 2, "hold", &[], "")).await.unwrap();
    upstream.until_requests(2).await.unwrap();
    drop(alice);
    let start =
        trunkline_proto::wire::StartRequest { last_sent_client_seq: 2, ..again(&start, &started, vec![]) };
    let (mut alice, resumed) = come_back(server.ready(), Way::TCP, start).await;
    assert_eq!(resumed.last_client_seq, 2);
    alice.send(&call_frame(3, 1, "count", &[("key", "k")], "")).await.unwrap();
    assert_eq!(business(alice.reply(3).await.unwrap()).data, "1", "c12: not executed again");
    alice.send(&call_frame(4, 2, "hold", &[], "")).await.unwrap();
    upstream.release(1);
    assert_eq!(business(alice.reply(4).await.unwrap()).data, "released");
    assert_eq!((upstream.count("k"), upstream.requests().len()), (1, 2));
}

#[tokio::test]
async fn a_call_without_msg_id_answers_only_errors() {
    let (server, upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    alice.send(&call_frame(0, 1, "count", &[("key", "quiet")], "")).await.unwrap();
    alice.send(&call_frame(0, 2, "fail", &[], "")).await.unwrap();
    let told = error(alice.push().await.unwrap());
    assert_eq!((told.client_seq, told.error_code), (2, 502));
    assert!(alice.drain().await.unwrap().is_empty());
    assert_eq!(upstream.count("quiet"), 1);
}

#[tokio::test]
async fn c12_replies_that_ask_for_order_wait_for_those_before() {
    let (server, upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    let ordered = |msg_id: u32, action: &str| {
        let mut frame = call_frame(msg_id, u64::from(msg_id), action, &[], "");
        frame.headers.insert("x-order".into(), "request".into());
        frame
    };
    alice.send(&ordered(1, "hold")).await.unwrap();
    alice.send(&ordered(2, "echo")).await.unwrap();
    alice.send(&call_frame(3, 3, "echo", &[], "")).await.unwrap();
    assert_eq!(alice.frame().await.unwrap().msg_id, 3, "whoever does not ask is not held up");
    upstream.release(1);
    assert_eq!(alice.frame().await.unwrap().msg_id, 1);
    assert_eq!(alice.frame().await.unwrap().msg_id, 2);
}

#[tokio::test]
async fn what_upstreams_do_wrong_is_a_typed_answer() {
    let (server, upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    assert_eq!(error(alice.call("fail", "").await.unwrap()).error_code, 502);
    let mut late = call_frame(50, 2, "hold", &[], "");
    late.headers.insert("x-timeout-ms".into(), "100".into());
    alice.send(&late).await.unwrap();
    assert_eq!(error(alice.reply(50).await.unwrap()).error_code, 504);
    upstream.release(1);
    alice.next_client_seq = 3;
    assert_eq!(business(alice.call("echo", "well").await.unwrap()).data, "well");
}

#[tokio::test]
async fn eight_calls_of_a_session_run_at_once() {
    let (server, upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    for number in 1..=10 {
        alice.send(&call_frame(number, u64::from(number), "hold", &[], "")).await.unwrap();
    }
    upstream.until_requests(8).await.unwrap();
    assert!(alice.drain().await.unwrap().is_empty());
    assert_eq!(upstream.requests().len(), 8, "two wait");
    upstream.release(10);
    for number in 1..=10 {
        business(alice.reply(number).await.unwrap());
    }
    assert_eq!(upstream.requests().len(), 10);
}

#[tokio::test]
async fn requests_on_channels_answer_each_with_its_msg_id() {
    let (server, _upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    let head = crate::common::channel(alice.subscribe("room:x", None).await.unwrap());
    for n in 0..5 {
        alice.publish("room:x", format!("{n}")).await.unwrap();
    }
    let since = wire::ChannelPosition { channel: "room:x".into(), epoch: head.epoch, offset: head.offset };
    let ask = |reverse| {
        let request =
            wire::HistoryRequest { channel: "room:x".into(), since: Some(since.clone()), limit: 3, reverse };
        trunkline_proto::UpBody::History(request)
    };
    let texts = |frame| {
        let response = crate::common::channel(frame);
        response.publications.into_iter().map(|item| item.data).collect::<Vec<_>>()
    };
    assert_eq!(texts(alice.request(ask(false)).await.unwrap()), ["0", "1", "2"]);
    let presence =
        trunkline_proto::UpBody::Presence(wire::ChannelRequest { channel: "room:x".into(), since: None });
    let members = crate::common::channel(alice.request(presence).await.unwrap()).members;
    assert_eq!(members.len(), 1);
    assert_eq!(
        (members[0].user.as_str(), &members[0].session_id),
        ("alice", &alice.started.as_ref().unwrap().session_id)
    );
    let leave =
        trunkline_proto::UpBody::Unsubscribe(wire::ChannelRequest { channel: "room:x".into(), since: None });
    crate::common::channel(alice.request(leave).await.unwrap());
    alice.drain().await.unwrap();
    alice.publish("room:x", "unheard").await.unwrap();
    let after = alice.drain().await.unwrap();
    assert!(!after.iter().any(|frame| matches!(frame.body, DownBody::Publication(_))), "{after:?}");
}

#[tokio::test]
async fn the_same_idempotency_key_publishes_once() {
    let (server, _upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    alice.subscribe("room:once", None).await.unwrap();
    let publish = |key: &str| {
        trunkline_proto::UpBody::Publish(wire::PublishRequest {
            channel: "room:once".into(),
            data: "x".into(),
            idempotency_key: key.into(),
        })
    };
    let first = crate::common::channel(alice.request(publish("k1")).await.unwrap());
    let again = crate::common::channel(alice.request(publish("k1")).await.unwrap());
    assert_eq!((first.epoch, first.offset), (again.epoch, again.offset));
    let other = crate::common::channel(alice.request(publish("k2")).await.unwrap());
    assert!(other.offset > first.offset);
    let told = alice.drain().await.unwrap();
    assert_eq!(told.len(), 2, "{told:?}");
}
