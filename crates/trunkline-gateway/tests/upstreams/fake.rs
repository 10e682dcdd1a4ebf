//! Fake upstreams on a network in memory, so that time can be paused, or on TCP; and the bench around them.
//!
//! What an instance does is switched while it runs; what it saw is kept.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::Service as TowerService;
use tonic::{Request, Response};
use trunkline_broker::names::NodeId;
use trunkline_broker::{Broker, MemoryBroker, MemoryOptions};
use trunkline_gateway::upstream::{
    Address, Dial, InstanceSnapshot, Registration, Stream, UpstreamOptions, Upstreams,
};
use trunkline_gateway::zone::ZoneMap;
use trunkline_proto::wire;
use trunkline_proto::wire::upstream_service_server::{UpstreamService, UpstreamServiceServer};
use trunkline_service::{Call, Caller, Reply, Status};

/// Alice is in zone 003, by the seed's hash.
pub(crate) const ALICE: &str = "alice";

/// How long anything in a test may take; virtual where time is paused.
const PATIENCE: Duration = Duration::from_secs(120);

/// Fails the test when the future does not end.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// What an instance does with calls.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mode {
    /// 200, with the instance's address as data.
    Good,
    /// Never answers calls; answers probes.
    Hang,
    /// Answers nothing at all.
    Silent,
    /// Good, but late.
    Slow(Duration),
    /// Every second call is INTERNAL.
    HalfFail,
    /// Every call ends with this gRPC status.
    Fail(tonic::Code),
    /// This code of its own.
    Code(i32),
    /// So many bytes.
    Large(usize),
    /// A reply with these pushes.
    Notify(Vec<wire::UnicastPushRequest>),
}

/// What `GetStatus` says.
#[derive(Debug, Clone)]
pub(crate) enum Health {
    Says(&'static str),
    Unimplemented,
}

/// One instance's switches and memory.
pub(crate) struct Fake {
    pub(crate) address: String,
    pub(crate) mode: Mutex<Mode>,
    pub(crate) health: Mutex<Health>,
    pub(crate) seen: Mutex<Seen>,
    /// Rises with every change of `seen`.
    pub(crate) changed: watch::Sender<u64>,
    /// Answers of the hooks.
    pub(crate) auth: Mutex<Result<wire::AuthenticateResponse, tonic::Status>>,
    pub(crate) authorize: Mutex<Result<wire::AuthorizeResponse, tonic::Status>>,
    /// How many of the next event batches are refused.
    pub(crate) refuse_events: Mutex<u32>,
    /// Requests that a new connection lets run at once.
    pub(crate) streams: Mutex<u32>,
    life: Mutex<JoinSet<()>>,
}

/// What an instance saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) calls: Vec<wire::UpstreamRequest>,
    pub(crate) timeouts: Vec<String>,
    pub(crate) running: u32,
    pub(crate) most_running: u32,
    pub(crate) connections: u32,
    pub(crate) auths: u32,
    pub(crate) authorizes: u32,
    pub(crate) events: Vec<wire::SessionEvent>,
    pub(crate) batches: u32,
}

impl Fake {
    pub(crate) fn new(address: &str) -> Arc<Self> {
        Arc::new(Fake {
            address: address.to_owned(),
            mode: Mutex::new(Mode::Good),
            health: Mutex::new(Health::Says("healthy")),
            seen: Mutex::default(),
            changed: watch::Sender::new(0),
            auth: Mutex::new(Err(tonic::Status::unimplemented("no auth"))),
            authorize: Mutex::new(Err(tonic::Status::unimplemented("no authorize"))),
            refuse_events: Mutex::new(0),
            streams: Mutex::new(200),
            life: Mutex::new(JoinSet::new()),
        })
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock() = mode;
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.lock().calls.len()
    }

    pub(crate) fn see(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock());
        self.changed.send_modify(|count| *count += 1);
    }

    /// Waits until it has seen this.
    pub(crate) async fn until(&self, wanted: impl Fn(&Seen) -> bool) {
        let mut changed = self.changed.subscribe();
        let seen = async {
            while !wanted(&self.seen.lock()) {
                changed.changed().await.expect("the fake lives");
            }
        };
        within("the fake upstream sees it", seen).await;
    }

    /// Ends every connection and every call at once, as a killed process does.
    pub(crate) fn kill(&self) {
        self.life.lock().abort_all();
    }

    /// Serves one connection as the upstream.
    pub(crate) fn accept(self: &Arc<Self>, stream: impl Stream + 'static) {
        self.see(|seen| seen.connections += 1);
        let service = UpstreamServiceServer::new(Instance(self.clone()));
        serve(&mut self.life.lock(), stream, service, *self.streams.lock());
    }

    /// Listens on TCP until killed; answers the address.
    pub(crate) async fn listen_tcp() -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Fake::new(&listener.local_addr().unwrap().to_string());
        let accepting = fake.clone();
        fake.life.lock().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.accept(stream);
            }
        });
        fake
    }
}

