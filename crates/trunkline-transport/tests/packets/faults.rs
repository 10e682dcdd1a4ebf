//! A4, A5, A7, A15 to A18, D4 and D5 on every protocol, with the chaos kit between server and clients: half-open peers, readers
//! that never read, networks that die, silence.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::Instant,
};
use trunkline_transport::{
    ClientTls, CloseReason, EventStream, Limits, Missed, Packet, QuicClientConfig, QuicServerConfig,
    RateLimiterConfig, RequestError, RetryConfig, SendError, Session, SessionId, SlowConsumer,
    TcpClientConfig, TcpServerConfig, Tls, TransportClient, TransportClientBuilder, TransportEvent,
    TransportServer, TransportServerBuilder, WebSocketClientConfig, WebSocketServerConfig,
    WebTransportClientConfig, WebTransportServerConfig, chaos::StreamFaults,
};

use crate::harness::{Between, DEADLINE, Kind, Serving, echo, pattern, within};

const KIB: usize = 1024;
const SOON: Duration = Duration::from_millis(5);
const HOUR: Duration = Duration::from_secs(3600);

async fn until(what: impl Fn() -> bool) {
    within(async {
        while !what() {
            tokio::time::sleep(SOON).await;
        }
    })
    .await;
}

/// Holds a connection open and reads nothing.
async fn idle(session: Session) -> Result<(), trunkline_transport::TransportError> {
    session.closed().await;
    Ok(())
}

/// The first datagram of a real client, as an attacker would replay it.
async fn captured_initial() -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let anybody = ClientTls::pinned(Vec::new()).unwrap();
    let config = QuicClientConfig::new(socket.local_addr().unwrap().to_string()).tls(anybody);
    let client = TransportClientBuilder::new().with_protocol(config).connect_timeout(DEADLINE);
    let client = client.build().await.unwrap();
    let mut datagram = vec![0; 2048];
    let length = within(async {
        tokio::select! {
            _ = client.connect() => panic!("nobody answers there"),
            received = socket.recv(&mut datagram) => received.unwrap(),
        }
    })
    .await;
    datagram.truncate(length);
    datagram
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_and_d4_half_open_peers_keep_nobody_out() {
    // The beginning of a TLS record, of a request, and nothing at all: none of them ever goes on.
    const BEGINNINGS: [&[u8]; 3] = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3], b"GET / HTTP/1.1\r\nUpgr", b""];
    let tls = Tls::self_signed_dev().unwrap();
    let trust = ClientTls::pinned(vec![tls.fingerprint()]).unwrap();
    let any = "127.0.0.1:0";
    // Handshakes may take an hour and there is room for fewer than come, so that nothing but order helps the others.
    let server = TransportServerBuilder::new()
        .handshakes(HOUR, 64)
        .with_protocol(TcpServerConfig::new(any))
        .with_protocol(TcpServerConfig::new(any).tls(tls.clone()))
        .with_protocol(WebSocketServerConfig::new(any))
        .with_protocol(WebSocketServerConfig::new(any).tls(tls.clone()))
        .with_protocol(QuicServerConfig::new(any).tls(tls.clone()))
        .with_protocol(WebTransportServerConfig::new(any).tls(tls))
        .build()
        .await
        .unwrap();
    let [tcp, encrypted, ws, wss, quic, wt] = server.local_addrs()[..] else { unreachable!() };
    let serving = Serving::of(Kind::Tcp, server, echo);
    let mut half_open = Vec::new();
    for at in [tcp, encrypted, ws, wss] {
        for i in 0..80 {
            let mut peer = within(TcpStream::connect(at)).await.unwrap();
            peer.write_all(BEGINNINGS[i % 3]).await.unwrap();
            half_open.push(peer);
        }
    }
    let initial = captured_initial().await;
    let mut replayed = Vec::new();
    for at in [quic, wt] {
        for _ in 0..50 {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            socket.send_to(&initial, at).await.unwrap();
            replayed.push(socket);
        }
    }
    for _ in 0..3 {
        let builder = TransportClientBuilder::new;
        for client in [
            builder().with_protocol(TcpClientConfig::new(tcp.to_string())),
            builder().with_protocol(TcpClientConfig::new(encrypted.to_string()).tls(trust.clone())),
            builder().with_protocol(WebSocketClientConfig::new(format!("ws://{ws}"))),
            builder().with_protocol(WebSocketClientConfig::new(format!("wss://{wss}")).tls(trust.clone())),
            builder().with_protocol(QuicClientConfig::new(quic.to_string()).tls(trust.clone())),
            builder()
                .with_protocol(WebTransportClientConfig::new(format!("https://{wt}")).tls(trust.clone())),
        ] {
            let client = client.connect_timeout(DEADLINE).build().await.unwrap();
            within(client.connect()).await.unwrap();
            within(async { client.request("in").await }).await.unwrap();
        }
    }
    drop((half_open, replayed, serving));
}

