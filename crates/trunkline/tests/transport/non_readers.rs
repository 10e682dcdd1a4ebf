//! A5: some of a thousand never read; the others' broadcasts take no longer, and what became of each packet is exact. Full
//! size: `./prove A5`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, interval};
use trunkline_transport::{
    BroadcastReport, CloseReason, Packet, Session, SessionId, SlowConsumer, TransportServer,
    TransportServerBuilder, Wire,
};

use crate::machine::Gauge;
use crate::rig::{Rig, Way, compared, idle, until, within};
use crate::sizes::{reading, size};
use crate::steady::{self, Compared, Ended};

const PAYLOAD: usize = 1024;

/// As it is on the wire of v1, which these clients speak: nothing but packets comes to them.
const FRAME: usize = 16 + PAYLOAD;

const STUCK: &str = "those who do not read";

/// How many packets each of them must have missed before a fault counts as one: its queue is full then, and what the
/// kernel takes for it too.
const MISSED_FIRST: u64 = 100;

/// More than any kernel takes ahead: 64 MiB.
const MOST_AHEAD: u64 = 64 << 10;

struct Scale {
    sessions: usize,
    rounds: u64,
    /// In each phase.
    broadcasts: u64,
    every: Duration,
}

impl Scale {
    fn read() -> Self {
        Scale {
            sessions: usize::try_from(size("A5_SESSIONS", 12)).unwrap(),
            rounds: size("A5_ROUNDS", 1),
            broadcasts: size("A5_BROADCASTS", 5),
            every: Duration::from_millis(size("A5_EVERY_MS", 1)),
        }
    }
}

#[tokio::test]
async fn a5_who_never_reads_holds_up_nobody_and_each_outcome_is_exact() {
    let scale = Scale::read();
    for (name, policy) in [("wait", SlowConsumer::default()), ("oldest", SlowConsumer::DropOldest)] {
        for count in [1, 10] {
            let mut room = Room::open(policy, scale.sessions, count).await;
            let (mut calm, mut disturbed) = (Vec::new(), Vec::new());
            let gauge = Gauge::start();
            for _ in 0..scale.rounds {
                calm.push(room.broadcasts(&scale).await);
                room.stop_reading().await;
                disturbed.push(room.broadcasts(&scale).await);
                room.go_on().await;
            }
            let machine = gauge.end();
            let name = format!("a5_{name}_{count}");
            let even = Compared::of(&steady::rounds(&calm, &disturbed, &machine));
            compared(&name, even, machine.slow_share());
            reading(&format!("{name}_exact"), room.account());
        }
    }
}

#[tokio::test]
async fn a5_who_is_cut_for_it_is_told_exactly() {
    let scale = Scale::read();
    let mut room = Room::open(SlowConsumer::Disconnect, scale.sessions, 10).await;
    room.broadcasts(&scale).await;
    room.stop_reading().await;
    for stuck in &room.stuck {
        assert_eq!(within(stuck.session.closed()).await, CloseReason::Slow);
    }
    until(|| room.rig.server.session_count() as u64 == room.readers).await;
    room.broadcasts(&scale).await;
    room.reading.send_replace(true);
    for stuck in &room.stuck {
        // To the end of what had left for it.
        until(|| stuck.read.has_ended.load(Relaxed) > 0).await;
    }
    reading("a5_disconnect_10_exact", room.account());
}

/// A server, those who read, and those who do not always.
struct Room {
    rig: Rig,
    heard: Arc<Heard>,
    readers: u64,
    stuck: Vec<Stuck>,
    reading: watch::Sender<bool>,
    /// Broadcasts to everybody.
    sent: u64,
    /// What was asked for, and what the server told: one for each packet and peer.
    asked: u64,
    queued: u64,
    dropped: u64,
    closed: u64,
    _tasks: JoinSet<()>,
}

/// What the readers have got.
struct Heard {
    begun: Instant,
    count: AtomicU64,
    times: Mutex<Vec<Ended>>,
}

struct Stuck {
    session: Session,
    read: Arc<Read>,
    /// As the server told it.
    queued: u64,
}

/// What one of those who do not always read has read.
#[derive(Default)]
struct Read {
    bytes: AtomicU64,
    has_ended: AtomicU64,
}

