//! Lanes: numbers arrive, the newest survives, the unreliable never waits; on every protocol.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, mpsc};
use trunkline_transport::{
    ConnectOptions, Delivery, Endpoint, FrameKind, Limits, Packet, SendError, Session,
    TransportClientBuilder, TransportServerBuilder, Wire, connect,
};

use crate::harness::{Kind, Reach, Serving, within};

/// A server that reads nothing before there is a permit, and hands over what it reads then.
async fn stalled(kind: Kind) -> (Serving, Arc<Semaphore>, mpsc::Receiver<Packet>) {
    let go = Arc::new(Semaphore::new(0));
    let (say, heard) = mpsc::channel(10_000);
    let gate = Arc::clone(&go);
    let builder = TransportServerBuilder::new().limits(Limits::new().received_bytes(1000));
    let serving = Serving::with(kind, builder, move |mut session: Session| {
        let (go, say) = (Arc::clone(&gate), say.clone());
        async move {
            go.acquire().await.unwrap().forget();
            while let Some(packet) = session.recv().await? {
                if packet.is_request() {
                    session.send(packet.reply("done")).await?;
                } else {
                    say.send(packet).await.unwrap();
                }
            }
            Ok(())
        }
    })
    .await;
    (serving, go, heard)
}

/// `i`, and so much behind it that no socket's buffer takes them all.
pub(crate) fn update(i: u32) -> Packet {
    let mut payload = vec![0; 8 << 10];
    payload[..4].copy_from_slice(&i.to_be_bytes());
    Packet::new(payload)
}

pub(crate) fn number(packet: &Packet) -> u32 {
    u32::from_be_bytes(packet.payload[..4].try_into().unwrap())
}