/// Clients that are connected through a network of their own that carries nothing any more, and their sessions.
async fn non_readers(
    serving: &Serving,
    count: usize,
) -> (Between, Vec<(TransportClient, EventStream, Session)>) {
    let between = serving.between().await;
    let mut slow = Vec::new();
    for i in 0..count {
        let client = between.client_of(TransportClientBuilder::new()).await;
        let events = client.events().unwrap();
        until(|| serving.server.active_sessions().len() > i).await;
        let id = *serving.server.active_sessions().last().unwrap();
        slow.push((client, events, serving.server.session(id).unwrap()));
    }
    between.stall();
    (between, slow)
}

/// The next packet of a client's events; `None` at the end of its connection.
async fn message(events: &mut EventStream) -> Option<Packet> {
    within(async {
        loop {
            match events.next().await.unwrap() {
                TransportEvent::MessageReceived { packet, .. } => break Some(packet),
                TransportEvent::ConnectionClosed { .. } => break None,
                _ => {}
            }
        }
    })
    .await
}

const POLICIES: [SlowConsumer; 4] =
    [SlowConsumer::DropNewest, SlowConsumer::DropOldest, SlowConsumer::Disconnect, SlowConsumer::Wait(HOUR)];

#[tokio::test(flavor = "multi_thread")]
async fn a5_and_d5_some_who_never_read_hold_up_nobody_and_each_outcome_is_exact() {
    for (i, kind) in Kind::ALL.into_iter().enumerate() {
        // Each protocol with two of the policies, and each policy with several protocols.
        for (policy, count) in [(POLICIES[i % 4], 1), (POLICIES[(i + 1) % 4], 3)] {
            non_readers_on(kind, policy, count).await;
        }
    }
}

