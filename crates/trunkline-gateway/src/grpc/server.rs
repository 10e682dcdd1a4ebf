//! The gRPC server: its port, its connections and its end.
//!
//! It is our own loop around hyper's HTTP/2, so that every task is tracked, TLS is sniffed and reloaded as on the
//! other ports, and no peer can hold a place by silence.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};
use trunkline_proto::wire::gateway_service_server::GatewayServiceServer;
use trunkline_transport::{Accepted, Socket, StreamListener, StreamOptions};

use super::connection::{self, Shared};
use super::options::{GrpcOptions, MAX_REQUEST, MAX_RESPONSE};
use super::service::Surface;
use crate::gateway::{Gateway, Node};
use crate::tracked::Tracked;
use crate::upstream::{ClientCertificate, Peer, Stream};

/// A running gRPC surface. Dropping it cuts every connection at once; [`GrpcServer::shutdown`] ends them in order.
pub struct GrpcServer {
    address: SocketAddr,
    health: HealthReporter,
    max_connections: usize,
    places: Arc<Semaphore>,
    node: Arc<Node>,
    shared: Shared,
}

/// Binds and serves the gRPC surface of a gateway. It says `NOT_SERVING` until [`GrpcServer::ready`], and again
/// as soon as the gateway drains. Needs a tokio runtime.
///
/// # Errors
/// The socket cannot be bound, or the TLS policy needs a configuration and there is none.
pub async fn serve(
    gateway: &Gateway,
    socket: Socket<std::net::TcpListener>,
    options: GrpcOptions,
) -> io::Result<GrpcServer> {
    let stopping = CancellationToken::new();
    let stream_options = StreamOptions {
        policy: options.tls_policy,
        tls: options.tls,
        cancel: stopping.clone(),
        ..StreamOptions::default()
    };
    let listener = StreamListener::bind(socket, stream_options)?;
    let health = HealthReporter::new();
    say(&health, ServingStatus::NotServing).await;
    let executor = Tracked { tasks: TaskTracker::new(), cancel: CancellationToken::new() };
    let server = GrpcServer {
        address: listener.local_addr()?,
        max_connections: options.max_connections,
        places: Arc::new(Semaphore::new(options.max_connections)),
        node: Arc::clone(gateway.node()),
        shared: Shared { routes: routes(gateway, &health)?, policy: options.policy, stopping, executor },
        health,
    };
    server.spawn(accept(listener, Arc::clone(&server.places), server.shared.clone()));
    let (node, health) = (Arc::clone(&server.node), server.health.clone());
    let stopped = server.shared.stopping.clone();
    server.spawn(async move {
        tokio::select! {
            () = node.stopping() => {}
            () = stopped.cancelled() => {}
        }
        say(&health, ServingStatus::NotServing).await;
    });
    Ok(server)
}

impl GrpcServer {
    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The node serves: health says so from now on.
    pub async fn ready(&self) {
        if !self.shared.stopping.is_cancelled() && !self.node.is_stopping() {
            say(&self.health, ServingStatus::Serving).await;
        }
    }

    /// Serves a byte stream that somebody else accepted: a Unix socket's, a pipe's. The caller vouches for `peer`
    /// and `certificate`. False: there is no place for it, or the server stops; it is dropped.
    pub fn accept(&self, stream: impl Stream + 'static, peer: Peer, certificate: ClientCertificate) -> bool {
        admit(&self.places, &self.shared, stream, peer, certificate)
    }

    /// Connections that live.
    pub fn connections(&self) -> usize {
        self.max_connections.saturating_sub(self.places.available_permits())
    }

    /// Accepts nothing more, tells every peer to go, lets the requests that run end until `end`, then cuts what is
    /// left. May be called again.
    pub async fn shutdown(&self, end: Instant) {
        say(&self.health, ServingStatus::NotServing).await;
        let Tracked { tasks, cancel } = &self.shared.executor;
        self.shared.stopping.cancel();
        tasks.close();
        // What does not end in time is cut off by what follows.
        let _in_time = tokio::time::timeout_at(end, tasks.wait()).await;
        cancel.cancel();
        tasks.wait().await;
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        hyper::rt::Executor::execute(&self.shared.executor, task);
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        self.shared.stopping.cancel();
        self.shared.executor.cancel.cancel();
    }
}

async fn accept(mut listener: StreamListener, places: Arc<Semaphore>, shared: Shared) {
    while let Some(accepted) = listener.accept().await {
        match accepted {
            Accepted::Stream(stream) => {
                let peer = Peer::Tcp(stream.peer());
                let certificate = match stream.is_client_verified() {
                    true => ClientCertificate::Verified,
                    false => ClientCertificate::Absent,
                };
                admit(&places, &shared, stream, peer, certificate);
            }
            Accepted::PlainRefused(stream) => {
                tracing::warn!(peer = %stream.peer(), "a plain gRPC peer was closed: the port requires TLS");
            }
        }
    }
}

fn admit(
    places: &Arc<Semaphore>,
    shared: &Shared,
    stream: impl Stream + 'static,
    peer: Peer,
    certificate: ClientCertificate,
) -> bool {
    if shared.stopping.is_cancelled() {
        return false;
    }
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        tracing::warn!(?peer, "a gRPC peer was closed: every place is taken");
        return false;
    };
    let serving = connection::serve(stream, peer, certificate, shared.clone());
    let serving = async move {
        serving.await;
        drop(place);
    };
    hyper::rt::Executor::execute(&shared.executor, serving);
    true
}

fn routes(gateway: &Gateway, health: &HealthReporter) -> io::Result<Routes> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(trunkline_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(io::Error::other)?;
    let service = GatewayServiceServer::new(Surface::new(gateway))
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(MAX_RESPONSE);
    let health = HealthService::from_health_reporter(health.clone());
    let health = tonic_health::pb::health_server::HealthServer::new(health);
    Ok(Routes::new(service).add_service(health).add_service(reflection).prepare())
}

/// Tells the state of the whole and of each service.
async fn say(health: &HealthReporter, status: ServingStatus) {
    for name in ["", <GatewayServiceServer<Surface> as NamedService>::NAME] {
        health.set_service_status(name, status).await;
    }
}
