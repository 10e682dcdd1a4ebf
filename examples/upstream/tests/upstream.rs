//! The example as a process would run it, against the gateway's own router behind a small `GatewayService`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};
use trunkline_broker::names::NodeId;
use trunkline_broker::{MemoryBroker, MemoryOptions};
use trunkline_gateway::upstream::{ClientCertificate, Peer, PeerPolicy, UpstreamOptions, Upstreams};
use trunkline_proto::wire;
use trunkline_proto::wire::gateway_service_server::{GatewayService, GatewayServiceServer};
use trunkline_service::{Call, Caller, Reply, Service, SessionEvent};
use upstream_example::{Actions, Options, Settings, check_health, run};

const PATIENCE: Duration = Duration::from_secs(60);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// What the example says, and a way to wait for it.
#[derive(Clone)]
struct Said(Arc<watch::Sender<String>>);

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_modify(|text| text.push_str(&String::from_utf8_lossy(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Said {
    async fn until(&self, what: &str) -> String {
        let mut listening = self.0.subscribe();
        within(what, listening.wait_for(|text| text.contains(what))).await.unwrap().clone()
    }
}

/// The part of `GatewayService` that the example uses.
struct Gate {
    router: Arc<Upstreams>,
    pushes: Arc<Mutex<Vec<wire::UnicastPushRequest>>>,
    broadcasts: Arc<Mutex<Vec<wire::BroadcastRequest>>>,
    policy: PeerPolicy,
}

impl Gate {
    fn peer<T>(&self, request: &Request<T>) -> Result<IpAddr, tonic::Status> {
        let peer = request.remote_addr().unwrap();
        let authorization = request.metadata().get("authorization").map(|value| value.to_str().unwrap());
        self.policy
            .check(Peer::Tcp(peer), ClientCertificate::Absent, authorization)
            .map_err(|refusal| tonic::Status::unauthenticated(refusal.to_string()))?;
        Ok(peer.ip())
    }
}

#[tonic::async_trait]
impl GatewayService for Gate {
    async fn register_upstream(
        &self,
        request: Request<wire::UpstreamRegisterRequest>,
    ) -> Result<Response<wire::UpstreamRegisterResponse>, tonic::Status> {
        let peer = self.peer(&request)?;
        Ok(self.router.register_from(request.into_inner(), Some(peer)).await.into())
    }

    async fn deregister_upstream(
        &self,
        request: Request<wire::UpstreamDeregisterRequest>,
    ) -> Result<Response<wire::UpstreamRegisterResponse>, tonic::Status> {
        let peer = self.peer(&request)?;
        Ok(self.router.deregister_from(request.into_inner(), Some(peer)).await.into())
    }

    async fn push_to_client(
        &self,
        request: Request<wire::UnicastPushRequest>,
    ) -> Result<Response<wire::UnicastPushResponse>, tonic::Status> {
        let push = request.into_inner();
        let outcome = match push.sync_hint() {
            wire::NotifySyncHint::NshImmediately => wire::PushOutcome::OutcomeDelivered,
            _ => wire::PushOutcome::OutcomeBound,
        };
        self.pushes.lock().push(push);
        let response =
            wire::UnicastPushResponse { success: true, outcome: outcome.into(), ..Default::default() };
        Ok(response.into())
    }

    async fn broadcast_to_clients(
        &self,
        request: Request<wire::BroadcastRequest>,
    ) -> Result<Response<wire::BroadcastResponse>, tonic::Status> {
        self.broadcasts.lock().push(request.into_inner());
        Ok(wire::BroadcastResponse { sent_count: 3, message: "ok".into() }.into())
    }

    async fn push_batch(
        &self,
        _: Request<wire::PushBatchRequest>,
    ) -> Result<Response<wire::PushBatchResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("not used here"))
    }

    async fn publish(
        &self,
        _: Request<wire::ServicePublishRequest>,
    ) -> Result<Response<wire::ChannelResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("not used here"))
    }

    async fn subscribe(
        &self,
        _: Request<wire::MembershipRequest>,
    ) -> Result<Response<wire::MembershipResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("not used here"))
    }

    async fn unsubscribe(
        &self,
        _: Request<wire::MembershipRequest>,
    ) -> Result<Response<wire::MembershipResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("not used here"))
    }

    async fn presence(
        &self,
        _: Request<wire::ChannelRequest>,
    ) -> Result<Response<wire::ChannelResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("not used here"))
    }

    async fn disconnect(
        &self,
        _: Request<wire::DisconnectRequest>,
    ) -> Result<Response<wire::MembershipResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("not used here"))
    }
}

