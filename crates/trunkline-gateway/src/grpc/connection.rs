//! One HTTP/2 connection: who the peer is, what it may ask, and how the connection ends.
//!
//! Every request but a health check passes the peer policy first, so that a method added later is guarded too. A
//! balancer that asks for health has no token, learns nothing but whether the node serves, and holds its place for a
//! short time only.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::service::Routes;

use super::options::{
    CONNECTION_WINDOW, FLUSH, IDLE, KEEP_ALIVE, KEEP_ALIVE_TIMEOUT, MAX_STREAMS, PREFACE_TIMEOUT,
    REQUEST_TIMEOUT, STRANGER_TIMEOUT,
};
use super::preface::Prefaced;
use crate::tracked::Tracked;
use crate::upstream::{ClientCertificate, Peer, PeerPolicy, Stream};

/// Methods that need no leave.
const OPEN: &str = "/grpc.health.v1.Health/";

/// What all connections of the surface share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) routes: Routes,
    pub(super) policy: PeerPolicy,
    /// Begins the end of every connection.
    pub(super) stopping: CancellationToken,
    pub(super) executor: Tracked,
}

/// A peer and what is known of its connection.
struct Connection {
    peer: Peer,
    certificate: ClientCertificate,
    shared: Shared,
    /// Requests that run.
    running: watch::Sender<usize>,
    /// It was allowed something.
    known: AtomicBool,
    /// It was refused something: said once in the log.
    refused: AtomicBool,
}

/// Counts a request for as long as it runs, cancelled or not.
struct Running<'a>(&'a watch::Sender<usize>);

impl<'a> Running<'a> {
    fn begin(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Running(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(
    stream: impl Stream + 'static,
    peer: Peer,
    certificate: ClientCertificate,
    shared: Shared,
) {
    let Ok(Ok(stream)) = timeout(PREFACE_TIMEOUT, Prefaced::read(stream)).await else {
        tracing::debug!(?peer, "a peer of the gRPC port did not begin HTTP/2");
        return;
    };
    let connection = Arc::new(Connection {
        peer,
        certificate,
        shared: shared.clone(),
        running: watch::Sender::new(0),
        known: AtomicBool::new(false),
        refused: AtomicBool::new(false),
    });
    let answering = Arc::clone(&connection);
    let service = service_fn(move |request| {
        let answering = Arc::clone(&answering);
        async move { Ok::<_, Infallible>(answering.answer(request).await) }
    });
    let mut builder = Builder::new(shared.executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let mut http = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        biased;
        () = shared.stopping.cancelled() => {}
        result = http.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(?peer, %error, "a gRPC connection broke");
            }
            return;
        }
        () = connection.stays_unknown() => {
            // One that asked for health and nothing else is told to go, and comes back when it asks again.
            tracing::debug!(?peer, "a stranger's gRPC connection ends");
        }
        () = connection.idle() => {}
    }
    http.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        // How it ends does not matter any more.
        _ = http => {}
        () = connection.flushed() => {}
    }
}

impl Connection {
    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let _running = Running::begin(&self.running);
        if let Err(status) = self.check(request.uri().path(), request.headers()) {
            return status.into_http();
        }
        let limit = asked_timeout(request.headers()).unwrap_or(REQUEST_TIMEOUT).min(REQUEST_TIMEOUT);
        request.extensions_mut().insert(self.peer);
        let mut routes = self.shared.routes.clone();
        match timeout(limit, routes.call(request)).await {
            Ok(Ok(response)) => response,
            Err(_elapsed) => {
                let text = format!("not done within {} ms", limit.as_millis());
                Status::deadline_exceeded(text).into_http()
            }
        }
    }

    fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), Status> {
        // What is no text is no token.
        let authorization = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        match self.shared.policy.check(self.peer, self.certificate, authorization) {
            // It is answered, and remains a stranger: its connection ends in time.
            Err(_) if path.starts_with(OPEN) => Ok(()),
            Ok(()) => {
                self.known.store(true, Relaxed);
                Ok(())
            }
            Err(refusal) => {
                if !self.refused.swap(true, Relaxed) {
                    tracing::warn!(peer = ?self.peer, path, %refusal, "a gRPC peer was refused");
                }
                Err(Status::unauthenticated(refusal.to_string()))
            }
        }
    }

    /// Resolves if the peer was allowed nothing but health in time.
    async fn stays_unknown(&self) {
        sleep(STRANGER_TIMEOUT).await;
        if self.known.load(Relaxed) {
            std::future::pending().await
        }
    }

    /// Resolves when there was no request for a long time.
    async fn idle(&self) {
        let mut running = self.running.subscribe();
        loop {
            // The sender lives as long as `self`: neither wait can fail.
            if running.wait_for(|count| *count == 0).await.is_err() {
                return;
            }
            if timeout(IDLE, running.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Resolves when nothing runs any more and the last answers have had their time. Streams that have no end of
    /// their own, as those that watch health, do not count.
    async fn flushed(&self) {
        let mut running = self.running.subscribe();
        // See `idle`.
        if running.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
        sleep(FLUSH).await;
    }
}

/// The time that a request gives itself: the header `grpc-timeout`, at most eight digits and a unit.
fn asked_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            asked_timeout(&headers)
        };
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("10m"), Some(Duration::from_millis(10)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for wrong in ["", "S", "1", "-1S", "999999999S", "1d", "+1x"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
        assert_eq!(asked_timeout(&HeaderMap::new()), None);
    }
}
