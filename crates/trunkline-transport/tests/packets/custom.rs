//! A protocol of our own, as a user would write one: a pipe of messages through channels, one message at a time. Every test
//! of the packet level goes over it too ([`crate::harness::Kind::Custom`]).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant, interval, sleep},
};
use tokio_util::{sync::PollSender, task::TaskTracker};
use trunkline_transport::{
    CloseReason, CustomProtocol, Link, Session, TransportClientBuilder, TransportError, TransportEvent,
    TransportServerBuilder,
};

use crate::harness::{Kind, Serving, echo, within};

/// A server and its clients within the process. Clones share it.
#[derive(Clone)]
pub(crate) struct Pipes {
    newcomers: Arc<Mutex<Option<Receiver<Link>>>>,
    server: Sender<Link>,
}

impl Pipes {
    pub(crate) fn new() -> Self {
        let (server, newcomers) = channel(16);
        Self { newcomers: Arc::new(Mutex::new(Some(newcomers))), server }
    }
}

impl CustomProtocol for Pipes {
    type Listener = Receiver<Link>;

    fn name(&self) -> &'static str {
        "pipes"
    }

    async fn bind(&self) -> io::Result<Receiver<Link>> {
        self.newcomers.lock().take().ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }

    async fn accept(listener: &mut Receiver<Link>) -> io::Result<Link> {
        match listener.recv().await {
            Some(link) => Ok(link),
            None => std::future::pending().await,
        }
    }

    async fn connect(&self) -> io::Result<Link> {
        let (ours, theirs) = pipe();
        let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
        self.server.send(Link::messages(theirs)).await.map_err(refused)?;
        Ok(Link::messages(ours))
    }
}

/// One end of a pipe.
struct End {
    out: PollSender<Bytes>,
    into: Receiver<Bytes>,
}

/// Two ends with room for one message each way, so that senders have to wait.
fn pipe() -> (End, End) {
    let ((out, theirs), (back, ours)) = (channel(1), channel(1));
    (End { out: PollSender::new(out), into: ours }, End { out: PollSender::new(back), into: theirs })
}

impl Stream for End {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(ready!(self.into.poll_recv(cx)).map(Ok))
    }
}

fn gone<E>(_: E) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl Sink<Bytes> for End {
    type Error = io::Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out.poll_ready_unpin(cx).map_err(gone)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Bytes) -> io::Result<()> {
        self.out.start_send_unpin(message).map_err(gone)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out.poll_flush_unpin(cx).map_err(gone)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out.poll_close_unpin(cx).map_err(gone)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_packet_ends_its_connection_and_no_other() {
    let pipes = Pipes::new();
    let server = TransportServerBuilder::new().with_protocol(pipes.clone()).build().await.unwrap();
    assert!(TransportServerBuilder::new().with_protocol(pipes.clone()).build().await.is_err(), "it is bound");
    let serving = Serving::of(Kind::Custom, server, echo);
    let client = TransportClientBuilder::new().with_protocol(pipes.clone()).build().await.unwrap();
    within(client.connect()).await.unwrap();
    let packet =
        trunkline_transport::Packet::one_way(1, "x").to_bytes(trunkline_transport::Wire::V1).unwrap();
    let two = [packet.clone(), packet.clone()].concat();
    for message in [
        Bytes::new(),
        Bytes::from_static(b"short"),
        packet.slice(..16),
        two.into(),
        Bytes::from(vec![9; 100]),
    ] {
        let (mut ours, theirs) = pipe();
        within(pipes.server.send(Link::messages(theirs))).await.unwrap();
        within(ours.out.send(message.clone())).await.unwrap();
        // The other end goes away.
        within(async { while ours.into.recv().await.is_some() {} }).await;
        within(async { client.request("still here?").await }).await.unwrap();
    }
    let mut events = client.events().unwrap();
    within(serving.server.shutdown()).await;
    within(async {
        loop {
            if let TransportEvent::ConnectionClosed { reason, .. } = events.next().await.unwrap() {
                break assert!(reason.is_clean(), "{reason}");
            }
        }
    })
    .await;
}

/// A ping of version 2 and its answer, by their types.
const PING: u8 = 16;
const PONG: u8 = 17;

fn packet(kind: u8) -> Bytes {
    let length = if kind == ONE_WAY { 0 } else { 9 };
    let header = [2, 0, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, length, 0, 0];
    [&header[..], &[0; 9][..length.into()]].concat().into()
}

/// A server that serves each connection by `handler`, and the bare end of a connection to it.
async fn met<F, Fut>(builder: TransportServerBuilder, handler: F) -> (Serving, End)
where
    F: Fn(Session) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), TransportError>> + Send + 'static,
{
    let pipes = Pipes::new();
    let server = builder.with_protocol(pipes.clone()).build().await.unwrap();
    let serving = Serving::of(Kind::Custom, server, handler);
    let (ours, theirs) = pipe();
    pipes.server.send(Link::messages(theirs)).await.unwrap();
    (serving, ours)
}