impl Room {
    async fn open(policy: SlowConsumer, sessions: usize, stuck: usize) -> Room {
        let builder = TransportServerBuilder::new().slow_consumer(policy);
        let rig = Rig::start(builder, &[Way::Tcp], idle).await;
        let heard = Heard { begun: Instant::now(), count: AtomicU64::new(0), times: Mutex::default() };
        let (heard, reading, mut tasks) = (Arc::new(heard), watch::Sender::new(true), JoinSet::new());
        let mut of_stuck = Vec::new();
        for at in 1..=stuck {
            let (socket, read) = (enter(&rig).await, Arc::<Read>::default());
            until(|| rig.server.active_sessions().len() == at).await;
            let session = rig.server.session(*rig.server.active_sessions().last().unwrap()).unwrap();
            rig.server.join_group(STUCK, session.id()).unwrap();
            tasks.spawn(read_while(socket, reading.subscribe(), Arc::clone(&read)));
            of_stuck.push(Stuck { session, read, queued: 0 });
        }
        let readers = sessions.saturating_sub(stuck).max(1);
        for _ in 0..readers {
            tasks.spawn(listen(enter(&rig).await, Arc::clone(&heard)));
        }
        until(|| rig.server.active_sessions().len() == stuck + readers).await;
        // The server has heard from each, and knows its wire: nothing is told to a stranger.
        until(|| rig.server.stats().received_packets == (stuck + readers) as u64).await;
        let (readers, stuck) = (readers as u64, of_stuck);
        let (sent, asked, queued, dropped, closed) = (0, 0, 0, 0, 0);
        Room { rig, heard, readers, stuck, reading, sent, asked, queued, dropped, closed, _tasks: tasks }
    }

    /// So many broadcasts to everybody; when those who read have all of them, how long each took.
    async fn broadcasts(&mut self, scale: &Scale) -> Vec<Ended> {
        let (server, begun, first) = (self.rig.server.clone(), self.heard.begun, self.sent);
        let (count, every) = (scale.broadcasts, scale.every);
        let work = async move {
            let mut told = Vec::new();
            let mut ticks = interval(every);
            for number in first..first + count {
                ticks.tick().await;
                // Nobody comes or goes between the two: that is work of this very thread.
                let peers = server.active_sessions();
                told.push((server.broadcast(packet(begun.elapsed(), number)).await.unwrap(), peers));
            }
            told
        };
        let told = self.rig.on_server(work).await;
        self.sent += count;
        told.iter().for_each(|(report, peers)| self.note(report, peers));
        until(|| self.heard.count.load(Relaxed) == self.sent * self.readers).await;
        std::mem::take(&mut *self.heard.times.lock())
    }

    /// They stop, and everything between is filled up, until each misses what is sent to it.
    async fn stop_reading(&mut self) {
        self.reading.send_replace(false);
        let sessions: Vec<_> = self.stuck.iter().map(|stuck| stuck.session.clone()).collect();
        let server = self.rig.server.clone();
        let told = self.rig.on_server(async move { fill(&server, &sessions).await }).await;
        told.iter().for_each(|(report, peers)| self.note(report, peers));
    }

    /// They read again, and have everything that was not dropped.
    async fn go_on(&mut self) {
        self.reading.send_replace(true);
        for stuck in &self.stuck {
            until(|| {
                let kept = stuck.queued - stuck.session.stats().dropped_oldest;
                stuck.read.bytes.load(Relaxed) == kept * FRAME as u64
            })
            .await;
        }
    }

    /// Counts what a report says of these peers.
    fn note(&mut self, report: &BroadcastReport, peers: &[SessionId]) {
        let told = report.queued + report.dropped + report.closed;
        assert_eq!((told, report.refused), (peers.len(), 0), "each peer has one outcome");
        self.asked += told as u64;
        self.queued += report.queued as u64;
        self.dropped += report.dropped as u64;
        self.closed += report.closed as u64;
        let has_missed = |id| report.missed.iter().any(|(other, _)| *other == id);
        let mut missed = 0;
        for stuck in &mut self.stuck {
            let id = stuck.session.id();
            missed += usize::from(has_missed(id));
            stuck.queued += u64::from(peers.contains(&id) && !has_missed(id));
        }
        assert_eq!(missed, report.missed.len(), "one who reads has missed a broadcast: {report:?}");
    }

