//! What services hear of sessions: each session's events in the order in which they happened.

use std::sync::Arc;

use anyhow::Result;
use tokio::task::{JoinSet, yield_now};
use trunkline_gateway::auth::{Identity, sign_hs256};
use trunkline_service::{SessionEvent, Target};
use trunkline_testkit::TestClient;

use crate::support::{KEY, Node};

/// Whoever is ended in the moment in which their START is answered: services hear both, or neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_while_it_begins_is_not_left_begun() -> Result<()> {
    const SESSIONS: usize = 300;
    let node = Arc::new(Node::start().await?);
    let mut racing = JoinSet::new();
    for at in 0..SESSIONS {
        let identity = Identity { user: format!("user-{at}"), ..Identity::default() };
        let (starting, kicking) = (Arc::clone(&node), Arc::clone(&node));
        let user = identity.user.clone();
        racing.spawn(async move {
            let mut client = starting.connect().await?;
            // Refused or closed in the middle of it: either is right.
            let start = TestClient::start_request(&identity.user, &sign_hs256(KEY, &identity)?);
            drop(client.start(start).await);
            Ok::<_, anyhow::Error>(())
        });
        racing.spawn(async move {
            let context = kicking.gateway.context();
            while context.disconnect(Target::User(user.clone()), 0, "go").await? == 0 {
                yield_now().await;
            }
            Ok(())
        });
        while racing.len() > 8 {
            if let Some(done) = racing.join_next().await {
                done??;
            }
        }
    }
    while let Some(done) = racing.join_next().await {
        done??;
    }
    let node = Arc::into_inner(node).unwrap_or_else(|| unreachable!("every task has ended"));
    let events = Arc::clone(&node.events);
    node.stop(()).await?;
    for session in events.sessions() {
        let of = events.of(&session);
        assert!(matches!(of.last(), Some(SessionEvent::Ended(_))), "{session}: {of:?}");
        assert!(matches!(of.first(), Some(SessionEvent::Started)), "{session}: {of:?}");
    }
    Ok(())
}