/// A one-way packet of version 2 without a payload.
const ONE_WAY: u8 = 0;

/// What a peer does that answers pings.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// It pings by itself.
    asks_every: Option<u64>,
    /// It sends a packet, which the server sends back.
    speaks_every: Option<u64>,
    /// After so many packets it pauses for as long.
    bursts_of: u64,
}

/// How many pings of the server come in an hour; and for how long nothing came at the most.
async fn an_hour(peer: Peer) -> (u32, Duration) {
    let (serving, mut ours) = met(TransportServerBuilder::new(), echo).await;
    ours.out.send(packet(PING)).await.unwrap();
    let hour = sleep(Duration::from_secs(3600));
    tokio::pin!(hour);
    let every = |seconds: Option<u64>| interval(Duration::from_secs(seconds.unwrap_or(1)));
    let (mut beat, mut word, mut words) = (every(peer.asks_every), every(peer.speaks_every), 0);
    let (mut pings, mut longest, mut heard) = (0, Duration::ZERO, Instant::now());
    loop {
        let answer = tokio::select! {
            () = &mut hour => break,
            message = ours.into.recv() => {
                longest = longest.max(heard.elapsed());
                heard = Instant::now();
                if message.expect("the server has closed")[2] != PING {
                    continue;
                }
                pings += 1;
                PONG
            }
            _ = beat.tick(), if peer.asks_every.is_some() => PING,
            _ = word.tick(), if peer.speaks_every.is_some() => {
                words += 1;
                if peer.bursts_of > 0 && words / peer.bursts_of % 2 == 1 {
                    continue;
                }
                ONE_WAY
            }
        };
        ours.out.send(packet(answer)).await.unwrap();
    }
    assert_eq!(serving.server.session_count(), 1);
    (pings, longest.max(heard.elapsed()))
}

/// Proxies and NATs forget what is silent for 30 s.
const FORGOTTEN: Duration = Duration::from_secs(28);

