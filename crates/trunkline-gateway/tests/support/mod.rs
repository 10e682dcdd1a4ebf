//! A gateway in the test's own process, with every surface that a test may want: TCP for clients, gRPC for upstreams, a
//! memory broker, tokens, upstreams behind real gRPC, and a recorder of session events to wait on.
//!
//! Test binaries include it with `#[path = "../support/mod.rs"] mod support;`. It holds no opinion of what is right.
#![allow(dead_code, reason = "each test binary uses its part")]

mod events;
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jsonwebtoken::jwk::JwkSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};
use trunkline_broker::names::NodeId;
use trunkline_broker::{Broker, MemoryBroker, MemoryOptions};
use trunkline_gateway::auth::{
    AuthMode, Authenticator, Identity, JwtOptions, JwtVerifier, Rights, sign_hs256,
};
use trunkline_gateway::grpc::{self, GrpcOptions, GrpcServer};
use trunkline_gateway::upstream::{UpstreamOptions, Upstreams};
use trunkline_gateway::{Cut, Gateway, GatewayOptions};
use trunkline_proto::wire::gateway_service_client::GatewayServiceClient;
use trunkline_proto::wire::{self, StartRequest};
use trunkline_proto::{Dialect, DownBody, DownFrame};
use trunkline_service::SessionEvent;
use trunkline_session::TokenKey;
use trunkline_testkit::{DEADLINE, TestClient};
use trunkline_transport::{Accepted, Socket, StreamListener, StreamOptions};

pub(crate) use events::Events;
pub(crate) use upstream::{Instance, Scripted};

/// What signs the tests' tokens.
pub(crate) const KEY: &[u8] = b"a key that only tests know, 32 bytes";
/// What opens the gRPC surface for peers from elsewhere.
pub(crate) const UPSTREAM_TOKEN: &str = "upstream-token-of-the-tests";

/// `127.0.0.1`, any port.
pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Fails the test when the future does not end.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(DEADLINE, future).await.with_context(|| format!("never happened: {what}"))
}

/// What a node is made of; a test changes what it is about.
pub(crate) struct Setup {
    /// The gateway's options: every right on every channel, everything else as by default.
    pub(crate) options: GatewayOptions,
    /// The upstreams' options.
    pub(crate) upstreams: UpstreamOptions,
    /// The gRPC surface's options.
    pub(crate) grpc: GrpcOptions,
    /// The broker's.
    pub(crate) broker: MemoryOptions,
}

/// A running node.
pub(crate) struct Node {
    /// The gateway.
    pub(crate) gateway: Gateway,
    /// Its upstreams.
    pub(crate) upstreams: Arc<Upstreams>,
    /// Its broker.
    pub(crate) broker: Arc<MemoryBroker>,
    /// Its gRPC surface.
    pub(crate) grpc: GrpcServer,
    /// What became of its sessions.
    pub(crate) events: Arc<Events>,
    /// Where TCP clients connect.
    pub(crate) tcp: SocketAddr,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Node {
    /// A node as by default.
    pub(crate) async fn start() -> Result<Self> {
        Node::start_with(|_| {}).await
    }

    /// A node with other options.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Setup)) -> Result<Self> {
        let mut setup = Setup {
            options: GatewayOptions::new("test-node", TokenKey::new([7; 32])),
            upstreams: UpstreamOptions::default(),
            grpc: GrpcOptions::new(UPSTREAM_TOKEN),
            broker: MemoryOptions::new(NodeId(1)),
        };
        setup.options.default_rights = Rights::everything();
        change(&mut setup);
        let broker = Arc::new(MemoryBroker::open(setup.broker)?);
        let shared: Arc<dyn Broker> = Arc::<MemoryBroker>::clone(&broker);
        let upstreams = Upstreams::new(setup.upstreams, Arc::clone(&shared));
        let verifier = JwtVerifier::new(Some(KEY), JwkSet { keys: Vec::new() }, JwtOptions::default());
        let authenticator = Authenticator::new(AuthMode::Jwt(Arc::new(verifier)), false);
        let max_frame = setup.options.session.max_frame_size as usize;
        let gateway =
            Gateway::new(setup.options, shared, authenticator, Some(Arc::clone(&upstreams))).await?;
        let events = Arc::new(Events::default());
        gateway.mount(Arc::<Events>::clone(&events));
        let grpc = grpc::serve(&gateway, Socket::Address(any_port()), setup.grpc).await?;
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let options = StreamOptions { cancel: cancel.clone(), ..StreamOptions::default() };
        let mut listener = StreamListener::bind(Socket::Address(any_port()), options)?;
        let tcp = listener.local_addr()?;
        let serving = gateway.clone();
        tasks.spawn(async move {
            while let Some(Accepted::Stream(stream)) = listener.accept().await {
                serving.serve(stream.into_connection(max_frame));
            }
        });
        grpc.ready().await;
        Ok(Node { gateway, upstreams, broker, grpc, events, tcp, tasks, cancel })
    }

