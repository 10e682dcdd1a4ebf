//! What is sent past a middleware that fails for one peer, or fails altogether: the others get it, and whoever sends is told.
//! And what a permit keeps where nothing can be sent any more.

use std::time::Duration;

use trunkline_transport::{
    CloseReason, EventStream, Middleware, Missed, Packet, Refusal, RequestError, SendError, Session,
    SessionId, TransportClient, TransportEvent, TransportServer, TransportServerBuilder,
};

use crate::harness::{Kind, Serving, within};

/// Makes of some packets what cannot be sent, or panics.
struct Clumsy;

impl Middleware for Clumsy {
    fn on_send(&self, session: &Session, packet: Packet) -> Result<Packet, Refusal> {
        match (packet.payload_as_str(), session.id().number()) {
            (Some("spoil"), 2) => Ok(Packet::one_way(1, vec![0; (1 << 20) + 1])),
            (Some("spoil"), 4) => Ok(packet.with_ext_header(vec![0; 1 << 16])),
            (Some("panic for 2"), 2) | (Some("panic"), _) => panic!("as it was asked to"),
            _ => Ok(packet),
        }
    }
}

async fn all_there(server: &TransportServer, count: usize) -> Vec<SessionId> {
    within(async {
        loop {
            let ids = server.active_sessions();
            if ids.len() == count {
                break ids;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Clients in the order of their numbers, with what they receive.
async fn clients(serving: &Serving, count: usize) -> Vec<(TransportClient, EventStream)> {
    let mut clients = Vec::new();
    for i in 0..count {
        let client = serving.client().await;
        let events = client.events().unwrap();
        all_there(&serving.server, i + 1).await;
        clients.push((client, events));
    }
    clients
}

/// The next packet, or how the connection has ended.
async fn next(events: &mut EventStream) -> Result<Packet, CloseReason> {
    within(async {
        loop {
            match events.next().await.unwrap() {
                TransportEvent::MessageReceived { packet, .. } => break Ok(packet),
                TransportEvent::ConnectionClosed { reason, .. } => break Err(reason),
                _ => {}
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_that_a_middleware_spoils_for_some_reaches_the_others() {
    for kind in Kind::ALL {
        let serving = Serving::events(kind, TransportServerBuilder::new().with_middleware(Clumsy)).await;
        let mut clients = clients(&serving, 5).await;
        let ids = serving.server.active_sessions();
        let report = within(serving.server.broadcast("spoil")).await.unwrap();
        assert_eq!((report.queued, report.refused), (3, 2), "{kind:?}: {report:?}");
        let mut missed = report.missed;
        missed.sort_unstable_by_key(|(id, _)| *id);
        assert_eq!(missed, [(ids[1], Missed::Refused), (ids[3], Missed::Refused)], "{kind:?}");
        within(serving.server.broadcast("next")).await.unwrap();
        for (i, (_, events)) in clients.iter_mut().enumerate() {
            if i != 1 && i != 3 {
                assert_eq!(next(events).await.unwrap().payload, "spoil", "{kind:?}, {i}");
            }
            assert_eq!(next(events).await.unwrap().payload, "next", "{kind:?}, {i}");
        }
        // What is wrong with the packet itself is told, and nobody gets it.
        let large = within(serving.server.broadcast(vec![0; (1 << 20) + 1])).await;
        assert_eq!(large, Err(SendError::TooLarge { size: (1 << 20) + 1, limit: 1 << 20 }));
        let head = Packet::new("x").with_ext_header(vec![0; 1 << 16]);
        assert!(matches!(within(serving.server.broadcast(head)).await, Err(SendError::Wire(_))));
        assert_eq!(serving.server.stats().sent_packets, 3 + 5, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_on_the_way_out_costs_the_connection_it_was_for() {
    let panicked = SendError::Closed(CloseReason::HandlerPanicked);
    for kind in Kind::ALL {
        let serving = Serving::events(kind, TransportServerBuilder::new().with_middleware(Clumsy)).await;
        let server = &serving.server;
        let mut clients = clients(&serving, 3).await;
        let ids = server.active_sessions();
        let report = within(server.broadcast("panic for 2")).await.unwrap();
        assert_eq!((report.queued, report.closed), (2, 1), "{kind:?}: {report:?}");
        assert_eq!(report.missed, [(ids[1], Missed::Closed)], "{kind:?}");
        assert_eq!(within(server.send_to(ids[0], "panic")).await, Err(panicked.clone()), "{kind:?}");
        all_there(server, 1).await;
        within(server.send_to(ids[2], "it lives")).await.unwrap();
        for (i, expected) in [&["panic for 2"][..], &[], &["panic for 2", "it lives"]].into_iter().enumerate()
        {
            let events = &mut clients[i].1;
            for text in expected {
                assert_eq!(next(events).await.unwrap().payload, text.as_bytes(), "{kind:?}, {i}");
            }
            if i < 2 {
                let end = next(events).await.unwrap_err();
                assert!(matches!(end, CloseReason::Peer { code: 1011, .. }), "{kind:?}, {i}: {end}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_over_a_handlers_own_packet_ends_its_connection() {
    for kind in Kind::ALL {
        let (say, mut said) = tokio::sync::mpsc::channel(1);
        let builder = TransportServerBuilder::new().with_middleware(Clumsy);
        let serving = Serving::with(kind, builder, move |mut session: Session| {
            let say = say.clone();
            async move {
                let request = session.recv().await?.expect("a request");
                let sent = session.send(request.reply("panic")).await;
                say.send((sent.clone(), session.try_send("late"))).await.unwrap();
                Ok(sent?)
            }
        })
        .await;
        let client = serving.client().await;
        let asked = within(async { client.request("x").await }).await.unwrap_err();
        let RequestError::Disconnected(CloseReason::Peer { code, .. }) = asked else { panic!("{asked:?}") };
        assert_eq!(code, 1011, "{kind:?}");
        let panicked = Err(SendError::Closed(CloseReason::HandlerPanicked));
        assert_eq!(within(said.recv()).await, Some((panicked.clone(), panicked)), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_that_a_closed_connection_does_not_take_gives_its_room_back() {
    for kind in Kind::ALL {
        let serving = Serving::events(kind, TransportServerBuilder::new()).await;
        let server = &serving.server;
        let _clients = clients(&serving, 1).await;
        let id = server.active_sessions()[0];
        let session = server.session(id).unwrap();
        let permit = within(session.reserve(100_000)).await.unwrap();
        assert!(server.queued_bytes() >= 100_000, "{kind:?}: it counts");
        server.close_session(id).unwrap();
        let sent = permit.send("too late");
        assert!(matches!(sent, Err(SendError::Closed(_))), "{kind:?}: {sent:?}");
        within(session.closed()).await;
        assert_eq!(server.queued_bytes(), 0, "{kind:?}");
    }
}
