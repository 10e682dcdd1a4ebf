//! The service in its own process: served behind gRPC, and registered with the gateway.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use trunkline_proto::wire::UpstreamRegisterRequest;
use trunkline_service::Service;
use trunkline_service::grpc::{GatewayAddress, GrpcContext, Registrar, RegistrationState, Remote};

/// The name to register with: the gateway's `upstreams.routes` send `room.` to it.
pub const SERVICE: &str = "rooms";
/// How long running calls may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves a service until `stop` fires, and tells each change of its registration.
///
/// # Errors
/// The server fails.
pub async fn serve(
    service: Arc<dyn Service>,
    listener: TcpListener,
    gateway: &GatewayAddress,
    tell: impl FnMut(&RegistrationState) + Send,
    stop: CancellationToken,
) -> Result<()> {
    let registrar = Registrar::new(
        gateway,
        vec![UpstreamRegisterRequest {
            address: listener.local_addr()?.to_string(),
            zone_id: "*".to_owned(),
            service_name: SERVICE.to_owned(),
            idempotent_actions: idempotent(service.as_ref()),
            session_events: true,
            ..UpstreamRegisterRequest::default()
        }],
    );
    let remote = Remote::new(service, Arc::new(GrpcContext::new(gateway)));
    let draining = CancellationToken::new();
    let server = tonic::transport::Server::builder()
        .add_service(remote.into_server())
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), draining.clone().cancelled_owned());
    tokio::pin!(server);
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        result = &mut server => return result.context("the gRPC server failed"),
        () = registrar.run(tell) => {}
    }
    let leave = async {
        // A gateway that is away finds out by its probes.
        let _state = registrar.deregister().await;
        draining.cancel();
        server.await
    };
    tokio::time::timeout(DRAIN, leave).await.unwrap_or(Ok(())).context("the gRPC server failed")
}

/// The gateway is told by name what a service in its process is asked.
fn idempotent(service: &dyn Service) -> Vec<String> {
    let actions = ["room.join", "room.leave", "room.say", "room.who", "room.count", "room.seen"];
    actions.into_iter().filter(|action| service.is_idempotent(action)).map(str::to_owned).collect()
}
