//! Keyed values: conditions, lives, leases, watching.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Harness;
use super::support::*;
use crate::broker::{Broker, BrokerError, Condition, Deleted, Life, Versioned, Written};
use crate::defaults::{MAX_KEY_BYTES, WATCH_QUEUE};
use crate::names::{Fence, NodeId, Revision};
use crate::watching::{Change, Watch};

const TTL: Duration = Duration::from_secs(10);

async fn put(broker: &Arc<dyn Broker>, key: &str, value: &str, condition: Condition, life: Life) -> Written {
    broker.put(key, Bytes::from(value.to_owned()), condition, life).await.unwrap()
}

/// A write that must be done.
async fn set(broker: &Arc<dyn Broker>, key: &str, value: &str, life: Life) -> Revision {
    done(put(broker, key, value, Condition::Any, life).await)
}

fn done(written: Written) -> Revision {
    match written {
        Written::Done(revision) => revision,
        refused => panic!("the write was to be done, not {refused:?}"),
    }
}

/// The value that a refused write tells.
fn refused(written: Written) -> String {
    match written {
        Written::Refused(Some(current)) => text(&current),
        other => panic!("the write was to be refused with a value, not {other:?}"),
    }
}

fn text(versioned: &Versioned) -> String {
    String::from_utf8(versioned.value.to_vec()).unwrap()
}

async fn get(broker: &Arc<dyn Broker>, key: &str) -> Option<String> {
    broker.get(key).await.unwrap().as_ref().map(text)
}

/// Written on one node, read on the other, with a rising version; then deleted.
pub async fn a_value_is_there_until_deleted(h: &mut dyn Harness) {
    let (broker, peer) = (h.broker(), h.peer());
    assert_eq!(get(&broker, "k").await, None);
    let first = set(&broker, "k", "1", Life::Forever).await;
    let second = set(&peer, "k", "2", Life::Forever).await;
    assert!(second > first);
    h.advance(TTL * 1_000).await;
    let found = broker.get("k").await.unwrap().unwrap();
    assert_eq!((text(&found), found.revision, found.fence), ("2".to_owned(), second, None));
    assert_eq!(broker.delete("k", Condition::Any).await.unwrap(), Deleted::Done);
    assert_eq!(get(&peer, "k").await, None);
    assert_eq!(broker.delete("k", Condition::Any).await.unwrap(), Deleted::Done);
    let third = set(&broker, "k", "3", Life::Forever).await;
    assert!(third > second, "a version is not used again");
}

/// `Absent` is a lock that one of many racers gets, and the others learn who.
pub async fn absent_lets_one_of_many_win(h: &mut dyn Harness) {
    for (round, life) in [Life::Ttl(TTL), Life::Forever].into_iter().enumerate() {
        let mut racers = tokio::task::JoinSet::new();
        for (n, broker) in [h.broker(), h.peer()].iter().cycle().take(20).cloned().enumerate() {
            let key = format!("lock {round}");
            racers
                .spawn(async move { (n, put(&broker, &key, &n.to_string(), Condition::Absent, life).await) });
        }
        let all = within("racing", racers.join_all()).await;
        let winners: Vec<_> = all.iter().filter(|(_, w)| matches!(w, Written::Done(_))).collect();
        assert_eq!(winners.len(), 1);
        let winner = winners[0].0;
        for (n, written) in all {
            if n != winner {
                assert_eq!(refused(written), winner.to_string());
            }
        }
    }
}

/// Of two writes that read the same version, one is done.
pub async fn a_revision_is_used_once(h: &mut dyn Harness) {
    let (broker, peer) = (h.broker(), h.peer());
    let read = set(&broker, "k", "1", Life::Forever).await;
    let condition = Condition::Revision(read);
    done(put(&broker, "k", "2", condition, Life::Forever).await);
    assert_eq!(refused(put(&peer, "k", "3", condition, Life::Forever).await), "2");
    let absent = put(&peer, "other", "3", condition, Life::Forever).await;
    assert_eq!(absent, Written::Refused(None));
}

