//! One body for both forms: the rooms in the gateway's process, and behind gRPC in what could be another.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

use std::net::SocketAddr;
use std::sync::Arc;

use custom_service::{Rooms, SERVICE, serve};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{EncodingKey, Header};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trunkline_broker::{Broker, MemoryBroker, MemoryOptions, NodeId};
use trunkline_gateway::auth::{AuthMode, Authenticator, JwtOptions, JwtVerifier};
use trunkline_gateway::grpc::{GrpcOptions, GrpcServer};
use trunkline_gateway::upstream::{Route, UpstreamOptions, Upstreams};
use trunkline_gateway::{Gateway, GatewayOptions};
use trunkline_proto::wire::{BusinessResponse, StartRequest};
use trunkline_proto::{Dialect, DownBody, DownFrame, ErrorCode};
use trunkline_service::grpc::GatewayAddress;
use trunkline_session::TokenKey;
use trunkline_testkit::{DEADLINE, TestClient};
use trunkline_transport::{Accepted, Socket, StreamListener, StreamOptions};

const SECRET: &[u8] = b"a key of thirty-two bytes or more";

/// A gateway with the rooms, in one of the two forms.
struct World {
    clients: SocketAddr,
    _grpc: GrpcServer,
    _tasks: JoinSet<()>,
}

/// How the rooms run.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    InTheProcess,
    BehindGrpc,
}

impl World {
    async fn new(form: Form) -> Self {
        let any = || Socket::Address("127.0.0.1:0".parse().unwrap());
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::open(MemoryOptions::new(NodeId(1))).unwrap());
        let routes = vec![Route { prefix: "room.".into(), service: SERVICE.into() }];
        let upstreams =
            Upstreams::new(UpstreamOptions { routes, ..UpstreamOptions::default() }, Arc::clone(&broker));
        let keys = JwkSet { keys: Vec::new() };
        let verifier = JwtVerifier::new(Some(SECRET), keys, JwtOptions::default());
        let authenticator = Authenticator::new(AuthMode::Jwt(Arc::new(verifier)), false);
        let options = GatewayOptions::new("n1", TokenKey::new([7; 32]));
        let gateway =
            Gateway::new(options, broker, authenticator, Some(Arc::clone(&upstreams))).await.unwrap();
        let grpc = trunkline_gateway::grpc::serve(&gateway, any(), GrpcOptions::new("token")).await.unwrap();
        let mut listener = StreamListener::bind(any(), StreamOptions::default()).unwrap();
        let clients = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let serving = gateway.clone();
        tasks.spawn(async move {
            while let Some(Accepted::Stream(stream)) = listener.accept().await {
                serving.serve(stream.into_connection(1 << 20));
            }
        });
        match form {
            Form::InTheProcess => gateway.mount(Arc::new(Rooms::default())),
            Form::BehindGrpc => {
                let address = GatewayAddress::new(&grpc.local_addr().to_string(), None).unwrap();
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tasks.spawn(async move {
                    let rooms = Arc::new(Rooms::default());
                    serve(rooms, listener, &address, |_| {}, CancellationToken::new()).await.unwrap();
                });
                let ready = upstreams.until(|all| all.iter().any(|one| one.state == "up"));
                tokio::time::timeout(DEADLINE, ready).await.expect("the rooms register");
            }
        }
        World { clients, _grpc: grpc, _tasks: tasks }
    }

    async fn client(&self, user: &str, role: &str) -> TestClient {
        let mut client = TestClient::connect_tcp(self.clients, Dialect::Protobuf).await.unwrap();
        let started = client.start_as(user, &token(user, role)).await.unwrap();
        assert!(started.success, "{started:?}");
        client
    }
}