/// What arrived until everything that was sent reliably has.
async fn received(
    client: &trunkline_transport::TransportClient,
    heard: &mut mpsc::Receiver<Packet>,
) -> Vec<Packet> {
    let answer =
        within(async { client.request("all?").timeout(Duration::from_secs(100)).await }).await.unwrap();
    assert_eq!(answer.payload, "done");
    let mut packets = Vec::new();
    while let Ok(packet) = heard.try_recv() {
        packets.push(packet);
    }
    packets
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reliable_lane_has_its_number_and_its_order() {
    for kind in Kind::ALL {
        let (serving, go, mut heard) = stalled(kind).await;
        go.add_permits(1);
        let client = serving.client().await;
        let session = client.session().unwrap();
        let lane = session.lane(7, Delivery::Reliable);
        assert_eq!(lane.id(), 7);
        for i in 0..100 {
            within(lane.send(update(i))).await.unwrap();
        }
        for i in 0..100 {
            let packet = within(heard.recv()).await.unwrap();
            assert_eq!((packet.lane(), number(&packet)), (7, i), "{kind:?}");
        }
        // An answer is awaited, whatever the lane.
        let asked = session.lane(8, Delivery::Latest).send(Packet::request(5, "by a lane")).await;
        assert_eq!(asked, Ok(()), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_latest_lane_the_newest_survives() {
    for kind in Kind::ALL {
        let (serving, go, mut heard) = stalled(kind).await;
        let client = serving.client().await;
        let session = client.session().unwrap();
        let lane = session.lane(1, Delivery::Latest);
        let mut most = 0;
        for i in 0..4000 {
            within(lane.send(update(i))).await.unwrap();
            most = most.max(session.queued_bytes());
        }
        assert!(most < 100 << 10, "{kind:?}: {most} bytes were queued");
        go.add_permits(1);
        let mut numbers = Vec::new();
        while numbers.last() != Some(&3999) {
            numbers.push(number(&within(heard.recv()).await.unwrap()));
        }
        assert!(numbers.is_sorted(), "{kind:?}: {numbers:?}");
        let replaced = client.stats().lane_replaced;
        assert_eq!(replaced, 4000 - numbers.len() as u64, "{kind:?}");
        assert!(replaced > 0, "{kind:?}: nothing was held up");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreliable_lane_never_waits() {
    for kind in Kind::ALL {
        let (serving, go, mut heard) = stalled(kind).await;
        let client = serving.client().await;
        let session = client.session().unwrap();
        let lane = session.lane(2, Delivery::Unreliable);
        for i in 0..4000 {
            within(lane.send(update(i))).await.unwrap();
        }
        assert!(session.queued_bytes() <= 300 << 10, "{kind:?}");
        go.add_permits(1);
        let packets = received(&client, &mut heard).await;
        let numbers: Vec<u32> = packets.iter().map(number).collect();
        assert!(numbers.is_sorted(), "{kind:?}");
        let stats = client.stats();
        assert_eq!(stats.lane_dropped, 4000 - numbers.len() as u64, "{kind:?}");
        assert!(stats.lane_dropped > 0 && !numbers.is_empty(), "{kind:?}: {}", numbers.len());
        assert_eq!(stats.sent_datagrams, 0, "{kind:?}: 8 KiB fit into no datagram");
        // What fits into one leaves as one, where there are any.
        let has_datagrams = matches!(kind, Kind::Quic | Kind::WebTransport);
        let small = within(async {
            loop {
                lane.send("small").await.unwrap();
                tokio::select! {
                    small = heard.recv() => break small.unwrap(),
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
            }
        })
        .await;
        assert_eq!((small.payload.as_ref(), small.lane()), (&b"small"[..], 2), "{kind:?}");
        assert_eq!(client.stats().sent_datagrams > 0, has_datagrams, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_peer_has_no_lanes() {
    let (serving, ..) = stalled(Kind::Tcp).await;
    let client = serving.client_of(TransportClientBuilder::new().wire(Wire::V1)).await;
    for delivery in [Delivery::Reliable, Delivery::Latest, Delivery::Unreliable] {
        let lane = client.session().unwrap().lane(1, delivery);
        assert!(matches!(lane.send("x").await, Err(SendError::NeedsV2(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_may_open_no_stream_both_ways_that_nobody_would_read() {
    let serving = Serving::echo(Kind::Quic).await;
    let Reach::Network(_, trust) = &serving.reach else { unreachable!() };
    let endpoint = Endpoint::from_url(&format!("quic://{}", serving.address())).unwrap();
    let options = ConnectOptions {
        tls: Some(trust.clone()),
        alpns: vec!["msgtrans/2".to_owned()],
        ..ConnectOptions::default()
    };
    let mut connection = within(connect(&endpoint, &options)).await.unwrap();
    let hello = Packet::request(1, "hello").to_bytes(Wire::V2).unwrap();
    within(connection.writer.send(FrameKind::Binary, &hello)).await.unwrap();
    assert!(matches!(within(connection.reader.next()).await, Ok(Some(_))), "it is served");
    let mut opened = std::pin::pin!(connection.streams.open_stream());
    let polled =
        std::future::poll_fn(|cx| std::task::Poll::Ready(opened.as_mut().poll(cx).is_pending())).await;
    assert!(polled, "there is room for a second stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_by_datagrams_alone_is_heard() {
    let beat = Duration::from_millis(200);
    for kind in [Kind::Quic, Kind::WebTransport] {
        let builder = TransportServerBuilder::new().heartbeat(beat);
        let serving = Serving::with(kind, builder, |mut session: Session| async move {
            let lane = session.lane(2, Delivery::Unreliable);
            while let Some(packet) = session.recv().await? {
                lane.send(packet.payload).await?;
            }
            Ok(())
        })
        .await;
        let client = serving.client_of(TransportClientBuilder::new().heartbeat(beat)).await;
        let session = client.session().unwrap();
        let lane = session.lane(2, Delivery::Unreliable);
        let begin = Instant::now();
        // Twice as long as heartbeats are left out meanwhile, and longer than silence may last.
        while begin.elapsed() < beat * 10 {
            within(lane.send("small")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(client.is_connected(), "{kind:?}");
        assert_eq!(client.session().map(|now| now.id()), Some(session.id()), "{kind:?}: it came back");
        assert_eq!(serving.server.session_count(), 1, "{kind:?}");
        assert!(client.stats().sent_datagrams > 20 && client.stats().received_packets > 20, "{kind:?}");
    }
}
