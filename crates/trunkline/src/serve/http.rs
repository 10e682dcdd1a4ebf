//! The HTTP surfaces: what each address answers. How a connection is served, and what each answer says, stands in a
//! file of its own.

mod accepting;
mod figures;
mod gatesvr;
mod places;
mod profile;
mod prometheus;
mod trace;
mod upgrade;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tokio_util::task::TaskTracker;
use trunkline_gateway::Gateway;
use trunkline_transport::websocket::WebSocketOptions;

use super::page;
use super::status::StatusSource;
pub(super) use accepting::{Serving, serve};
pub(super) use places::Places;

/// What every request of the surface can reach.
#[derive(Clone)]
pub(super) struct Http {
    pub(super) gateway: Gateway,
    pub(super) status: StatusSource,
    pub(super) websocket: WebSocketOptions,
    pub(super) tasks: TaskTracker,
}

/// The public surface.
pub(super) fn public(http: Http) -> Router {
    Router::new()
        .route("/ws", any(upgrade::upgrade))
        .route("/certificate", get(certificate))
        .route("/stats", get(gatesvr::stats_sums))
        .merge(page::files())
        .merge(figures())
        .fallback(async || not_found(PUBLIC))
        .method_not_allowed_fallback(only_get)
        .layer(middleware::map_response(as_it_is))
        .with_state(http)
}

/// The metrics surface, for operators.
pub(super) fn metrics(http: Http) -> Router {
    figures()
        .route("/metrics", get(prometheus::metrics))
        .route("/stats", get(gatesvr::stats))
        .route("/api/admin/trace", get(trace::answer).put(trace::switch))
        .route("/debug/pprof/profile", get(profile::profile))
        .fallback(async || not_found(OPERATORS))
        .method_not_allowed_fallback(only_get)
        .layer(middleware::map_response(as_it_is))
        .with_state(http)
}

/// What somebody is told who asks the public surface for something else.
const PUBLIC: &str =
    "/, /ws, /certificate, /health, /ready, /stats, /performance, /api/status and /sdk/trunkline.js";

/// What somebody is told who asks the metrics surface for something else.
const OPERATORS: &str =
    "/metrics, /health, /ready, /stats, /performance, /debug/pprof/profile, /api/status and /api/admin/trace";

/// What both have.
fn figures() -> Router<Http> {
    Router::new()
        .route("/health", get(gatesvr::health))
        .route("/ready", get(figures::ready))
        .route("/performance", get(gatesvr::performance))
        .route("/api/status", get(figures::status))
}

fn not_found(known: &str) -> Response {
    (StatusCode::NOT_FOUND, format!("not found: here are {known}\n")).into_response()
}

async fn only_get() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, "this address answers GET and HEAD\n").into_response()
}

/// No browser guesses what a response is: what we call text is never run.
async fn as_it_is(mut response: Response) -> Response {
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The SHA-256 that a browser pins for WebTransport. Pages of any origin may read it: every handshake tells it too.
async fn certificate(State(http): State<Http>) -> Response {
    let headers = [(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"), (header::CACHE_CONTROL, "no-store")];
    (headers, http.status.certificate_sha256() + "\n").into_response()
}
