//! A gateway that dies, and one that stands still for longer than its lease, while calls and publications go on: what the
//! memory broker held is told as a gap, calls end with a reply or as unknown, nothing comes twice or is missing untold.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use trunkline_client::{Backoff, CallError, Client, Event, Options};
use trunkline_proto::wire::ServicePublishRequest;
use trunkline_testkit::checker::{End, History, Place, Seen, Summary};
use trunkline_testkit::{DEADLINE, Signal, TestServer, TestUpstream};
use trunkline_transport::chaos::{StreamFaults, TcpProxy};

use crate::common::server;
use crate::storm::paced;

const CLIENTS: u64 = 16;

/// Of publications, and of calls.
const PER_SECOND: u64 = 60;

/// Calls that have to arrive before something happens to the gateway, and again after it.
const CALLS: u64 = 60;

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
}

/// The parties: clients behind a proxy that leads to whichever gateway lives, and an upstream that outlives it.
struct World {
    proxy: TcpProxy,
    upstream: TestUpstream,
    clients: Vec<Client>,
    record: Arc<Mutex<Record>>,
}

impl World {
    async fn before(server: &TestServer) -> Self {
        let proxy = TcpProxy::start(server.ready().tcp().unwrap(), 1, StreamFaults::default()).await.unwrap();
        let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
        World { proxy, upstream, clients: Vec::new(), record: Arc::default() }
    }

    /// Connects the clients; the tasks read their events until the last.
    async fn connect(&mut self) -> JoinSet<()> {
        let mut readers = JoinSet::new();
        for number in 0..CLIENTS {
            let endpoint = format!("tcp://{}", self.proxy.address()).parse().unwrap();
            let mut options = Options::new(format!("user{number}"), "").endpoint(endpoint);
            options.backoff = Backoff { first: Duration::from_millis(5), longest: Duration::from_millis(50) };
            options.call_timeout = DEADLINE * 4;
            let client = Client::connect(options).await.unwrap();
            let at = client.subscribe(ROOM, None).await.unwrap().position;
            let after = Place { epoch: at.epoch, offset: at.offset };
            let name = format!("user{number}");
            let seen = Seen::Subscribed { client: name.clone(), channel: ROOM.into(), after };
            self.record.lock().seen.push(seen);
            readers.spawn(read(client.clone(), name, Arc::clone(&self.record)));
            self.clients.push(client);
        }
        readers
    }

    /// Calls and publications until the token is cancelled.
    fn load(self: &Arc<Self>, stop: &CancellationToken) -> JoinSet<u64> {
        let mut load = JoinSet::new();
        let this = Arc::clone(self);
        load.spawn(paced(PER_SECOND, stop.clone(), move |number| {
            let this = Arc::clone(&this);
            async move { this.publish(number.to_string()).await }
        }));
        let this = Arc::clone(self);
        load.spawn(paced(PER_SECOND, stop.clone(), move |number| {
            let this = Arc::clone(&this);
            async move { this.call(number).await }
        }));
        load
    }

    async fn publish(&self, content: String) {
        let data = content.clone().into();
        let request = ServicePublishRequest { channel: ROOM.into(), data, ..Default::default() };
        let Ok(answer) = self.upstream.gateway().publish(request).await else {
            self.record.lock().unanswered.insert(content);
            return;
        };
        let placed = answer.into_inner();
        assert!(placed.error.is_none(), "{placed:?}");
        let at = Place { epoch: placed.epoch, offset: placed.offset };
        self.record.lock().seen.push(Seen::Accepted { channel: ROOM.into(), at, content });
    }

    async fn call(&self, number: u64) {
        let client = format!("user{}", number % CLIENTS);
        let call = format!("{client}/{number}");
        self.record.lock().seen.push(Seen::Called { client, call: call.clone() });
        let making = self.clients[(number % CLIENTS) as usize].call("count").param("key", call.as_str());
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
            self.publish(LAST.into()).await;
            while let Some(done) = readers.join_next().await {
                done.unwrap();
            }
        };
        timeout(DEADLINE * 4, ended)
            .await
            .expect("a call or a publication never ends, or somebody hears nothing");
        let Record { seen, unanswered } = std::mem::take(&mut *self.record.lock());
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

    /// Waits until so many further calls have arrived.
    async fn until_calls(&self) {
        let before = self.upstream.requests().len() as u64;
        self.upstream.until_requests(before + CALLS).await.unwrap();
    }

    /// Waits until every client is a member of the channel.
    async fn until_present(&self) {
        let mut ticks = interval(Duration::from_millis(50));
        let all_are = async {
            loop {
                ticks.tick().await;
                let members = self.clients[0].presence(ROOM).await.expect("presence is allowed");
                if members.len() as u64 == CLIENTS {
                    return;
                }
            }
        };
        timeout(DEADLINE, all_are).await.expect("somebody is not present");
    }
}

/// Records what a client is told, until it hears the last.
async fn read(client: Client, user: String, record: Arc<Mutex<Record>>) {
    let mut pushes = client.pushes();
    while let Some(event) = pushes.next().await {
        let seen = match event {
            Event::Publication(publication) => {
                let at = Place { epoch: publication.position.epoch, offset: publication.position.offset };
                let content = String::from_utf8_lossy(&publication.data).into_owned();
                let is_last = content == LAST;
                let channel = publication.position.channel;
                record.lock().seen.push(Seen::Delivered { client: user.clone(), channel, at, content });
                if is_last {
                    return;
                }
                continue;
            }
            Event::Gap(gap) if gap.from.channel == ROOM => {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_under_load_tells_every_loss_and_runs_nothing_twice() {
    let data = tempfile::tempdir().unwrap();
    let node = |grpc: String| server().anonymous().data_dir(data.path()).surface("grpc", grpc);
    let mut first = node("127.0.0.1:0".into()).start().await.unwrap();
    let grpc = first.ready().grpc().unwrap();
    let mut world = World::before(&first).await;
    let readers = world.connect().await;
    let (world, stop) = (Arc::new(world), CancellationToken::new());
    let load = world.load(&stop);
    world.until_calls().await;
    first.kill().await.unwrap();
    let second = node(grpc.to_string()).start().await.unwrap();
    world.proxy.set_target(second.ready().tcp().unwrap());
    world.until_calls().await;
    let summary = world.judge(stop, load, readers).await;
    assert!(summary.gaps as u64 >= CLIENTS, "each client is told: {summary:?}");
    assert!(summary.replies as u64 > CALLS && summary.delivered > 0, "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stood_still_for_longer_than_its_lease_goes_on() {
    let server = server().anonymous().start().await.unwrap();
    let mut world = World::before(&server).await;
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
