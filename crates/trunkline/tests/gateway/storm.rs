//! A storm in small: clients are cut at random bytes again and again while pushes and calls go on at a steady rate, and
//! the history checker says whether every promise held. The full size is `./prove storm`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use trunkline_client::{Backoff, CallError, Client, ClientTls, Event, Options};
use trunkline_proto::Dialect;
use trunkline_proto::wire::PushOutcome;
use trunkline_testkit::checker::{End, History, Place, Seen, Summary};
use trunkline_testkit::{DEADLINE, TestServer, TestUpstream};
use trunkline_transport::Protocol;
use trunkline_transport::chaos::{Ending, StreamFaults, TcpProxy, UdpFaults, UdpProxy};

use crate::common::{open_server, reading, size};

/// The channel of all.
const ALL: &str = "room:storm";

/// So many pushes a second go to all clients, the others to one each, half of them as publications of a channel and half
/// as pushes to a user: 500 a second to each of 1,000 would be a test of this machine's loopback.
const TO_ALL_PER_SECOND: u64 = 10;

/// One call in so many binds a push to its reply.
const BINDING: u64 = 3;

/// What may be under way at once of pushes, and of calls: enough for a second in which everybody is cut.
const UNDER_WAY: usize = 2_000;

/// The bytes, both ways together, within which every client is cut in each round: some tens of frames.
const WITHIN: std::ops::Range<u64> = 0..2_000;

/// The time within which every client over UDP is cut in each round.
const MOMENTS: std::ops::Range<Duration> = Duration::ZERO..Duration::from_millis(500);

struct Size {
    clients: u64,
    cuts: u64,
    /// Of pushes, and of calls.
    per_second: u64,
}

impl Size {
    fn asked() -> Size {
        Size {
            clients: size("STORM_CLIENTS", 50),
            cuts: size("STORM_CUTS", 5),
            per_second: size("STORM_PER_SECOND", 200),
        }
    }

    /// For everything that all clients have to do at once.
    fn patience(&self) -> Duration {
        DEADLINE * 2 * u32::try_from(self.clients.div_ceil(200)).expect("a number of clients")
    }
}

/// One record for all parties.
type Record = Arc<Mutex<History>>;

/// The way through which every client goes.
struct Network {
    tcp: TcpProxy,
    http: TcpProxy,
    quic: UdpProxy,
    tls: ClientTls,
}

/// The clients' ways, in turn.
const WAYS: [(Protocol, Dialect); 8] = [
    (Protocol::Tcp, Dialect::Protobuf),
    (Protocol::Tls, Dialect::Protobuf),
    (Protocol::WebSocket, Dialect::Protobuf),
    (Protocol::Quic, Dialect::Protobuf),
    (Protocol::Tcp, Dialect::Json),
    (Protocol::WebSocketTls, Dialect::Json),
    (Protocol::WebSocket, Dialect::Json),
    (Protocol::WebTransport, Dialect::Json),
];

fn way(number: u64) -> (Protocol, Dialect) {
    WAYS[number as usize % WAYS.len()]
}

/// Over UDP there are no bytes to count: these clients are cut at a random moment, and datagrams are lost besides.
fn is_udp(number: u64) -> bool {
    matches!(way(number).0, Protocol::Quic | Protocol::WebTransport)
}

impl Network {
    async fn before(server: &TestServer) -> Network {
        let (tcp, http) = (server.ready().tcp().unwrap(), server.ready().http().unwrap());
        let calm = StreamFaults::default;
        Network {
            tcp: TcpProxy::start(tcp, 42, calm()).await.unwrap(),
            http: TcpProxy::start(http, 43, calm()).await.unwrap(),
            quic: UdpProxy::start(server.ready().quic().unwrap(), 44, UdpFaults::default()).await.unwrap(),
            tls: ClientTls::pinned(vec![server.ready().certificate().unwrap()]).unwrap(),
        }
    }

    fn proxies(&self) -> [&TcpProxy; 2] {
        [&self.tcp, &self.http]
    }

    fn options(&self, number: u64) -> Options {
        let (protocol, dialect) = way(number);
        let (tcp, http, quic) = (self.tcp.address(), self.http.address(), self.quic.address());
        let endpoint = match protocol {
            Protocol::Tls => format!("tls://{tcp}"),
            Protocol::WebSocket => format!("ws://{http}/ws"),
            Protocol::WebSocketTls => format!("wss://{http}/ws"),
            Protocol::Quic => format!("quic://{quic}"),
            Protocol::WebTransport => format!("wt://{quic}/"),
            _ => format!("tcp://{tcp}"),
        };
        let mut options = Options::new(user(number), "").endpoint(endpoint.parse().unwrap());
        options.dialect = dialect;
        options.tls = Some(self.tls.clone());
        options.backoff = Backoff { first: Duration::from_millis(5), longest: Duration::from_millis(50) };
        options.call_timeout = DEADLINE * 4;
        options
    }

