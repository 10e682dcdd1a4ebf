//! Who is on a channel, and until when.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Harness;
use super::support::*;
use crate::broker::{Broker, BrokerError, Member, Members};

const TTL: Duration = Duration::from_secs(10);

fn member(session: &str, info: &str) -> Member {
    Member { session: session.into(), user: "alice".into(), info: Bytes::from(info.to_owned()) }
}

async fn sessions(broker: &Arc<dyn Broker>) -> Vec<String> {
    let Members { total, members } = broker.members(&room(), usize::MAX).await.unwrap();
    assert_eq!(total, members.len());
    let mut sessions: Vec<String> = members.iter().map(|member| member.session.to_string()).collect();
    sessions.sort();
    sessions
}

/// A member joins on one node and is seen on both; leaving twice is no error.
pub async fn members_come_and_go_on_all_nodes(h: &mut dyn Harness) {
    let (broker, peer) = (h.broker(), h.peer());
    let (here, there) = (broker.lease(TTL).await.unwrap(), peer.lease(TTL).await.unwrap());
    broker.join(&room(), member("s1", "a"), here.id()).await.unwrap();
    peer.join(&room(), member("s2", "b"), there.id()).await.unwrap();
    peer.join(&name("room:2"), member("s3", "c"), there.id()).await.unwrap();
    assert_eq!(sessions(&broker).await, ["s1", "s2"]);
    assert_eq!(sessions(&peer).await, ["s1", "s2"]);
    broker.leave(&room(), "s1").await.unwrap();
    broker.leave(&room(), "s1").await.unwrap();
    assert_eq!(sessions(&peer).await, ["s2"]);
}

/// A session is on a channel once.
pub async fn joining_again_replaces(h: &mut dyn Harness) {
    let broker = h.broker();
    let lease = broker.lease(TTL).await.unwrap();
    for info in ["old", "new"] {
        broker.join(&room(), member("s1", info), lease.id()).await.unwrap();
    }
    let members = broker.members(&room(), 10).await.unwrap();
    assert_eq!(members, Members { total: 1, members: vec![member("s1", "new")] });
}

/// A limit cuts the list, not the count.
pub async fn a_list_is_cut_but_the_total_is_true(h: &mut dyn Harness) {
    let broker = h.broker();
    let lease = broker.lease(TTL).await.unwrap();
    for n in 0..30 {
        broker.join(&room(), member(&format!("s{n}"), ""), lease.id()).await.unwrap();
    }
    let members = broker.members(&room(), 7).await.unwrap();
    assert_eq!((members.total, members.members.len()), (30, 7));
    assert_eq!(broker.members(&name("silent"), 7).await.unwrap(), Members::default());
}

/// Dropped or run out, a lease takes its members with it, and only its own.
pub async fn presence_ends_with_its_lease(h: &mut dyn Harness) {
    let broker = h.broker();
    let (dropped, silent) = (broker.lease(TTL).await.unwrap(), broker.lease(TTL).await.unwrap());
    let renewed = broker.lease(TTL).await.unwrap();
    broker.join(&room(), member("dropped", ""), dropped.id()).await.unwrap();
    broker.join(&room(), member("silent", ""), silent.id()).await.unwrap();
    broker.join(&room(), member("renewed", ""), renewed.id()).await.unwrap();
    drop(dropped);
    within("the lease's end", async {
        while sessions(&broker).await.len() > 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(sessions(&broker).await, ["renewed", "silent"]);
    h.advance(TTL * 2 / 3).await;
    renewed.renew().await.unwrap();
    h.advance(TTL * 2 / 3).await;
    assert_eq!(sessions(&broker).await, ["renewed"]);
    assert!(matches!(silent.renew().await, Err(BrokerError::LeaseEnded(id)) if id == silent.id()));
}

/// A lease that has ended lets nobody in whom nothing would take out again.
pub async fn a_lease_that_ended_joins_nobody(h: &mut dyn Harness) {
    let broker = h.broker();
    let lease = broker.lease(TTL).await.unwrap();
    h.advance(TTL * 2).await;
    let refused = broker.join(&room(), member("s1", ""), lease.id()).await;
    assert!(matches!(refused, Err(BrokerError::LeaseEnded(_))), "{refused:?}");
    assert!(sessions(&broker).await.is_empty());
}

/// A session that was resumed on another node belongs to that node's lease.
pub async fn moving_to_another_lease_survives_the_first(h: &mut dyn Harness) {
    let (broker, peer) = (h.broker(), h.peer());
    let (old, new) = (broker.lease(TTL).await.unwrap(), peer.lease(TTL * 10).await.unwrap());
    broker.join(&room(), member("s1", ""), old.id()).await.unwrap();
    peer.join(&room(), member("s1", ""), new.id()).await.unwrap();
    drop(old);
    h.advance(TTL * 2).await;
    assert_eq!(sessions(&broker).await, ["s1"]);
}