fn token(user: &str, role: &str) -> String {
    let claims = serde_json::json!({ "sub": user, "exp": 4_000_000_000_u64, "tl": { "role": role } });
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

fn business(frame: &DownFrame) -> &BusinessResponse {
    match &frame.body {
        DownBody::BusinessData(response) => response,
        other => panic!("no business data: {other:?}"),
    }
}

/// The reply's text.
async fn ask(client: &mut TestClient, action: &str, params: &[(&str, &str)], data: &'static str) -> String {
    let frame = client.call_with(action, params, data).await.unwrap();
    assert_eq!(business(&frame).code, 200, "{action}: {frame:?}");
    String::from_utf8(business(&frame).data.to_vec()).unwrap()
}

/// The error's code.
async fn refused(client: &mut TestClient, action: &str, params: &[(&str, &str)]) -> ErrorCode {
    let frame = client.call_with(action, params, "").await.unwrap();
    match &frame.body {
        DownBody::Error(error) => ErrorCode::from_name(&error.name).unwrap(),
        other => panic!("{action} was answered {other:?}"),
    }
}

async fn channel_news(client: &mut TestClient) -> String {
    let told = |frame: &DownFrame| frame.msg_id == 0 && matches!(frame.body, DownBody::ChannelResp(_));
    match client.frame_where(told).await.unwrap().body {
        DownBody::ChannelResp(response) => response.channel,
        other => panic!("{other:?}"),
    }
}

/// What a client of the rooms sees, whatever form they have.
async fn scenario(world: &World) {
    let (mut alice, mut bob) = (world.client("alice", "user").await, world.client("bob", "user").await);
    rooms(&mut alice, &mut bob).await;
    pushes(&mut alice, &mut bob).await;
    session_events(world).await;
    refusals(&mut alice).await;
    let mut admin = world.client("root", "admin").await;
    assert_eq!(ask(&mut admin, "room.kick", &[("user", "bob")], "").await, "1");
    assert_eq!(bob.close_code().await.unwrap(), 4304);
    assert_eq!(ask(&mut admin, "room.kick", &[("user", "nobody")], "").await, "0");
}

/// Subscribing, publishing, presence and the service's own state.
async fn rooms(alice: &mut TestClient, bob: &mut TestClient) {
    let red = [("room", "red")];
    for client in [&mut *alice, &mut *bob] {
        assert_eq!(ask(client, "room.join", &red, "").await, "room:red");
        assert_eq!(channel_news(client).await, "room:red", "the client is told what it follows now");
    }
    assert_eq!(ask(alice, "room.who", &red, "").await, "alice bob");
    assert_eq!(ask(alice, "room.say", &red, "hi").await, "1");
    assert_eq!(ask(bob, "room.say", &red, "hello").await, "2");
    for client in [&mut *alice, &mut *bob] {
        for expected in ["hi", "hello"] {
            let frame = client.frame_where(|frame| matches!(frame.body, DownBody::Publication(_))).await;
            let frame = frame.unwrap();
            assert_eq!(frame.position.as_ref().map(|at| at.channel.as_str()), Some("room:red"));
            assert!(matches!(&frame.body, DownBody::Publication(said) if said.data == expected), "{frame:?}");
        }
    }
    assert_eq!(ask(bob, "room.count", &red, "").await, "2");
    assert_eq!(ask(bob, "room.leave", &red, "").await, "1");
    channel_news(bob).await;
    assert_eq!(ask(alice, "room.who", &red, "").await, "alice");
    assert_eq!(ask(alice, "room.say", &red, "anybody?").await, "3");
    let heard = bob.drain().await.unwrap();
    assert!(!heard.iter().any(|frame| matches!(frame.body, DownBody::Publication(_))), "{heard:?}");
}

/// Pushes with their outcome, bound ones in one frame, and one to everybody.
async fn pushes(alice: &mut TestClient, bob: &mut TestClient) {
    assert_eq!(ask(alice, "room.whisper", &[("to", "bob")], "psst").await, "delivered");
    let whisper = bob.frame_where(|frame| frame.msg_id == 0).await.unwrap();
    let whisper = business(&whisper);
    assert_eq!((whisper.code, whisper.message.as_str()), (200, "[whisper] alice"));
    assert_eq!(whisper.data, "psst");
    assert_eq!(ask(alice, "room.whisper", &[("to", "nobody")], "psst").await, "offline");

    let msg_id = alice.send_call("room.bell", &[], "").await.unwrap();
    let group = alice.frame_where(|frame| matches!(frame.body, DownBody::Group(_))).await.unwrap();
    let DownBody::Group(frames) = group.body else { panic!("{group:?}") };
    let titles: Vec<_> = frames.iter().map(|frame| business(frame).title.as_str()).collect();
    assert_eq!(titles, ["before", "", "after"], "the reply between its pushes");
    assert_eq!((frames[1].msg_id, &business(&frames[1]).data[..]), (msg_id, &b"bound"[..]));

    assert_ne!(ask(alice, "room.shout", &[], "all hands").await, "0");
    for client in [alice, bob] {
        let shout = |frame: &DownFrame| matches!(&frame.body, DownBody::BusinessData(push) if push.msg_type == "shout");
        assert_eq!(business(&client.frame_where(shout).await.unwrap()).data, "all hands");
    }
}

/// A session that is cut and resumed is one session, and the service saw all of it, in order.
async fn session_events(world: &World) {
    let mut first = world.client("carol", "user").await;
    until_seen(&mut first, "started").await;
    let started = first.started.clone().unwrap();
    drop(first);
    let mut second = TestClient::connect_tcp(world.clients, Dialect::Protobuf).await.unwrap();
    let request = StartRequest {
        resume_token: started.resume_token,
        last_sent_client_seq: started.last_client_seq,
        ..TestClient::start_request("carol", &token("carol", "user"))
    };
    let resumed = second.start(request).await.unwrap();
    assert!(resumed.success && resumed.session_id == started.session_id, "{resumed:?}");
    second.prove(resumed.fence).await.unwrap();
    // Numbers go on after those of the first connection, however many asked in vain there.
    second.next_client_seq = resumed.last_client_seq + 1;
    until_seen(&mut second, "started lost resumed").await;
}

/// Events come soon, not at once.
async fn until_seen(client: &mut TestClient, expected: &str) {
    let asking = async {
        while ask(client, "room.seen", &[], "").await != expected {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.unwrap_or_else(|_| panic!("never seen: {expected}"));
}

/// The service's failures, and the gateway's through the service, keep their codes.
async fn refusals(alice: &mut TestClient) {
    assert_eq!(refused(alice, "room.kick", &[("user", "bob")]).await, ErrorCode::Forbidden);
    assert_eq!(refused(alice, "room.join", &[]).await, ErrorCode::BadRequest);
    assert_eq!(refused(alice, "room.fly", &[]).await, ErrorCode::NotFound);
    let too_long = "x".repeat(300);
    assert_eq!(refused(alice, "room.join", &[("room", &too_long)]).await, ErrorCode::BadRequest);
}

#[tokio::test]
async fn the_rooms_in_the_gateways_process() {
    scenario(&World::new(Form::InTheProcess).await).await;
}

#[tokio::test]
async fn the_rooms_behind_grpc() {
    scenario(&World::new(Form::BehindGrpc).await).await;
}
