//! HTTP connections: each is served in a task of its own, has a deadline for every request's head and for taking the
//! response, and is told no when its address comes too fast. It knows no route.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline_transport::{Accepted, ServerStream, StreamListener, websocket};

use super::super::limit::ConnectionRate;
use super::super::refusals::{RETRY_AFTER, Refusals};

/// How much longer than a head a response may take: with the default of 5 s, 40 KB at 11 kbit/s.
const RESPONSE_TIMEOUTS: u32 = 6;

/// The largest head of a request.
const MAX_HEAD: usize = 16 * 1024;

/// Serves HTTP on a listener until cancelled. A request's head comes within `head_timeout`, as a handshake does; an
/// idle connection waits no longer for the next one.
pub(in super::super) async fn serve(
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
