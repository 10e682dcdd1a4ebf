//! An upstream for tests, written against the schema's gRPC stubs alone: it records what the gateway asks and
//! answers what the test wants.
//!
//! Its built-in actions are what a scenario needs: `echo`, `before`, `after`, `immediately`, `count`, `hold`, `fail`.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use trunkline_proto::wire::gateway_service_client::GatewayServiceClient;
use trunkline_proto::wire::upstream_service_server::{UpstreamService, UpstreamServiceServer};
use trunkline_proto::wire::{self, NotifySyncHint, UnicastPushRequest, UpstreamRequest, UpstreamResponse};

use crate::DEADLINE;

/// What is kept of the requests: enough for a storm of tests, not for an endless one.
const RECORDED: usize = 100_000;

/// What a handler of the test's own says.
pub type Handled = Result<UpstreamResponse, Status>;

type Handler = Arc<dyn Fn(&UpstreamRequest) -> Option<Handled> + Send + Sync>;

type Authorizer =
    Arc<dyn Fn(&wire::AuthorizeRequest) -> Result<wire::AuthorizeResponse, Status> + Send + Sync>;

/// A running upstream. Dropping it ends the listener; a connection that is open is served until its runtime ends.
pub struct TestUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    gateway: GatewayServiceClient<Channel>,
    handler: Handler,
    authorizer: Mutex<Authorizer>,
    /// How often `Authorize` was asked.
    authorizes: watch::Sender<u64>,
    requests: Mutex<VecDeque<UpstreamRequest>>,
    arrived: watch::Sender<u64>,
    /// Of `count`: how often it ran, by its parameter `key`.
    counts: Mutex<HashMap<String, u64>>,
    /// A permit lets one `hold`, or one question about a channel `held:…`, go on.
    released: Semaphore,
    outcomes: Mutex<Vec<wire::UnicastPushResponse>>,
    events: Mutex<Vec<wire::SessionEvent>>,
}

impl TestUpstream {
    /// Serves the built-in actions on a port of its own and knows the gateway's gRPC address.
    pub async fn start(gateway: SocketAddr) -> Result<Self> {
        Self::start_with(gateway, |_| None).await
    }