    /// New connections die early from now on, some within START and its answer, which are about 700 bytes, or within
    /// the handshake of TLS before it. Of the datagrams one in fifty is lost.
    fn turn_bad(&self) {
        let faults =
            StreamFaults { cut_after: Some(200..12_000), ending: Ending::Reset, ..StreamFaults::default() };
        for proxy in self.proxies() {
            proxy.set_faults(faults.clone());
        }
        let jitter = Duration::from_millis(2);
        self.quic.set_faults(UdpFaults { loss: 0.02, jitter, ..UdpFaults::default() });
    }

    /// Cuts every connection that lives at a random byte from here, or a random moment, and waits until that is done.
    async fn cut_everybody(&self, clients: &Arc<[Client]>) {
        let mut cutting = JoinSet::new();
        for number in (0..clients.len()).filter(|number| is_udp(*number as u64)) {
            let clients = Arc::clone(clients);
            cutting.spawn(async move {
                tokio::time::sleep(rand::random_range(MOMENTS)).await;
                clients[number].cut().await;
            });
        }
        for proxy in self.proxies() {
            proxy.cut_all_within(WITHIN, Ending::Reset);
        }
        for proxy in self.proxies() {
            timeout(DEADLINE, proxy.until_cut()).await.expect("somebody carries no bytes to be cut at");
        }
        while let Some(cut) = cutting.join_next().await {
            cut.unwrap();
        }
    }

    fn calm_down(&self) {
        for proxy in self.proxies() {
            proxy.set_faults(StreamFaults::default());
            proxy.cut_all(Ending::Close);
        }
        self.quic.set_faults(UdpFaults::default());
    }

    fn accepted(&self) -> u64 {
        self.proxies().map(|proxy| proxy.accepted()).into_iter().sum()
    }
}

fn user(number: u64) -> String {
    format!("storm{number}")
}