    /// Settles the account, in words; `queued = received + dropped + cut` to the packet.
    fn account(&self) -> String {
        let (mut received, mut oldest, mut given_back, mut on_their_way) =
            (self.heard.count.load(Relaxed), 0, 0, 0);
        let mut newest = 0;
        for stuck in &self.stuck {
            let stats = stuck.session.stats();
            assert_eq!(stats.sent_packets, stuck.queued, "what was queued for one of them");
            let read = stuck.read.bytes.load(Relaxed) / FRAME as u64;
            let unsent = stuck.session.take_unsent().len() as u64;
            let rest = stuck.queued.checked_sub(read + stats.dropped_oldest + unsent);
            let rest = rest.expect("no more came than was queued");
            // Only from who is cut is there anything of which nobody knows: what the kernel had, and a packet in part.
            assert!(rest == 0 || stats.closed_slow == 1, "{rest} packets are nowhere: {stats:?}");
            (received, oldest) = (received + read, oldest + stats.dropped_oldest);
            (given_back, on_their_way) = (given_back + unsent, on_their_way + rest);
            newest += stats.dropped_newest;
        }
        assert_eq!(self.asked, self.queued + self.dropped + self.closed);
        assert_eq!(newest, self.dropped, "the figures and the reports");
        assert_eq!(self.queued, received + oldest + given_back + on_their_way);
        assert!(self.dropped + oldest + self.closed > 0, "nobody has missed anything");
        let Room { asked, queued, dropped, closed, .. } = self;
        format!(
            "{asked} asked = {queued} queued + {dropped} dropped + {closed} to one who was cut; queued = {received} received \
             + {oldest} dropped later + {given_back} given back and {on_their_way} on their way when cut"
        )
    }
}

/// Sends to the ones who do not read until each has missed some, or is gone; what became of each packet, and for how many.
async fn fill(server: &TransportServer, sessions: &[Session]) -> Vec<(BroadcastReport, Vec<SessionId>)> {
    let missed = |session: &Session| {
        let stats = session.stats();
        stats.dropped_oldest + stats.dropped_newest
    };
    let before: Vec<_> = sessions.iter().map(missed).collect();
    let mut told = Vec::new();
    for _ in 0..MOST_AHEAD {
        let is_full = sessions
            .iter()
            .zip(&before)
            .all(|(session, before)| !session.is_open() || missed(session) >= before + MISSED_FIRST);
        if is_full {
            return told;
        }
        let peers = server.group(STUCK);
        let report = server.broadcast_to_group(STUCK, packet(Duration::ZERO, 0)).await.unwrap();
        told.push((report, peers));
        tokio::task::yield_now().await;
    }
    panic!("a peer that does not read takes everything");
}

fn packet(at: Duration, number: u64) -> Packet {
    let mut payload = vec![0; PAYLOAD];
    payload[..8].copy_from_slice(&u64::try_from(at.as_nanos()).unwrap().to_be_bytes());
    payload[8..16].copy_from_slice(&number.to_be_bytes());
    Packet::new(payload)
}

/// A bare client that has said its one word.
async fn enter(rig: &Rig) -> TcpStream {
    let mut socket = within(TcpStream::connect(rig.address(Way::Tcp))).await.unwrap();
    socket.write_all(&Packet::one_way(1, "here").to_bytes(Wire::V1).unwrap()).await.unwrap();
    socket
}

/// Hears every number once and in order.
async fn listen(mut socket: TcpStream, heard: Arc<Heard>) {
    let (mut frame, mut next) = (vec![0; FRAME], 0);
    // It ends with its server.
    while socket.read_exact(&mut frame).await.is_ok() {
        let word = |at: usize| u64::from_be_bytes(*frame[16 + at..].first_chunk().unwrap());
        assert_eq!(word(8), next, "a broadcast was lost, or came twice");
        next += 1;
        let took = heard.begun.elapsed().saturating_sub(Duration::from_nanos(word(0)));
        heard.times.lock().push(Ended { at: std::time::Instant::now(), took });
        heard.count.fetch_add(1, Relaxed);
    }
}

/// Reads, but for when it is told not to.
async fn read_while(mut socket: TcpStream, mut may: watch::Receiver<bool>, read: Arc<Read>) {
    let mut buffer = vec![0; 64 << 10];
    // The room closes.
    while may.wait_for(|may| *may).await.is_ok() {
        tokio::select! {
            // To stop counts at once.
            biased;
            stopped = may.wait_for(|may| !*may) => if stopped.is_err() { return },
            got = socket.read(&mut buffer) => match got {
                Ok(0) | Err(_) => {
                    read.has_ended.store(1, Relaxed);
                    return;
                }
                Ok(bytes) => drop(read.bytes.fetch_add(bytes as u64, Relaxed)),
            },
        }
    }
}