/// A gateway's gRPC side, and the example beside it.
struct Bench {
    router: Arc<Upstreams>,
    pushes: Arc<Mutex<Vec<wire::UnicastPushRequest>>>,
    broadcasts: Arc<Mutex<Vec<wire::BroadcastRequest>>>,
    gateway: SocketAddr,
    listener: Option<TcpListener>,
    tasks: JoinSet<()>,
}

impl Bench {
    async fn new() -> Self {
        let broker = MemoryBroker::open(MemoryOptions::new(NodeId(1))).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Bench {
            router: Upstreams::new(UpstreamOptions::default(), Arc::new(broker)),
            pushes: Arc::default(),
            broadcasts: Arc::default(),
            gateway: listener.local_addr().unwrap(),
            listener: Some(listener),
            tasks: JoinSet::new(),
        }
    }

    fn serve(&mut self) {
        let gate = Gate {
            router: self.router.clone(),
            pushes: self.pushes.clone(),
            broadcasts: self.broadcasts.clone(),
            policy: PeerPolicy::new("right"),
        };
        let incoming = TcpListenerStream::new(self.listener.take().unwrap());
        let server = tonic::transport::Server::builder().add_service(GatewayServiceServer::new(gate));
        self.tasks.spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
    }

    /// Runs the example; answers what it says and what stops it.
    fn example(&mut self, options: Options) -> (Said, CancellationToken) {
        let options = Options {
            addr: Some("127.0.0.1:0".into()),
            gateway: Some(self.gateway.to_string()),
            service: "upstream".into(),
            ..options
        };
        let settings = Settings::resolve(options, |_| None).unwrap();
        let (said, stop) = (Said(Arc::new(watch::Sender::new(String::new()))), CancellationToken::new());
        let running = run(settings, said.clone(), stop.clone());
        self.tasks.spawn(async move { running.await.unwrap() });
        (said, stop)
    }

    async fn call(&self, action: &str, params: &[(&str, &str)]) -> Reply {
        let call = Call {
            action: action.into(),
            params: params.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            data: "body".into(),
            client_seq: 7,
            ..Call::default()
        };
        within(action, self.router.call(&alice(), call)).await.unwrap()
    }
}

fn alice() -> Caller {
    Caller { user: "alice".into(), session: "s1".into(), ..Caller::default() }
}

fn text(reply: &Reply) -> String {
    String::from_utf8(reply.data.to_vec()).unwrap()
}

#[tokio::test]
async fn it_registers_for_all_zones_and_answers_every_action_of_the_seed() {
    let mut bench = Bench::new().await;
    bench.serve();
    let (said, _stop) = bench.example(Options::default());
    said.until("registered with").await;
    let hello = bench.call("hello", &[("name", "Ada")]).await;
    assert_eq!((hello.code, text(&hello).as_str()), (200, "Hello, Ada! Users here: 1"));
    assert_eq!((hello.headers["gid"].as_str(), hello.headers["zone"].as_str()), ("alice", "1"));
    let list = bench.call("user_list", &[]).await;
    assert_eq!(list.headers["user_count"], "1");
    assert!(text(&list).contains("OpenID: alice, since 20"), "{}", text(&list));
    assert_eq!(text(&bench.call("echo", &[]).await), "Echo: body");
    assert!(bench.call("time", &[]).await.headers["unix"].parse::<u64>().unwrap() > 1_700_000_000);
    let sum = bench.call("calculate", &[("operation", "multiply"), ("a", "6"), ("b", "7")]).await;
    assert_eq!((text(&sum).as_str(), sum.headers["result"].as_str()), ("6 * 7 = 42", "42"));
    assert!(text(&bench.call("status", &[]).await).contains("status: healthy"));
    let broadcast = bench.call("broadcast", &[("message", "all hands")]).await;
    assert_eq!(broadcast.headers["user_count"], "3");
    assert_eq!(bench.broadcasts.lock()[0].content, "all hands");
    assert_eq!(text(&bench.call("logout", &[]).await), "Good-bye. Users here: 0");
    assert_eq!(bench.call("fly", &[]).await.code, 404);
    assert!(bench.router.is_idempotent("echo") && !bench.router.is_idempotent("hello"));
}