    /// A connection that has said nothing.
    pub(crate) async fn connect(&self) -> Result<TestClient> {
        TestClient::connect_tcp(self.tcp, Dialect::Protobuf).await
    }

    /// A user's new session on the user's one device.
    pub(crate) async fn client(&self, user: &str) -> Result<TestClient> {
        self.client_as(&Identity { user: user.to_owned(), ..Identity::default() }, |_| {}).await
    }

    /// A user's new session on a device of this name.
    pub(crate) async fn client_on(&self, user: &str, device: &str) -> Result<TestClient> {
        let identity = Identity { user: user.to_owned(), ..Identity::default() };
        self.client_as(&identity, |start| start.device_id = device.to_owned()).await
    }

    /// A session with this identity.
    pub(crate) async fn client_as(
        &self,
        identity: &Identity,
        change: impl FnOnce(&mut StartRequest),
    ) -> Result<TestClient> {
        let mut client = self.connect().await?;
        let mut start = TestClient::start_request(&identity.user, &sign_hs256(KEY, identity)?);
        change(&mut start);
        let response = client.start(start).await?;
        ensure!(response.success, "START was refused: {response:?}");
        client.prove(response.fence).await?;
        Ok(client)
    }

    /// The generated client of `GatewayService`.
    pub(crate) async fn service(&self) -> Result<GatewayServiceClient<Channel>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc.local_addr()))?;
        let channel = within("a gRPC connection", endpoint.connect()).await??;
        Ok(GatewayServiceClient::new(channel).max_decoding_message_size(16 << 20))
    }

    /// An upstream for every zone, in this process, behind real gRPC; registered.
    pub(crate) async fn upstream(&self, service: Scripted) -> Result<Instance> {
        let instance = Instance::start(Arc::new(service), self.gateway.context()).await?;
        let answer = self.service().await?.register_upstream(instance.registration("*", "")).await?;
        let answer = answer.into_inner();
        ensure!(answer.success, "the registration was refused: {answer:?}");
        Ok(instance)
    }

    /// Waits until the gateway has seen that this session's connection is gone.
    pub(crate) async fn until_lost(&self, session: &str) -> Result<()> {
        self.events.until(session, SessionEvent::Lost).await
    }

    /// Drains everything, within bounds. Drops first what still talks to the node: a client that does not read its
    /// close would be waited for.
    pub(crate) async fn stop<T>(self, clients: T) -> Result<()> {
        drop(clients);
        let end = Instant::now() + Duration::from_secs(10);
        self.cancel.cancel();
        let cut = within("the gateway's drain", self.gateway.drain(end)).await?;
        ensure!(cut == Cut::default(), "the drain had to cut: {cut:?}");
        within("the gRPC surface's end", self.grpc.shutdown(end)).await?;
        within("the upstreams' end", self.upstreams.shutdown(end)).await?;
        self.tasks.close();
        within("the listener's end", self.tasks.wait()).await
    }
}

/// The session of a client that has started.
pub(crate) fn session_of(client: &TestClient) -> String {
    client.started.as_ref().map(|started| started.session_id.clone()).unwrap_or_default()
}

/// A push as an upstream of the seed's makes it.
pub(crate) fn push_to(target_type: &str, target_id: &str, title: &str) -> wire::UnicastPushRequest {
    wire::UnicastPushRequest {
        target_type: target_type.to_owned(),
        target_id: target_id.to_owned(),
        msg_type: "notice".to_owned(),
        title: title.to_owned(),
        content: format!("content of {title}"),
        data: format!("data of {title}").into(),
        metadata: [("key".to_owned(), format!("value of {title}"))].into(),
        ..Default::default()
    }
}

/// What a client must see of [`push_to`].
pub(crate) fn seen(title: &str) -> wire::BusinessResponse {
    wire::BusinessResponse {
        code: 200,
        message: format!("[notice] {title}"),
        data: format!("data of {title}").into(),
        msg_type: "notice".to_owned(),
        title: title.to_owned(),
        content: format!("content of {title}"),
        metadata: [("key".to_owned(), format!("value of {title}"))].into(),
    }
}

/// The body of a push or a reply.
pub(crate) fn business(frame: &DownFrame) -> Result<&wire::BusinessResponse> {
    match &frame.body {
        DownBody::BusinessData(response) => Ok(response),
        other => anyhow::bail!("not a BusinessResponse: {other:?}"),
    }
}

/// The next push of any kind, which must be a BusinessResponse on this channel; acknowledged on request.
pub(crate) async fn next_push(client: &mut TestClient, channel: &str) -> Result<wire::BusinessResponse> {
    let frame = client.push().await?;
    let position = frame.position.as_ref().context("a push outside any channel")?;
    ensure!(position.channel == channel, "on {}, not on {channel}: {frame:?}", position.channel);
    business(&frame).cloned()
}
