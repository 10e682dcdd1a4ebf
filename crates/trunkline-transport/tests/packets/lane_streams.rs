//! Lanes with a stream of their own, over QUIC and WebTransport: none waits for another, all of them are bounded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{io::AsyncWriteExt, sync::mpsc, task::JoinSet};
use trunkline_transport::{
    CloseReason, Delivery, Lane, Limits, Packet, RecvError, Session, SlowConsumer, TransportClientBuilder,
    TransportError, TransportServerBuilder, Wire, chaos::UdpFaults,
};

use crate::{
    harness::{Kind, Serving, within},
    lanes::{number, update},
    raw::{self, Peer, Receiving, Server, TAKES_LANES, WITH_STREAMS},
};

const COUNT: u32 = 500;

/// A server that says what it receives.
async fn telling(kind: Kind) -> (Serving, mpsc::Receiver<Packet>) {
    let (say, heard) = mpsc::channel(10_000);
    let serving = Serving::with(kind, TransportServerBuilder::new(), move |mut session: Session| {
        let say = say.clone();
        async move {
            while let Some(packet) = session.recv().await? {
                say.send(packet).await.unwrap();
            }
            Ok(())
        }
    });
    (serving.await, heard)
}

async fn next(session: &mut Session) -> Result<Packet, TransportError> {
    Ok(session.recv().await?.expect("the peer is there"))
}

/// Sends by a lane, or by none.
async fn send(session: &Session, lane: Option<&Lane>, packet: Packet) -> Result<(), TransportError> {
    match lane {
        Some(lane) => lane.send(packet).await?,
        None => session.send(packet).await?,
    }
    Ok(())
}

/// Sends by one lane (0: by none) as long as there is room, and tells when there is none; by two others all there is, over and
/// again. Then it says whether something of the first is left.
async fn one_held_up(mut session: Session, held_up: u8) -> Result<(), TransportError> {
    let first = next(&mut session).await?;
    session.send(first.reply("")).await?;
    let lanes: Vec<Option<Lane>> =
        [0, 1, 2].map(|id| (id > 0).then(|| session.lane(id, Delivery::Reliable))).into();
    let (held, others): (Vec<_>, Vec<_>) =
        lanes.iter().partition(|lane| lane.as_ref().map_or(0, Lane::id) == held_up);
    let flood = async {
        loop {
            send(&session, held[0].as_ref(), update(0)).await?;
        }
    };
    let goes_on = async {
        for i in 0..COUNT {
            for lane in &others {
                send(&session, lane.as_ref(), update(i)).await?;
            }
        }
        Ok(())
    };
    let ended: Result<(), TransportError> = tokio::select! {
        biased;
        failed = flood => failed,
        done = goes_on => done,
    };
    ended?;
    // The others' peer has everything when it says so.
    next(&mut session).await?;
    let mut flushed = session.flushed();
    let is_flushed = std::future::poll_fn(|cx| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut flushed).poll(cx).is_ready())
    })
    .await;
    assert!(!is_flushed, "lane {held_up} is held up, and nothing is flushed");
    assert!(session.queued_bytes() > 0);
    if held_up > 0 {
        session.send("over").flushed().await?;
    }
    Ok(())
}

/// Reads what the two that go on bring.
async fn read_all(stream: &mut Receiving, first: Option<Packet>, lane: u8) {
    let mut expected = 0;
    let mut packet = first;
    while expected < COUNT {
        let next = match packet.take() {
            Some(packet) => packet,
            None => raw::packet(stream).await,
        };
        assert_eq!((next.lane(), number(&next)), (lane, expected));
        expected += 1;
    }
}

