//! Fences, questions between nodes, outages and restarts.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::Harness;
use super::support::*;
use crate::broker::{Answer, BrokerError, Condition, Deleted, EngineState, Life, PublishOptions, Written};
use crate::item::Item;
use crate::log::AttachVerdict;
use crate::names::{Incarnation, NodeId};

fn incarnation(state: EngineState) -> Incarnation {
    match state {
        EngineState::Up { incarnation } => incarnation,
        EngineState::Away => panic!("the engine was to be up"),
    }
}

/// No fence is given twice, and one that was asked for later is higher.
pub async fn fences_rise_over_all_nodes(h: &mut dyn Harness) {
    let brokers = [h.broker(), h.peer()];
    let mut drawing = tokio::task::JoinSet::new();
    for n in 0..6 {
        let broker = brokers[n % 2].clone();
        drawing.spawn(async move {
            let mut drawn = Vec::new();
            for _ in 0..100 {
                let fence = broker.next_fence().await.unwrap();
                assert_eq!(fence.node, broker.node());
                assert!(drawn.last().is_none_or(|last| *last < fence.number));
                drawn.push(fence.number);
            }
            drawn
        });
    }
    let mut all = within("drawing", drawing.join_all()).await.concat();
    let next = brokers[0].next_fence().await.unwrap();
    assert!(all.iter().all(|number| *number < next.number));
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 600);
}

/// The counter does not fall when the engine starts again.
pub async fn fences_rise_over_a_restart(h: &mut dyn Harness) {
    let mut last = h.broker().next_fence().await.unwrap();
    for _ in 0..3 {
        h.restart().await;
        let next = h.broker().next_fence().await.unwrap();
        assert!(next.number > last.number);
        last = next;
    }
}

struct Echo;

#[async_trait]
impl Answer for Echo {
    async fn answer(&self, from: NodeId, request: Bytes) -> Bytes {
        Bytes::from(format!("{from} said {}", String::from_utf8_lossy(&request)))
    }
}

struct Never;

#[async_trait]
impl Answer for Never {
    async fn answer(&self, _: NodeId, _: Bytes) -> Bytes {
        std::future::pending().await
    }
}

/// A question reaches the node that was asked, and nobody else; a node may ask itself.
pub async fn a_node_answers_another(h: &mut dyn Harness) {
    let (broker, peer) = (h.broker(), h.peer());
    peer.answer_with(Arc::new(Echo));
    broker.answer_with(Arc::new(Never));
    for asker in [&broker, &peer] {
        let answer = asker.ask(peer.node(), Bytes::from("hello"), DEADLINE).await.unwrap();
        assert_eq!(answer, format!("{} said hello", asker.node()));
    }
}

/// An unknown node is an error, not a wait.
pub async fn a_node_that_nobody_knows_answers_nothing(h: &mut dyn Harness) {
    let nobody = NodeId(999);
    let unknown = within("an answer", h.broker().ask(nobody, Bytes::new(), DEADLINE)).await;
    assert!(matches!(unknown, Err(BrokerError::NoSuchNode(node)) if node == nobody), "{unknown:?}");
}

/// Nobody waits longer than the deadline.
pub async fn a_late_answer_is_an_error(h: &mut dyn Harness) {
    let peer = h.peer();
    peer.answer_with(Arc::new(Never));
    let deadline = Duration::from_millis(10);
    let late = within("the deadline", h.broker().ask(peer.node(), Bytes::new(), deadline)).await;
    assert!(matches!(late, Err(BrokerError::AnswerLate { .. })), "{late:?}");
}

/// Away: everything fails fast and typed, what is attached stays; back: it goes on without loss.
pub async fn an_engine_that_is_away_says_so(h: &mut dyn Harness) {
    let broker = h.broker();
    let mut engine = broker.engine();
    let before = incarnation(*engine.borrow_and_update());
    let mut reader = Reader::attach(&broker, &room(), None).await;
    publish(&broker, &room(), "a").await;

    h.go_away().await;
    within("being told", engine.wait_for(|state| *state == EngineState::Away)).await.unwrap();
    let options = PublishOptions { limits: LONG, ttl: None, idempotency_key: None };
    let published = within("failing", broker.publish(&room(), Item::publication("", "b"), options)).await;
    assert!(matches!(published, Err(BrokerError::Unavailable(_))), "{published:?}");
    let written = within("failing", broker.put("k", Bytes::new(), Condition::Absent, Life::Forever)).await;
    assert!(matches!(written, Err(BrokerError::Unavailable(_))), "{written:?}");
    let attached = within("failing", broker.attach(&room(), None, LONG)).await;
    assert!(matches!(attached, Err(BrokerError::Unavailable(_))));
    assert!(matches!(within("failing", broker.next_fence()).await, Err(BrokerError::Unavailable(_))));
    reader.expect(&["a"]).await;

    h.come_back().await;
    let up = |state: &EngineState| matches!(state, EngineState::Up { .. });
    let after = *within("being told", engine.wait_for(up)).await.unwrap();
    assert_eq!(incarnation(after), before, "it has lost nothing");
    publish(&broker, &room(), "c").await;
    reader.expect(&["c"]).await;
}

