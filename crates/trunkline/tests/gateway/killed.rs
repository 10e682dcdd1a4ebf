//! A gateway that dies, and one that stands still for longer than its lease, while calls and publications go on: what the
//! memory broker held is told as a gap, calls end with a reply or as unknown, nothing comes twice or is missing untold.
//! The full size of a death is `./prove killed`.

use std::collections::{HashMap, HashSet};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use trunkline_client::{Backoff, CallError, Client, ClientTls, Event, Options};
use trunkline_proto::wire::ServicePublishRequest;
use trunkline_testkit::checker::{End, History, Place, Seen, Summary};
use trunkline_testkit::{DEADLINE, Ready, Signal, TestServer, TestUpstream};

use crate::common::{millis, reading, server, size};
use crate::storm::paced;

struct Size {
    clients: u64,
    /// Of publications, and of calls.
    per_second: u64,
    /// How often the gateway dies.
    kills: u64,
}

impl Size {
    fn asked() -> Size {
        Size {
            clients: size("KILLED_CLIENTS", 16),
            per_second: size("KILLED_PER_SECOND", 60),
            kills: size("KILLED_TIMES", 1),
        }
    }
}

/// So many publications a second are for all, the others for one client each.
const TO_ALL_PER_SECOND: u64 = 10;

/// The first bound of a client's pauses between attempts, and the last.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(5), longest: Duration::from_millis(50) };

/// Longer than the 3 s for which a node's lease lasts.
const STANDSTILL: Duration = Duration::from_millis(4_500);

/// The channel that every client is on.
const ROOM: &str = "room:killed";

/// What ends everything.
const LAST: &str = "last";

/// What all parties saw.
#[derive(Default)]
struct Record {
    seen: Vec<Seen>,
    /// Publications whose answer never came: they may or may not have been accepted.
    unanswered: HashSet<String>,
    /// How often each client has started or resumed a session.
    starts: HashMap<String, u64>,
}

/// The parties: clients on every transport, and an upstream that outlives the gateway.
struct World {
    size: Size,
    ready: Ready,
    upstream: TestUpstream,
    clients: Vec<Client>,
    record: Arc<Mutex<Record>>,
    /// Rises when a client has come back.
    came_back: watch::Sender<u64>,
}

fn name(number: u64) -> String {
    format!("user{number}")
}

/// The channel that only this client is on.
fn own_room(number: u64) -> String {
    format!("room:{}", name(number))
}

impl World {
    async fn before(server: &TestServer, size: Size) -> Self {
        let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
        let ready = server.ready().clone();
        let came_back = watch::Sender::new(0);
        World { size, ready, upstream, clients: Vec::new(), record: Arc::default(), came_back }
    }

    fn options(&self, number: u64) -> Options {
        let (tcp, http) = (self.ready.tcp().unwrap(), self.ready.http().unwrap());
        let quic = self.ready.quic().unwrap();
        let endpoint = match number % 6 {
            0 => format!("tcp://{tcp}"),
            1 => format!("tls://{tcp}"),
            2 => format!("ws://{http}/ws"),
            3 => format!("wss://{http}/ws"),
            4 => format!("quic://{quic}"),
            _ => format!("wt://{quic}/"),
        };
        let mut options = Options::new(name(number), "").endpoint(endpoint.parse().unwrap());
        options.tls = Some(ClientTls::pinned(vec![self.ready.certificate().unwrap()]).unwrap());
        options.backoff = BACKOFF;
        options.call_timeout = DEADLINE * 4;
        options
    }

    /// Connects the clients; the tasks read their events until the last.
    async fn connect(&mut self) -> JoinSet<()> {
        let mut readers = JoinSet::new();
        for number in 0..self.size.clients {
            let client = Client::connect(self.options(number)).await.unwrap();
            for channel in [ROOM.to_owned(), own_room(number)] {
                let at = client.subscribe(&channel, None).await.unwrap().position;
                let after = Place { epoch: at.epoch, offset: at.offset };
                let seen = Seen::Subscribed { client: name(number), channel, after };
                self.record.lock().seen.push(seen);
            }
            let came_back = self.came_back.clone();
            readers.spawn(read(client.clone(), number, Arc::clone(&self.record), came_back));
            self.clients.push(client);
        }
        readers
    }