/// The streams of so many lanes, by number, each with its first packet.
async fn lanes_of(peer: &Peer, count: usize) -> Vec<(u8, Receiving, Packet)> {
    let mut lanes = Vec::new();
    for _ in 0..count {
        let mut stream = peer.accept_uni().await;
        let first = raw::packet(&mut stream).await;
        lanes.push((first.lane(), stream, first));
    }
    lanes.sort_by_key(|(lane, ..)| *lane);
    lanes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_goes_on_while_the_stream_of_another_is_held_up() {
    for kind in WITH_STREAMS {
        for held_up in [1, 2] {
            let server =
                Server::with(kind, TransportServerBuilder::new(), move |s| one_held_up(s, held_up)).await;
            let mut peer = server.peer(TAKES_LANES, 64 << 10, 1 << 20).await;
            peer.ask(1).await;
            let mut lanes = lanes_of(&peer, 2).await;
            assert_eq!((lanes[0].0, lanes[1].0), (1, 2));
            // It is open, and nobody reads it.
            let _held = lanes.remove(usize::from(held_up) - 1);
            let (lane, mut stream, first) = lanes.remove(0);
            tokio::join!(read_all(&mut stream, Some(first), lane), read_all(&mut peer.recv, None, 0));
            raw::write(&mut peer.send, &Packet::new("all here").to_bytes(Wire::V2).unwrap()).await;
            assert_eq!(raw::packet(&mut peer.recv).await.payload, "over", "{kind:?}");
            assert_eq!(server.serving.server.stats().lane_streams, 2, "{kind:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_go_on_while_the_rest_is_held_up() {
    for kind in WITH_STREAMS {
        let (say, mut said) = mpsc::channel(1);
        let server = Server::with(kind, TransportServerBuilder::new(), move |session| {
            let say = say.clone();
            async move {
                one_held_up(session, 0).await?;
                say.send(()).await.unwrap();
                Ok(())
            }
        })
        .await;
        let mut peer = server.peer(TAKES_LANES, 64 << 10, 1 << 20).await;
        peer.ask(1).await;
        let mut lanes = lanes_of(&peer, 2).await;
        let (two, mut second, second_first) = lanes.remove(1);
        let (one, mut first, first_first) = lanes.remove(0);
        tokio::join!(
            read_all(&mut first, Some(first_first), one),
            read_all(&mut second, Some(second_first), two),
        );
        raw::write(&mut peer.send, &Packet::new("all here").to_bytes(Wire::V2).unwrap()).await;
        within(said.recv()).await.expect("the handler is through");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_one_lane_no_more_is_slow() {
    for kind in WITH_STREAMS {
        let policy = SlowConsumer::Wait(Duration::from_millis(200));
        let (say, mut said) = mpsc::channel(1);
        let builder = TransportServerBuilder::new().slow_consumer(policy);
        let server = Server::with(kind, builder, move |mut session: Session| {
            let say = say.clone();
            async move {
                let first = next(&mut session).await?;
                session.send(first.reply("")).await?;
                let lane = session.lane(1, Delivery::Reliable);
                while lane.send(update(0)).await.is_ok() {}
                say.send(session.closed().await).await.unwrap();
                Ok(())
            }
        })
        .await;
        let mut peer = server.peer(TAKES_LANES, 64 << 10, 1 << 20).await;
        peer.ask(1).await;
        assert_eq!(within(said.recv()).await, Some(CloseReason::Slow), "{kind:?}");
        assert_eq!(server.serving.server.stats().closed_slow, 1, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_keep_their_order_where_datagrams_are_lost() {
    const LANES: u8 = 3;
    for kind in WITH_STREAMS {
        let (serving, mut heard) = telling(kind).await;
        let between = serving.between().await;
        let client = between.client_of(TransportClientBuilder::new()).await;
        between.disturb(UdpFaults { loss: 0.05, ..UdpFaults::default() });
        let session = client.session().unwrap();
        let sending = async {
            for i in 0..COUNT {
                for lane in 1..=LANES {
                    session.lane(lane, Delivery::Reliable).send(update(i)).await.unwrap();
                }
            }
        };
        let receiving = async {
            let mut next = [0; LANES as usize + 1];
            let mut overtaken = 0;
            for _ in 0..COUNT * u32::from(LANES) {
                let packet = heard.recv().await.unwrap();
                let lane = usize::from(packet.lane());
                assert_eq!(number(&packet), next[lane], "{kind:?}: lane {lane}");
                next[lane] += 1;
                overtaken += usize::from(next[1..].iter().any(|other| *other + 1 < next[lane]));
            }
            overtaken
        };
        let (overtaken, ()) = within(async { tokio::join!(receiving, sending) }).await;
        // On one stream the lanes would come as they were sent, each time.
        assert!(overtaken > 0, "{kind:?}: a lost datagram has held up every lane");
        assert_eq!(client.stats().lane_streams, u64::from(LANES), "{kind:?}");
    }
}

/// Answers requests, and counts the bytes of what else comes.
async fn counting(mut session: Session, bytes: Arc<AtomicUsize>) -> Result<(), TransportError> {
    while let Some(packet) = session.recv().await? {
        if packet.is_request() {
            session.send(packet.reply("")).await?;
        } else {
            bytes.fetch_add(packet.payload.len(), SeqCst);
        }
    }
    Ok(())
}

async fn counting_server(kind: Kind, limits: Limits) -> (Server, Arc<AtomicUsize>) {
    let bytes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&bytes);
    let builder = TransportServerBuilder::new().limits(limits);
    let server = Server::with(kind, builder, move |s| counting(s, Arc::clone(&counted))).await;
    (server, bytes)
}

/// As many streams as the server allows now.
async fn open_all(peer: &mut Peer) -> Vec<raw::Sending> {
    // By its answer every allowance that was due is here.
    peer.ask(9).await;
    let mut streams = Vec::new();
    while let Some(stream) = peer.try_open_uni().await {
        streams.push(stream);
        assert!(streams.len() < 100, "there is no bound");
    }
    streams
}

/// Streams that HTTP/3 allows for its own use, of its three, and that this peer does not need.
fn spare(kind: Kind) -> usize {
    if kind == Kind::WebTransport { 2 } else { 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_streams_is_bounded() {
    const DECLARED: usize = 1 << 20;
    const SENT: usize = 900 << 10;
    for kind in WITH_STREAMS {
        let (server, received) = counting_server(kind, Limits::new().received_bytes(64 << 10)).await;
        // Who has not said that it speaks lanes may open none.
        let mut peer = server.peer(0, 1 << 20, 64 << 10).await;
        assert_eq!(open_all(&mut peer).await.len(), spare(kind), "{kind:?}");
        let mut peer = server.peer(TAKES_LANES, 1 << 20, 64 << 10).await;
        let streams = open_all(&mut peer).await;
        assert_eq!(streams.len(), 8 + spare(kind), "{kind:?}");
        assert!(peer.try_open_uni().await.is_none(), "{kind:?}: there is room for one more");
        // Each begins a packet, and no one ends it.
        let taken = Arc::new(AtomicUsize::new(0));
        let mut floods = JoinSet::new();
        for (lane, mut stream) in (1..).zip(streams) {
            let taken = Arc::clone(&taken);
            floods.spawn(async move {
                let mut head = vec![2, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                head.extend_from_slice(&((DECLARED - 16) as u32).to_be_bytes());
                head.extend_from_slice(&[lane, 0]);
                let begun = [&(DECLARED as u32).to_be_bytes()[..], &head].concat();
                // A stream too many is refused.
                let mut is_open = stream.write_all(&begun).await.is_ok();
                let mut left = SENT;
                while is_open && left > 0 {
                    match stream.write(&[7; 4 << 10]).await {
                        Ok(n) => {
                            taken.fetch_add(n, SeqCst);
                            left = left.saturating_sub(n);
                        }
                        Err(_) => is_open = false,
                    }
                }
                stream
            });
        }
        // The rest is served meanwhile, and after a while nothing moves any more.
        let mut before = usize::MAX;
        while before != taken.load(SeqCst) {
            before = taken.load(SeqCst);
            for i in 0..50 {
                peer.ask(i + 1).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // One packet, what may be unread, one window for each stream, and what the peer itself holds.
        let most = SENT + (64 << 10) + (64 << 10) + (8 + spare(kind)) * (256 << 10) + (64 << 10);
        assert!(before < most && most < 8 * SENT, "{kind:?}: {before} of {most}");
        assert!(before > SENT, "{kind:?}: {before} is not even one");
        assert_eq!(received.load(SeqCst), 0, "{kind:?}: nothing of it is a packet");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_packets_of_all_lanes_at_once_arrive() {
    const SIZE: usize = 900 << 10;
    for kind in WITH_STREAMS {
        let (server, received) = counting_server(kind, Limits::new().received_bytes(64 << 10)).await;
        let mut peer = server.peer(TAKES_LANES, 1 << 20, 16 << 20).await;
        let mut streams = open_all(&mut peer).await;
        streams.truncate(8);
        assert_eq!(streams.len(), 8, "{kind:?}");
        let mut sending = JoinSet::new();
        for (lane, mut stream) in (1..).zip(streams) {
            sending.spawn(async move {
                let mut packet = Packet::new(vec![lane; SIZE]);
                packet.flags = trunkline_transport::Flags::from_bits(u16::from(lane) << 8);
                let bytes = packet.to_bytes(Wire::V2).unwrap();
                for _ in 0..3 {
                    raw::write(&mut stream, &bytes).await;
                }
                stream
            });
        }
        let streams = within(sending.join_all()).await;
        within(async {
            while received.load(SeqCst) < streams.len() * 3 * SIZE {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lanes_stream_carries_packets_of_that_lane_and_nothing_else() {
    let of_lane = |lane: u8| {
        let mut packet = Packet::new("x");
        packet.flags = trunkline_transport::Flags::from_bits(u16::from(lane) << 8);
        packet.to_bytes(Wire::V2).unwrap().to_vec()
    };
    let cancel = vec![2, 0, 19, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let bad: [&[Vec<u8>]; 4] =
        [&[of_lane(0)], &[of_lane(1), of_lane(2)], &[of_lane(1), cancel], &[vec![7; 40]]];
    for kind in WITH_STREAMS {
        for frames in bad {
            let (say, mut said) = mpsc::channel(1);
            let server = Server::with(kind, TransportServerBuilder::new(), move |mut session: Session| {
                let say = say.clone();
                async move {
                    loop {
                        match session.recv().await {
                            Ok(Some(packet)) if packet.is_request() => {
                                session.send(packet.reply("")).await?;
                            }
                            Ok(Some(_)) => {}
                            Ok(None) => return Ok(()),
                            Err(RecvError::Closed(reason)) => {
                                say.send(reason).await.unwrap();
                                return Ok(());
                            }
                            Err(other) => unreachable!("{other}"),
                        }
                    }
                }
            })
            .await;
            let mut peer = server.peer(TAKES_LANES, 1 << 20, 1 << 20).await;
            peer.ask(1).await;
            let mut stream = peer.try_open_uni().await.expect("it speaks lanes");
            for frame in frames {
                raw::write(&mut stream, frame).await;
            }
            let reason = within(said.recv()).await.unwrap();
            assert!(matches!(reason, CloseReason::Protocol(_)), "{kind:?}, {frames:?}: {reason}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_no_lanes_gets_all_on_the_one_stream() {
    for kind in WITH_STREAMS {
        let server = Server::with(kind, TransportServerBuilder::new(), |mut session: Session| async move {
            let first = next(&mut session).await?;
            session.send(first.reply("")).await?;
            for i in 0..COUNT {
                for lane in 1..3 {
                    session.lane(lane, Delivery::Reliable).send(update(i)).await?;
                }
            }
            session.closed().await;
            Ok(())
        })
        .await;
        let mut peer = server.peer(0, 1 << 20, 1 << 20).await;
        peer.ask(1).await;
        for i in 0..COUNT {
            for lane in 1..3 {
                let packet = raw::packet(&mut peer.recv).await;
                assert_eq!((packet.lane(), number(&packet)), (lane, i), "{kind:?}");
            }
        }
        assert_eq!(server.serving.server.stats().lane_streams, 0, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn later_lanes_share_the_stream_of_the_rest() {
    for kind in WITH_STREAMS {
        let (serving, mut heard) = telling(kind).await;
        let client = serving.client().await;
        let session = client.session().unwrap();
        for i in 0..20 {
            for lane in 1..=12 {
                within(session.lane(lane, Delivery::Reliable).send(update(i))).await.unwrap();
            }
        }
        let mut next = [0; 13];
        for _ in 0..20 * 12 {
            let packet = within(heard.recv()).await.unwrap();
            let lane = usize::from(packet.lane());
            assert_eq!(number(&packet), next[lane], "{kind:?}: lane {lane}");
            next[lane] += 1;
        }
        assert_eq!(client.stats().lane_streams, 8, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_overtakes_no_lane() {
    const EACH: u32 = 60;
    for kind in Kind::ALL {
        let (say, mut said) = mpsc::channel(1);
        let serving = Serving::with(kind, TransportServerBuilder::new(), move |mut session: Session| {
            let say = say.clone();
            async move {
                let mut next = [0; 3];
                while let Some(packet) = session.recv().await? {
                    let lane = usize::from(packet.lane());
                    assert_eq!(number(&packet), next[lane], "lane {lane}");
                    next[lane] += 1;
                }
                say.send(next).await.unwrap();
                Ok(())
            }
        })
        .await;
        // Everything at once, before the server has said a word.
        let client = serving.client().await;
        let session = client.session().unwrap();
        let sending = async {
            for i in 0..EACH {
                session.send(update(i)).await.unwrap();
                for lane in [1, 2] {
                    session.lane(lane, Delivery::Reliable).send(update(i)).await.unwrap();
                }
            }
        };
        within(sending).await;
        within(client.disconnect()).await;
        assert_eq!(within(said.recv()).await, Some([EACH; 3]), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_has_sent_its_lanes() {
    const EACH: u32 = 60;
    for kind in Kind::ALL {
        let serving = Serving::with(kind, TransportServerBuilder::new(), |mut session: Session| async move {
            // A server over TCP knows the wire from the first packet.
            next(&mut session).await?;
            for i in 0..EACH {
                for lane in [1, 2] {
                    session.lane(lane, Delivery::Reliable).send(update(i)).await?;
                }
            }
            Ok(())
        })
        .await;
        let (say, mut said) = mpsc::channel(1);
        let client = TransportClientBuilder::new().with_protocol(serving.protocol()).build().await.unwrap();
        let connecting = client.connect_with(move |mut session: Session| async move {
            session.send("go").await?;
            let mut next = [0; 3];
            while let Some(packet) = session.recv().await? {
                let lane = usize::from(packet.lane());
                assert_eq!(number(&packet), next[lane], "lane {lane}");
                next[lane] += 1;
            }
            say.send(next).await.unwrap();
            Ok(())
        });
        within(connecting).await.unwrap();
        assert_eq!(within(said.recv()).await, Some([0, EACH, EACH]), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lanes_have_not_begun_to_send_is_given_back() {
    for kind in WITH_STREAMS {
        let (say, mut said) = mpsc::channel(1);
        let handler = move |mut session: Session| {
            let say = say.clone();
            async move {
                let first = next(&mut session).await?;
                session.send(first.reply("")).await?;
                let lane = session.lane(3, Delivery::Reliable);
                let mut sent = 0;
                // Until nothing moves any more.
                while let Ok(done) =
                    tokio::time::timeout(Duration::from_millis(500), lane.send(update(sent))).await
                {
                    done?;
                    sent += 1;
                }
                say.send((session.clone(), sent)).await.unwrap();
                session.closed().await;
                Ok(())
            }
        };
        let server = Server::with(kind, TransportServerBuilder::new(), handler).await;
        let mut peer = server.peer(TAKES_LANES, 64 << 10, 1 << 20).await;
        peer.ask(1).await;
        let (session, sent) = within(said.recv()).await.unwrap();
        assert!(session.take_unsent().is_empty(), "{kind:?}: it lives");
        drop(peer);
        within(session.closed()).await;
        let unsent = session.take_unsent();
        let first = sent - unsent.len() as u32;
        assert!(first > 0 && first < sent, "{kind:?}: {} of {sent}", unsent.len());
        for (packet, i) in unsent.iter().zip(first..) {
            assert_eq!((packet.lane(), number(packet)), (3, i), "{kind:?}");
        }
    }
}