/// The channel of one client.
fn own(number: u64) -> String {
    format!("room:{}", user(number))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storm_clients_cut_at_random_bytes_lose_nothing_untold() {
    let size = Size::asked();
    let (server, upstream) = open_server().await;
    let upstream = Arc::new(upstream);
    let network = Network::before(&server).await;
    let record = Record::default();
    let (clients, mut readers) = connect(&size, &network, &record).await;
    network.turn_bad();
    let users: Arc<[User]> = (0..size.clients).map(User::new).collect();
    let load = Load::begin(&size, &upstream, &clients, &users, &record);
    let begin = Instant::now();
    for _ in 0..size.cuts {
        network.cut_everybody(&clients).await;
    }
    let stormed = begin.elapsed();
    let (pushes, calls) = timeout(size.patience(), load.end()).await.expect("a push or a call never ends");
    let rate = |count: u64| format!("{:.0}", count as f64 / stormed.as_secs_f64());
    // Calm again: everybody catches up with the last publication.
    network.calm_down();
    publish(&upstream, ALL.into(), LAST.into(), &record).await;
    for number in 0..size.clients {
        publish(&upstream, own(number), LAST.into(), &record).await;
        users[number as usize].push(&upstream, LAST, &record).await;
    }
    let finished = async {
        while let Some(done) = readers.join_next().await {
            done.unwrap();
        }
    };
    timeout(size.patience(), finished).await.expect("somebody never hears the last");
    let mut history = std::mem::take(&mut *record.lock());
    for request in upstream.requests() {
        if let Some(call) = request.params.get("key") {
            history.saw(Seen::Ran { call: call.clone() });
            if request.action == "before" {
                history.saw(Seen::Bound { call: call.clone(), content: bound(call) });
            }
        }
    }
    // Whoever binds runs within its call, so nothing may keep it from that.
    assert!(upstream.outcomes().iter().all(|outcome| outcome.outcome() == PushOutcome::OutcomeBound));
    let summary =
        history.check().unwrap_or_else(|violations| panic!("{}: {violations:#?}", violations.len()));
    assert_eq!(summary.accepted as u64, pushes + 1 + 2 * size.clients);
    assert!(summary.replies > 0 && summary.delivered > 0 && summary.bound > 0, "{summary:?}");
    let over_tcp = (0..size.clients).filter(|number| !is_udp(*number)).count() as u64;
    assert!(network.accepted() > over_tcp * size.cuts, "there was no storm: {}", network.accepted());
    tell(&summary, calls, network.accepted());
    reading("pushes_per_second", rate(pushes));
    reading("calls_per_second", rate(calls));
    reading("storm_seconds", format!("{:.1}", stormed.as_secs_f64()));
}

fn tell(summary: &Summary, calls: u64, connections: u64) {
    reading("pushes", summary.accepted);
    reading("calls", calls);
    reading("delivered", summary.delivered);
    reading("told_lost", summary.told_lost);
    reading("replies", summary.replies);
    reading("unknown", summary.unknown);
    reading("bound", summary.bound);
    reading("connections", connections);
}

/// All clients, on the channel of all and on their own, and the tasks that read their events.
async fn connect(size: &Size, network: &Network, record: &Record) -> (Arc<[Client]>, JoinSet<()>) {
    let (mut clients, mut readers) = (Vec::new(), JoinSet::new());
    for number in 0..size.clients {
        let client = Client::connect(network.options(number)).await.unwrap();
        for channel in [ALL.to_owned(), own(number)] {
            let at = client.subscribe(&channel, None).await.unwrap().position;
            let after = Place { epoch: at.epoch, offset: at.offset };
            record.lock().saw(Seen::Subscribed { client: user(number), channel, after });
        }
        let after = Place { epoch: USER_EPOCH, offset: 0 };
        record.lock().saw(Seen::Subscribed { client: user(number), channel: implicit(number), after });
        readers.spawn(read(client.clone(), user(number), Arc::clone(record)));
        clients.push(client);
    }
    (clients.into(), readers)
}

/// Pushes and calls that go on, whatever becomes of the clients.
struct Load {
    stop: CancellationToken,
    pushes: JoinSet<u64>,
    calls: JoinSet<u64>,
}

impl Load {
    fn begin(
        size: &Size,
        upstream: &Arc<TestUpstream>,
        clients: &Arc<[Client]>,
        users: &Arc<[User]>,
        record: &Record,
    ) -> Load {
        let stop = CancellationToken::new();
        let (mut pushes, mut calls) = (JoinSet::new(), JoinSet::new());
        let (count, per_second) = (size.clients, size.per_second);
        let (upstream, kept, users) = (Arc::clone(upstream), Arc::clone(record), Arc::clone(users));
        pushes.spawn(paced(per_second, stop.clone(), move |number| {
            let one_of = (per_second / TO_ALL_PER_SECOND).max(1);
            let (upstream, record, users) = (Arc::clone(&upstream), Arc::clone(&kept), Arc::clone(&users));
            async move {
                let (target, content) = (number / 2 % count, number.to_string());
                match number % 2 {
                    _ if number % one_of == 0 => publish(&upstream, ALL.to_owned(), content, &record).await,
                    0 => publish(&upstream, own(target), content, &record).await,
                    _ => users[target as usize].push(&upstream, &content, &record).await,
                }
            }
        }));
        let (clients, kept) = (Arc::clone(clients), Arc::clone(record));
        calls.spawn(paced(per_second, stop.clone(), move |number| {
            // Another order than that of the pushes, in which everybody comes up as well.
            let client = number.wrapping_mul(7_919) % count;
            call(clients[client as usize].clone(), user(client), number, Arc::clone(&kept))
        }));
        Load { stop, pushes, calls }
    }

    /// Waits for what is under way; how many pushes and calls there were.
    async fn end(mut self) -> (u64, u64) {
        self.stop.cancel();
        let pushes = self.pushes.join_next().await.unwrap().unwrap();
        let calls = self.calls.join_next().await.unwrap().unwrap();
        (pushes, calls)
    }
}

/// Begins something so many times a second, and makes up for ticks that came late; how often it has.
pub(crate) async fn paced<F>(
    per_second: u64,
    stop: CancellationToken,
    make: impl Fn(u64) -> F + Send + 'static,
) -> u64
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(per_second).expect("a rate"));
    let mut under_way = JoinSet::new();
    let mut begun = 0;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            done = under_way.join_next(), if under_way.len() >= UNDER_WAY => done.unwrap().unwrap(),
            _ = ticks.tick(), if under_way.len() < UNDER_WAY => {
                under_way.spawn(make(begun));
                begun += 1;
                while let Some(done) = under_way.try_join_next() {
                    done.unwrap();
                }
            }
        }
    }
    while let Some(done) = under_way.join_next().await {
        done.unwrap();
    }
    begun
}