    /// Waits until every client has started so often.
    async fn until_started(&self, times: u64) {
        let mut changes = self.came_back.subscribe();
        let all = async {
            loop {
                changes.borrow_and_update();
                let all_have = {
                    let starts = &self.record.lock().starts;
                    let has = |number| starts.get(&name(number)).is_some_and(|count| *count >= times);
                    (0..self.size.clients).all(has)
                };
                if all_have {
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        timeout(DEADLINE, all).await.expect("somebody does not come back");
    }

    /// Calls and publications until the token is cancelled.
    fn load(self: &Arc<Self>, stop: &CancellationToken) -> JoinSet<u64> {
        let mut load = JoinSet::new();
        let this = Arc::clone(self);
        let per_second = self.size.per_second;
        load.spawn(paced(per_second, stop.clone(), move |number| {
            let this = Arc::clone(&this);
            let to_all = number % per_second.div_ceil(TO_ALL_PER_SECOND) == 0;
            let channel = if to_all { ROOM.to_owned() } else { own_room(number % this.size.clients) };
            async move { this.publish(&channel, number.to_string()).await }
        }));
        let this = Arc::clone(self);
        load.spawn(paced(per_second, stop.clone(), move |number| {
            let this = Arc::clone(&this);
            async move { this.call(number).await }
        }));
        load
    }

    async fn publish(&self, channel: &str, content: String) {
        let data = content.clone().into();
        let request = ServicePublishRequest { channel: channel.into(), data, ..Default::default() };
        let Ok(answer) = self.upstream.gateway().publish(request).await else {
            self.record.lock().unanswered.insert(content);
            return;
        };
        let placed = answer.into_inner();
        assert!(placed.error.is_none(), "{placed:?}");
        let at = Place { epoch: placed.epoch, offset: placed.offset };
        self.record.lock().seen.push(Seen::Accepted { channel: channel.into(), at, content });
    }

    async fn call(&self, number: u64) {
        let client = name(number % self.size.clients);
        let call = format!("{client}/{number}");
        self.record.lock().seen.push(Seen::Called { client, call: call.clone() });
        let making =
            self.clients[(number % self.size.clients) as usize].call("count").param("key", call.as_str());
        let end = match making.send().await {
            Ok(reply) => {
                assert_eq!(reply.data, "1", "{call} ran more than once");
                End::Reply
            }
            Err(CallError::ResultUnknown(_)) => End::Unknown,
            Err(other) => panic!("{call}: {other}"),
        };
        self.record.lock().seen.push(Seen::Ended { call, end });
    }

    /// Ends the load, publishes the last and waits until every client has heard it; then judges. A publication that
    /// nobody was told of as accepted is promised to nobody, so it does not count where it came all the same.
    async fn judge(
        &self,
        stop: CancellationToken,
        mut load: JoinSet<u64>,
        mut readers: JoinSet<()>,
    ) -> Summary {
        stop.cancel();
        let ended = async {
            while let Some(done) = load.join_next().await {
                done.unwrap();
            }
            self.publish(ROOM, LAST.into()).await;
            for number in 0..self.size.clients {
                self.publish(&own_room(number), LAST.into()).await;
            }
            while let Some(done) = readers.join_next().await {
                done.unwrap();
            }
        };
        timeout(DEADLINE * 4, ended)
            .await
            .expect("a call or a publication never ends, or somebody hears nothing");
        let Record { seen, unanswered, .. } = std::mem::take(&mut *self.record.lock());
        let mut history = History::default();
        for seen in seen {
            match &seen {
                Seen::Delivered { content, .. } if unanswered.contains(content) => {}
                _ => history.saw(seen),
            }
        }
        for request in self.upstream.requests() {
            if let Some(call) = request.params.get("key") {
                history.saw(Seen::Ran { call: call.clone() });
            }
        }
        history.check().unwrap_or_else(|violations| panic!("{}: {violations:#?}", violations.len()))
    }

    /// Waits until the calls of a second have arrived: before something happens to the gateway, and again after it.
    async fn until_calls(&self) {
        let before = self.upstream.requests().len() as u64;
        self.upstream.until_requests(before + self.size.per_second).await.unwrap();
    }

    /// Waits until every client is a member of the channel.
    async fn until_present(&self) {
        let mut ticks = interval(Duration::from_millis(50));
        let all_are = async {
            loop {
                ticks.tick().await;
                let members = self.clients[0].presence(ROOM).await.expect("presence is allowed");
                if members.len() as u64 == self.size.clients {
                    return;
                }
            }
        };
        timeout(DEADLINE, all_are).await.expect("somebody is not present");
    }
}

/// Records what a client is told, until it hears the last on both of its channels.
async fn read(client: Client, number: u64, record: Arc<Mutex<Record>>, came_back: watch::Sender<u64>) {
    let (user, own) = (name(number), own_room(number));
    let mut pushes = client.pushes();
    let mut ended = 0;
    while let Some(event) = pushes.next().await {
        let seen = match event {
            Event::Publication(publication) => {
                let at = Place { epoch: publication.position.epoch, offset: publication.position.offset };
                let content = String::from_utf8_lossy(&publication.data).into_owned();
                let is_last = content == LAST;
                let channel = publication.position.channel;
                record.lock().seen.push(Seen::Delivered { client: user.clone(), channel, at, content });
                ended += usize::from(is_last);
                if ended == 2 {
                    return;
                }
                continue;
            }
            Event::Started(_) => {
                *record.lock().starts.entry(user.clone()).or_default() += 1;
                came_back.send_modify(|count| *count += 1);
                continue;
            }
            Event::Gap(gap) if gap.from.channel == ROOM || gap.from.channel == own => {
                let after = Place { epoch: gap.from.epoch, offset: gap.from.offset };
                let next = gap.next.map(|next| Place { epoch: next.epoch, offset: next.offset });
                Seen::Gap { client: user.clone(), channel: gap.from.channel, after, next }
            }
            Event::Closed(closed) => panic!("{user} was closed: {closed}"),
            Event::Left { channel, error } => panic!("{user} was put off {channel}: {error:?}"),
            _ => continue,
        };
        record.lock().seen.push(seen);
    }
    panic!("{user}'s events have ended");
}

/// A port that nobody has, below those that the system gives to whoever connects: while the gateway is away, one of the
/// clients that try to reach it would else be given its port now and then, and keep it.
fn own_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 10_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = std::process::id() % 2_000 * 11;
    (0..PORTS.len())
        .map(|_| PORTS.start + ((begin + u32::from(NEXT.fetch_add(1, Relaxed))) % PORTS.len() as u32) as u16)
        .find(|port| {
            TcpListener::bind(("127.0.0.1", *port)).is_ok() && UdpSocket::bind(("127.0.0.1", *port)).is_ok()
        })
        .expect("a free port")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_under_load_tells_every_loss_and_runs_nothing_twice() {
    let data = tempfile::tempdir().unwrap();
    let surfaces = ["tcp", "http", "quic", "grpc"].map(|name| (name, format!("127.0.0.1:{}", own_port())));
    let node = || {
        let builder = server().anonymous().data_dir(data.path());
        surfaces.iter().fold(builder, |builder, (name, address)| builder.surface(name, address))
    };
    let mut gateway = node().start().await.unwrap();
    let mut world = World::before(&gateway, Size::asked()).await;
    let readers = world.connect().await;
    let (world, stop) = (Arc::new(world), CancellationToken::new());
    let (clients, kills) = (world.size.clients, world.size.kills);
    world.until_started(1).await;
    let begun = Instant::now();
    let load = world.load(&stop);
    let mut longest = Duration::ZERO;
    for kill in 1..=kills {
        world.until_calls().await;
        gateway.kill().await.unwrap();
        gateway = node().start().await.unwrap();
        let serves = Instant::now();
        world.until_started(1 + kill).await;
        longest = longest.max(serves.elapsed());
        world.until_calls().await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let unanswered = world.record.lock().unanswered.len();
    let calls = world.upstream.requests().len();
    let summary = world.judge(stop, load, readers).await;
    assert!(summary.gaps as u64 >= clients * kills, "each client is told each time: {summary:?}");
    assert!(summary.replies as u64 > world.size.per_second && summary.delivered > 0, "{summary:?}");
    reading("back_ms", millis(longest));
    reading("calls_per_second", format!("{:.0}", calls as f64 / seconds));
    let Summary { replies, unknown, delivered, gaps, .. } = summary;
    reading(
        "counts",
        format!(
            "0 violations; {calls} calls ran, {replies} answered, {unknown} of unknown end; {delivered} publications \
             delivered, {gaps} gaps told, {unanswered} publications without an answer"
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stood_still_for_longer_than_its_lease_goes_on() {
    let server = server().anonymous().start().await.unwrap();
    let mut world = World::before(&server, Size::asked()).await;
    let readers = world.connect().await;
    world.until_present().await;
    let (world, stop) = (Arc::new(world), CancellationToken::new());
    let load = world.load(&stop);
    world.until_calls().await;
    server.signal(Signal::Freeze).unwrap();
    tokio::time::sleep(STANDSTILL).await;
    server.signal(Signal::Thaw).unwrap();
    world.until_calls().await;
    world.until_present().await;
    assert_eq!(world.record.lock().unanswered.len(), 0, "the gateway was there all the time");
    let summary = world.judge(stop, load, readers).await;
    assert_eq!(summary.unknown, 0, "no session was lost: {summary:?}");
}
