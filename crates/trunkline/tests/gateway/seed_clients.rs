//! Protocol 0: a client that knows the seed's fields only. Every frame down is numbered from 1 without holes.

use trunkline_proto::wire::{self, BusinessResponse, StartRequest};
use trunkline_proto::{Dialect, DownBody, DownFrame, UpBody, UpFrame};
use trunkline_testkit::{TestClient, TestServer, Transport, Way};

use crate::common::{business, call_frame, open_server};

const QUIC: Way = Way { transport: Transport::Quic, dialect: Dialect::Protobuf };

fn seed_start(user: &str, acked: u64) -> StartRequest {
    StartRequest {
        openid: user.into(),
        auth_token: "default-token".into(),
        last_acked_seq_id: acked,
        ..Default::default()
    }
}

async fn started(server: &TestServer, way: Way, user: &str, acked: u64) -> (TestClient, DownFrame) {
    let mut client = server.connect(way).await.unwrap();
    client.send(&UpFrame::new(1, 0, UpBody::Start(seed_start(user, acked).into()))).await.unwrap();
    let frame = client.frame().await.unwrap();
    assert!(matches!(&frame.body, DownBody::StartResp(response) if response.success), "{frame:?}");
    (client, frame)
}

async fn ack(client: &mut TestClient, seq: u64) {
    client.ack(wire::ClientAck { acked_seq_id: seq, ..wire::ClientAck::default() }).await.unwrap();
}

fn push(frame: &DownFrame) -> (u64, BusinessResponse) {
    (frame.seq_id, business(frame.clone()))
}

