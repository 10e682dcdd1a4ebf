//! `PushBatch`: one push to many targets, with a result for each, in their order.

use anyhow::Result;
use trunkline_proto::wire::{PushBatchRequest, PushOutcome, UnicastPushRequest, UnicastTarget};

use crate::support::{Node, next_push, push_to, seen};

fn target(target_type: &str, target_id: &str) -> UnicastTarget {
    UnicastTarget { target_type: target_type.to_owned(), target_id: target_id.to_owned() }
}

#[tokio::test]
async fn each_target_has_its_own_result() -> Result<()> {
    let node = Node::start().await?;
    let (mut alice, mut bob) = (node.client("alice").await?, node.client("bob").await?);
    let targets = vec![
        target("openid", "alice"),
        target("gid", "none"),
        target("planet", "earth"),
        target("openid", "bob"),
        target("openid", "carol"),
    ];
    // The push's own target does not count.
    let push = Some(push_to("openid", "mallory", "batch"));
    let request = PushBatchRequest { targets: targets.clone(), push };
    let results = node.service().await?.push_batch(request).await?.into_inner().results;
    let got: Vec<_> = results.iter().map(|result| (result.success, result.outcome())).collect();
    use PushOutcome::{OutcomeDelivered, OutcomeNotFound, OutcomeOffline, OutcomeUnspecified};
    assert_eq!(
        got,
        [
            (true, OutcomeDelivered),
            (false, OutcomeNotFound),
            (false, OutcomeUnspecified),
            (true, OutcomeDelivered),
            (false, OutcomeOffline),
        ]
    );
    for (result, target) in results.iter().zip(&targets) {
        assert_eq!((&result.target_type, &result.target_id), (&target.target_type, &target.target_id));
        assert_eq!(result.success, result.error_message.is_empty(), "{result:?}");
    }
    assert!(results[2].error_message.starts_with("BAD_REQUEST: "), "{:?}", results[2]);
    assert_eq!(next_push(&mut alice, "user:alice").await?, seen("batch"));
    assert_eq!(next_push(&mut bob, "user:bob").await?, seen("batch"));
    node.stop((alice, bob)).await
}

#[tokio::test]
async fn a_batch_waits_for_all_its_acks_at_once() -> Result<()> {
    let node = Node::start().await?;
    let mut clients = Vec::new();
    for at in 0..100 {
        clients.push(node.client(&format!("user-{at}")).await?);
    }
    let targets = (0..100).map(|at| target("openid", &format!("user-{at}"))).collect();
    let push = Some(UnicastPushRequest { wait_ack_ms: 60_000, ..push_to("", "", "ack") });
    let mut service = node.service().await?;
    let answer = service.push_batch(PushBatchRequest { targets, push });
    let acking = async {
        // In the other order within what waits at once, so that no target waits for the one before it.
        for clients in clients.chunks_mut(10) {
            for client in clients.iter_mut().rev() {
                let frame = client.push().await?;
                client.ack_position(frame.position.unwrap_or_default()).await?;
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    let (answer, acked) = tokio::join!(answer, acking);
    acked?;
    let results = answer?.into_inner().results;
    assert_eq!(results.len(), 100);
    for (at, result) in results.iter().enumerate() {
        assert_eq!(result.target_id, format!("user-{at}"));
        assert_eq!(result.outcome(), PushOutcome::OutcomeAcked, "{result:?}");
    }
    node.stop(clients).await
}

#[tokio::test]
async fn a_batch_has_a_push_and_at_most_1000_targets() -> Result<()> {
    let node = Node::start().await?;
    let mut service = node.service().await?;
    let many = |count: usize| vec![target("gid", "none"); count];
    let request = PushBatchRequest { targets: many(1_001), push: Some(push_to("", "", "x")) };
    let refused = service.push_batch(request).await.map_err(|status| status.code());
    assert_eq!(refused.err(), Some(tonic::Code::InvalidArgument));
    let request = PushBatchRequest { targets: many(1), push: None };
    let refused = service.push_batch(request).await.map_err(|status| status.code());
    assert_eq!(refused.err(), Some(tonic::Code::InvalidArgument));
    let request = PushBatchRequest { targets: many(1_000), push: Some(push_to("", "", "x")) };
    assert_eq!(service.push_batch(request).await?.into_inner().results.len(), 1_000);
    node.stop(service).await
}
