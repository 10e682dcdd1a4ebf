//! `BroadcastToClients` counts whom it was sent to, and a zone is one that exists.

use anyhow::{Context, Result};
use trunkline_proto::wire::BroadcastRequest;

use crate::support::{Node, next_push, push_to, seen, session_of};

/// By the seed's hash.
const ZONES: [(&str, &str); 3] = [("10001", "004"), ("45000", "001"), ("alice", "003")];

fn broadcast(zone: &str, title: &str) -> BroadcastRequest {
    let push = push_to("", "", title);
    BroadcastRequest {
        msg_type: push.msg_type,
        title: push.title,
        content: push.content,
        data: push.data,
        metadata: push.metadata,
        zone_id: zone.to_owned(),
    }
}

#[tokio::test]
async fn a_broadcast_reaches_all_or_one_zone_and_counts_the_live() -> Result<()> {
    let node = Node::start().await?;
    let mut clients = Vec::new();
    for (user, zone) in ZONES {
        clients.push((zone, node.client(user).await?));
    }
    let away = node.client("30000").await?;
    let lost = session_of(&away);
    drop(away);
    node.until_lost(&lost).await?;
    let mut service = node.service().await?;
    let answer = service.broadcast_to_clients(broadcast("", "to all")).await?.into_inner();
    assert_eq!(answer.sent_count, 3, "{answer:?}");
    for (_, client) in &mut clients {
        assert_eq!(next_push(client, "all").await?, seen("to all"));
    }
    let answer = service.broadcast_to_clients(broadcast("003", "to one zone")).await?.into_inner();
    assert_eq!(answer.sent_count, 1, "{answer:?}");
    service.broadcast_to_clients(broadcast("", "end")).await?;
    for (zone, client) in &mut clients {
        if *zone == "003" {
            assert_eq!(next_push(client, "zone:003").await?, seen("to one zone"));
        }
        assert_eq!(next_push(client, "all").await?, seen("end"));
    }
    node.stop(clients).await
}

#[tokio::test]
async fn a_broadcast_to_a_zone_that_is_none_reaches_nobody_and_says_why() -> Result<()> {
    let node = Node::start().await?;
    let mut service = node.service().await?;
    for zone in ["007", "7", "*", "003 ", "all", &"x".repeat(10_000)] {
        let response = service.broadcast_to_clients(broadcast(zone, "x")).await?;
        let code = response.metadata().get("x-trunkline-code").context("no code")?.to_str()?;
        assert_eq!(code, "INVALID_ZONE_ID", "{zone}");
        let answer = response.into_inner();
        assert_eq!(answer.sent_count, 0);
        assert!(answer.message.starts_with("INVALID_ZONE_ID: "), "{}", answer.message);
        assert!(answer.message.len() < 200, "foreign text is not repeated at length");
    }
    let large = BroadcastRequest { data: vec![0; 2 << 20].into(), ..broadcast("", "x") };
    let answer = service.broadcast_to_clients(large).await?.into_inner();
    assert!(answer.message.starts_with("TOO_LARGE: "), "{}", answer.message);
    node.stop(service).await
}
