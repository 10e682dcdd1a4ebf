//! Who was refused as full hears of room by the events: once each time, never in vain for ever, and nobody else does.

use std::time::Duration;

use futures_util::FutureExt;
use trunkline_transport::{
    CloseReason, EventStream, Limits, Overflow, SendError, Session, SessionId, SlowConsumer, TransportClient,
    TransportClientBuilder, TransportEvent, TransportServerBuilder,
};

use crate::harness::{Between, Kind, Serving, pattern, within};

const KIB: usize = 1024;
const QUEUED: usize = 64 * KIB;

/// No heartbeat moves anything by itself.
const HOUR: Duration = Duration::from_secs(3600);

fn limits() -> Limits {
    Limits::new().queued_bytes(QUEUED)
}

async fn next(events: &mut EventStream) -> TransportEvent {
    within(events.next()).await.unwrap()
}

/// The connection that is there first.
async fn established(events: &mut EventStream) -> SessionId {
    match next(events).await {
        TransportEvent::ConnectionEstablished { session_id, .. } => session_id,
        other => panic!("{other:?}"),
    }
}

/// Sends until it is refused, once: how many were taken.
fn fill(session: &Session) -> usize {
    let mut sent = 0;
    loop {
        match session.try_send(pattern(KIB)) {
            Ok(()) => sent += 1,
            Err(SendError::Full { .. }) => return sent,
            Err(other) => panic!("{other}"),
        }
    }
}

