//! Events that nobody reads never hold up replies, and nothing of them is lost.

use std::time::Duration;

use trunkline_client::Event;
use trunkline_proto::wire::Verdict;

use crate::script::{Gateway, at, next, reply, response};

#[tokio::test]
async fn replies_pass_unread_events_and_what_was_skipped_comes_again() {
    let gateway = Gateway::new().await;
    let mut options = gateway.options();
    options.event_bytes = 10_000;
    let (client, mut pushes, mut peer) = gateway.session(options).await;
    // 8 fit: 1,000 bytes each and what they cost beside it.
    let (answer, mut peer) = tokio::join!(client.call("x").send(), async {
        let (msg_id, ..) = peer.call().await;
        for offset in 1..=20 {
            peer.publish("user:alice", offset, 1_000).await;
        }
        peer.send(reply(msg_id, "through")).await;
        peer
    });
    assert_eq!(answer.unwrap().data, "through");
    let mut seen = Vec::new();
    for _ in 0..4 {
        let Event::Publication(publication) = next(&mut pushes).await else { panic!("no publication") };
        seen.push(publication.position.offset);
    }
    // Half of it is read: the client asks again from the last that it kept.
    let (mut next_peer, msg_id, start) = gateway.accept_start().await;
    while peer.try_recv().await.is_some() {}
    let kept = start.positions[0].offset;
    assert!((5..10).contains(&kept), "{kept}");
    next_peer.start_response(msg_id, response(Verdict::Resumed, 2, vec![at("user:alice", kept)])).await;
    for offset in kept + 1..=20 {
        next_peer.publish("user:alice", offset, 10).await;
    }
    while seen.len() < 20 {
        match next(&mut pushes).await {
            Event::Publication(publication) => seen.push(publication.position.offset),
            Event::Started(_) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(seen, (1..=20).collect::<Vec<_>>(), "each once and in order");
}

#[tokio::test]
async fn without_a_call_the_client_stops_reading_and_the_gateway_waits() {
    let gateway = Gateway::new().await;
    let mut options = gateway.options();
    options.event_bytes = 10_000;
    let (_client, mut pushes, mut peer) = gateway.session(options).await;
    // More than sockets hold: the writer must come to a stand.
    let mut offset = 0;
    let stuck = async {
        loop {
            offset += 1;
            peer.publish("user:alice", offset, 100_000).await;
        }
    };
    let blocked = tokio::time::timeout(Duration::from_millis(500), stuck).await;
    assert!(blocked.is_err(), "{offset} publications of 100 kB went somewhere");
    let Event::Publication(first) = next(&mut pushes).await else { panic!("no publication") };
    assert_eq!(first.position.offset, 1);
}
