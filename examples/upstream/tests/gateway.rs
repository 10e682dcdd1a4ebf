//! The example behind a gateway, as a client sees it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

use std::net::SocketAddr;
use std::sync::Arc;

use jsonwebtoken::jwk::JwkSet;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trunkline_broker::{Broker, MemoryBroker, MemoryOptions, NodeId};
use trunkline_gateway::auth::{AuthMode, Authenticator, JwtOptions, JwtVerifier};
use trunkline_gateway::grpc::{GrpcOptions, GrpcServer};
use trunkline_gateway::upstream::{UpstreamOptions, Upstreams};
use trunkline_gateway::{Gateway, GatewayOptions};
use trunkline_proto::wire::BusinessResponse;
use trunkline_proto::{Dialect, DownBody, DownFrame};
use trunkline_session::TokenKey;
use trunkline_testkit::{DEADLINE, TestClient};
use trunkline_transport::{Accepted, Socket, StreamListener, StreamOptions};
use upstream_example::{Options, Settings, run};

struct World {
    clients: SocketAddr,
    upstreams: Arc<Upstreams>,
    _grpc: GrpcServer,
    _tasks: JoinSet<()>,
}

impl World {
    /// A gateway, and the example as the seed's scripts start it: `--addr :PORT` and a zone.
    async fn new() -> Self {
        let any = || Socket::Address("127.0.0.1:0".parse().unwrap());
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::open(MemoryOptions::new(NodeId(1))).unwrap());
        let upstreams = Upstreams::new(UpstreamOptions::default(), Arc::clone(&broker));
        let verifier = JwtVerifier::new(None, JwkSet { keys: Vec::new() }, JwtOptions::default());
        let authenticator = Authenticator::new(AuthMode::Jwt(Arc::new(verifier)), true);
        let options = GatewayOptions::new("n1", TokenKey::new([7; 32]));
        let gateway =
            Gateway::new(options, broker, authenticator, Some(Arc::clone(&upstreams))).await.unwrap();
        let grpc = trunkline_gateway::grpc::serve(&gateway, any(), GrpcOptions::new("token")).await.unwrap();
        let mut listener = StreamListener::bind(any(), StreamOptions::default()).unwrap();
        let clients = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(Accepted::Stream(stream)) = listener.accept().await {
                gateway.serve(stream.into_connection(1 << 20));
            }
        });
        let options = Options {
            addr: Some(":0".into()),
            zone: vec!["003".into()],
            gateway: Some(grpc.local_addr().to_string()),
            service: "upstream".into(),
            ..Options::default()
        };
        let settings = Settings::resolve(options, |_| None).unwrap();
        tasks.spawn(async move { run(settings, std::io::sink(), CancellationToken::new()).await.unwrap() });
        let up = upstreams.until(|all| all.iter().any(|one| one.state == "up"));
        tokio::time::timeout(DEADLINE, up).await.expect("the example registers");
        World { clients, upstreams, _grpc: grpc, _tasks: tasks }
    }

    /// Alice, whose zone is 003.
    async fn alice(&self) -> TestClient {
        let mut client = TestClient::connect_tcp(self.clients, Dialect::Protobuf).await.unwrap();
        let started = client.start_as("alice", "default-token").await.unwrap();
        assert!(started.success, "{started:?}");
        client
    }
}

fn business(frame: &DownFrame) -> &BusinessResponse {
    match &frame.body {
        DownBody::BusinessData(response) => response,
        other => panic!("no business data: {other:?}"),
    }
}

#[tokio::test]
async fn a_wildcard_address_is_registered_as_the_host_it_came_from() {
    let world = World::new().await;
    let instance = world.upstreams.snapshot().instances.remove(0);
    assert!(instance.address.starts_with("127.0.0.1:"), "{instance:?}");
    let mut alice = world.alice().await;
    let reply = alice.call("echo", "hi").await.unwrap();
    assert_eq!((business(&reply).code, &business(&reply).data[..]), (200, &b"Echo: hi"[..]));
    let unknown = alice.call("fly", "").await.unwrap();
    assert_eq!(business(&unknown).code, 404, "an upstream's own code passes through");
}

#[tokio::test]
async fn o1_before_and_after_come_in_one_frame_in_their_order() {
    let world = World::new().await;
    let mut alice = world.alice().await;
    for (action, order) in [("before", ["push", "reply"]), ("after", ["reply", "push"])] {
        let msg_id = alice.send_call(action, &[("message", "look")], "").await.unwrap();
        let group = alice.frame_where(|frame| matches!(frame.body, DownBody::Group(_))).await.unwrap();
        let DownBody::Group(frames) = group.body else { panic!("{group:?}") };
        let seen = frames.iter().map(|frame| if frame.msg_id == msg_id { "reply" } else { "push" });
        assert_eq!(seen.collect::<Vec<_>>(), order, "{action}");
        let push = frames.iter().map(business).find(|push| push.content == "look").unwrap();
        assert_eq!(push.code, 200);
        assert_eq!(push.message, format!("[{action}_test] Notify {action} response"));
    }
    alice.call_with("echo", &[("demo_unicast_openid", "alice")], "now").await.unwrap();
    let push = alice.push().await.unwrap();
    assert_eq!(business(&push).message, "[echo] Echo push");
}

#[tokio::test]
async fn a_broadcast_reaches_whoever_is_there() {
    let world = World::new().await;
    let (mut alice, mut bob) = (world.alice().await, world.alice_elsewhere().await);
    alice.call_with("broadcast", &[("message", "all hands")], "").await.unwrap();
    for client in [&mut alice, &mut bob] {
        let push = client.push().await.unwrap();
        assert_eq!(business(&push).content, "all hands");
    }
}

impl World {
    /// Alice on another device.
    async fn alice_elsewhere(&self) -> TestClient {
        let mut client = TestClient::connect_tcp(self.clients, Dialect::Protobuf).await.unwrap();
        let mut start = TestClient::start_request("alice", "default-token");
        start.device_id = "another".into();
        let started = client.start(start).await.unwrap();
        assert!(started.success, "{started:?}");
        client.prove(started.fence).await.unwrap();
        client
    }
}
