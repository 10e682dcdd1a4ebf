//! Cuts: what was not delivered comes, once and in order, or is told as a gap.

use trunkline_proto::DownBody;
use trunkline_proto::wire::{ChannelPosition, PushOutcome, Verdict};
use trunkline_testkit::{TestClient, Way};
use trunkline_transport::chaos::{Ending, StreamFaults, TcpProxy};

use crate::common::{again, channel, client, come_back, open_server, position, published, server};

#[tokio::test]
async fn s1_a_client_cut_after_k_unacked_pushes_gets_exactly_the_missing_ones() {
    let (server, upstream) = open_server().await;
    for (round, k) in [0_usize, 1, 17, 100].into_iter().enumerate() {
        let user = format!("alice{round}");
        let mut alice = server.connect(Way::TCP).await.unwrap();
        let start = TestClient::start_request(&user, "");
        let started = alice.start(start.clone()).await.unwrap();
        alice.prove(started.fence).await.unwrap();
        for number in 0..k + 5 {
            upstream.push_to_user(&user, &number.to_string()).await.unwrap();
        }
        // Reads k of them, acknowledges none.
        let mut at = position(&started, &format!("user:{user}"));
        for number in 0..k {
            let (next, title) = published(&alice.push().await.unwrap());
            assert_eq!(title, number.to_string());
            at = next;
        }
        drop(alice);
        upstream.push_to_user(&user, "away").await.unwrap();
        let (mut alice, resumed) =
            come_back(server.ready(), Way::TCP, again(&start, &started, vec![at])).await;
        assert_eq!(resumed.verdict(), Verdict::Resumed, "c1, k = {k}");
        for number in k..k + 5 {
            assert_eq!(published(&alice.push().await.unwrap()).1, number.to_string(), "k = {k}");
        }
        assert_eq!(published(&alice.push().await.unwrap()).1, "away", "s2");
        assert!(alice.drain().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn s3_more_than_the_history_keeps_is_a_gap_with_its_exact_range() {
    let (server, _upstream) = open_server().await;
    let mut alice = server.connect(Way::TCP).await.unwrap();
    let start = TestClient::start_request("alice", "");
    let started = alice.start(start.clone()).await.unwrap();
    alice.prove(started.fence).await.unwrap();
    let head = channel(alice.subscribe("short:1", None).await.unwrap());
    let from = ChannelPosition { channel: "short:1".into(), epoch: head.epoch, offset: head.offset };
    drop(alice);
    let mut bob = client(&server, "bob").await;
    let mut offsets = Vec::new();
    for number in 0..300 {
        offsets.push(channel(bob.publish("short:1", number.to_string()).await.unwrap()).offset);
    }
    let (mut alice, resumed) =
        come_back(server.ready(), Way::TCP, again(&start, &started, vec![from.clone()])).await;
    // The history keeps 5, but while a session is attached, with or without a connection, the live window keeps 256.
    let lost = 300 - 256;
    assert!(resumed.success);
    assert_eq!(resumed.verdict(), Verdict::Gap, "{resumed:?}");
    let gap = resumed.gaps.iter().find(|gap| gap.channel == "short:1").expect("the gap names its channel");
    assert_eq!((gap.epoch, gap.offset), (from.epoch, from.offset), "from where the client was");
    let next = gap.next.clone().expect("delivery goes on");
    assert_eq!(next.offset, offsets[lost - 1], "up to the last that is lost");
    assert_eq!(position(&resumed, "short:1").offset, next.offset);
    for (number, offset) in offsets.into_iter().enumerate().skip(lost) {
        let (at, data) = published(&alice.push().await.unwrap());
        assert_eq!((at.offset, data), (offset, number.to_string().into()));
    }
    assert!(alice.drain().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_subscription_since_a_lost_position_is_told_its_gap_at_once() {
    let (server, _upstream) = open_server().await;
    let mut bob = client(&server, "bob").await;
    let first = channel(bob.publish("short:2", "0").await.unwrap());
    for number in 1..12 {
        bob.publish("short:2", number.to_string()).await.unwrap();
    }
    let since = ChannelPosition { channel: "short:2".into(), epoch: first.epoch, offset: first.offset };
    let answer = channel(bob.subscribe("short:2", Some(since)).await.unwrap());
    assert!(!answer.recovered);
    let gap = bob.push().await.unwrap();
    let DownBody::Gap(gap) = gap.body else { panic!("no gap: {gap:?}") };
    assert_eq!((gap.channel.as_str(), gap.offset), ("short:2", first.offset));
    for number in 7..12 {
        assert_eq!(published(&bob.push().await.unwrap()).1, number.to_string());
    }
}

#[tokio::test]
async fn positions_of_another_life_are_gaps_and_never_wrong_offsets() {
    let (server, _upstream) = open_server().await;
    let mut alice = client(&server, "alice").await;
    channel(alice.publish("room:e", "x").await.unwrap());
    for (epoch, offset) in [(1, 0), (1, 500), (u64::MAX >> 12, 3)] {
        let since = ChannelPosition { channel: "room:e".into(), epoch, offset };
        let answer = channel(alice.subscribe("room:e", Some(since)).await.unwrap());
        assert!(!answer.recovered, "({epoch}, {offset})");
        let told = alice.push().await.unwrap();
        assert!(matches!(told.body, DownBody::Gap(_)), "({epoch}, {offset}): {told:?}");
        let leave = trunkline_proto::UpBody::Unsubscribe(trunkline_proto::wire::ChannelRequest {
            channel: "room:e".into(),
            since: None,
        });
        alice.request(leave).await.unwrap();
        alice.drain().await.unwrap();
    }
}

#[tokio::test]
async fn a_session_moves_from_one_transport_to_another() {
    let (server, upstream) = open_server().await;
    let start = TestClient::start_request("alice", "");
    let mut alice = server.connect(Way::ALL[0]).await.unwrap();
    let mut last = alice.start(start.clone()).await.unwrap();
    alice.prove(last.fence).await.unwrap();
    let mut at = position(&last, "user:alice");
    for (number, way) in Way::ALL.into_iter().enumerate() {
        drop(alice);
        upstream.push_to_user("alice", &number.to_string()).await.unwrap();
        let mut request = again(&start, &last, vec![at]);
        request.attempt = number as u64 + 2;
        (alice, last) = come_back(server.ready(), way, request).await;
        assert_eq!(last.verdict(), Verdict::Resumed, "{way:?}");
        let title;
        (at, title) = published(&alice.push().await.unwrap());
        assert_eq!(title, number.to_string(), "{way:?}");
    }
}

#[tokio::test]
async fn a_half_open_connection_is_replaced_and_can_do_nothing_more() {
    let (server, upstream) = open_server().await;
    let proxy = TcpProxy::start(server.ready().tcp().unwrap(), 1, StreamFaults::default()).await.unwrap();
    let behind = server.ready().with_tcp(proxy.address());
    let mut old = TestClient::connect(&behind, Way::TCP).await.unwrap();
    let start = TestClient::start_request("alice", "");
    let started = old.start(start.clone()).await.unwrap();
    old.prove(started.fence).await.unwrap();
    proxy.stall();
    let at = position(&started, "user:alice");
    let (mut new, resumed) = come_back(server.ready(), Way::TCP, again(&start, &started, vec![at])).await;
    assert_eq!(resumed.verdict(), Verdict::Resumed);
    proxy.go_on();
    assert_eq!(old.close_code().await.unwrap(), 4301);
    let outcome = upstream.push_to_user("alice", "for the new one").await.unwrap();
    assert_eq!(outcome.outcome(), PushOutcome::OutcomeDelivered);
    assert_eq!(published(&new.push().await.unwrap()).1, "for the new one");
    proxy.cut_all(Ending::Close);
}

#[tokio::test]
async fn a_gateway_killed_and_started_again_says_fresh_and_tells_the_gaps() {
    let data = tempfile::tempdir().unwrap();
    let mut first = server().anonymous().data_dir(data.path()).start().await.unwrap();
    let mut alice = first.connect(Way::TCP).await.unwrap();
    let start = TestClient::start_request("alice", "");
    let started = alice.start(start.clone()).await.unwrap();
    alice.prove(started.fence).await.unwrap();
    channel(alice.subscribe("room:1", None).await.unwrap());
    channel(alice.publish("room:1", "before the end").await.unwrap());
    let (in_room, _) = published(&alice.push().await.unwrap());
    first.kill().await.unwrap();
    let second = server().anonymous().data_dir(data.path()).start().await.unwrap();
    let positions = vec![position(&started, "user:alice"), in_room.clone()];
    let (mut alice, fresh) = come_back(second.ready(), Way::TCP, again(&start, &started, positions)).await;
    assert!(fresh.success, "the token is valid, the session is gone: {fresh:?}");
    assert_eq!(fresh.verdict(), Verdict::Fresh);
    assert_ne!(fresh.session_id, started.session_id);
    assert!(fresh.fence > started.fence, "fences survive");
    let gap = fresh.gaps.iter().find(|gap| gap.channel == "room:1").expect("what was lost is told");
    assert_eq!((gap.epoch, gap.offset), (in_room.epoch, in_room.offset));
    assert!(position(&fresh, "room:1").epoch > in_room.epoch, "a new incarnation lies above the old one");
    channel(alice.publish("room:1", "after").await.unwrap());
    assert_eq!(published(&alice.push().await.unwrap()).1, "after");
}
