//! The HTTP surface: the status page, health and figures for people and programs, and the upgrade to WebSocket.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{any, get};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline_gateway::Gateway;
use trunkline_transport::websocket::{self, WebSocketOptions};
use trunkline_transport::{Accepted, ServerStream, StreamListener};

use super::limit::ConnectionRate;
use super::page;
use super::refusals::{RETRY_AFTER, Refusals};
use super::status::{Phase, StatusSource};

/// How much longer than a head a response may take: with the default of 5 s, 40 KB at 11 kbit/s.
const RESPONSE_TIMEOUTS: u32 = 6;

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

/// Serves HTTP on a listener until cancelled. A request's head comes within `head_timeout`, as a handshake does; an
/// idle connection waits no longer for the next one.
pub(super) async fn serve(
    mut listener: StreamListener,
    router: Router,
    head_timeout: Duration,
    rate: Arc<ConnectionRate>,
    refusals: Refusals,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    while let Some(accepted) = listener.accept().await {
        match accepted {
            Accepted::Stream(stream) if rate.admits(stream.peer().ip()) => {
                tasks.spawn(serve_one(stream, router.clone(), head_timeout, cancel.clone()));
            }
            Accepted::Stream(stream) => {
                let answering = serve_one(stream, too_fast(), head_timeout, cancel.clone());
                refusals.tell(async move { drop(tokio::time::timeout(head_timeout, answering).await) });
            }
            Accepted::PlainRefused(stream) => {
                refusals.tell(websocket::redirect_to_https(stream, head_timeout));
            }
        }
    }
}

/// What an address that opens connections too fast is answered, once.
fn too_fast() -> Router {
    let seconds = RETRY_AFTER.as_secs().to_string();
    let headers = [(header::RETRY_AFTER, seconds), (header::CONNECTION, "close".to_owned())];
    let answer = (StatusCode::TOO_MANY_REQUESTS, headers, "this address opens connections too fast\n");
    Router::new().fallback(async move || answer.into_response())
}

async fn serve_one(stream: ServerStream, router: Router, head_timeout: Duration, cancel: CancellationToken) {
    let peer = stream.peer();
    let asked = Arc::new(Mutex::new(Instant::now()));
    let router = TowerToHyperService::new(router);
    let service = service_fn({
        let asked = Arc::clone(&asked);
        move |request| {
            *asked.lock() = Instant::now();
            router.call(request)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = stalled(&asked, head_timeout * RESPONSE_TIMEOUTS) => {
            tracing::debug!(%peer, "an HTTP client does not take its response");
            return;
        }
        () = cancel.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "an HTTP connection ended with an error");
    }
}

/// Resolves when nothing was asked for so long. While a connection is idle the time for a head ends it sooner, so this
/// one has a client that does not read.
async fn stalled(asked: &Mutex<Instant>, limit: Duration) {
    loop {
        let until = *asked.lock() + limit;
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

/// The public surface.
pub(super) fn public(http: Http) -> Router {
    Router::new()
        .route("/ws", any(upgrade))
        .route("/certificate", get(certificate))
        .merge(page::files())
        .merge(figures())
        .fallback(async || {
            not_found("/, /ws, /certificate, /health, /ready, /api/status and /sdk/trunkline.js")
        })
        .method_not_allowed_fallback(only_get)
        .layer(middleware::map_response(as_it_is))
        .with_state(http)
}

/// The metrics surface, for operators.
pub(super) fn metrics(http: Http) -> Router {
    figures()
        .route("/metrics", get(prometheus))
        .fallback(async || not_found("/metrics, /health, /ready and /api/status"))
        .method_not_allowed_fallback(only_get)
        .layer(middleware::map_response(as_it_is))
        .with_state(http)
}

fn figures() -> Router<Http> {
    Router::new().route("/health", get(health)).route("/ready", get(ready)).route("/api/status", get(status))
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
        Err(error) => {
            let mut response = error.response().map(Body::from);
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, text);
            response
        }
    }
}

/// Alive, whatever else: the seed's fields.
async fn health(State(http): State<Http>) -> Response {
    let status = http.status.read();
    let active: u64 = status.gateway.connections.values().sum();
    Json(serde_json::json!({
        "status": "healthy",
        "active_connections": active,
        "timestamp": status.timestamp,
    }))
    .into_response()
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

/// The SHA-256 that a browser pins for WebTransport. Pages of any origin may read it: every handshake tells it too.
async fn certificate(State(http): State<Http>) -> Response {
    let headers = [(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"), (header::CACHE_CONTROL, "no-store")];
    (headers, http.status.certificate_sha256() + "\n").into_response()
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
