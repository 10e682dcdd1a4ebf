//! One HTTP/2 connection to an instance, and how it is dialled.
//!
//! A channel that reconnects by itself queues calls meanwhile and hides whether a request has left. Here a connection
//! is either there or not, and a failed call says whether anything of it was sent: only then may it be repeated
//! without asking. It frames nothing and decodes nothing.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::driver::{Driver, Exchange, QUEUE};
use super::registration::Address;
use super::unary::{self, Failure, Request};

/// What one answer may fill before it is taken up: the largest one, so that none waits for the window in the middle.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// The same for all calls of a connection.
const CONNECTION_WINDOW: u32 = 5 * 1024 * 1024;
/// Calls that may run before the peer has said how many it takes: what RFC 9113 section 6.5.2 asks of every peer.
const FIRST_STREAMS: usize = 100;
/// Headers and trailers of an answer: gRPC's own default is 8 KiB.
const MAX_HEADERS: u32 = 16 * 1024;

/// What small DATA frames that lie in memory may cost beside their bytes: up to 256 B each, and every call that runs may
/// have one. More than 65,536 at once are an attack, and end the connection.
const DATA_FRAMES: usize = 65_536 * 256;

/// Calls given up of which h2 remembers that their answers may still come. Of what it has forgotten it takes a frame for a
/// breach, and a thousand of those in a connection's life for its end: as many as may run at an instance by default.
const RESET_STREAMS: usize = 1_024;

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
    queue: mpsc::Sender<Exchange>,
    closed: CancellationToken,
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
        let mut http2 = h2::client::Builder::new();
        http2
            .enable_push(false)
            .initial_max_send_streams(FIRST_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .data_frame_budget(DATA_FRAMES)
            .max_concurrent_reset_streams(RESET_STREAMS);
        let (sender, connection) = http2.handshake(stream).await.map_err(io::Error::other)?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        let closed = CancellationToken::new();
        let open = closed.clone().drop_guard();
        let authority = if address.unix_path().is_some() { "localhost" } else { address.as_str() };
        let authority = authority.parse().map_err(io::Error::other)?;
        let driver = Driver::new(sender, connection, waiting, authority, max_response, timeout, open);
        tasks.spawn(async move { cancel.run_until_cancelled_owned(driver).await.unwrap_or_default() });
        Ok(Link { queue, closed })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Resolves when the connection is gone. Cancel-safe.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// One call. Whoever calls keeps to its time. Dropping the future cancels it.
    pub(super) async fn call<R: Message + Default>(&self, request: Request<R>) -> Result<R, Failure> {
        let (exchange, answer) = Exchange::new(request.head, request.body);
        if let Err(TrySendError::Full(exchange)) = self.queue.try_send(exchange) {
            // Apart, since it is large and rare.
            drop(Box::pin(self.queue.send(exchange)).await);
        }
        // One that was not taken has said so when it was dropped.
        let cut = || Failure::broken(tonic::Status::unavailable("the connection was cut off"));
        unary::decode(answer.await.unwrap_or_else(|_gone| Err(cut()))?)
    }
}