/// Whoever has the higher fence has the key; the same fence may write again.
pub async fn a_stale_fence_is_refused(h: &mut dyn Harness) {
    let (broker, peer) = (h.broker(), h.peer());
    let (old, new) = (broker.next_fence().await.unwrap(), peer.next_fence().await.unwrap());
    let under = Condition::FenceAtLeast;
    done(put(&broker, "route", "old", under(old), Life::Ttl(TTL)).await);
    done(put(&peer, "route", "new", under(new), Life::Ttl(TTL)).await);
    assert_eq!(refused(put(&broker, "route", "late", under(old), Life::Ttl(TTL)).await), "new");
    done(put(&peer, "route", "newer", under(new), Life::Ttl(TTL)).await);
    assert_eq!(broker.get("route").await.unwrap().unwrap().fence, Some(new));
    let late = broker.delete("route", under(old)).await.unwrap();
    assert!(matches!(late, Deleted::Refused(Some(_))));
    assert_eq!(get(&broker, "route").await.as_deref(), Some("newer"));
    set(&broker, "route", "without", Life::Ttl(TTL)).await;
    let kept = refused(put(&broker, "route", "late", under(old), Life::Ttl(TTL)).await);
    assert_eq!(kept, "without", "a write without a fence keeps the one that was there");
}

/// Equal numbers do not come from the counter, but the order is total all the same.
pub async fn a_fence_is_compared_by_number_then_node(h: &mut dyn Harness) {
    let broker = h.broker();
    let fence = |number, node| Condition::FenceAtLeast(Fence { number, node: NodeId(node) });
    done(put(&broker, "k", "5/2", fence(5, 2), Life::Ttl(TTL)).await);
    for (number, node) in [(5, 1), (4, 9)] {
        assert_eq!(refused(put(&broker, "k", "x", fence(number, node), Life::Ttl(TTL)).await), "5/2");
    }
    done(put(&broker, "k", "5/3", fence(5, 3), Life::Ttl(TTL)).await);
    done(put(&broker, "k", "6/1", fence(6, 1), Life::Ttl(TTL)).await);
}

/// A deletion that is too late changes nothing.
pub async fn a_deletion_obeys_its_condition(h: &mut dyn Harness) {
    let broker = h.broker();
    let first = set(&broker, "k", "1", Life::Forever).await;
    let second = set(&broker, "k", "2", Life::Forever).await;
    let late = broker.delete("k", Condition::Revision(first)).await.unwrap();
    assert!(matches!(late, Deleted::Refused(Some(current)) if current.revision == second));
    assert_eq!(broker.delete("k", Condition::Revision(second)).await.unwrap(), Deleted::Done);
    let gone = broker.delete("k", Condition::Revision(second)).await.unwrap();
    assert_eq!(gone, Deleted::Refused(None));
}

/// The ttl runs from the last write.
pub async fn a_ttl_ends_a_value_and_a_write_renews_it(h: &mut dyn Harness) {
    let broker = h.broker();
    set(&broker, "k", "1", Life::Ttl(TTL)).await;
    h.advance(TTL * 2 / 3).await;
    set(&broker, "k", "2", Life::Ttl(TTL)).await;
    h.advance(TTL * 2 / 3).await;
    assert_eq!(get(&broker, "k").await.as_deref(), Some("2"));
    h.advance(TTL * 2 / 3).await;
    assert_eq!(get(&broker, "k").await, None);
    done(put(&broker, "k", "3", Condition::Absent, Life::Ttl(TTL)).await);
}