/// Serves a gRPC service on one connection with so many streams, within `life`.
pub(crate) fn serve<S>(life: &mut JoinSet<()>, stream: impl Stream + 'static, service: S, streams: u32)
where
    S: TowerService<http::Request<hyper::body::Incoming>, Response = http::Response<Body>> + Clone,
    S: Send + 'static,
    S::Error: std::error::Error + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(streams)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    life.spawn(async move {
        // A broken connection is what some tests want.
        let _ended = connection.await;
    });
}

struct Instance(Arc<Fake>);

/// Counts a call as running, also when it is cancelled.
struct Running<'a>(&'a Fake);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.see(|seen| seen.running -= 1);
    }
}

impl Instance {
    async fn silence(&self) {
        if *self.0.mode.lock() == Mode::Silent {
            std::future::pending::<()>().await;
        }
    }
}

#[tonic::async_trait]
impl UpstreamService for Instance {
    async fn process_request(
        &self,
        request: Request<wire::UpstreamRequest>,
    ) -> Result<Response<wire::UpstreamResponse>, tonic::Status> {
        let fake = &self.0;
        let timeout = request.metadata().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
        let call = request.into_inner();
        fake.see(|seen| {
            seen.calls.push(call);
            seen.timeouts.extend(timeout);
            seen.running += 1;
            seen.most_running = seen.most_running.max(seen.running);
        });
        let _running = Running(fake);
        let good = wire::UpstreamResponse {
            code: 200,
            message: "ok".into(),
            data: fake.address.clone().into(),
            ..Default::default()
        };
        let mode = fake.mode.lock().clone();
        match mode {
            Mode::Good => Ok(good.into()),
            Mode::Hang | Mode::Silent => std::future::pending().await,
            Mode::Slow(by) => {
                tokio::time::sleep(by).await;
                Ok(good.into())
            }
            Mode::HalfFail if fake.calls().is_multiple_of(2) => Ok(good.into()),
            Mode::HalfFail => Err(tonic::Status::internal("half")),
            Mode::Fail(code) => Err(tonic::Status::new(code, "as told")),
            Mode::Code(code) => Ok(wire::UpstreamResponse { code, ..good }.into()),
            Mode::Large(bytes) => Ok(wire::UpstreamResponse { data: vec![7; bytes].into(), ..good }.into()),
            Mode::Notify(notifies) => Ok(wire::UpstreamResponse { notifies, ..good }.into()),
        }
    }

    async fn get_status(
        &self,
        _request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, tonic::Status> {
        self.silence().await;
        match self.0.health.lock().clone() {
            Health::Says(status) => {
                Ok(wire::StatusResponse { status: status.to_owned(), ..Default::default() }.into())
            }
            Health::Unimplemented => Err(tonic::Status::unimplemented("no such method")),
        }
    }

    async fn authenticate(
        &self,
        _request: Request<wire::AuthenticateRequest>,
    ) -> Result<Response<wire::AuthenticateResponse>, tonic::Status> {
        self.0.see(|seen| seen.auths += 1);
        self.silence().await;
        self.0.auth.lock().clone().map(Response::new)
    }

    async fn authorize(
        &self,
        _request: Request<wire::AuthorizeRequest>,
    ) -> Result<Response<wire::AuthorizeResponse>, tonic::Status> {
        self.0.see(|seen| seen.authorizes += 1);
        self.silence().await;
        self.0.authorize.lock().clone().map(Response::new)
    }

    async fn session_events(
        &self,
        request: Request<wire::SessionEventsRequest>,
    ) -> Result<Response<wire::SessionEventsResponse>, tonic::Status> {
        {
            let mut refuse = self.0.refuse_events.lock();
            if *refuse > 0 {
                *refuse -= 1;
                return Err(tonic::Status::unavailable("not now"));
            }
        }
        self.0.see(|seen| {
            seen.batches += 1;
            seen.events.extend(request.into_inner().events);
        });
        Ok(wire::SessionEventsResponse {}.into())
    }
}

/// A network in memory: addresses and whoever listens there.
#[derive(Default, Clone)]
pub(crate) struct Net(Arc<Mutex<HashMap<String, Arc<Fake>>>>);

impl Net {
    pub(crate) fn listen(&self, fake: &Arc<Fake>) {
        self.0.lock().insert(fake.address.clone(), fake.clone());
    }

