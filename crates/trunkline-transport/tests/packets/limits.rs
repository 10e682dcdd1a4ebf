//! A5, A7, A8, A12, D5, D7: slow peers, budgets in bytes, sizes refused by their header, panics.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};
use trunkline_transport::{
    BroadcastReport, CloseReason, EventStream, EventsError, Limits, Missed, Overflow, Packet, RecvError,
    RequestError, SendError, ServeError, Session, SessionId, SlowConsumer, TransportClientBuilder,
    TransportError, TransportEvent, TransportServer, TransportServerBuilder, Wire,
};

use crate::harness::{Kind, Serving, echo, pattern, within};

const KIB: usize = 1024;

/// A peer on a bare socket that says one packet and never reads.
async fn silent_reader(serving: &Serving) -> tokio::net::TcpStream {
    let mut socket = tokio::net::TcpStream::connect(serving.address()).await.unwrap();
    socket.write_all(&Packet::one_way(1, "here").to_bytes(Wire::V1).unwrap()).await.unwrap();
    socket
}

/// Waits until the server's user sees so many connections: one that has its place is not admitted yet.
async fn sessions(server: &TransportServer, count: usize) {
    within(async {
        while server.active_sessions().len() != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// What became of a broadcast for the peer that never reads.
#[derive(Debug, Default)]
struct Outcome {
    queued: u64,
    dropped: u64,
    closed: u64,
}

impl Outcome {
    /// Counts what `slow` got of a broadcast that its one neighbour always gets.
    fn count(&mut self, report: &BroadcastReport, slow: SessionId) {
        self.queued += report.queued as u64 - 1;
        match report.missed.iter().find(|(id, _)| *id == slow) {
            None => {}
            Some((_, Missed::Dropped)) => self.dropped += 1,
            Some((_, Missed::ClosedAsSlow | Missed::Closed)) => self.closed += 1,
            Some((_, Missed::Refused)) => unreachable!("there is no middleware"),
        }
    }
}

/// The next packet of a client's events.
async fn message(events: &mut EventStream) -> Packet {
    within(async {
        loop {
            match events.next().await.unwrap() {
                TransportEvent::MessageReceived { packet, .. } => break packet,
                TransportEvent::ConnectionEstablished { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await
}

/// Holds a connection open and reads nothing.
async fn idle(session: Session) -> Result<(), TransportError> {
    session.closed().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a5_a7_and_d5_a_broadcast_waits_for_nobody_and_counts_each_outcome() {
    for policy in [
        SlowConsumer::DropNewest,
        SlowConsumer::DropOldest,
        SlowConsumer::Disconnect,
        SlowConsumer::Wait(Duration::from_secs(60)),
    ] {
        let budget = 256 * KIB;
        let builder =
            TransportServerBuilder::new().slow_consumer(policy).limits(Limits::new().queued_bytes(budget));
        let serving = Serving::with(Kind::Tcp, builder, idle).await;
        let server = &serving.server;
        let _silent = silent_reader(&serving).await;
        sessions(server, 1).await;
        let slow = server.session(server.active_sessions()[0]).unwrap();
        let client = serving.client().await;
        let mut events = client.events().unwrap();
        sessions(server, 2).await;
        let mut outcome = Outcome::default();
        let body = pattern(60 * KIB);
        // 7 MiB: more than a socket's buffers and the queue hold.
        for i in 0..120_u32 {
            let mut payload = body.clone();
            payload[..4].copy_from_slice(&i.to_be_bytes());
            let report = within(server.broadcast(payload)).await.unwrap();
            assert_eq!(report.missed.len(), report.dropped + report.closed);
            outcome.count(&report, slow.id());
            assert!(slow.queued_bytes() <= budget + 1000, "{policy:?}");
            // The other one takes each before the next is sent, so its own queue never decides.
            assert_eq!(message(&mut events).await.payload[..4], i.to_be_bytes());
        }
        let stats = slow.stats();
        match policy {
            SlowConsumer::Disconnect => {
                assert!(outcome.closed >= 1 && outcome.dropped == 0, "{outcome:?}");
                assert_eq!(within(slow.closed()).await, CloseReason::Slow);
                assert_eq!(slow.stats().closed_slow, 1);
            }
            SlowConsumer::DropOldest => {
                assert!(stats.dropped_oldest > 0, "{stats:?}");
                assert_eq!((outcome.dropped, outcome.closed), (stats.dropped_newest, 0));
            }
            SlowConsumer::DropNewest | SlowConsumer::Wait(_) => {
                assert!(outcome.dropped > 0 && outcome.closed == 0, "{outcome:?}");
                assert_eq!((stats.dropped_newest, stats.dropped_oldest), (outcome.dropped, 0));
            }
        }
        assert_eq!(stats.sent_packets, outcome.queued, "{policy:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_from_elsewhere_comes_whole_and_in_its_order() {
    let builder = TransportServerBuilder::new().limits(Limits::new().queued_bytes(64 << 20));
    let serving = Serving::with(Kind::Tcp, builder, idle).await;
    let server = &serving.server;
    let mut socket = silent_reader(&serving).await;
    sessions(server, 1).await;
    let id = server.active_sessions()[0];
    // The first go to the socket past the connection's task, one of them in part; what follows waits its turn.
    let sizes = [10, 5_000, 60 * KIB, 300 * KIB];
    let payload = |i: u32| {
        let mut payload = pattern(sizes[i as usize % sizes.len()]);
        payload[..4].copy_from_slice(&i.to_be_bytes());
        payload
    };
    for i in 0..120 {
        if i % 3 == 0 {
            within(server.send_to(id, payload(i))).await.unwrap();
        } else {
            assert_eq!(within(server.broadcast(payload(i))).await.unwrap().queued, 1);
        }
    }
    for i in 0..120 {
        let mut packet = vec![0; 16 + payload(i).len()];
        within(socket.read_exact(&mut packet)).await.unwrap();
        let packet = Packet::from_bytes(packet.into(), 1 << 20).unwrap();
        assert_eq!(packet.payload, payload(i), "{i}");
    }
    let session = server.session(id).unwrap();
    within(session.flushed()).await.unwrap();
    assert_eq!(session.queued_bytes(), 0);
    assert_eq!(session.stats().sent_packets, 120);
    let all = (0..120).map(|i| 16 + payload(i).len() as u64).sum::<u64>();
    assert_eq!(session.stats().sent_bytes, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn d5_who_waits_for_a_peer_that_never_reads_is_told_in_the_end() {
    let builder = TransportServerBuilder::new().slow_consumer(SlowConsumer::Wait(Duration::from_millis(200)));
    let serving = Serving::with(Kind::Tcp, builder, idle).await;
    let _silent = silent_reader(&serving).await;
    sessions(&serving.server, 1).await;
    let id = serving.server.active_sessions()[0];
    let body = pattern(64 * KIB);
    let error = within(async {
        loop {
            if let Err(error) = serving.server.send_to(id, body.clone()).await {
                break error;
            }
        }
    })
    .await;
    assert_eq!(error, SendError::Closed(CloseReason::Slow));
    sessions(&serving.server, 0).await;
    within(async {
        // Everything is given back, once the last who holds the connection is gone.
        while serving.server.queued_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d7_the_budget_is_in_bytes_and_a_permit_keeps_room() {
    let serving = Serving::with(Kind::Memory, TransportServerBuilder::new(), idle).await;
    let limits = Limits::new().queued_bytes(100 * KIB).received_bytes(10 * KIB);
    let client = serving.client_of(TransportClientBuilder::new().limits(limits)).await;
    let session = client.session().unwrap();
    let permit = within(session.reserve(50 * KIB)).await.unwrap();
    // The server takes 256 KiB unread and the pipe 64 KiB; then the queue fills, and stays full.
    let mut sent = 0;
    let mut full_in_a_row = 0;
    within(async {
        while full_in_a_row < 20 {
            match session.try_send(pattern(10 * KIB)) {
                Ok(()) => (sent, full_in_a_row) = (sent + 1, 0),
                Err(SendError::Full { .. }) => {
                    full_in_a_row += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    assert!(session.queued_bytes() <= 50 * KIB, "the other half is kept");
    assert!(sent < 60, "{sent} packets of 10 KiB cannot all have a place");
    permit.send(pattern(50 * KIB)).unwrap();
    let small = session.try_send(pattern(10 * KIB));
    assert!(matches!(small, Err(SendError::Full { .. })), "{small:?}");
    let too_large = client.send(pattern(2 << 20)).await;
    assert_eq!(too_large, Err(SendError::TooLarge { size: 2 << 20, limit: 1 << 20 }));
}

#[tokio::test]
async fn who_waits_for_room_gets_what_a_permit_has_left() {
    const HOUR: Duration = Duration::from_secs(3600);
    let serving = Serving::with(Kind::Tcp, TransportServerBuilder::new().heartbeat(HOUR), idle).await;
    let limits = Limits::new().queued_bytes(100 * KIB);
    let client = serving.client_of(TransportClientBuilder::new().heartbeat(HOUR).limits(limits)).await;
    let session = client.session().unwrap();
    let permit = within(session.reserve(60 * KIB)).await.unwrap();
    // A task of its own: who is polled again for another reason would find the room himself.
    let other = client.session().unwrap();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { other.send(pattern(50 * KIB)).await });
    // On this one thread it waits by then, and the connection's task has looked and sleeps.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(waiting.try_join_next().is_none(), "the permit keeps the room");
    permit.send(pattern(10 * KIB)).unwrap();
    within(waiting.join_next()).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a8_and_d7_a_stranger_is_refused_by_the_header_of_what_it_declares() {
    let limits = Limits::new().message(16 << 20).before_auth(64 * KIB);
    let builder = TransportServerBuilder::new().limits(limits.clone()).require_auth();
    let serving = Serving::with(Kind::Tcp, builder, |mut session: Session| async move {
        while let Some(packet) = session.recv().await? {
            if packet.payload == "let me in" {
                session.set_authenticated();
            }
            session.send(packet.reply(packet.payload.clone())).await?;
        }
        Ok(())
    })
    .await;
    let large = Packet::one_way(1, pattern(16 << 20)).to_bytes(Wire::V1).unwrap();
    let mut strangers = Vec::new();
    for _ in 0..20 {
        let mut socket = tokio::net::TcpStream::connect(serving.address()).await.unwrap();
        socket.write_all(&large[..16]).await.unwrap();
        strangers.push(socket);
    }
    for mut socket in strangers {
        // Refused with nothing but a header sent: the end comes without another byte from us.
        let mut rest = Vec::new();
        drop(within(socket.read_to_end(&mut rest)).await);
    }
    sessions(&serving.server, 0).await;
    // A stranger may park no more than the small limit.
    let mut parked = Vec::new();
    let part = Packet::one_way(1, pattern(64 * KIB)).to_bytes(Wire::V1).unwrap();
    for _ in 0..20 {
        let mut socket = tokio::net::TcpStream::connect(serving.address()).await.unwrap();
        socket.write_all(&part[..part.len() - 1]).await.unwrap();
        parked.push(socket);
    }
    sessions(&serving.server, 20).await;
    assert!(serving.server.queued_bytes() <= 20 * (64 * KIB + 16), "partial packets count");
    drop(parked);
    // Who has proved itself has the full limit.
    let client = serving.client_of(TransportClientBuilder::new().limits(limits)).await;
    within(async { client.request("let me in").await }).await.unwrap();
    let answer = within(async { client.request(pattern(16 << 20)).await }).await.unwrap();
    assert_eq!(answer.payload.len(), 16 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_refused_and_told() {
    let serving = Serving::events(Kind::Tcp, TransportServerBuilder::new()).await;
    let mut events = serving.server.events().unwrap();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 40],
        &[0xFF; 40],
        &[1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let mut socket = tokio::net::TcpStream::connect(serving.address()).await.unwrap();
        socket.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        drop(within(socket.read_to_end(&mut rest)).await);
        assert!(matches!(within(events.next()).await.unwrap(), TransportEvent::ConnectionEstablished { .. }));
        match within(events.next()).await.unwrap() {
            TransportEvent::ConnectionClosed { reason: CloseReason::Protocol(_), .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_given_up_at_the_limit() {
    use trunkline_transport::Compression;
    for how in [Compression::Zlib, Compression::Zstd] {
        if !how.is_available() {
            continue;
        }
        let serving = Serving::echo(Kind::Tcp).await;
        let bomb = Packet::one_way(1, vec![0; 64 << 20]).with_compression(how).to_bytes(Wire::V1).unwrap();
        assert!(bomb.len() < 128 * KIB, "it is small on the wire");
        let mut socket = tokio::net::TcpStream::connect(serving.address()).await.unwrap();
        socket.write_all(&bomb).await.unwrap();
        let mut rest = Vec::new();
        drop(within(socket.read_to_end(&mut rest)).await);
        assert_eq!(rest.len(), 0, "no echo of {how:?}");
        sessions(&serving.server, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_a_panic_or_an_error_costs_its_own_connection() {
    for kind in Kind::ALL {
        let serving = Serving::with(kind, TransportServerBuilder::new(), |mut session: Session| async move {
            while let Some(packet) = session.recv().await? {
                match packet.payload_as_str() {
                    Some("panic") => panic!("as it was asked to"),
                    Some("fail") => return Err(TransportError::other("as it was asked to")),
                    _ => session.send(packet.reply("fine")).await?,
                }
            }
            Ok(())
        })
        .await;
        let healthy = serving.client().await;
        for how in ["panic", "fail"] {
            let victim = serving.client().await;
            let session = victim.session().unwrap();
            within(async { victim.request(how).await }).await.unwrap_err();
            match within(session.closed()).await {
                CloseReason::Peer { code: 1011, .. } => {}
                other => panic!("{kind:?}: {other:?}"),
            }
        }
        assert_eq!(within(async { healthy.request("?").await }).await.unwrap().payload, "fine");
        sessions(&serving.server, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_waits_holds_up_nothing_else() {
    let serving = Serving::with(
        Kind::Tcp,
        TransportServerBuilder::new().heartbeat(Duration::from_millis(20)),
        |mut session: Session| async move {
            // It waits for ever in the middle of handling a packet.
            let _first = session.recv().await?;
            std::future::pending::<()>().await;
            Ok(())
        },
    )
    .await;
    let client = serving.client_of(TransportClientBuilder::new().heartbeat(Duration::from_millis(20))).await;
    let mut events = client.events().unwrap();
    client.send("wait").await.unwrap();
    sessions(&serving.server, 1).await;
    let id = serving.server.active_sessions()[0];
    for i in 0..20 {
        serving.server.send_to(id, format!("{i}")).await.unwrap();
        // Many more beats than silence would be allowed.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for i in 0..20 {
        let text = within(async {
            loop {
                if let TransportEvent::MessageReceived { packet, .. } = events.next().await.unwrap() {
                    break packet.payload_as_string().unwrap();
                }
            }
        })
        .await;
        assert_eq!(text, i.to_string());
    }
    assert!(client.is_connected());
    // Its peer can be asked all the same: the answer passes what is unread.
    let session = serving.server.session(id).unwrap();
    let answering = client.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        while let Some(event) = events.next().await {
            if let TransportEvent::MessageReceived { packet, .. } = event {
                answering.send(packet.reply("here")).await.unwrap();
            }
        }
    });
    assert_eq!(within(async { session.request("there?").await }).await.unwrap().payload, "here");
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_packets_are_dropped_by_the_policy_counted_and_told() {
    for policy in [Overflow::DropOldest, Overflow::DropNewest] {
        let builder =
            TransportServerBuilder::new().overflow(policy).limits(Limits::new().received_bytes(8 * KIB));
        let serving = Serving::with(Kind::Tcp, builder, |mut session: Session| async move {
            assert_eq!(session.recv().await?.unwrap().payload, "begin");
            // Everything else arrives unread: the answer to our question stands behind it.
            session.request("are you done?").await?;
            let (mut got, mut lost) = (Vec::new(), 0);
            loop {
                match session.recv().await {
                    Ok(Some(packet)) if packet.is_request() => {
                        let text = format!("{} {lost} {got:?}", got.len());
                        session.send(packet.reply(text)).await?;
                    }
                    Ok(Some(packet)) => got.push(u32::from_be_bytes(packet.payload[..4].try_into().unwrap())),
                    Ok(None) => return Ok(()),
                    Err(RecvError::Lagged(n)) => lost += n,
                    Err(error) => return Err(error.into()),
                }
            }
        })
        .await;
        let client = serving.client().await;
        let mut events = client.events().unwrap();
        client.send("begin").await.unwrap();
        let question = within(async {
            loop {
                if let TransportEvent::MessageReceived { packet, .. } = events.next().await.unwrap() {
                    break packet;
                }
            }
        })
        .await;
        for i in 0..100_u32 {
            let mut payload = vec![0; 1000];
            payload[..4].copy_from_slice(&i.to_be_bytes());
            client.send(payload).await.unwrap();
        }
        client.send(question.reply("done")).await.unwrap();
        // While too much is unread, a request may be dropped too: that is told.
        let report = within(async {
            loop {
                match client.request("report").await {
                    Err(RequestError::Refused { code: 1013, .. }) => tokio::task::yield_now().await,
                    answer => break answer.unwrap(),
                }
            }
        })
        .await;
        let report = report.payload_as_string().unwrap();
        let mut words = report.splitn(3, ' ');
        let got: u64 = words.next().unwrap().parse().unwrap();
        let lost: u64 = words.next().unwrap().parse().unwrap();
        let refused = client.stats().sent_requests - 1;
        assert_eq!(got + lost, 100 + refused, "{policy:?}: {report}");
        assert!(lost > 80, "{policy:?}: {report}");
        let kept = words.next().unwrap();
        match policy {
            Overflow::DropOldest => assert!(kept.ends_with("99]"), "{report}"),
            _ => assert!(kept.starts_with("[0, 1"), "{report}"),
        }
        assert_eq!(serving.server.stats().dropped_received, lost);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_event_stream_and_a_handler_excludes_it() {
    let (protocol, _reach) = Kind::Tcp.listener();
    let server = TransportServerBuilder::new().with_protocol(protocol).build().await.unwrap();
    let events = server.events().unwrap();
    assert_eq!(server.events().unwrap_err(), EventsError::Taken);
    assert_eq!(server.serve_with(echo).await.unwrap_err(), ServeError::EventsTaken);
    drop(events);
    let serving = Serving::echo(Kind::Tcp).await;
    let client = serving.client().await;
    within(async { client.request("it serves").await }).await.unwrap();
    assert_eq!(serving.server.events().unwrap_err(), EventsError::Handler);
    assert_eq!(serving.server.serve().await.unwrap_err(), ServeError::Serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_sent_to_and_left() {
    let serving = Serving::events(Kind::WebSocket, TransportServerBuilder::new()).await;
    let server = &serving.server;
    let mut all = Vec::new();
    for i in 0..3 {
        let client = serving.client().await;
        let events = client.events().unwrap();
        sessions(server, i + 1).await;
        all.push((client, events, *server.active_sessions().last().unwrap()));
    }
    server.join_group("red", all[0].2).unwrap();
    server.join_group("red", all[2].2).unwrap();
    let report = server.broadcast_to_group("red", "to red").await.unwrap();
    assert_eq!((report.queued, report.dropped, report.closed), (2, 0, 0));
    let chosen = all[1].2;
    let report = server.broadcast_where("to one", |session| session.id() == chosen).await.unwrap();
    assert_eq!(report.queued, 1);
    server.leave_group("red", all[0].2);
    assert_eq!(server.group("red"), [all[2].2]);
    assert_eq!(server.broadcast("to all").await.unwrap().queued, 3);
    for (i, expected) in
        [(0, &["to red", "to all"][..]), (1, &["to one", "to all"]), (2, &["to red", "to all"])]
    {
        for text in expected {
            let packet = within(async {
                loop {
                    if let TransportEvent::MessageReceived { packet, .. } = all[i].1.next().await.unwrap() {
                        break packet;
                    }
                }
            })
            .await;
            assert_eq!(packet.payload_as_str(), Some(*text));
        }
    }
    all[2].0.disconnect().await;
    sessions(server, 2).await;
    within(async {
        while !server.group("red").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Whoever says "never" by the longest time there is gets that, and no sum that the clock cannot tell.
#[tokio::test(flavor = "multi_thread")]
async fn the_longest_times_are_never() {
    let never = Duration::MAX;
    for kind in Kind::ALL {
        let server = TransportServerBuilder::new()
            .heartbeat(never)
            .request_timeout(never)
            .handshakes(never, 8)
            .auth_timeout(never)
            .require_auth()
            .first_packet_timeout(never)
            .graceful_shutdown(never)
            .slow_consumer(SlowConsumer::Wait(never));
        let serving = Serving::with(kind, server, |mut session: Session| async move {
            session.set_authenticated();
            let asked = session.request("and you?").await?;
            while let Some(packet) = session.recv().await? {
                session.send(packet.reply(asked.payload.clone())).await?;
            }
            Ok(())
        })
        .await;
        let client = TransportClientBuilder::new()
            .heartbeat(never)
            .request_timeout(never)
            .connect_timeout(never)
            .slow_consumer(SlowConsumer::Wait(never))
            .pool(1, 1, never);
        let client = serving.client_of(client).await;
        let mut events = client.events().unwrap();
        let asked = message(&mut events).await;
        within(client.session().unwrap().send(asked.reply("well"))).await.unwrap();
        let answer = within(async { client.request("how are you?").idempotent().timeout(never).await }).await;
        assert_eq!(answer.unwrap().payload, "well", "{kind:?}");
        within(serving.server.shutdown()).await;
    }
}