async fn non_readers_on(kind: Kind, policy: SlowConsumer, count: usize) {
    const BROADCASTS: u32 = 120;
    let serving = Serving::with(kind, TransportServerBuilder::new().slow_consumer(policy), idle).await;
    let server = &serving.server;
    let (between, slow) = non_readers(&serving, count).await;
    let mut readers = Vec::new();
    for _ in 0..2 {
        let client = serving.client().await;
        let events = client.events().unwrap();
        readers.push((client, events));
    }
    until(|| server.active_sessions().len() == count + 2).await;
    // Of each peer: how many were dropped, and how many it got before it was closed.
    let mut missed: HashMap<SessionId, [u64; 2]> = HashMap::new();
    let mut payload = pattern(60 * KIB);
    for i in 0..BROADCASTS {
        payload[..4].copy_from_slice(&i.to_be_bytes());
        let report = within(server.broadcast(payload.clone())).await.unwrap();
        for (id, why) in report.missed {
            let [dropped, got] = missed.entry(id).or_insert([0, u64::from(BROADCASTS)]);
            match why {
                Missed::Dropped => *dropped += 1,
                _ => *got = u64::from(i).min(*got),
            }
        }
        // Whoever reads gets each before the next is sent.
        for (_, events) in &mut readers {
            assert_eq!(message(events).await.unwrap().payload[..4], i.to_be_bytes(), "{kind:?}, {policy:?}");
        }
    }
    between.go_on();
    for (client, mut events, session) in slow {
        let [dropped, got] = missed.remove(&session.id()).unwrap_or([0, u64::from(BROADCASTS)]);
        let is_closed = got < u64::from(BROADCASTS);
        let stats = session.stats();
        let queued = got - dropped;
        assert_eq!((stats.sent_packets, stats.dropped_newest), (queued, dropped), "{kind:?}, {policy:?}");
        let mut received = 0;
        if policy == SlowConsumer::Disconnect {
            assert!(is_closed && dropped == 0, "{kind:?}");
            // Of the datagram that told it nothing is left: who asks is told again.
            let _ = client.try_send("are you there?");
            assert_eq!(within(session.closed()).await, CloseReason::Slow, "{kind:?}");
            while message(&mut events).await.is_some() {
                received += 1;
            }
            // What the link had taken may have arrived or not; all else is given back.
            let unsent = session.take_unsent().len() as u64;
            assert!(unsent > 0 && received + unsent <= queued, "{kind:?}: {received} + {unsent} of {queued}");
            continue;
        }
        within(session.send("end")).await.unwrap();
        while message(&mut events).await.expect("it is still there").payload != "end" {
            received += 1;
        }
        assert!(!is_closed, "{kind:?}, {policy:?}");
        assert!(dropped + session.stats().dropped_oldest > 0, "{kind:?}, {policy:?}: nothing was held up");
        assert_eq!(queued, received + session.stats().dropped_oldest, "{kind:?}, {policy:?}: {stats:?}");
    }
    assert!(missed.is_empty(), "{kind:?}, {policy:?}: somebody else has missed some: {missed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a7_and_d7_who_never_reads_costs_the_budget_and_no_more() {
    const BUDGET: usize = 1 << 20;
    for kind in Kind::ALL {
        let limits = Limits::new().queued_bytes(BUDGET);
        let builder = TransportServerBuilder::new().limits(limits).slow_consumer(SlowConsumer::DropNewest);
        let serving = Serving::with(kind, builder, idle).await;
        let (_between, slow) = non_readers(&serving, 1).await;
        let (id, body) = (slow[0].2.id(), pattern(256 * KIB));
        let mut refused = 0;
        for _ in 0..40 {
            match within(serving.server.send_to(id, body.clone())).await {
                Ok(()) => {}
                Err(SendError::Full { .. }) => refused += 1,
                Err(error) => panic!("{kind:?}: {error}"),
            }
            let queued = serving.server.queued_bytes();
            assert!(queued <= BUDGET, "{kind:?}: {queued}");
        }
        assert!(refused > 0, "{kind:?}: everything had room");
    }
}

/// What a server has seen: how often each request, and the one-way packets of each connection in their order.
#[derive(Default)]
struct Seen {
    requests: HashMap<u32, u32>,
    one_way: HashMap<SessionId, Vec<u32>>,
}

fn number(packet: &Packet) -> u32 {
    u32::from_be_bytes(packet.payload[..4].try_into().unwrap())
}

/// What a client was told about what it sent.
#[derive(Default)]
struct Told {
    answered: HashSet<u32>,
    disconnected: HashSet<u32>,
    not_sent: HashSet<u32>,
    idempotent: HashSet<u32>,
    /// One-way packets by connection, and those of them that were given back.
    taken: HashMap<SessionId, Vec<u32>>,
    given_back: HashMap<SessionId, Vec<u32>>,
}

/// Asks until it is told to stop, never one question twice.
async fn ask(
    client: TransportClient,
    told: Arc<Mutex<Told>>,
    stop: tokio_util::sync::CancellationToken,
    first: u32,
) {
    let is_idempotent = first.is_multiple_of(2);
    let mut id = first;
    while !stop.is_cancelled() {
        let request = client.request(id.to_be_bytes().to_vec()).timeout(DEADLINE);
        let request = if is_idempotent { request.idempotent() } else { request };
        let answer = within(async { request.await }).await;
        let is_lost = answer.is_err();
        {
            let mut told = told.lock();
            match answer {
                Ok(answer) => {
                    assert_eq!(number(&answer), id);
                    if is_idempotent {
                        told.idempotent.insert(id)
                    } else {
                        told.answered.insert(id)
                    };
                }
                Err(error) if is_idempotent => panic!("it may be asked again: {error}"),
                Err(RequestError::Disconnected(_)) => drop(told.disconnected.insert(id)),
                Err(RequestError::NotSent(_)) => drop(told.not_sent.insert(id)),
                Err(error) => panic!("{error}"),
            }
        }
        if is_lost {
            tokio::time::sleep(SOON).await;
        }
        // Room for eight who ask.
        id += 8;
    }
}

/// Sends numbers, each once, and again what was given back.
async fn tell(client: TransportClient, told: Arc<Mutex<Told>>, stop: tokio_util::sync::CancellationToken) {
    let (mut next, mut again) = (0_u32, Vec::new());
    while !stop.is_cancelled() {
        let Some(session) = client.session() else {
            tokio::time::sleep(SOON).await;
            continue;
        };
        let mut taken = Vec::new();
        loop {
            if stop.is_cancelled() {
                break;
            }
            let one = again.pop().unwrap_or_else(|| {
                next += 1;
                next
            });
            match within(session.send([one.to_be_bytes().to_vec(), vec![0; 2000]].concat())).await {
                Ok(()) => taken.push(one),
                Err(_) => {
                    again.push(one);
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
        if !stop.is_cancelled() {
            within(session.closed()).await;
        }
        let unsent: Vec<u32> = session.take_unsent().iter().map(number).collect();
        again.extend(unsent.iter().rev());
        let mut told = told.lock();
        told.taken.entry(session.id()).or_default().extend(taken);
        told.given_back.insert(session.id(), unsent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_a_network_that_dies_loses_and_doubles_nothing_in_silence() {
    // Side by side: each waits for its connections to be found silent.
    futures_util::future::join_all(Kind::ALL.map(dying_network_on)).await;
}

async fn dying_network_on(kind: Kind) {
    // Found dead after half a second of silence; sooner than that, a busy machine would find the living dead.
    let beat = Duration::from_millis(200);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = Arc::clone(&seen);
    let builder = TransportServerBuilder::new().heartbeat(beat);
    let serving = Serving::with(kind, builder, move |mut session: Session| {
        let seen = Arc::clone(&shared);
        async move {
            while let Some(packet) = session.recv().await? {
                if packet.is_request() {
                    *seen.lock().requests.entry(number(&packet)).or_default() += 1;
                    session.send(packet.reply(packet.payload.clone())).await?;
                } else {
                    seen.lock().one_way.entry(session.id()).or_default().push(number(&packet));
                }
            }
            Ok(())
        }
    })
    .await;
    let between = serving.between().await;
    let retry = RetryConfig::exponential_backoff(10_000, Duration::from_millis(1))
        .max_delay(Duration::from_millis(20));
    let client = between.client_of(TransportClientBuilder::new().heartbeat(beat).reconnect(retry)).await;
    let told = Arc::new(Mutex::new(Told::default()));
    let stop = tokio_util::sync::CancellationToken::new();
    let mut tasks = JoinSet::new();
    for first in 0..8 {
        tasks.spawn(ask(client.clone(), Arc::clone(&told), stop.clone(), first));
    }
    tasks.spawn(tell(client.clone(), Arc::clone(&told), stop.clone()));
    for round in 0..3 {
        let before = told.lock().answered.len();
        until(|| told.lock().answered.len() >= before + 20).await;
        let session = within(async {
            loop {
                match client.session() {
                    Some(session) => break session,
                    None => tokio::time::sleep(SOON).await,
                }
            }
        })
        .await;
        // By a reset, and in silence. Where there are no resets an end is an ordinary one, after which nobody comes back.
        let has_resets = matches!(kind, Kind::Tcp | Kind::Tls | Kind::WebSocket | Kind::WebSocketTls);
        if round == 1 && has_resets {
            between.cut();
        } else {
            between.stall();
        }
        assert!(!within(session.closed()).await.is_clean(), "{kind:?}");
        between.go_on();
    }
    let before = told.lock().answered.len();
    until(|| told.lock().answered.len() >= before + 20).await;
    stop.cancel();
    within(tasks.join_all()).await;
    client.disconnect().await;
    until(|| serving.server.session_count() == 0).await;
    settle(kind, &seen.lock(), &told.lock());
}

/// Compares what was seen with what was told.
fn settle(kind: Kind, seen: &Seen, told: &Told) {
    for id in &told.answered {
        assert_eq!(seen.requests.get(id), Some(&1), "{kind:?}: {id} was answered, and handled once");
    }
    for id in &told.disconnected {
        assert!(seen.requests.get(id).is_none_or(|times| *times == 1), "{kind:?}: {id} was handled twice");
    }
    for id in &told.not_sent {
        assert!(!seen.requests.contains_key(id), "{kind:?}: {id} was never sent and came");
    }
    assert!(!told.disconnected.is_empty(), "{kind:?}: nothing was in flight when the network died");
    for id in &told.idempotent {
        assert!(seen.requests.contains_key(id), "{kind:?}: {id} was answered and never handled");
    }
    let mut arrived = HashSet::new();
    for numbers in seen.one_way.values() {
        for one in numbers {
            assert!(arrived.insert(*one), "{kind:?}: {one} came twice");
        }
    }
    for (session, taken) in &told.taken {
        let given_back = &told.given_back[session];
        assert!(taken.ends_with(given_back), "{kind:?}: what was given back is not what was sent last");
        // What is neither given back nor there was under way when this connection was told to be lost: the last of it.
        let kept = &taken[..taken.len() - given_back.len()];
        let first_lost = kept.iter().position(|one| !arrived.contains(one)).unwrap_or(kept.len());
        assert!(
            kept[first_lost..].iter().all(|one| !arrived.contains(one)),
            "{kind:?}: one was lost from the middle"
        );
    }
    assert!(told.taken.len() > 1 && arrived.len() > 20, "{kind:?}: {} connections", told.taken.len());
}

/// How long `count` packets took, by the runtime's own clock.
async fn passed(server: &TransportServer, count: u64) -> Duration {
    let begin = Instant::now();
    while server.stats().received_packets < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a16_a_rate_is_exact_and_others_are_not_affected() {
    for kind in [Kind::Memory, Kind::Custom] {
        let builder = TransportServerBuilder::new().rate_limiter(RateLimiterConfig::new(1000, 10));
        let serving = Serving::with(kind, builder, |mut session: Session| async move {
            while let Some(packet) = session.recv().await? {
                if packet.is_request() {
                    session.send(packet.reply("")).await?;
                }
            }
            Ok(())
        })
        .await;
        let (greedy, calm) = (serving.client().await, serving.client().await);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            for _ in 0..5000 {
                greedy.send("x").await.unwrap();
            }
            greedy
        });
        let (took, ()) = tokio::join!(passed(&serving.server, 5000), async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let begin = Instant::now();
                calm.request("x").await.unwrap();
                assert!(begin.elapsed() < Duration::from_millis(5), "{kind:?}: it waited for another");
            }
        });
        // The first ten come at once, each further one a millisecond after the one before it.
        let expected = Duration::from_millis(4990);
        assert!(took.abs_diff(expected) < expected / 50, "{kind:?}: {took:?} for 5,000 packets");
        within(tasks.join_all()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a18_idle_connections_stay_up_and_dead_ones_do_not() {
    for kind in [Kind::Memory, Kind::Custom] {
        let serving = Serving::with(kind, TransportServerBuilder::new(), idle).await;
        let between = serving.between().await;
        let mut clients = Vec::new();
        for _ in 0..50 {
            clients.push(between.client_of(TransportClientBuilder::new()).await);
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(serving.server.session_count(), 50, "{kind:?}");
        assert!(clients.iter().all(TransportClient::is_connected), "{kind:?}");
        let sessions: Vec<Session> =
            serving.server.active_sessions().iter().filter_map(|id| serving.server.session(*id)).collect();
        between.stall();
        for session in sessions {
            assert_eq!(session.closed().await, CloseReason::Silent, "{kind:?}");
        }
        for client in clients {
            if let Some(session) = client.session() {
                assert_eq!(session.closed().await, CloseReason::Silent, "{kind:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_packet_that_is_minutes_on_its_way_is_no_silence() {
    const LARGE: usize = 1 << 20;
    let answer = pattern(LARGE);
    let builder = TransportServerBuilder::new();
    let serving = Serving::with(Kind::Memory, builder, move |mut session: Session| {
        let answer = answer.clone();
        async move {
            while let Some(packet) = session.recv().await? {
                session.send(packet.reply(answer.clone())).await?;
            }
            Ok(())
        }
    })
    .await;
    // Two minutes for one packet, in which nothing else can come by the same stream.
    let slowly = StreamFaults { down_bytes_per_second: NonZeroU32::new(8 << 10), ..StreamFaults::default() };
    let client = serving.between_with(slowly).await.client_of(TransportClientBuilder::new()).await;
    let begin = Instant::now();
    let response = client.request("all of it").timeout(HOUR).await.unwrap();
    assert!(begin.elapsed() > Duration::from_secs(120), "it took {:?}", begin.elapsed());
    assert_eq!(response.payload, pattern(LARGE));
}
