//! HTTP connections: each is served in a task of its own, has a deadline for every request's head and for taking the
//! response, and is told no when its address comes too fast or all places are at work. It knows no route.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Request, StatusCode, header};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline_gateway::{Gateway, Refusal};
use trunkline_transport::{Accepted, ServerStream, StreamListener, websocket};

use super::super::limit::ConnectionRate;
use super::super::refusals::{RETRY_AFTER, Refusals};
use super::places::{Place, Places};

/// How much longer than a head a response may take: with the default of 5 s, 40 KB at 11 kbit/s.
const RESPONSE_TIMEOUTS: u32 = 6;

/// The largest head of a request.
const MAX_HEAD: usize = 16 * 1024;

/// What every HTTP surface serves with.
pub(in super::super) struct Serving {
    /// What is answered.
    pub(in super::super) router: Router,
    /// A request's head comes within it, as a handshake does; an idle connection waits no longer for the next one.
    pub(in super::super) head_timeout: Duration,
    pub(in super::super) rate: Arc<ConnectionRate>,
    pub(in super::super) places: Places,
    /// What is refused is counted there.
    pub(in super::super) gateway: Gateway,
    pub(in super::super) refusals: Refusals,
    pub(in super::super) tasks: TaskTracker,
    pub(in super::super) cancel: CancellationToken,
}

/// Serves HTTP on a listener until cancelled.
pub(in super::super) async fn serve(mut listener: StreamListener, serving: Serving) {
    while let Some(accepted) = listener.accept().await {
        match accepted {
            Accepted::Stream(stream) if !serving.rate.admits(stream.peer().ip()) => {
                serving.gateway.note_refused(Refusal::RateLimited);
                serving.refuse(
                    stream,
                    StatusCode::TOO_MANY_REQUESTS,
                    "this address opens connections too fast\n",
                );
            }
            Accepted::Stream(stream) => match serving.places.take() {
                Some(place) => {
                    let router = serving.router.clone();
                    let (head_timeout, cancel) = (serving.head_timeout, serving.cancel.clone());
                    serving.tasks.spawn(serve_one(stream, router, head_timeout, place, cancel));
                }
                None => {
                    serving.gateway.note_refused(Refusal::Requests);
                    serving.refuse(
                        stream,
                        StatusCode::SERVICE_UNAVAILABLE,
                        "too many requests are under way\n",
                    );
                }
            },
            Accepted::PlainRefused(stream) => {
                serving.gateway.note_refused(Refusal::TlsRequired);
                serving.refusals.tell(websocket::redirect_to_https(stream, serving.head_timeout));
            }
        }
    }
}

impl Serving {
    /// Answers the first request with this, whatever it is, and closes.
    fn refuse(&self, stream: ServerStream, status: StatusCode, text: &'static str) {
        let seconds = RETRY_AFTER.as_secs().to_string();
        let headers = [(header::RETRY_AFTER, seconds), (header::CONNECTION, "close".to_owned())];
        let answer = (status, headers, text);
        let router = Router::new().fallback(async move || answer.into_response());
        let (head_timeout, cancel) = (self.head_timeout, self.cancel.clone());
        // The places of refusals are not these: one for each of them is enough.
        let own = Places::new(1).take();
        self.refusals.tell(async move {
            let Some(place) = own else { return };
            let answering = serve_one(stream, router, head_timeout, place, cancel);
            drop(tokio::time::timeout(head_timeout, answering).await);
        });
    }
}

async fn serve_one(
    stream: ServerStream,
    router: Router,
    head_timeout: Duration,
    place: Place,
    cancel: CancellationToken,
) {
    let peer = stream.peer();
    let patience = Patience::default();
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        patience.extend(Duration::ZERO);
        request.extensions_mut().insert(patience.clone());
        place.busy();
        let answering = router.call(request);
        let place = &place;
        async move {
            let answer = answering.await;
            place.idle();
            answer
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
        () = patience.ends(head_timeout * RESPONSE_TIMEOUTS) => {
            tracing::debug!(%peer, "an HTTP client does not take its response");
            return;
        }
        () = place.needed() => {
            tracing::debug!(%peer, "an idle HTTP connection gave way to another");
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

/// Until when a connection's last request may take. Clones are the same connection's.
#[derive(Clone)]
pub(super) struct Patience(Arc<Mutex<Instant>>);

impl Default for Patience {
    fn default() -> Self {
        Patience(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Patience {
    /// A request came that takes at least this long to answer.
    pub(super) fn extend(&self, by: Duration) {
        *self.0.lock() = Instant::now() + by;
    }

    /// Resolves when nothing was asked for so long. While a connection is idle the time for a head ends it sooner, so
    /// this one has a client that does not read.
    async fn ends(&self, limit: Duration) {
        loop {
            let until = *self.0.lock() + limit;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}
