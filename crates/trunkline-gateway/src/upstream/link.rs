//! One HTTP/2 connection to an instance, and how it is dialled.
//!
//! tonic's own channel queues calls while it reconnects and hides whether a request has left. Here a connection
//! is either there or not, and a failed call says whether anything of it was sent: only then may it be repeated
//! without asking.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use http::Uri;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::Service;
use trunkline_proto::wire::upstream_service_client::UpstreamServiceClient;

use super::registration::Address;
use crate::tracked::Tracked;

/// A byte stream to an instance.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens byte streams to instances: sockets in earnest, memory in tests.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// Connects. Dropped when the connect time-out passes.
    async fn dial(&self, address: &Address) -> io::Result<Box<dyn Stream>>;
}

/// TCP and Unix sockets.
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketDial;

#[async_trait]
impl Dial for SocketDial {
    async fn dial(&self, address: &Address) -> io::Result<Box<dyn Stream>> {
        if let Some(path) = address.unix_path() {
            return Ok(Box::new(UnixStream::connect(path).await?));
        }
        let stream = TcpStream::connect(address.as_str()).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

/// A connection. Clones share it; it ends when the peer closes it, or when all clones and calls are gone.
#[derive(Clone)]
pub(super) struct Link {
    sender: SendRequest<Body>,
    origin: Uri,
    closed: CancellationToken,
    max_response: usize,
}

impl Link {
    /// Connects within `timeout`. The connection's own work runs in `tasks` until it closes, which it does by itself
    /// when nobody has the link or a call on it any more, or until `cancel` cuts it off.
    pub(super) async fn open(
        dial: &dyn Dial,
        address: &Address,
        timeout: Duration,
        max_response: usize,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> io::Result<Link> {
        let stream = tokio::time::timeout(timeout, dial.dial(address))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))??;
        let (sender, connection) = Builder::new(Tracked { tasks: tasks.clone(), cancel: cancel.clone() })
            .timer(TokioTimer::new())
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let closed = CancellationToken::new();
        let at_end = closed.clone().drop_guard();
        tasks.spawn(async move {
            let _at_end = at_end;
            tokio::select! {
                () = cancel.cancelled() => {}
                // How it ended is told by the calls that it broke, and by the probe.
                _ = connection => {}
            }
        });
        let authority = if address.unix_path().is_some() { "localhost" } else { address.as_str() };
        let origin = Uri::builder().scheme("http").authority(authority).path_and_query("/").build();
        Ok(Link { sender, origin: origin.map_err(io::Error::other)?, closed, max_response })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_cancelled() || self.sender.is_closed()
    }

    /// Resolves when the connection is gone. Cancel-safe.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// A client for one call, with what will be known of the call's way.
    pub(super) fn client(&self) -> (UpstreamServiceClient<Way>, Unsent) {
        let unsent = Unsent(Arc::new(AtomicBool::new(false)));
        let way = Way { sender: self.sender.clone(), unsent: unsent.clone() };
        let client = UpstreamServiceClient::with_origin(way, self.origin.clone());
        (client.max_decoding_message_size(self.max_response), unsent)
    }
}

/// Whether a failed call is known not to have reached the instance's code.
#[derive(Debug, Clone)]
pub(super) struct Unsent(Arc<AtomicBool>);

impl Unsent {
    pub(super) fn is_certain(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The way of one call over a link.
#[derive(Clone)]
pub(super) struct Way {
    sender: SendRequest<Body>,
    unsent: Unsent,
}

type Sending =
    Pin<Box<dyn Future<Output = Result<http::Response<hyper::body::Incoming>, hyper::Error>> + Send>>;

impl Service<http::Request<Body>> for Way {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Sending;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // A closed connection is found by sending, which gives the request back.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let sending = self.sender.try_send_request(request);
        let unsent = self.unsent.clone();
        Box::pin(async move {
            sending.await.map_err(|mut error| {
                let returned = error.take_message().is_some();
                let error = error.into_error();
                if returned || is_refused(&error) {
                    unsent.0.store(true, Ordering::Release);
                }
                error
            })
        })
    }
}

/// The peer says that it has not begun the request: RFC 9113 section 8.7, REFUSED_STREAM, or a GOAWAY without
/// error whose last stream lies before the request's.
fn is_refused(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    source.and_then(|source| source.downcast_ref::<h2::Error>()).is_some_and(|error| {
        error.is_remote()
            && (error.reason() == Some(h2::Reason::REFUSED_STREAM)
                || (error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)))
    })
}
