//! The event style: what a late reader still hears, in which order, and who excludes whom.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::task::JoinSet;
use trunkline_transport::{
    ConnectError, EventStream, EventsError, Limits, Overflow, ServeError, Session, SessionId,
    TcpClientConfig, TransportClient, TransportClientBuilder, TransportError, TransportEvent,
    TransportServer, TransportServerBuilder,
};

use crate::harness::{Kind, Serving, echo, within};

/// More connections than may end unread and keep their packets.
const MANY: usize = 1_500;

async fn until(server: &TransportServer, what: impl Fn(&TransportServer) -> bool) {
    within(async {
        while !what(server) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn clients(serving: &Serving, count: usize) -> Vec<TransportClient> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(serving.client().await);
    }
    clients
}

/// Each client says something, and goes.
async fn say_and_go(serving: &Serving, clients: Vec<TransportClient>) {
    let all = serving.server.stats().received_packets + clients.len() as u64;
    for client in &clients {
        client.send("last words").await.unwrap();
    }
    for client in clients {
        within(client.disconnect()).await;
    }
    until_gone(&serving.server, all).await;
}

/// Until so many packets have come and nobody is there. Whom a server has yet to take in is no session either.
async fn until_gone(server: &TransportServer, packets: u64) {
    until(server, |server| server.stats().received_packets == packets && server.session_count() == 0).await;
}

/// What a reader has heard.
#[derive(Default)]
struct Heard {
    there: HashSet<SessionId>,
    gone: HashSet<SessionId>,
    packets: u64,
    lagged: HashMap<SessionId, u64>,
}

impl Heard {
    /// Reads until so many are gone, each of which was there before.
    async fn until_gone(&mut self, events: &mut EventStream, count: usize) {
        within(async {
            while self.gone.len() < count {
                self.hear(events.next().await.unwrap());
            }
        })
        .await;
    }

    fn hear(&mut self, event: TransportEvent) {
        let (TransportEvent::ConnectionEstablished { session_id, .. }
        | TransportEvent::MessageReceived { session_id, .. }
        | TransportEvent::Lagged { session_id, .. }
        | TransportEvent::GoingAway { session_id, .. }
        | TransportEvent::ConnectionClosed { session_id, .. }) = event
        else {
            panic!("{event:?}");
        };
        assert!(!self.gone.contains(&session_id), "nothing follows its end: {event:?}");
        match event {
            TransportEvent::ConnectionEstablished { .. } => {
                assert!(self.there.insert(session_id), "told twice: {session_id}");
                return;
            }
            TransportEvent::MessageReceived { .. } => self.packets += 1,
            TransportEvent::Lagged { n, .. } => *self.lagged.entry(session_id).or_default() += n,
            TransportEvent::ConnectionClosed { reason, .. } => {
                assert!(reason.is_clean(), "{reason}");
                self.gone.insert(session_id);
            }
            _ => {}
        }
        assert!(self.there.contains(&session_id), "nobody has heard of {session_id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_hears_of_every_end_however_many_end_at_once() {
    let serving = Serving::events(Kind::Memory, TransportServerBuilder::new()).await;
    let mut events = serving.server.events().unwrap();
    let clients = clients(&serving, MANY).await;
    let mut heard = Heard::default();
    within(async {
        while heard.there.len() < MANY {
            heard.hear(events.next().await.unwrap());
        }
    })
    .await;
    // It reads nothing while all of them go.
    say_and_go(&serving, clients).await;
    heard.until_gone(&mut events, MANY).await;
    assert_eq!(heard.there, heard.gone);
    let lagged: u64 = heard.lagged.values().sum();
    assert!(lagged > 0, "packets of that many are not kept");
    assert_eq!(heard.packets + lagged, MANY as u64, "what is missing is told");
    assert_eq!(serving.server.stats().dropped_received, lagged);
    assert_eq!(serving.server.queued_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_before_the_events_were_taken_is_told_too() {
    let serving = Serving::events(Kind::Memory, TransportServerBuilder::new()).await;
    let clients = clients(&serving, MANY).await;
    say_and_go(&serving, clients).await;
    let mut events = serving.server.events().unwrap();
    let mut heard = Heard::default();
    heard.until_gone(&mut events, MANY).await;
    assert_eq!(heard.there, heard.gone);
    assert_eq!(heard.packets + heard.lagged.values().sum::<u64>(), MANY as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_come_and_go_unread_for_ever_are_bounded() {
    const ROUNDS: usize = 13;
    const EACH: usize = 200;
    let serving = Serving::events(Kind::Memory, TransportServerBuilder::new().max_connections(1_000)).await;
    let mut events = serving.server.events().unwrap();
    let client = serving.client().await;
    let mut heard = Heard::default();
    heard.hear(within(events.next()).await.unwrap());
    // The one that the reader knows is the first to go.
    within(client.disconnect()).await;
    let known = heard.there.clone();
    for _ in 0..ROUNDS {
        for client in clients(&serving, EACH).await {
            within(client.disconnect()).await;
        }
        until(&serving.server, |server| server.session_count() == 0).await;
    }
    within(serving.server.shutdown()).await;
    while let Some(event) = within(events.next()).await {
        heard.hear(event);
    }
    assert!(known.is_subset(&heard.gone), "its end is told");
    assert_eq!(heard.there, heard.gone);
    // 1,024 as they were, as many without their packets, and the one.
    assert!((1_025..=2_049).contains(&heard.gone.len()), "{} of {}", heard.gone.len(), ROUNDS * EACH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connections_beginning_is_told_before_what_was_dropped() {
    for policy in [Overflow::DropOldest, Overflow::DropNewest] {
        for kind in Kind::ALL {
            let limits = Limits::new().received_bytes(8 << 10);
            let builder = TransportServerBuilder::new().overflow(policy).limits(limits);
            let serving = Serving::events(kind, builder).await;
            let client = serving.client().await;
            for i in 0..100_u8 {
                client.send(vec![i; 1_000]).await.unwrap();
            }
            until(&serving.server, |server| server.stats().received_packets == 100).await;
            let dropped = serving.server.stats().dropped_received;
            let mut events = serving.server.events().unwrap();
            let mut next = async || within(events.next()).await.unwrap();
            let there = next().await;
            let TransportEvent::ConnectionEstablished { session_id, .. } = there else { panic!("{there:?}") };
            let (mut got, mut lagged, mut told) = (Vec::new(), 0, 0);
            while (got.len() as u64) + lagged < 100 {
                match next().await {
                    TransportEvent::MessageReceived { packet, .. } => got.push(packet.payload[0]),
                    TransportEvent::Lagged { session_id: whose, n } => {
                        assert_eq!(whose, session_id);
                        // In the place of what is missing.
                        let is_first = got.is_empty();
                        assert_eq!(is_first, policy == Overflow::DropOldest, "{policy:?}, {kind:?}");
                        (lagged, told) = (lagged + n, told + 1);
                    }
                    other => panic!("{kind:?}: {other:?}"),
                }
            }
            assert_eq!((lagged, told), (dropped, 1), "{policy:?}, {kind:?}");
            let left = got.len() as u8;
            let kept: Vec<u8> = match policy {
                Overflow::DropOldest => (100 - left..100).collect(),
                _ => (0..left).collect(),
            };
            assert_eq!(got, kept, "{policy:?}, {kind:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_serve_takes_the_events_from_nobody() {
    let serving = Serving::events(Kind::Tcp, TransportServerBuilder::new()).await;
    let _client = serving.client().await;
    until(&serving.server, |server| server.session_count() == 1).await;
    assert_eq!(serving.server.serve_with(echo).await, Err(ServeError::Serving));
    let mut events = serving.server.events().unwrap();
    assert!(matches!(within(events.next()).await, Some(TransportEvent::ConnectionEstablished { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_handler_and_its_events_exclude_each_other() {
    async fn idle(mut session: Session) -> Result<(), TransportError> {
        while session.recv().await?.is_some() {}
        Ok(())
    }
    let serving = Serving::echo(Kind::Tcp).await;
    let client = async || {
        let client = TransportClientBuilder::new().with_protocol(serving.protocol());
        client.build().await.unwrap()
    };
    let with_handler = client().await;
    within(with_handler.connect_with(idle)).await.unwrap();
    assert_eq!(with_handler.events().unwrap_err(), EventsError::Handler);
    with_handler.disconnect().await;

    let with_events = client().await;
    let events = with_events.events().unwrap();
    let refused = within(with_events.connect_with(idle)).await.unwrap_err();
    assert!(matches!(refused, ConnectError::EventsTaken) && !refused.is_retryable(), "{refused:?}");
    assert!(!with_events.is_connected());
    drop(events);
    let refused = within(with_events.connect_with(idle)).await.unwrap_err();
    assert!(matches!(refused, ConnectError::EventsTaken), "for good: {refused:?}");
    within(with_events.connect()).await.unwrap();
    within(async { with_events.request("by events").await }).await.unwrap();

    // Who gets no connection takes the events from nobody.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let alone = TransportClientBuilder::new().with_protocol(TcpClientConfig::new(nobody.to_string()));
    let alone = alone.build().await.unwrap();
    within(alone.connect_with(idle)).await.unwrap_err();
    alone.events().unwrap();

    // They are taken while it connects: whoever was first has them, and the connection goes.
    let (racing, mut tasks) = (client().await, JoinSet::new());
    let connecting = racing.clone();
    tasks.spawn(async move { connecting.connect_with(idle).await });
    let taken = racing.events();
    let connected = within(tasks.join_next()).await.unwrap().unwrap();
    assert_eq!(taken.is_ok(), connected.is_err(), "{taken:?}, {connected:?}");
}