#[tokio::test]
async fn before_and_after_push_from_inside_the_call_and_echo_at_once() {
    let mut bench = Bench::new().await;
    bench.serve();
    let (said, _stop) = bench.example(Options::default());
    said.until("registered with").await;
    for (action, hint) in [
        ("before", wire::NotifySyncHint::NshBeforeResponse),
        ("after", wire::NotifySyncHint::NshAfterResponse),
    ] {
        let reply = bench.call(action, &[("message", "look")]).await;
        assert_eq!(reply.headers["notify"], "bound");
        let push = bench.pushes.lock().pop().unwrap();
        assert_eq!((push.target_type.as_str(), push.target_id.as_str()), ("session", "s1"));
        assert_eq!((push.sync_hint(), push.bind_client_seq_id), (hint, 7));
        assert_eq!(push.content, "look");
    }
    let reply = bench.call("echo", &[("demo_unicast_gid", "g1")]).await;
    assert_eq!(reply.headers["notify"], "delivered");
    let push = bench.pushes.lock().pop().unwrap();
    assert_eq!(
        (push.target_type.as_str(), push.target_id.as_str(), push.bind_client_seq_id),
        ("gid", "g1", 0)
    );
}

#[tokio::test]
async fn a_user_whose_session_ends_is_no_longer_here() {
    let mut bench = Bench::new().await;
    bench.serve();
    let (said, _stop) = bench.example(Options::default());
    said.until("registered with").await;
    bench.call("hello", &[]).await;
    bench.router.session_events(&alice(), SessionEvent::Ended(0));
    let gone = async {
        while bench.call("user_list", &[]).await.headers["user_count"] != "0" {
            tokio::task::yield_now().await;
        }
    };
    within("alice's leaving", gone).await;
}

#[tokio::test]
async fn it_waits_for_a_gateway_that_is_away_and_leaves_in_order() {
    let mut bench = Bench::new().await;
    // Somebody listens there who is no gateway yet.
    let listener = bench.listener.take().unwrap();
    let (come, mut coming) = tokio::sync::oneshot::channel::<()>();
    let mut door = JoinSet::new();
    door.spawn(async move {
        loop {
            tokio::select! {
                biased;
                _ = &mut coming => return listener,
                accepted = listener.accept() => drop(accepted),
            }
        }
    });
    let zones = Options { zone: vec!["001".into(), "003".into()], ..Options::default() };
    let (said, stop) = bench.example(zones);
    said.until("does not answer; trying again").await;
    come.send(()).unwrap();
    bench.listener = door.join_next().await.map(Result::unwrap);
    bench.serve();
    said.until("registered with").await;
    let zones: Vec<String> = bench.router.snapshot().instances.into_iter().map(|one| one.zone).collect();
    assert_eq!(zones, ["001", "003"]);
    assert_eq!(text(&bench.call("echo", &[]).await), "Echo: body");
    stop.cancel();
    said.until("upstream: stops").await;
    within("its deregistration", bench.router.until(<[_]>::is_empty)).await;
}

#[tokio::test]
async fn hello_tells_the_zone_that_is_served() {
    for (zones, told) in [(vec!["003"], "3"), (vec!["001", "003"], "1"), (vec!["*"], "1")] {
        let zones: Vec<String> = zones.into_iter().map(str::to_owned).collect();
        let call = Call { action: "hello".into(), ..Call::default() };
        let reply = Actions::of_zones(&zones).call(&alice(), call).await.unwrap();
        assert_eq!(reply.headers["zone"], told, "{zones:?}");
    }
}

#[tokio::test]
async fn a_wrong_token_is_told() {
    let mut bench = Bench::new().await;
    bench.serve();
    let (said, _stop) = bench.example(Options { token: Some("wrong".into()), ..Options::default() });
    let text = said.until("refuses the registration").await;
    assert!(text.contains("keys/upstream.token"), "{text}");
    let (said, _stop) = bench.example(Options { token: Some("right".into()), ..Options::default() });
    said.until("registered with").await;
}

#[tokio::test]
async fn its_health_page_is_1000_above_its_port() {
    let mut bench = Bench::new().await;
    bench.serve();
    // The port 1000 above a free one may be taken: then there is no page, and another port is tried.
    for _ in 0..20 {
        let (said, stop) = bench.example(Options::default());
        let text = said.until("health").await;
        if !text.contains("/health\n") {
            stop.cancel();
            continue;
        }
        let (_, after) = text.split_once("listens on 127.0.0.1:").unwrap();
        let port: u16 = after.split(',').next().unwrap().parse().unwrap();
        check_health(port).await.unwrap();
        stop.cancel();
        said.until("upstream: stops").await;
        return;
    }
    panic!("no free pair of ports in 20 tries");
}

#[tokio::test]
async fn a_health_check_of_nobody_fails() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = check_health(free - 1_000).await.unwrap_err();
    assert!(format!("{error:#}").contains("no upstream answers"), "{error:#}");
}