    /// The same with actions of the test's own, which are asked first.
    pub async fn start_with(
        gateway: SocketAddr,
        handler: impl Fn(&UpstreamRequest) -> Option<Handled> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let channel = Endpoint::from_shared(format!("http://{gateway}"))?.connect_lazy();
        let shared = Arc::new(Shared {
            gateway: GatewayServiceClient::new(channel),
            handler: Arc::new(handler),
            authorizer: Mutex::new(Arc::new(|request| Ok(allowed(request.channel.starts_with("open:"))))),
            authorizes: watch::Sender::new(0),
            requests: Mutex::new(VecDeque::new()),
            arrived: watch::Sender::new(0),
            counts: Mutex::new(HashMap::new()),
            released: Semaphore::new(0),
            outcomes: Mutex::new(Vec::new()),
            events: Mutex::new(Vec::new()),
        });
        let service = UpstreamServiceServer::from_arc(Arc::clone(&shared));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let serving =
                Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
            if let Err(error) = serving.await {
                eprintln!("the test's upstream failed: {error}");
            }
        });
        Ok(TestUpstream { address, shared, _tasks: tasks })
    }

    /// Serves, and registers for every zone.
    pub async fn registered(gateway: SocketAddr) -> Result<Self> {
        let upstream = Self::start(gateway).await?;
        upstream.register("*", "").await?;
        Ok(upstream)
    }

    /// Registers for a zone (`*` for all) under a service name ("" for zones).
    pub async fn register(&self, zone: &str, service: &str) -> Result<()> {
        self.register_as(wire::UpstreamRegisterRequest {
            zone_id: zone.into(),
            service_name: service.into(),
            idempotent_actions: vec!["echo".into()],
            ..wire::UpstreamRegisterRequest::default()
        })
        .await
    }

    /// Registers with these words; the address is this upstream's unless one is given.
    pub async fn register_as(&self, mut request: wire::UpstreamRegisterRequest) -> Result<()> {
        if request.address.is_empty() {
            request.address = self.address.to_string();
        }
        let answer = timeout(DEADLINE, self.gateway().register_upstream(request)).await;
        let answer = answer.context("registering hangs")??.into_inner();
        ensure!(answer.success, "the gateway refused the upstream: {answer:?}");
        Ok(())
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The gateway's service, to push and to publish.
    pub fn gateway(&self) -> GatewayServiceClient<Channel> {
        self.shared.gateway.clone()
    }

    /// Pushes text to all sessions of a user; what became of it.
    pub async fn push_to_user(&self, user: &str, title: &str) -> Result<wire::UnicastPushResponse> {
        let push = push(user, title, NotifySyncHint::NshImmediately, 0);
        let answer = timeout(DEADLINE, self.gateway().push_to_client(push)).await;
        Ok(answer.context("pushing hangs")??.into_inner())
    }

    /// What the gateway has asked so far, without the requests for its status.
    pub fn requests(&self) -> Vec<UpstreamRequest> {
        self.shared.requests.lock().iter().cloned().collect()
    }

    /// Waits until so many requests have arrived since the start.
    pub async fn until_requests(&self, count: u64) -> Result<()> {
        let mut arrived = self.shared.arrived.subscribe();
        let waited = timeout(DEADLINE, arrived.wait_for(|seen| *seen >= count)).await;
        waited.with_context(|| format!("fewer than {count} requests arrive"))?.map(drop)?;
        Ok(())
    }

    /// How often `count` ran with this key.
    pub fn count(&self, key: &str) -> u64 {
        self.shared.counts.lock().get(key).copied().unwrap_or(0)
    }

    /// Answers `Authorize` so from now on. Unless told, what begins with `open:` is allowed.
    pub fn authorize_with(
        &self,
        authorizer: impl Fn(&wire::AuthorizeRequest) -> Result<wire::AuthorizeResponse, Status>
        + Send
        + Sync
        + 'static,
    ) {
        *self.shared.authorizer.lock() = Arc::new(authorizer);
    }

    /// Waits until `Authorize` was asked so often since the start.
    pub async fn until_authorizes(&self, count: u64) -> Result<()> {
        let mut asked = self.shared.authorizes.subscribe();
        let waited = timeout(DEADLINE, asked.wait_for(|seen| *seen >= count)).await;
        waited.with_context(|| format!("fewer than {count} questions arrive"))?.map(drop)?;
        Ok(())
    }

    /// Lets so many `hold`s and questions about channels `held:…` go on, those that run and those to come.
    pub fn release(&self, count: usize) {
        self.shared.released.add_permits(count);
    }

    /// What became of the pushes that the built-in actions have made.
    pub fn outcomes(&self) -> Vec<wire::UnicastPushResponse> {
        self.shared.outcomes.lock().clone()
    }

    /// The session events that arrived.
    pub fn session_events(&self) -> Vec<wire::SessionEvent> {
        self.shared.events.lock().clone()
    }
}

/// A push with a title to a user, bound to a call where the hint says so.
fn push(user: &str, title: &str, hint: NotifySyncHint, client_seq: u64) -> UnicastPushRequest {
    UnicastPushRequest {
        target_type: "openid".into(),
        target_id: user.into(),
        msg_type: "test".into(),
        title: title.into(),
        content: format!("content of {title}"),
        data: Bytes::from(format!("{{\"title\":\"{title}\"}}")),
        metadata: HashMap::from([("k".to_owned(), "v".to_owned())]),
        sync_hint: hint as i32,
        bind_client_seq_id: client_seq,
        ..UnicastPushRequest::default()
    }
}

/// A plain answer to `Authorize`.
pub fn allowed(allowed: bool) -> wire::AuthorizeResponse {
    wire::AuthorizeResponse { allowed, ..wire::AuthorizeResponse::default() }
}

fn ok(data: impl Into<Bytes>) -> Handled {
    Ok(UpstreamResponse { code: 200, message: "ok".into(), data: data.into(), ..UpstreamResponse::default() })
}

