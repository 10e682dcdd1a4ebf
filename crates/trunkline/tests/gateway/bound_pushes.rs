//! Pushes bound to a reply: on their side of it, in one frame with it, or honestly refused.

use trunkline_proto::wire::{self, NotifySyncHint, PushOutcome, UnicastPushRequest, UnicastPushResponse};
use trunkline_proto::{DownBody, DownFrame};
use trunkline_testkit::{TestUpstream, Way};

use crate::common::{business, call_frame, client, open_server, published, server};

/// A push by hand.
async fn push(upstream: &TestUpstream, user: &str, hint: NotifySyncHint, seq: u64) -> UnicastPushResponse {
    let request = UnicastPushRequest {
        target_type: "openid".into(),
        target_id: user.into(),
        title: "by hand".into(),
        sync_hint: hint as i32,
        bind_client_seq_id: seq,
        ..UnicastPushRequest::default()
    };
    upstream.gateway().push_to_client(request).await.unwrap().into_inner()
}

/// What a frame brought, in order: titles of pushes, and "reply".
fn order(frame: DownFrame) -> Vec<String> {
    match frame.body {
        DownBody::Group(frames) => frames.into_iter().flat_map(order).collect(),
        DownBody::BusinessData(_) if frame.msg_id != 0 => vec!["reply".into()],
        DownBody::BusinessData(push) => vec![push.title],
        other => panic!("unexpected: {other:?}"),
    }
}