#[tokio::test(start_paused = true)]
async fn two_sides_do_not_ask_each_other_the_same() {
    for (asks_every, expected) in
        [(None, 144..=146), (Some(25), 35..=39), (Some(10), 33..=46), (Some(60), 100..=146)]
    {
        let (pings, longest) = an_hour(Peer { asks_every, ..Peer::default() }).await;
        assert!(expected.contains(&pings), "{asks_every:?}: {pings} of 144");
        assert!(longest < FORGOTTEN, "{asks_every:?}: nothing for {longest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn packets_both_ways_do_for_heartbeats() {
    for (speaks_every, bursts_of, expected) in [
        // As many as measure the round-trip time.
        (1, 0, 33..=37),
        (13, 0, 33..=37),
        // Nothing for a minute, then something for a minute.
        (1, 60, 50..=110),
        // Too seldom for what forgets the silent.
        (24, 0, 100..=160),
        (31, 0, 100..=160),
    ] {
        let peer = Peer { speaks_every: Some(speaks_every), bursts_of, ..Peer::default() };
        let (pings, longest) = an_hour(peer).await;
        assert!(expected.contains(&pings), "{peer:?}: {pings} of 144");
        assert!(longest < FORGOTTEN, "{peer:?}: nothing for {longest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_speaks_before_it_is_too_late_is_not_gone() {
    let (serving, mut ours) = met(TransportServerBuilder::new(), echo).await;
    ours.out.send(packet(PING)).await.unwrap();
    // Its answer, a question in turn, and two heartbeats that nobody answers.
    for expected in [PONG, PING, PING, PING] {
        assert_eq!(ours.into.recv().await.unwrap()[2], expected);
    }
    ours.out.send(packet(PING)).await.unwrap();
    assert_eq!(ours.into.recv().await.unwrap()[2], PONG);
    // By now it would be gone, had it said nothing.
    sleep(Duration::from_secs(33)).await;
    assert_eq!(serving.server.session_count(), 1);
    // Then it says nothing more.
    let begin = Instant::now();
    while ours.into.recv().await.is_some() {}
    let silent = Duration::from_secs(33) + begin.elapsed();
    let (least, most) = (Duration::from_millis(62_400), Duration::from_millis(62_600));
    assert!((least..most).contains(&silent), "it was silent for {silent:?}");
}

/// Pipes through which everything passes that a client and a server say to each other, and how many pings of both there were.
#[derive(Clone)]
struct Counted {
    pipes: Pipes,
    pings: Arc<AtomicU32>,
    relays: TaskTracker,
}

impl CustomProtocol for Counted {
    type Listener = Receiver<Link>;

    fn name(&self) -> &'static str {
        "counted pipes"
    }

    async fn bind(&self) -> io::Result<Receiver<Link>> {
        self.pipes.bind().await
    }

    async fn accept(listener: &mut Receiver<Link>) -> io::Result<Link> {
        Pipes::accept(listener).await
    }

    async fn connect(&self) -> io::Result<Link> {
        let ((ours, theirs), (near, far)) = (pipe(), pipe());
        self.pipes.server.send(Link::messages(far)).await.map_err(gone)?;
        let (pings, one, other) = (Arc::clone(&self.pings), theirs, near);
        self.relays.spawn(async move {
            let pass = |mut from: Receiver<Bytes>, mut to: PollSender<Bytes>| {
                let pings = Arc::clone(&pings);
                async move {
                    while let Some(message) = from.recv().await {
                        pings.fetch_add(u32::from(message[2] == PING), Relaxed);
                        if to.send(message).await.is_err() {
                            break;
                        }
                    }
                }
            };
            tokio::join!(pass(one.into, other.out), pass(other.into, one.out))
        });
        Ok(Link::messages(ours))
    }
}

#[tokio::test(start_paused = true)]
async fn two_of_ours_need_few_heartbeats_while_they_talk() {
    for every in [0.5, 3.0, 10.0] {
        let counted = Counted { pipes: Pipes::new(), pings: Arc::default(), relays: TaskTracker::new() };
        let server = TransportServerBuilder::new().with_protocol(counted.clone()).build().await.unwrap();
        let serving = Serving::of(Kind::Custom, server, echo);
        let client = TransportClientBuilder::new().with_protocol(counted.clone()).build().await.unwrap();
        client.connect().await.unwrap();
        let mut beat = interval(Duration::from_secs_f64(every));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(3600) {
            beat.tick().await;
            client.request("and?").await.unwrap();
        }
        // Each measures the round-trip time every 110 s.
        let pings = counted.pings.load(Relaxed);
        assert!((64..=76).contains(&pings), "{pings} with a request every {every} s");
        assert!(client.session().unwrap().rtt().is_some() && serving.server.stats().rtt.is_some());
    }
}

/// What tells a peer that its time is over: 1013, with no reason.
fn too_much() -> Bytes {
    let mut goodbye = vec![2, 0, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0];
    goodbye.extend(1013_u16.to_be_bytes());
    goodbye.into()
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_said_last_counts_although_it_takes_nothing_more() {
    const MANY: usize = 1_000;
    let pipes = Pipes::new();
    let server = TransportServerBuilder::new().with_protocol(pipes.clone()).build().await.unwrap();
    let mut events = server.events().unwrap();
    let serving = server.clone();
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move { serving.serve().await.unwrap() });
    let ((out, theirs), (back, ours)) = (channel(MANY + 2), channel(1));
    // The answer to the first of it finds nobody any more.
    for message in std::iter::once(packet(PING)).chain((0..MANY).map(|_| packet(ONE_WAY))).chain([too_much()])
    {
        out.try_send(message).unwrap();
    }
    drop(ours);
    let theirs = End { out: PollSender::new(back), into: theirs };
    pipes.server.send(Link::messages(theirs)).await.unwrap();
    let mut received = 0;
    let reason = loop {
        match events.next().await.unwrap() {
            TransportEvent::MessageReceived { .. } => received += 1,
            TransportEvent::ConnectionClosed { reason, .. } => break reason,
            _ => {}
        }
    };
    assert_eq!((received, reason), (MANY, CloseReason::Peer { code: 1013, reason: String::new() }));
}

#[tokio::test(start_paused = true)]
async fn who_has_ended_his_side_is_not_silent() {
    let builder = TransportServerBuilder::new().heartbeat(Duration::from_secs(1));
    let (serving, End { mut out, mut into }) = met(builder, |mut session: Session| async move {
        let question = session.recv().await?.expect("a question");
        sleep(Duration::from_secs(8)).await;
        Ok(session.send(question.reply("at last")).await?)
    })
    .await;
    out.send(packet(PING)).await.unwrap();
    out.send(packet(ONE_WAY)).await.unwrap();
    drop(out);
    let mut last = Bytes::new();
    while let Some(message) = into.recv().await {
        last = if message[2] == ONE_WAY { message } else { last };
    }
    assert!(last.ends_with(b"at last"), "{last:?}");
    assert_eq!(serving.server.session_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_takes_what_is_sent_slowly_is_not_silent() {
    const MANY: usize = 30;
    let (serving, mut ours) = met(TransportServerBuilder::new(), |mut session: Session| async move {
        while let Some(question) = session.recv().await? {
            for _ in 0..MANY {
                session.send(question.reply(vec![7; 8 << 10])).await?;
            }
        }
        Ok(())
    })
    .await;
    for message in [PING, ONE_WAY] {
        ours.out.send(packet(message)).await.unwrap();
    }
    // Five minutes, in which it says nothing: it has yet to see that it is asked.
    let mut taken = 0;
    while taken < MANY {
        let message = ours.into.recv().await.expect("the server has closed");
        if message[2] == ONE_WAY {
            taken += 1;
            sleep(Duration::from_secs(10)).await;
        }
    }
    assert_eq!(serving.server.session_count(), 1);
    // Then it is asked, and gone.
    let begin = Instant::now();
    while ours.into.recv().await.is_some() {}
    assert!(begin.elapsed() < Duration::from_secs(100), "after {:?}", begin.elapsed());
}