impl Shared {
    async fn answer(&self, request: UpstreamRequest) -> Handled {
        if let Some(answer) = (self.handler)(&request) {
            return answer;
        }
        match request.action.as_str() {
            "echo" => ok(request.data),
            "before" => self.pushing(&request, NotifySyncHint::NshBeforeResponse).await,
            "after" => self.pushing(&request, NotifySyncHint::NshAfterResponse).await,
            "immediately" => self.pushing(&request, NotifySyncHint::NshImmediately).await,
            "count" => {
                let key = request.params.get("key").cloned().unwrap_or_default();
                let count = {
                    let mut counts = self.counts.lock();
                    let count = counts.entry(key).or_default();
                    *count += 1;
                    *count
                };
                ok(count.to_string())
            }
            "hold" => {
                // A test that forgets to release it sees the gateway's time-out.
                if let Ok(permit) = self.released.acquire().await {
                    permit.forget();
                }
                ok("released")
            }
            "sleep" => {
                let millis = request.params.get("ms").and_then(|ms| ms.parse().ok()).unwrap_or(10);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                ok("slept")
            }
            "fail" => Err(Status::internal("this action fails")),
            other => Ok(UpstreamResponse {
                code: 404,
                message: format!("no action {other:?}"),
                ..UpstreamResponse::default()
            }),
        }
    }

    /// Pushes `titles` (by commas) from inside the call, then answers.
    async fn pushing(&self, request: &UpstreamRequest, hint: NotifySyncHint) -> Handled {
        let titles = request.params.get("titles").map_or("push", String::as_str);
        for title in titles.split(',') {
            let seq = if hint == NotifySyncHint::NshImmediately { 0 } else { request.client_seq_id };
            let push = push(&request.openid, title, hint, seq);
            let outcome = self.gateway.clone().push_to_client(push).await?.into_inner();
            self.outcomes.lock().push(outcome);
        }
        ok(request.action.clone())
    }
}

#[tonic::async_trait]
impl UpstreamService for Shared {
    async fn process_request(
        &self,
        request: Request<UpstreamRequest>,
    ) -> Result<Response<UpstreamResponse>, Status> {
        let request = request.into_inner();
        {
            let mut requests = self.requests.lock();
            if requests.len() == RECORDED {
                requests.pop_front();
            }
            requests.push_back(request.clone());
        }
        self.arrived.send_modify(|count| *count += 1);
        let seq = request.client_seq_id;
        let mut response = self.answer(request).await?;
        response.client_seq_id = seq;
        Ok(Response::new(response))
    }

    async fn get_status(
        &self,
        _: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        Ok(Response::new(wire::StatusResponse { status: "healthy".into(), ..Default::default() }))
    }

    async fn authenticate(
        &self,
        request: Request<wire::AuthenticateRequest>,
    ) -> Result<Response<wire::AuthenticateResponse>, Status> {
        // Whoever's token is their own name in capitals.
        let start = request.into_inner().start.unwrap_or_default();
        let accepted = !start.openid.is_empty() && start.auth_token == start.openid.to_uppercase();
        Ok(Response::new(wire::AuthenticateResponse { accepted, user: start.openid, ..Default::default() }))
    }

    async fn authorize(
        &self,
        request: Request<wire::AuthorizeRequest>,
    ) -> Result<Response<wire::AuthorizeResponse>, Status> {
        let request = request.into_inner();
        self.authorizes.send_modify(|count| *count += 1);
        if request.channel.starts_with("held:") {
            if let Ok(permit) = self.released.acquire().await {
                permit.forget();
            }
            return Ok(Response::new(allowed(true)));
        }
        let authorizer = Arc::clone(&self.authorizer.lock());
        authorizer(&request).map(Response::new)
    }

    async fn session_events(
        &self,
        request: Request<wire::SessionEventsRequest>,
    ) -> Result<Response<wire::SessionEventsResponse>, Status> {
        self.events.lock().extend(request.into_inner().events);
        Ok(Response::new(wire::SessionEventsResponse {}))
    }
}