/// A holder that goes properly frees its keys at once.
pub async fn a_lease_ends_its_values_when_dropped(h: &mut dyn Harness) {
    let (broker, peer) = (h.broker(), h.peer());
    let lease = broker.lease(TTL).await.unwrap();
    let other = peer.lease(TTL).await.unwrap();
    set(&broker, "a", "1", Life::Lease(lease.id())).await;
    set(&broker, "b", "1", Life::Lease(lease.id())).await;
    set(&peer, "c", "1", Life::Lease(other.id())).await;
    let id = lease.id();
    drop(lease);
    within("the lease's end", async {
        while get(&peer, "a").await.is_some() || get(&peer, "b").await.is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(get(&peer, "c").await.as_deref(), Some("1"));
    let late = broker.put("d", Bytes::new(), Condition::Any, Life::Lease(id)).await;
    assert!(matches!(late, Err(BrokerError::LeaseEnded(ended)) if ended == id), "{late:?}");
}

/// A holder that dies loses its keys after the ttl; one that renews does not.
pub async fn a_lease_ends_unless_renewed(h: &mut dyn Harness) {
    let broker = h.broker();
    let lease = broker.lease(TTL).await.unwrap();
    set(&broker, "k", "1", Life::Lease(lease.id())).await;
    for _ in 0..5 {
        h.advance(TTL * 2 / 3).await;
        lease.renew().await.unwrap();
    }
    assert_eq!(get(&broker, "k").await.as_deref(), Some("1"));
    h.advance(TTL + Duration::from_secs(1)).await;
    assert_eq!(get(&broker, "k").await, None);
    assert!(matches!(lease.renew().await, Err(BrokerError::LeaseEnded(_))));
}

/// A process that restarts leaves what it registered, for a ttl.
pub async fn an_abandoned_lease_lives_out_its_ttl(h: &mut dyn Harness) {
    let broker = h.broker();
    let lease = broker.lease(TTL).await.unwrap();
    set(&broker, "k", "1", Life::Lease(lease.id())).await;
    lease.abandon();
    h.advance(TTL / 2).await;
    assert_eq!(get(&broker, "k").await.as_deref(), Some("1"));
    h.advance(TTL).await;
    assert_eq!(get(&broker, "k").await, None);
}

/// A value that was written again with another life no longer ends with the lease.
pub async fn a_value_that_left_its_lease_stays(h: &mut dyn Harness) {
    let broker = h.broker();
    let (old, new) = (broker.lease(TTL).await.unwrap(), broker.lease(TTL * 10).await.unwrap());
    set(&broker, "k", "1", Life::Lease(old.id())).await;
    set(&broker, "k", "2", Life::Lease(new.id())).await;
    set(&broker, "l", "1", Life::Ttl(TTL)).await;
    set(&broker, "l", "2", Life::Lease(new.id())).await;
    drop(old);
    h.advance(TTL * 2).await;
    assert_eq!(get(&broker, "k").await.as_deref(), Some("2"));
    assert_eq!(get(&broker, "l").await.as_deref(), Some("2"));
}

/// No empty or endless key, no life of zero.
pub async fn bad_keys_and_lives_are_refused(h: &mut dyn Harness) {
    let broker = h.broker();
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    for (key, life) in [("", Life::Forever), (&long, Life::Forever), ("k", Life::Ttl(Duration::ZERO))] {
        let refused = broker.put(key, Bytes::new(), Condition::Any, life).await;
        assert!(matches!(refused, Err(BrokerError::Invalid(_))), "{refused:?}");
    }
    assert!(matches!(broker.lease(Duration::ZERO).await, Err(BrokerError::Invalid(_))));
    set(&broker, &"k".repeat(MAX_KEY_BYTES), "", Life::Ttl(TTL)).await;
}

async fn next(watch: &mut Watch) -> Change {
    within("a change", watch.next()).await.unwrap()
}

/// The state as a watcher knows it after a change.
fn follow(state: &mut BTreeMap<String, String>, change: Change) {
    match change {
        Change::All(all) => *state = all.iter().map(|(key, value)| (key.clone(), text(value))).collect(),
        Change::Put { key, versioned } => {
            state.insert(key, text(&versioned));
        }
        Change::Gone { key, .. } => {
            state.remove(&key);
        }
    }
}

/// First all that is there, then each change in its order.
pub async fn a_watch_begins_with_the_whole_state(h: &mut dyn Harness) {
    let (broker, peer) = (h.broker(), h.peer());
    set(&broker, "node/1", "a", Life::Forever).await;
    let mut watch = peer.watch("node/").await.unwrap();
    let Change::All(all) = next(&mut watch).await else { panic!("the whole state comes first") };
    assert_eq!(all.keys().collect::<Vec<_>>(), ["node/1"]);
    let revision = set(&broker, "node/2", "b", Life::Forever).await;
    let versioned = Versioned { value: Bytes::from("b"), revision, fence: None };
    assert_eq!(next(&mut watch).await, Change::Put { key: "node/2".to_owned(), versioned });
    assert_eq!(broker.delete("node/2", Condition::Any).await.unwrap(), Deleted::Done);
    assert_eq!(next(&mut watch).await, Change::Gone { key: "node/2".to_owned(), revision });
}

/// Neighbours in the order of keys are not told.
pub async fn a_watch_sees_only_its_prefix(h: &mut dyn Harness) {
    let broker = h.broker();
    for key in ["node", "node.", "node/", "node/9", "node0", "a", "z"] {
        set(&broker, key, "1", Life::Forever).await;
    }
    let mut watch = broker.watch("node/").await.unwrap();
    let Change::All(all) = next(&mut watch).await else { panic!("the whole state comes first") };
    assert_eq!(all.keys().collect::<Vec<_>>(), ["node/", "node/9"]);
    for key in ["node", "node.", "node0", "node/5"] {
        set(&broker, key, "2", Life::Forever).await;
    }
    assert!(matches!(next(&mut watch).await, Change::Put { key, .. } if key == "node/5"));
}

/// A ttl and a lease that end are changes like others.
pub async fn a_watch_is_told_what_expires(h: &mut dyn Harness) {
    let broker = h.broker();
    let lease = broker.lease(TTL).await.unwrap();
    let revision = set(&broker, "ttl", "1", Life::Ttl(TTL)).await;
    let mut watch = broker.watch("").await.unwrap();
    assert!(matches!(next(&mut watch).await, Change::All(all) if all.len() == 1));
    h.advance(TTL * 2).await;
    assert_eq!(next(&mut watch).await, Change::Gone { key: "ttl".to_owned(), revision });
    drop(lease);
    let lease = broker.lease(TTL).await.unwrap();
    let revision = set(&broker, "leased", "1", Life::Lease(lease.id())).await;
    assert!(matches!(next(&mut watch).await, Change::Put { .. }));
    drop(lease);
    assert_eq!(next(&mut watch).await, Change::Gone { key: "leased".to_owned(), revision });
}

/// Watchers that come at any moment end with the same state as the engine.
pub async fn a_watch_loses_nothing_while_others_write(h: &mut dyn Harness) {
    let brokers = [h.broker(), h.peer()];
    let mut writers = tokio::task::JoinSet::new();
    for (w, broker) in brokers.iter().cloned().enumerate() {
        writers.spawn(async move {
            for n in 0..200 {
                set(&broker, &format!("k/{w}/{}", n % 7), &n.to_string(), Life::Ttl(TTL)).await;
                if n % 5 == 0 {
                    let key = format!("k/{w}/{}", n % 3);
                    assert_eq!(broker.delete(&key, Condition::Any).await.unwrap(), Deleted::Done);
                }
            }
        });
    }
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(brokers[1].watch("k/").await.unwrap());
        tokio::task::yield_now().await;
    }
    within("writing", writers.join_all()).await;
    set(&brokers[0], "k/end", "", Life::Ttl(TTL)).await;
    let mut state = BTreeMap::new();
    follow(&mut state, next(&mut brokers[0].watch("k/").await.unwrap()).await);
    for watch in &mut watches {
        let mut seen = BTreeMap::new();
        while !seen.contains_key("k/end") {
            follow(&mut seen, next(watch).await);
        }
        assert_eq!(seen, state);
    }
}

/// A watcher that does not keep up gets the state, not a cut sequence of changes, and then goes on.
pub async fn a_watch_that_overflows_is_given_the_whole_state(h: &mut dyn Harness) {
    let broker = h.broker();
    let mut watch = broker.watch("k/").await.unwrap();
    let mut state = BTreeMap::new();
    follow(&mut state, next(&mut watch).await);
    for n in 0..WATCH_QUEUE * 3 / 2 {
        set(&broker, &format!("k/{}", n % 10), &n.to_string(), Life::Ttl(TTL)).await;
    }
    assert_eq!(broker.delete("k/3", Condition::Any).await.unwrap(), Deleted::Done);
    set(&broker, "k/end", "", Life::Ttl(TTL)).await;
    let mut resynced = false;
    while !state.contains_key("k/end") || state.contains_key("k/3") {
        let change = next(&mut watch).await;
        resynced |= matches!(change, Change::All(_));
        follow(&mut state, change);
    }
    assert!(resynced);
    assert_eq!(state.len(), 10);
    set(&broker, "k/more", "", Life::Ttl(TTL)).await;
    assert!(matches!(next(&mut watch).await, Change::Put { key, .. } if key == "k/more"));
}