/// A user that services push to. A push is answered without its place, so the pushes of a user are made one after the
/// other, and their number is the place: the record of them is in the order in which they were accepted.
struct User {
    name: String,
    channel: String,
    turn: Semaphore,
    pushed: AtomicU64,
}

/// The one epoch of those numbers.
const USER_EPOCH: u64 = 1;

impl User {
    fn new(number: u64) -> User {
        let (name, channel) = (user(number), implicit(number));
        User { name, channel, turn: Semaphore::new(1), pushed: AtomicU64::new(0) }
    }

    async fn push(&self, upstream: &TestUpstream, content: &str, record: &Record) {
        let _turn = self.turn.acquire().await.unwrap();
        let offset = self.pushed.fetch_add(1, Relaxed) + 1;
        let content = format!("{offset} {content}");
        let accepted = upstream.push_to_user(&self.name, &content).await.unwrap();
        assert!(accepted.success, "{}: {accepted:?}", self.name);
        let at = Place { epoch: USER_EPOCH, offset };
        record.lock().saw(Seen::Accepted { channel: self.channel.clone(), at, content });
    }
}

/// The channel of what is pushed to one user.
fn implicit(number: u64) -> String {
    format!("user:{}", user(number))
}

/// What ends everything.
const LAST: &str = "last";

/// What the service binds to this call's reply.
fn bound(call: &str) -> String {
    format!("bound to {call}")
}

/// Publishes as a service and records the place.
async fn publish(upstream: &TestUpstream, channel: String, content: String, record: &Record) {
    let request = trunkline_proto::wire::ServicePublishRequest {
        channel: channel.clone(),
        data: content.clone().into(),
        ..Default::default()
    };
    let placed = upstream.gateway().publish(request).await.unwrap().into_inner();
    assert!(placed.error.is_none(), "{placed:?}");
    let at = Place { epoch: placed.epoch, offset: placed.offset };
    record.lock().saw(Seen::Accepted { channel, at, content });
}

async fn call(client: Client, user: String, number: u64, record: Record) {
    let call = format!("{user}/{number}");
    record.lock().saw(Seen::Called { client: user.clone(), call: call.clone() });
    let binds = number.is_multiple_of(BINDING);
    let making =
        if binds { client.call("before").param("titles", bound(&call)) } else { client.call("count") };
    let end = match making.param("key", call.as_str()).timeout(DEADLINE * 4).send().await {
        Ok(reply) => {
            assert!(binds || reply.data == "1", "{call} ran more than once");
            let given = reply.before.into_iter().map(|push| push.title);
            for content in given {
                record.lock().saw(Seen::GivenBound { client: user.clone(), content });
            }
            End::Reply
        }
        Err(CallError::ResultUnknown(_)) => End::Unknown,
        Err(other) => panic!("{call}: {other}"),
    };
    record.lock().saw(Seen::Ended { call, end });
}

/// Records what a client is told, until it hears the last of both channels and of what is pushed to its user.
async fn read(client: Client, user: String, record: Record) {
    let mut pushes = client.pushes();
    let mut lasts = 0;
    while let Some(event) = pushes.next().await {
        let mut record = record.lock();
        match event {
            Event::Publication(publication) => {
                let at = Place { epoch: publication.position.epoch, offset: publication.position.offset };
                let content = String::from_utf8_lossy(&publication.data).into_owned();
                lasts += usize::from(content == LAST);
                let channel = publication.position.channel;
                record.saw(Seen::Delivered { client: user.clone(), channel, at, content });
            }
            Event::Push(push) => {
                let number = push.title.split(' ').next().and_then(|number| number.parse().ok());
                let at = Place { epoch: USER_EPOCH, offset: number.expect("only users are pushed to") };
                lasts += usize::from(push.title.ends_with(LAST));
                let channel = push.position.expect("a place").channel;
                record.saw(Seen::Delivered { client: user.clone(), channel, at, content: push.title });
            }
            Event::Gap(gap) if gap.from.channel.starts_with("user:") => {
                panic!("{user}: its history keeps more than all that is pushed: {gap:?}")
            }
            Event::Gap(gap) if gap.from.channel.starts_with("room:") => {
                let after = Place { epoch: gap.from.epoch, offset: gap.from.offset };
                let next = gap.next.map(|next| Place { epoch: next.epoch, offset: next.offset });
                record.saw(Seen::Gap { client: user.clone(), channel: gap.from.channel, after, next });
            }
            Event::Closed(closed) => panic!("{user} was closed: {closed}"),
            Event::Left { channel, error } => panic!("{user} was put off {channel}: {error:?}"),
            _ => {}
        }
        if lasts == 3 {
            return;
        }
    }
    panic!("{user}'s events have ended");
}