    pub(crate) fn deafen(&self, fake: &Fake) {
        self.0.lock().remove(&fake.address);
    }
}

#[async_trait]
impl Dial for Net {
    async fn dial(&self, address: &Address) -> io::Result<Box<dyn Stream>> {
        let fake = self.0.lock().get(address.as_str()).cloned();
        let fake = fake.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (ours, theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(64 * 1024);
        fake.accept(theirs);
        Ok(Box::new(ours))
    }
}

/// A router with its network and broker.
pub(crate) struct Bench {
    pub(crate) net: Net,
    pub(crate) broker: Arc<MemoryBroker>,
    pub(crate) router: Arc<Upstreams>,
}

impl Bench {
    pub(crate) fn new(change: impl FnOnce(&mut UpstreamOptions)) -> Self {
        let broker = MemoryBroker::open(MemoryOptions::new(NodeId(1))).unwrap();
        Bench::on(Net::default(), Arc::new(broker), change)
    }

    pub(crate) fn on(net: Net, broker: Arc<MemoryBroker>, change: impl FnOnce(&mut UpstreamOptions)) -> Self {
        let mut options = UpstreamOptions::default();
        change(&mut options);
        let dynamic: Arc<dyn Broker> = broker.clone();
        let router = Upstreams::with_dial(options, dynamic, Arc::new(net.clone()));
        Bench { net, broker, router }
    }

    /// Instances that listen and are registered, `u1:1`, `u2:1` and so on, in service.
    pub(crate) async fn fakes(&self, count: usize, zone: &str) -> Vec<Arc<Fake>> {
        let mut fakes = Vec::new();
        for at in 1..=count {
            let fake = Fake::new(&format!("u{at}:1"));
            self.net.listen(&fake);
            self.register(registration(&fake.address, zone)).await;
            fakes.push(fake);
        }
        self.until_states(&vec!["up"; count]).await;
        fakes
    }

    pub(crate) async fn register(&self, request: wire::UpstreamRegisterRequest) {
        let response = self.router.register(request).await;
        assert!(response.success, "{response:?}");
    }

    /// Waits until the instances are in these states, in the order of the snapshot.
    pub(crate) async fn until_states(&self, states: &[&str]) {
        let wanted =
            |instances: &[InstanceSnapshot]| instances.iter().map(|one| one.state).eq(states.iter().copied());
        within(&format!("states {states:?}"), self.router.until(wanted)).await;
    }

    pub(crate) async fn until_state(&self, address: &str, state: &str) {
        let wanted = |instances: &[InstanceSnapshot]| {
            instances.iter().any(|one| one.address == address && one.state == state)
        };
        within(&format!("{address} {state}"), self.router.until(wanted)).await;
    }

    /// A call by alice.
    pub(crate) async fn call(&self, action: &str) -> Result<Reply, Status> {
        within("the call's end", self.router.call(&caller(), call(action))).await
    }

    /// Which instance answers alice.
    pub(crate) async fn who(&self, action: &str) -> String {
        let reply = self.call(action).await.unwrap_or_else(|status| panic!("{action}: {status}"));
        String::from_utf8(reply.data.to_vec()).unwrap()
    }
}

pub(crate) fn caller() -> Caller {
    Caller { user: ALICE.into(), session: "s1".into(), fence: 7, ..Caller::default() }
}

pub(crate) fn call(action: &str) -> Call {
    Call { action: action.into(), client_seq: 1, ..Call::default() }
}

/// What an upstream says of itself.
pub(crate) fn registration(address: &str, zone: &str) -> wire::UpstreamRegisterRequest {
    wire::UpstreamRegisterRequest {
        address: address.into(),
        zone_id: zone.into(),
        service_name: "game".into(),
        idempotent_actions: vec!["get*".into()],
        ..Default::default()
    }
}

/// The same, as a static upstream.
pub(crate) fn fixed(request: &wire::UpstreamRegisterRequest) -> Registration {
    Registration::parse(request, &ZoneMap::default()).unwrap()
}
