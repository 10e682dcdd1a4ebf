//! A1, A2, A3 and D1 to D3: echoes and requests under load, in both styles.

use trunkline_transport::{Packet, TransportEvent, TransportServerBuilder};

use crate::harness::{Kind, Serving, within};

const MANY: u32 = 20_000;

/// Sends `MANY` packets of 64 B without waiting for echoes, and counts what comes back, in order.
async fn pipelined(serving: &Serving) {
    let client = serving.client().await;
    let mut events = client.events().unwrap();
    let sender = client.clone();
    let sending = async {
        for i in 0..MANY {
            let mut payload = vec![7; 64];
            payload[..4].copy_from_slice(&i.to_be_bytes());
            sender.send(payload).await.unwrap();
        }
    };
    let receiving = async {
        let mut next = 0;
        while next < MANY {
            match events.next().await.unwrap() {
                TransportEvent::MessageReceived { packet, .. } => {
                    assert_eq!(packet.payload[..4], next.to_be_bytes(), "{:?}", serving.kind);
                    assert_eq!(packet.payload.len(), 64);
                    next += 1;
                }
                TransportEvent::ConnectionEstablished { .. } => {}
                other => panic!("{:?}: {other:?}", serving.kind),
            }
        }
    };
    within(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_and_d1_a_pipelining_client_gets_every_echo_of_a_session_handler() {
    for kind in Kind::ALL {
        pipelined(&Serving::echo(kind).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_and_a3_and_d3_a_pipelining_client_gets_every_echo_of_an_event_loop() {
    for kind in Kind::ALL {
        let serving = Serving::events(kind, TransportServerBuilder::new()).await;
        let mut events = serving.server.events().unwrap();
        let server = serving.server.clone();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            while let Some(event) = events.next().await {
                if let TransportEvent::MessageReceived { session_id, packet } = event {
                    let echo = Packet::echo(packet.message_id, packet.payload);
                    server.send_to(session_id, echo).await.unwrap();
                }
            }
        });
        pipelined(&serving).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a2_and_d2_requests_work_without_ever_touching_events() {
    for kind in Kind::ALL {
        let serving = Serving::echo(kind).await;
        let client = serving.client().await;
        let mut tasks = tokio::task::JoinSet::new();
        for worker in 0..8_u32 {
            let client = client.clone();
            tasks.spawn(async move {
                for i in 0..2_500_u32 {
                    let body = [worker.to_be_bytes(), i.to_be_bytes()].concat();
                    let answer = client.request(body.clone()).await.unwrap();
                    assert_eq!(answer.payload, body);
                }
            });
        }
        within(tasks.join_all()).await;
        assert_eq!(client.stats().sent_requests, 20_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a3_and_d3_a_handler_may_send_to_its_own_connection_by_its_number() {
    for kind in Kind::ALL {
        let (tell, mut told) = tokio::sync::mpsc::channel::<trunkline_transport::TransportServer>(1);
        let told_once =
            std::sync::Arc::new(parking_lot::Mutex::new(None::<trunkline_transport::TransportServer>));
        let shared = std::sync::Arc::clone(&told_once);
        let serving = Serving::with(kind, TransportServerBuilder::new(), move |mut session| {
            let shared = std::sync::Arc::clone(&shared);
            async move {
                while let Some(packet) = session.recv().await? {
                    let server = shared.lock().clone().expect("it was told before a client came");
                    server.send_to(session.id(), packet.reply(packet.payload.clone())).await?;
                }
                Ok(())
            }
        })
        .await;
        tell.send(serving.server.clone()).await.unwrap();
        *told_once.lock() = told.recv().await;
        let client = serving.client().await;
        for i in 0..100 {
            let answer = within(async { client.request(format!("{i}")).await }).await.unwrap();
            assert_eq!(answer.payload_as_string().unwrap(), i.to_string());
        }
        // The server must not be kept alive by its own handlers.
        told_once.lock().take();
    }
}
