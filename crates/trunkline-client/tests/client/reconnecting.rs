//! Lost connections: the client comes back by itself, with its token and positions.

use std::time::Duration;

use tokio::time::Instant;
use trunkline_client::{Event, Verdict};
use trunkline_proto::wire::{self, CloseNotice, StartResponse};
use trunkline_proto::{CloseCode, UpBody};

use crate::script::{Gateway, at, next, reply, response};

#[tokio::test]
async fn after_a_cut_session_positions_and_calls_go_on() {
    let gateway = Gateway::new().await;
    let (client, mut pushes, mut peer) = gateway.session(gateway.options()).await;
    peer.publish("user:alice", 7, 1).await;
    assert!(matches!(next(&mut pushes).await, Event::Publication(_)));
    let (answer, ()) = tokio::join!(client.call("x").send(), async {
        let first = peer.call().await;
        drop(peer);
        let (mut peer, msg_id, start) = gateway.accept_start().await;
        assert_eq!((start.resume_token.as_str(), start.attempt, start.last_sent_client_seq), ("t1", 2, 1));
        assert_eq!(start.positions, [at("user:alice", 7)]);
        peer.start_response(msg_id, response(wire::Verdict::Resumed, 2, vec![at("user:alice", 7)])).await;
        let again = peer.call().await;
        assert_eq!((again.1, &again.2), (first.1, &first.2), "the same number and content");
        peer.send(reply(again.0, "once")).await;
        peer.publish("user:alice", 7, 1).await;
        peer.publish("user:alice", 8, 1).await;
        // Kept open until the events are read.
        let Event::Lost { code: None, .. } = next(&mut pushes).await else { panic!("not told of the loss") };
        let Event::Started(started) = next(&mut pushes).await else { panic!("not told of the return") };
        assert_eq!((started.verdict, started.transport), (Verdict::Resumed, "tcp"));
        let Event::Publication(publication) = next(&mut pushes).await else { panic!("no publication") };
        assert_eq!(publication.position.offset, 8, "what was delivered before is not delivered again");
    });
    assert_eq!(answer.unwrap().data, "once");
}

#[tokio::test]
async fn gaps_of_a_fresh_session_are_told() {
    let gateway = Gateway::new().await;
    let (_client, mut pushes, peer) = gateway.session(gateway.options()).await;
    peer.close(CloseCode::SessionLost.notice("gone")).await;
    let (mut peer, msg_id, start) = gateway.accept_start().await;
    assert_eq!(start.resume_token, "", "4100 asks for a fresh session");
    let gap = wire::ChannelGap {
        channel: "user:alice".into(),
        epoch: 1_000,
        offset: 0,
        next: Some(at("user:alice", 9)),
    };
    let fresh =
        StartResponse { gaps: vec![gap], ..response(wire::Verdict::Fresh, 2, vec![at("user:alice", 9)]) };
    peer.start_response(msg_id, fresh).await;
    assert!(matches!(next(&mut pushes).await, Event::Lost { code: Some(4100), .. }));
    let Event::Started(started) = next(&mut pushes).await else { panic!("not told of the return") };
    assert_eq!(started.verdict, Verdict::Fresh);
    let Event::Gap(gap) = next(&mut pushes).await else { panic!("not told of the gap") };
    assert_eq!((gap.from.offset, gap.next.unwrap().offset), (0, 9));
}

#[tokio::test]
async fn the_gateways_time_to_come_back_holds() {
    let gateway = Gateway::new().await;
    let (_client, mut pushes, peer) = gateway.session(gateway.options()).await;
    let begin = Instant::now();
    let notice = CloseNotice { reconnect_after_ms: 300, ..CloseCode::GoingAway.notice("draining") };
    peer.close(notice).await;
    let Event::Lost { code, retry_in, .. } = next(&mut pushes).await else { panic!("not told of the loss") };
    assert_eq!((code, retry_in), (Some(4000), Duration::from_millis(300)));
    gateway.accept_start().await;
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_gateway_that_is_away_is_tried_again_until_it_is_back() {
    let gateway = Gateway::new().await;
    let (_client, mut pushes, peer) = gateway.session(gateway.options()).await;
    drop(peer);
    assert!(matches!(next(&mut pushes).await, Event::Lost { .. }));
    for _ in 0..3 {
        // Accepted and dropped before START is answered.
        drop(gateway.accept_start().await);
    }
    let (mut peer, msg_id, start) = gateway.accept_start().await;
    assert_eq!(start.attempt, 5);
    peer.start_response(msg_id, response(wire::Verdict::Resumed, 2, vec![at("user:alice", 0)])).await;
    loop {
        if let Event::Started(_) = next(&mut pushes).await {
            break;
        }
    }
}

#[tokio::test]
async fn a_redirection_is_followed_first() {
    let (gateway, other) = (Gateway::new().await, Gateway::new().await);
    let (_client, _pushes, peer) = gateway.session(gateway.options()).await;
    let redirect = other.options().endpoints[0].to_string();
    let notice = CloseNotice { redirect, ..CloseCode::Moved.notice("moved") };
    peer.close(notice).await;
    let (_, _, start) = other.accept_start().await;
    assert_eq!(start.resume_token, "t1");
}

#[tokio::test]
async fn a_program_can_cut_its_own_connection() {
    let gateway = Gateway::new().await;
    let (client, mut pushes, mut peer) = gateway.session(gateway.options()).await;
    client.cut().await;
    assert!(peer.try_recv().await.is_none());
    assert!(matches!(next(&mut pushes).await, Event::Lost { code: None, .. }));
    let (_, _, start) = gateway.accept_start().await;
    assert_eq!(start.resume_token, "t1");
}

#[tokio::test]
async fn requests_wait_for_the_next_connection() {
    let gateway = Gateway::new().await;
    let (client, mut pushes, peer) = gateway.session(gateway.options()).await;
    drop(peer);
    assert!(matches!(next(&mut pushes).await, Event::Lost { .. }));
    let (answer, ()) = tokio::join!(client.publish("room:1", "hi"), async {
        let (mut peer, msg_id, _) = gateway.accept_start().await;
        peer.start_response(msg_id, response(wire::Verdict::Resumed, 2, vec![at("user:alice", 0)])).await;
        let publish = peer.recv().await;
        assert!(matches!(publish.body, UpBody::Publish(_)));
        let place =
            wire::ChannelResponse { channel: "room:1".into(), epoch: 1_000, offset: 3, ..Default::default() };
        peer.send(trunkline_proto::DownFrame::new(
            publish.msg_id,
            trunkline_proto::DownBody::ChannelResp(place),
        ))
        .await;
    });
    assert_eq!(answer.unwrap().offset, 3);
}