/// An engine without its data has a new incarnation: subscribers and later positions are told a gap, (e, 0) too.
pub async fn lost_data_is_a_new_incarnation_and_a_gap(h: &mut dyn Harness) {
    let broker = h.broker();
    let mut engine = broker.engine();
    let before = incarnation(*engine.borrow_and_update());
    let silent = broker.position(&name("silent")).await.unwrap();
    let mut reader = Reader::attach(&broker, &room(), None).await;
    let old = publish(&broker, &room(), "a").await;
    reader.expect(&["a"]).await;
    let fence = broker.next_fence().await.unwrap();
    let written = broker.put("k", Bytes::new(), Condition::Any, Life::Ttl(DEADLINE)).await.unwrap();
    assert!(matches!(written, Written::Done(_)));

    h.lose_data().await;
    let changed = |state: &EngineState| *state != EngineState::Away && incarnation(*state) != before;
    let after = incarnation(*within("being told", engine.wait_for(changed)).await.unwrap());
    assert!(after > before);
    assert_eq!(broker.get("k").await.unwrap(), None);
    let Seen::Gap { from, next } = reader.next().await else { panic!("a gap was to come") };
    assert_eq!(from, old);
    assert!(next.epoch.0 >= after.0, "no epoch lies below the incarnation");
    let new = publish(&broker, &room(), "b").await;
    assert!(new.epoch.0 >= after.0);
    reader.expect(&["b"]).await;
    for (channel, from) in [(room(), old), (name("silent"), silent)] {
        let attached = broker.attach(&channel, Some(from), LONG).await.unwrap();
        assert!(matches!(attached.verdict, AttachVerdict::Gap { .. }), "{channel} at {from}");
    }
    assert!(broker.next_fence().await.unwrap().number > fence.number);
}

/// After a restart a position is continued only if the history is there to continue it.
pub async fn a_restart_never_continues_what_it_does_not_have(h: &mut dyn Harness) {
    let broker = h.broker();
    let before = incarnation(*broker.engine().borrow());
    let first = publish(&broker, &room(), "a").await;
    let last = publish(&broker, &room(), "b").await;
    drop(broker);
    h.restart().await;
    let broker = h.broker();
    let after = incarnation(*broker.engine().borrow());
    for (from, missing) in [(first, 1), (last, 0)] {
        let attached = broker.attach(&room(), Some(from), LONG).await.unwrap();
        if after == before {
            assert_eq!(attached.verdict, AttachVerdict::Continued);
            Reader::new(attached).expect(&["b"][..missing]).await;
        } else {
            assert!(after > before);
            assert!(matches!(attached.verdict, AttachVerdict::Gap { .. }), "{from}");
        }
    }
    let new = publish(&broker, &room(), "c").await;
    assert!(new > last);
}

/// What was accepted to live for ever is there after a restart, under a version that is not an old one's.
pub async fn values_that_live_for_ever_survive_a_restart(h: &mut dyn Harness) {
    let broker = h.broker();
    let value = Bytes::from(vec![0, 255, b'"', b'\n']);
    let fence = broker.next_fence().await.unwrap();
    for (key, condition) in [("k", Condition::FenceAtLeast(fence)), ("deleted", Condition::Any)] {
        let written = broker.put(key, value.clone(), condition, Life::Forever).await.unwrap();
        assert!(matches!(written, Written::Done(_)));
    }
    assert_eq!(broker.delete("deleted", Condition::Any).await.unwrap(), Deleted::Done);
    let before = broker.get("k").await.unwrap().unwrap();
    drop(broker);
    h.restart().await;
    let after = h.broker().get("k").await.unwrap().unwrap();
    assert_eq!((after.value, after.fence), (value, Some(fence)));
    assert!(after.revision >= before.revision);
    assert_eq!(h.broker().get("deleted").await.unwrap(), None);
}
