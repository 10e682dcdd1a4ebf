//! The HTTP surface: the status page, health and figures for people and programs, and the upgrade to WebSocket.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline_gateway::Gateway;
use trunkline_transport::websocket::{self, WebSocketOptions};
use trunkline_transport::{Accepted, ServerStream, StreamListener};

use super::limit::ConnectionRate;
use super::status::{Phase, StatusSource};

/// A request's head comes within this time, and an idle connection waits no longer for the next one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head of a request.
const MAX_HEAD: usize = 16 * 1024;

/// What every request of the surface can reach.
#[derive(Clone)]
pub(super) struct Http {
    pub(super) gateway: Gateway,
    pub(super) status: StatusSource,
    pub(super) websocket: WebSocketOptions,
    pub(super) tasks: TaskTracker,
}

/// Serves HTTP on a listener until cancelled.
pub(super) async fn serve(
    mut listener: StreamListener,
    router: Router,
    rate: std::sync::Arc<ConnectionRate>,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    while let Some(accepted) = listener.accept().await {
        match accepted {
            Accepted::Stream(stream) if rate.admits(stream.peer().ip()) => {
                tasks.spawn(serve_one(stream, router.clone(), cancel.clone()));
            }
            Accepted::Stream(_) => {}
            Accepted::PlainRefused(stream) => {
                tasks.spawn(websocket::redirect_to_https(stream, HEADER_TIMEOUT));
            }
        }
    }
}

async fn serve_one(stream: ServerStream, router: Router, cancel: CancellationToken) {
    let peer = stream.peer();
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    tokio::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = cancel.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "an HTTP connection ended with an error");
    }
}

/// The public surface.
pub(super) fn public(http: Http) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/ws", get(upgrade))
        .merge(figures())
        .route("/certificate", get(certificate))
        .with_state(http)
}

/// The metrics surface, for operators.
pub(super) fn metrics(http: Http) -> Router {
    figures().route("/metrics", get(prometheus)).with_state(http)
}

fn figures() -> Router<Http> {
    Router::new().route("/health", get(health)).route("/ready", get(ready)).route("/api/status", get(status))
}

async fn page() -> Response {
    let policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'";
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, include_str!("../../../../web/status.html")).into_response()
}

/// `/ws`: becomes a client's connection.
async fn upgrade(State(http): State<Http>, mut request: Request) -> Response {
    match websocket::upgrade(&mut request, &http.websocket) {
        Ok((response, upgrade)) => {
            let gateway = http.gateway.clone();
            http.tasks.spawn(async move {
                match upgrade.await {
                    Ok(connection) => gateway.serve(connection),
                    Err(error) => tracing::debug!(%error, "a WebSocket upgrade failed"),
                }
            });
            response.map(|()| Body::empty())
        }
        Err(error) => error.response().map(Body::from),
    }
}

/// Alive, whatever else: the seed's fields.
async fn health(State(http): State<Http>) -> Result<impl IntoResponse, Infallible> {
    let status = http.status.read();
    let active: u64 = status.gateway.connections.values().sum();
    Ok(Json(serde_json::json!({
        "status": "healthy",
        "active_connections": active,
        "timestamp": status.timestamp,
    })))
}

/// True only while the node serves.
async fn ready(State(http): State<Http>) -> Response {
    match http.status.phase() {
        Phase::Ready => (StatusCode::OK, "ready\n").into_response(),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}

async fn status(State(http): State<Http>) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(http.status.read())).into_response()
}

/// The SHA-256 that a browser pins for WebTransport.
async fn certificate(State(http): State<Http>) -> String {
    http.status.certificate_sha256() + "\n"
}

/// Prometheus text: gauges of what is, counters of what was; no label per session.
async fn prometheus(State(http): State<Http>) -> Response {
    let status = http.status.read();
    let mut text = String::new();
    let mut line = |kind: &str, name: &str, value: u64| {
        text.push_str(&format!("# TYPE trunkline_{name} {kind}\ntrunkline_{name} {value}\n"));
    };
    line("gauge", "memory_bytes", status.memory_bytes);
    line("gauge", "sessions_live", status.gateway.sessions_live);
    line("gauge", "sessions_waiting", status.gateway.sessions_waiting);
    line("gauge", "calls_running", status.gateway.calls_running);
    line("gauge", "reply_cache_bytes", status.gateway.reply_cache_bytes);
    line("gauge", "tasks", status.gateway.tasks);
    let counters = serde_json::to_value(&status.gateway.counters).unwrap_or_default();
    for (name, value) in counters.as_object().into_iter().flatten() {
        line("counter", &format!("{name}_total"), value.as_u64().unwrap_or_default());
    }
    text.push_str("# TYPE trunkline_connections gauge\n");
    for (protocol, count) in &status.gateway.connections {
        text.push_str(&format!("trunkline_connections{{protocol=\"{protocol}\"}} {count}\n"));
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
