//! Upstreams for tests: a closure as a service, and any service behind real gRPC in this process.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use trunkline_proto::wire;
use trunkline_service::grpc::Remote;
use trunkline_service::{Call, Caller, Context, Reply, Service, Status};

use super::any_port;

type Answer = BoxFuture<'static, Result<Reply, Status>>;

/// A service that is one closure.
pub(crate) struct Scripted(Box<dyn Fn(Caller, Call) -> Answer + Send + Sync>);

impl Scripted {
    /// Answers every call with what the closure's future says.
    pub(crate) fn new<F>(answer: impl Fn(Caller, Call) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Reply, Status>> + Send + 'static,
    {
        Scripted(Box::new(move |caller, call| Box::pin(answer(caller, call))))
    }

    /// Answers every call with its own data.
    pub(crate) fn echo() -> Self {
        Scripted::new(|_, call| async move { Ok(Reply::ok(call.data)) })
    }
}

#[async_trait]
impl Service for Scripted {
    fn action_prefix(&self) -> &str {
        ""
    }

    async fn call(&self, caller: &Caller, call: Call) -> Result<Reply, Status> {
        (self.0)(caller.clone(), call).await
    }
}

/// An upstream that runs in this process. Dropping it kills it.
pub(crate) struct Instance {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _life: JoinSet<()>,
}

impl Instance {
    /// Serves a service; nobody knows of it yet.
    pub(crate) async fn start(service: Arc<dyn Service>, context: Arc<dyn Context>) -> Result<Self> {
        let listener = TcpListener::bind(any_port()).await?;
        let address = listener.local_addr()?;
        let server = Server::builder().add_service(Remote::new(service, context).into_server());
        let mut life = JoinSet::new();
        life.spawn(async move {
            if let Err(error) = server.serve_with_incoming(TcpIncoming::from(listener)).await {
                panic!("the upstream's server broke: {error}");
            }
        });
        Ok(Instance { address, _life: life })
    }

    /// How it registers.
    pub(crate) fn registration(&self, zone: &str, service: &str) -> wire::UpstreamRegisterRequest {
        wire::UpstreamRegisterRequest {
            address: self.address.to_string(),
            zone_id: zone.to_owned(),
            service_name: service.to_owned(),
            ..Default::default()
        }
    }
}