/// Sends until the link takes nothing more either, and forgets what was told meanwhile.
async fn fill_link(session: &Session, events: &mut EventStream) {
    let mut refused = 0;
    within(async {
        while refused < 20 {
            refused = if fill(session) == 0 { refused + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    while let Some(event) = events.next().now_or_never() {
        assert!(matches!(event, Some(TransportEvent::Writable { .. })), "{event:?}");
    }
}

/// Every time that the link was held up, who was refused hears of room when it goes on.
async fn is_told_each_time(what: &str, session: &Session, events: &mut EventStream, between: &Between) {
    for round in 0..2 {
        between.stall();
        fill_link(session, events).await;
        assert!(session.queued_bytes() > QUEUED / 2, "{what}: it is full");
        between.go_on();
        match next(events).await {
            TransportEvent::Writable { session_id } => assert_eq!(session_id, session.id(), "{what}"),
            other => panic!("{what}, {round}: {other:?}"),
        }
        assert!(session.queued_bytes() <= QUEUED / 2, "{what}, {round}: not for the first packet that fits");
        session.try_send(pattern(QUEUED / 4)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_refused_hears_of_room_on_both_sides_of_every_protocol() {
    // Side by side: each waits for a link that is held up.
    futures_util::future::join_all(Kind::ALL.map(server_on)).await;
    futures_util::future::join_all(Kind::ALL.map(client_on)).await;
}

async fn server_on(kind: Kind) {
    let serving = Serving::events(kind, TransportServerBuilder::new().limits(limits())).await;
    let mut events = serving.server.events().unwrap();
    let between = serving.between().await;
    let _client = between.client_of(TransportClientBuilder::new()).await;
    let session = serving.server.session(established(&mut events).await).unwrap();
    is_told_each_time(&format!("{kind:?}, server"), &session, &mut events, &between).await;
}

async fn client_on(kind: Kind) {
    let reading = |mut session: Session| async move {
        while session.recv().await?.is_some() {}
        Ok(())
    };
    let serving = Serving::with(kind, TransportServerBuilder::new(), reading).await;
    let between = serving.between().await;
    let client = between.client_of(TransportClientBuilder::new().limits(limits())).await;
    let mut events = client.events().unwrap();
    established(&mut events).await;
    let session = client.session().unwrap();
    is_told_each_time(&format!("{kind:?}, client"), &session, &mut events, &between).await;
}

/// A server by events and a client that reads everything, within this one thread: nothing moves while the test does not wait.
async fn quiet(builder: TransportServerBuilder) -> (Serving, EventStream, TransportClient, Session) {
    let serving = Serving::events(Kind::Memory, builder.heartbeat(HOUR)).await;
    let mut events = serving.server.events().unwrap();
    let client = serving.client_of(TransportClientBuilder::new().heartbeat(HOUR)).await;
    let session = serving.server.session(established(&mut events).await).unwrap();
    (serving, events, client, session)
}

/// What is told until the client's word comes.
async fn told_until(events: &mut EventStream, client: &TransportClient, session: &Session) -> usize {
    within(session.flushed()).await.unwrap();
    client.send("and now?").await.unwrap();
    let mut told = 0;
    loop {
        match next(events).await {
            TransportEvent::Writable { session_id } => {
                assert_eq!(session_id, session.id());
                told += 1;
            }
            TransportEvent::MessageReceived { .. } => return told,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn it_is_told_once_for_each_time_and_only_to_who_was_refused() {
    let (_serving, mut events, client, session) = quiet(TransportServerBuilder::new().limits(limits())).await;
    for round in 0..3 {
        assert!(fill(&session) > 0, "{round}");
        for _ in 0..10 {
            assert_eq!(fill(&session), 0, "nothing moves while this thread does not wait");
        }
        assert_eq!(told_until(&mut events, &client, &session).await, 1, "{round}");
    }
    // Who waits has his own way to hear of it, and so has who is never refused.
    for _ in 0..200 {
        within(session.send(pattern(KIB))).await.unwrap();
    }
    within(session.flushed()).await.unwrap();
    session.try_send(pattern(KIB)).unwrap();
    assert_eq!(told_until(&mut events, &client, &session).await, 0);
    // More than half of the queue is not free before almost everything is sent.
    fill(&session);
    let large = session.try_send(pattern(QUEUED - KIB));
    assert!(matches!(large, Err(SendError::Full { .. })), "{large:?}");
    assert!(matches!(next(&mut events).await, TransportEvent::Writable { .. }));
    session.try_send(pattern(QUEUED - KIB)).unwrap();
}

#[tokio::test]
async fn whom_a_policy_drops_for_and_whom_a_broadcast_passes_by_is_told_of_too() {
    let builder = TransportServerBuilder::new().slow_consumer(SlowConsumer::DropNewest).limits(limits());
    let (serving, mut events, client, session) = quiet(builder).await;
    fill(&session);
    assert_eq!(told_until(&mut events, &client, &session).await, 1);
    let mut refused = 0;
    while refused == 0 {
        refused = serving.server.broadcast(pattern(KIB)).await.unwrap().dropped;
    }
    assert_eq!(told_until(&mut events, &client, &session).await, 1);
    while serving.server.send_to(session.id(), pattern(KIB)).await.is_ok() {}
    assert_eq!(told_until(&mut events, &client, &session).await, 1);
}

#[tokio::test]
async fn a_reader_who_is_late_finds_one_that_stands_for_all() {
    let limits = limits().received_bytes(4 * KIB);
    let builder = TransportServerBuilder::new().overflow(Overflow::DropOldest).limits(limits);
    let (serving, mut events, client, session) = quiet(builder).await;
    for _ in 0..5 {
        fill(&session);
        within(session.flushed()).await.unwrap();
        for _ in 0..20 {
            client.send(pattern(KIB)).await.unwrap();
        }
    }
    within(async {
        while serving.server.stats().received_packets < 100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (mut told, mut lagged, mut got) = (0, 0, 0);
    while lagged + got < 100 {
        match next(&mut events).await {
            TransportEvent::Writable { .. } => told += 1,
            TransportEvent::Lagged { n, .. } => lagged += n,
            TransportEvent::MessageReceived { .. } => got += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(lagged > 0, "packets are dropped");
    assert_eq!(told, 1);
    // And from there on anew.
    fill(&session);
    assert_eq!(told_until(&mut events, &client, &session).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_refused_for_the_room_of_all_hears_when_another_makes_some() {
    const TOTAL: usize = 200 * KIB;
    let builder = TransportServerBuilder::new().heartbeat(HOUR).limits(Limits::new().total_bytes(TOTAL));
    let serving = Serving::events(Kind::Memory, builder).await;
    let server = &serving.server;
    let mut events = server.events().unwrap();
    let (hog, small) = (serving.between().await, serving.between().await);
    let _hogs = hog.client_of(TransportClientBuilder::new().heartbeat(HOUR)).await;
    let hogs = server.session(established(&mut events).await).unwrap();
    let _smalls = small.client_of(TransportClientBuilder::new().heartbeat(HOUR)).await;
    let smalls = server.session(established(&mut events).await).unwrap();
    small.stall();
    hog.stall();
    // The link of the small one takes nothing more, and its queue has little.
    let mut unmoved = 0;
    within(async {
        while unmoved < 20 {
            unmoved = if smalls.queued_bytes() >= KIB { unmoved + 1 } else { 0 };
            if unmoved == 0 {
                smalls.try_send(pattern(KIB)).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let queued = smalls.queued_bytes();
    assert!(queued < 100 * KIB, "{queued}");
    fill_link(&hogs, &mut events).await;
    let refused = smalls.try_send(pattern(KIB));
    assert!(matches!(refused, Err(SendError::Full { .. })), "{refused:?}");
    hog.go_on();
    loop {
        match next(&mut events).await {
            TransportEvent::Writable { session_id } if session_id == smalls.id() => break,
            TransportEvent::Writable { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(smalls.queued_bytes(), queued, "its own link has moved nothing");
    smalls.try_send(pattern(KIB)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_peer_that_takes_nothing_hears_of_its_end() {
    futures_util::future::join_all(Kind::ALL.map(slow_on)).await;
}

async fn slow_on(kind: Kind) {
    let slow = SlowConsumer::Wait(Duration::from_millis(300));
    let builder = TransportServerBuilder::new().slow_consumer(slow).limits(limits());
    let serving = Serving::events(kind, builder).await;
    let mut events = serving.server.events().unwrap();
    let between = serving.between().await;
    let _client = between.client_of(TransportClientBuilder::new()).await;
    let session = serving.server.session(established(&mut events).await).unwrap();
    between.stall();
    fill(&session);
    let reason = loop {
        match next(&mut events).await {
            // The link has taken some: on with it, until it refuses again.
            TransportEvent::Writable { .. } => while session.try_send(pattern(KIB)).is_ok() {},
            TransportEvent::ConnectionClosed { reason, .. } => break reason,
            other => panic!("{kind:?}: {other:?}"),
        }
    };
    assert_eq!(reason, CloseReason::Slow, "{kind:?}");
    assert!(matches!(session.try_send("late"), Err(SendError::Closed(_))), "{kind:?}");
    within(serving.server.shutdown()).await;
    assert!(within(events.next()).await.is_none(), "{kind:?}: nothing follows the end");
}