#[tokio::test]
async fn every_frame_is_numbered_and_a_push_has_the_seeds_form() {
    let (server, upstream) = open_server().await;
    for way in [Way::TCP, QUIC] {
        let user = format!("seed-{:?}", way.transport);
        let (mut client, start) = started(&server, way, &user, 0).await;
        assert_eq!((start.msg_id, start.seq_id), (1, 1));
        let DownBody::StartResp(response) = &start.body else { panic!("no START_RESP") };
        assert!(response.heartbeat_interval > 0 && !response.connection_id.is_empty());
        client.send(&call_frame(2, 1, "echo", &[], "hi")).await.unwrap();
        let reply = client.frame().await.unwrap();
        assert_eq!((reply.msg_id, reply.seq_id, &push(&reply).1.data[..]), (2, 2, &b"hi"[..]));
        client
            .send(&UpFrame::new(3, 0, UpBody::Heartbeat(wire::HeartbeatRequest { client_timestamp: 7 })))
            .await
            .unwrap();
        let beat = client.frame().await.unwrap();
        assert_eq!((beat.msg_id, beat.seq_id), (3, 3), "heartbeat answers take a number too");
        upstream.push_to_user(&user, "hello").await.unwrap();
        let (seq, pushed) = push(&client.frame().await.unwrap());
        assert_eq!((seq, pushed.code, pushed.message.as_str()), (4, 200, "[test] hello"));
        client.send(&call_frame(4, 2, "before", &[("titles", "one,two")], "")).await.unwrap();
        let frames =
            [client.frame().await.unwrap(), client.frame().await.unwrap(), client.frame().await.unwrap()];
        assert_eq!(frames.each_ref().map(|frame| frame.seq_id), [5, 6, 7], "a group is unrolled");
        assert_eq!(frames.each_ref().map(|frame| frame.msg_id), [0, 0, 4]);
        assert_eq!(push(&frames[0]).1.message, "[test] one");
        ack(&mut client, 7).await;
        assert!(client.recv_within(std::time::Duration::from_millis(50)).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn c1_a_resume_brings_what_was_not_acked_under_its_numbers() {
    let (server, upstream) = open_server().await;
    for (round, unacked) in [0_u64, 1, 17].into_iter().enumerate() {
        let user = format!("seed{round}");
        let (mut client, _) = started(&server, Way::TCP, &user, 0).await;
        for number in 0..20 {
            upstream.push_to_user(&user, &format!("{number}")).await.unwrap();
        }
        for number in 0..20 {
            assert_eq!(client.frame().await.unwrap().seq_id, number + 2);
        }
        let acked = 21 - unacked;
        ack(&mut client, acked).await;
        // The ack has arrived when something sent after it is answered; that takes number 22.
        client.send(&call_frame(9, 1, "echo", &[], "")).await.unwrap();
        assert_eq!(client.frame().await.unwrap().seq_id, 22);
        drop(client);
        upstream.push_to_user(&user, "away").await.unwrap();
        let (mut client, start) = started(&server, Way::TCP, &user, acked).await;
        assert_eq!(start.seq_id, 0, "START_RESP of a resume has no number");
        for seq in acked + 1..=21 {
            let (seen, pushed) = push(&client.frame().await.unwrap());
            assert_eq!((seen, pushed.message), (seq, format!("[test] {}", seq - 2)), "unacked = {unacked}");
        }
        assert_eq!(client.frame().await.unwrap().seq_id, 22, "the reply was not acked either");
        let (seq, pushed) = push(&client.frame().await.unwrap());
        assert_eq!((seq, pushed.message.as_str()), (23, "[test] away"));
        client.send(&call_frame(10, 2, "echo", &[], "on")).await.unwrap();
        assert_eq!(client.frame().await.unwrap().seq_id, 24);
    }
}

#[tokio::test]
async fn a_resume_of_a_session_that_is_gone_says_410_and_goes_on_above() {
    let (server, _upstream) = open_server().await;
    let (_client, start) = started(&server, Way::TCP, "ghost", 7).await;
    let DownBody::StartResp(response) = start.body else { panic!("no START_RESP") };
    assert_eq!(response.error.unwrap().error_code, 410);
    assert_eq!(start.seq_id, 8, "the client's cumulative ack stays at 7");
}

#[tokio::test]
async fn a_number_that_nobody_was_sent_is_refused_and_costs_nothing() {
    let (server, _upstream) = open_server().await;
    for acked in [u64::MAX, u64::MAX - 1, 1 << 53] {
        let mut client = server.connect(Way::TCP).await.unwrap();
        let response = client.start(seed_start("max", acked)).await.unwrap();
        assert_eq!((response.success, response.error.unwrap().error_code), (false, 400), "{acked}");
        client.closed().await.unwrap();
    }
    let (mut client, start) = started(&server, Way::TCP, "max", 1 << 52).await;
    assert_eq!(start.seq_id, (1 << 52) + 1);
    client.send(&call_frame(2, 1, "echo", &[], "")).await.unwrap();
    assert_eq!(client.frame().await.unwrap().seq_id, (1 << 52) + 2);
    // What was left over at a cut is numbered too.
    drop(client);
    crate::common::client(&server, "bob").await.call("echo", "").await.unwrap();
}

#[tokio::test]
async fn c13_a_restarted_seed_app_begins_anew() {
    let (server, upstream) = open_server().await;
    let (mut app, _) = started(&server, Way::TCP, "app", 0).await;
    app.send(&call_frame(2, 1, "echo", &[], "")).await.unwrap();
    app.frame().await.unwrap();
    upstream.push_to_user("app", "unread").await.unwrap();
    drop(app);
    let (mut app, start) = started(&server, Way::TCP, "app", 0).await;
    assert_eq!(start.seq_id, 1);
    app.send(&call_frame(2, 1, "echo", &[], "one")).await.unwrap();
    let frames = [app.frame().await.unwrap(), app.frame().await.unwrap()];
    assert_eq!(frames.each_ref().map(|frame| frame.seq_id), [2, 3]);
    let mut texts: Vec<_> = frames
        .iter()
        .map(|frame| push(frame).1)
        .map(|p| if p.message == "ok" { "reply" } else { "unread" })
        .collect();
    texts.sort_unstable();
    assert_eq!(texts, ["reply", "unread"], "a new session begins with what the device had not acked");
}

#[tokio::test]
async fn publications_reach_a_seed_client_in_its_own_form() {
    let (server, _upstream) = open_server().await;
    let (mut seed, _) = started(&server, Way::TCP, "seed", 0).await;
    seed.send(&UpFrame::new(
        5,
        0,
        UpBody::Subscribe(wire::ChannelRequest { channel: "room:1".into(), since: None }),
    ))
    .await
    .unwrap();
    seed.frame().await.unwrap();
    let mut bob = crate::common::client(&server, "bob").await;
    bob.publish("room:1", "text").await.unwrap();
    let (seq, pushed) = push(&seed.frame().await.unwrap());
    assert_eq!(
        (seq, pushed.code, pushed.message.as_str(), &pushed.data[..]),
        (3, 200, "[room:1]", &b"text"[..])
    );
}