#[tokio::test]
async fn o1_order_around_replies_is_right_every_time() {
    let (server, upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    for round in 0..40 {
        for (action, expected) in [("before", ["a", "b", "reply"]), ("after", ["reply", "a", "b"])] {
            let frame = alice.call_with(action, &[("titles", "a,b")], "").await.unwrap();
            assert_eq!(order(frame), expected, "{action}, round {round}");
        }
        alice.call_with("immediately", &[("titles", "c")], "").await.unwrap();
        assert_eq!(published(&alice.push().await.unwrap()).1, "c");
    }
    let outcomes = upstream.outcomes();
    assert_eq!(outcomes.len(), 200);
    for (number, outcome) in outcomes.iter().enumerate() {
        let expected =
            if number % 5 == 4 { PushOutcome::OutcomeDelivered } else { PushOutcome::OutcomeBound };
        assert!(outcome.success && outcome.outcome() == expected, "{number}: {outcome:?}");
    }
}

#[tokio::test]
async fn o2_a_push_looks_the_same_however_it_is_bound() {
    let (server, _upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    let mut pushes = Vec::new();
    for action in ["before", "after"] {
        let frame = alice.call_with(action, &[("titles", "same")], "").await.unwrap();
        let DownBody::Group(frames) = frame.body else { panic!("no group") };
        pushes.extend(frames.into_iter().filter(|frame| frame.msg_id == 0).map(business));
    }
    alice.call_with("immediately", &[("titles", "same")], "").await.unwrap();
    pushes.push(business(alice.push().await.unwrap()));
    assert_eq!(pushes.len(), 3);
    assert_eq!(pushes[0].message, "[test] same");
    assert_eq!(pushes[0].content, "content of same", "c9: nothing is discarded");
    assert_eq!(pushes[0].metadata["k"], "v");
    assert!(pushes.windows(2).all(|pair| pair[0] == pair[1]), "{pushes:?}");
}

#[tokio::test]
async fn o1_what_cannot_be_bound_is_refused_by_its_name() {
    let (server, upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    alice.call("echo", "").await.unwrap();
    let late = push(&upstream, "alice", NotifySyncHint::NshBeforeResponse, 1).await;
    assert_eq!((late.success, late.error_code.as_str()), (false, "BIND_TOO_LATE"));
    let unknown = push(&upstream, "alice", NotifySyncHint::NshBeforeResponse, 77).await;
    assert_eq!((unknown.success, unknown.error_code.as_str()), (false, "BIND_REFUSED"));
    let nobody = push(&upstream, "nobody", NotifySyncHint::NshBeforeResponse, 1).await;
    assert_eq!((nobody.success, nobody.error_code.as_str()), (false, "BIND_REFUSED"));
    // A late "after" goes out at once.
    let after = push(&upstream, "alice", NotifySyncHint::NshAfterResponse, 1).await;
    assert!(after.success, "{after:?}");
    assert_eq!(published(&alice.push().await.unwrap()).1, "by hand");
}

#[tokio::test]
async fn bound_pushes_of_a_call_without_msg_id_go_out_as_publications() {
    let (server, _upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    alice.send(&call_frame(0, 1, "before", &[("titles", "quiet")], "")).await.unwrap();
    assert_eq!(published(&alice.push().await.unwrap()).1, "quiet");
}

#[tokio::test]
async fn c9_a_push_to_nobody_is_no_success() {
    let (server, upstream) = open_server().await;
    let request = |target_type: &str, target_id: &str| UnicastPushRequest {
        target_type: target_type.into(),
        target_id: target_id.into(),
        title: "hello".into(),
        ..UnicastPushRequest::default()
    };
    let no_session = request("session", "00000000000000000000000000000001");
    let answer = upstream.gateway().push_to_client(no_session).await.unwrap().into_inner();
    assert_eq!((answer.success, answer.outcome()), (false, PushOutcome::OutcomeNotFound), "{answer:?}");
    let answer = upstream.gateway().push_to_client(request("openid", "offline")).await.unwrap().into_inner();
    assert_eq!((answer.success, answer.outcome()), (false, PushOutcome::OutcomeOffline), "{answer:?}");
    // Kept for a session that may come back.
    let alice = client(&server, "alice").await;
    drop(alice);
    let until = async {
        loop {
            let answer =
                upstream.gateway().push_to_client(request("openid", "alice")).await.unwrap().into_inner();
            if answer.outcome() == PushOutcome::OutcomeQueued {
                return answer.success;
            }
            assert_eq!(answer.outcome(), PushOutcome::OutcomeDelivered, "the cut is not noticed yet");
        }
    };
    assert!(tokio::time::timeout(trunkline_testkit::DEADLINE, until).await.expect("never noticed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o3_two_sessions_of_a_user_see_eight_pushers_in_one_order() {
    let server = server().anonymous().config("[auth]\nlogin = \"many\"").start().await.unwrap();
    let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    let mut sessions = Vec::new();
    for way in [Way::TCP, Way::ALL[4]] {
        let mut session = server.connect(way).await.unwrap();
        assert!(session.start_as("alice", "").await.unwrap().success);
        sessions.push(session);
    }
    let mut pushers = tokio::task::JoinSet::new();
    for pusher in 0..8 {
        let mut gateway = upstream.gateway();
        pushers.spawn(async move {
            for number in 0..25 {
                let request = UnicastPushRequest {
                    target_type: "openid".into(),
                    target_id: "alice".into(),
                    title: format!("{pusher}/{number}"),
                    ..UnicastPushRequest::default()
                };
                assert!(gateway.push_to_client(request).await.unwrap().into_inner().success);
            }
        });
    }
    let mut orders = Vec::new();
    for session in &mut sessions {
        let mut seen = Vec::new();
        while seen.len() < 200 {
            let (at, title) = published(&session.push().await.unwrap());
            seen.push((at.offset, title));
        }
        assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "offsets rise");
        orders.push(seen);
    }
    while let Some(pushed) = pushers.join_next().await {
        pushed.unwrap();
    }
    assert_eq!(orders[0], orders[1]);
    for pusher in 0..8 {
        let own: Vec<_> = orders[0]
            .iter()
            .filter(|(_, title)| title.starts_with(&format!("{pusher}/").into_bytes()[..]))
            .collect();
        let expected: Vec<_> = (0..25).map(|number| format!("{pusher}/{number}")).collect();
        assert!(
            own.iter().map(|(_, title)| &title[..]).eq(expected.iter().map(String::as_bytes)),
            "accept order"
        );
    }
}

#[tokio::test]
async fn a_broadcast_reaches_everybody_once() {
    let (server, upstream) = open_server().await;
    let (mut alice, mut bob) = (client(&server, "alice").await, client(&server, "bob").await);
    let request = wire::BroadcastRequest { title: "to all".into(), ..wire::BroadcastRequest::default() };
    let answer = upstream.gateway().broadcast_to_clients(request).await.unwrap().into_inner();
    assert_eq!(answer.sent_count, 2, "{answer:?}");
    for client in [&mut alice, &mut bob] {
        let (at, title) = published(&client.push().await.unwrap());
        assert_eq!((at.channel.as_str(), title), ("all", "to all".into()));
        assert!(client.drain().await.unwrap().is_empty());
    }
}
