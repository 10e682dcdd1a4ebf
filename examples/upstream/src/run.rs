//! The life of the upstream: listen, serve, register, broadcast now and then, deregister, let calls end.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use trunkline_proto::wire::UpstreamRegisterRequest;
use trunkline_service::grpc::{GatewayAddress, GrpcContext, Registrar, RegistrationState, Remote};

use crate::actions::{Actions, IDEMPOTENT};
use crate::health;
use crate::options::Settings;

/// The seed tells all users something this often.
const BROADCAST_INTERVAL: Duration = Duration::from_secs(30);
/// How long the gateway may take to let us go, and running calls to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until `stop` fires, or until it cannot. What a person should know goes to `out`.
///
/// # Errors
/// It cannot listen, or an address makes no sense.
pub async fn run(settings: Settings, mut out: impl Write + Send, stop: CancellationToken) -> Result<()> {
    let gateway = GatewayAddress::new(&settings.gateway, settings.token.as_deref())?;
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {}; is another upstream there?", settings.listen))?;
    let address = listener.local_addr()?;
    let registrar = Registrar::new(&gateway, registrations(&settings, address));
    writeln!(out, "upstream: listens on {address}, zones {}", settings.zones.join(", "))?;
    let page = health_page(address).await;
    match &page {
        Some(page) => writeln!(out, "upstream: health on http://{}/health", page.local_addr()?)?,
        None => writeln!(out, "upstream: no health page: port {} + 1000 is taken", address.port())?,
    }
    out.flush()?;

    let actions = Arc::new(Actions::of_zones(&settings.zones));
    let remote = Remote::new(actions.clone(), Arc::new(GrpcContext::new(&gateway)));
    let draining = CancellationToken::new();
    let server = tonic::transport::Server::builder()
        .add_service(remote.into_server())
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), draining.clone().cancelled_owned());
    let announce = registrar.run(|state| announce(&mut out, gateway.as_str(), state));
    tokio::pin!(server);
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        result = &mut server => return result.context("the gRPC server failed"),
        () = announce => {}
        () = serve_page(page) => {}
        () = broadcast_now_and_then(&actions) => {}
    }
    writeln!(out, "upstream: stops")?;
    let leave = async {
        // The gateway may be away; then its probes find that we are.
        let _state = registrar.deregister().await;
        draining.cancel();
        server.await
    };
    tokio::time::timeout(DRAIN, leave).await.unwrap_or(Ok(())).context("the gRPC server failed")
}

fn registrations(settings: &Settings, address: SocketAddr) -> Vec<UpstreamRegisterRequest> {
    let registration = |zone: &String| UpstreamRegisterRequest {
        // A wildcard is replaced by the gateway with where we call from.
        address: address.to_string(),
        zone_id: zone.clone(),
        service_name: settings.service.clone(),
        idempotent_actions: IDEMPOTENT.map(str::to_owned).to_vec(),
        session_events: true,
        ..UpstreamRegisterRequest::default()
    };
    settings.zones.iter().map(registration).collect()
}

fn announce(out: &mut (impl Write + Send), gateway: &str, state: &RegistrationState) {
    let line = match state {
        RegistrationState::Registered => format!("registered with {gateway}"),
        RegistrationState::Refused(error) => format!("{gateway} refuses the registration: {error}"),
        RegistrationState::Away(_) => format!("{gateway} does not answer; trying again"),
    };
    // Without a reader there is nobody to tell.
    let _unread = writeln!(out, "upstream: {line}").and_then(|()| out.flush());
}

async fn health_page(grpc: SocketAddr) -> Option<TcpListener> {
    TcpListener::bind(health::address(grpc)?).await.ok()
}

async fn serve_page(page: Option<TcpListener>) {
    match page {
        Some(page) => health::serve(page).await,
        None => std::future::pending().await,
    }
}

async fn broadcast_now_and_then(actions: &Actions) {
    let mut tick = tokio::time::interval(BROADCAST_INTERVAL);
    tick.tick().await;
    loop {
        tick.tick().await;
        let users = actions.users();
        if users > 0 {
            // A gateway that is away has nobody to tell either.
            let _told = actions.broadcast(&format!("{users} users are here")).await;
        }
    }
}
