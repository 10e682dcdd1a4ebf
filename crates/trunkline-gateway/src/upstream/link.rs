//! One HTTP/2 connection to an instance, and how it is dialled.
//!
//! A channel that reconnects by itself queues calls meanwhile and hides whether a request has left. Here a connection
//! is either there or not, and a failed call says whether anything of it was sent: only then may it be repeated
//! without asking. It frames nothing and decodes nothing.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::channels::Channels;
use super::driver::{Driver, Exchange, Inlets, PROBES, QUEUE};
use super::load::Load;
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
pub(super) struct Link(Arc<Shared>);

struct Shared {
    queue: mpsc::Sender<Exchange>,
    /// Beside the queue, which may be long.
    probes: mpsc::Sender<Exchange>,
    load: Arc<Load>,
    spoken: CancellationToken,
    closed: CancellationToken,
}

impl Link {
    /// Connects within `timeout`. The connection's own work runs in `tasks` until it closes, which it does by itself
    /// when nobody has the link or a call on it any more, or until `cancel` cuts it off. Calls that it has no room for
    /// go to `siblings` that have.
    pub(super) async fn open(
        dial: &dyn Dial,
        address: &Address,
        timeout: Duration,
        max_response: usize,
        siblings: Weak<Channels>,
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
        let (probes, probing) = mpsc::channel(PROBES);
        let authority = if address.unix_path().is_some() { "localhost" } else { address.as_str() };
        let authority = authority.parse().map_err(io::Error::other)?;
        let load = Arc::new(Load::new(FIRST_STREAMS));
        let (spoken, closed) = (CancellationToken::new(), CancellationToken::new());
        let inlets = Inlets {
            probes: probing,
            queue: waiting,
            load: load.clone(),
            siblings,
            spoken: spoken.clone(),
            open: Some(closed.clone().drop_guard()),
        };
        let driver = Driver::new(sender, connection, inlets, authority, max_response, timeout);
        tasks.spawn(async move { cancel.run_until_cancelled_owned(driver).await.unwrap_or_default() });
        Ok(Link(Arc::new(Shared { queue, probes, load, spoken, closed })))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.closed.is_cancelled()
    }

    /// Resolves when the connection is gone. Cancel-safe.
    pub(super) async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// Resolves when the peer has shown that it speaks HTTP/2, with `false` when the connection ends before it does.
    /// Cancel-safe.
    pub(super) async fn spoken(&self) -> bool {
        let Shared { spoken, closed, .. } = &*self.0;
        closed.run_until_cancelled(spoken.cancelled()).await.is_some()
    }

    /// Calls on it: those that run, and those that wait until they may.
    pub(super) fn calls(&self) -> usize {
        let Shared { queue, load, .. } = &*self.0;
        load.running() + (queue.max_capacity() - queue.capacity())
    }

    /// Its peer takes another call at once.
    pub(super) fn has_room(&self) -> bool {
        self.calls() < self.0.load.room() && self.0.queue.capacity() > 0
    }

    /// What runs goes on, and what waits is given back. For one that nobody chooses any more.
    pub(super) fn give_up(&self) {
        self.0.load.give_up();
    }

    /// Calls that wait on it may be given to another, which has room.
    pub(super) fn wake(&self) {
        self.0.load.wake();
    }

    /// Takes over a call that waited on another connection.
    pub(super) fn take(&self, exchange: Exchange) {
        // One that is not taken says so when it is dropped.
        drop(self.0.queue.try_send(exchange));
    }

    /// One call. Whoever calls keeps to its time. Dropping the future cancels it.
    pub(super) fn call<R: Message + Default>(
        &self,
        request: Request<R>,
    ) -> impl Future<Output = Result<R, Failure>> {
        self.exchange(&self.0.queue, request)
    }

    /// The same for a question about the instance's health: as many calls as may run and wait, it goes at once.
    pub(super) fn probe<R: Message + Default>(
        &self,
        request: Request<R>,
    ) -> impl Future<Output = Result<R, Failure>> {
        self.exchange(&self.0.probes, request)
    }

    async fn exchange<R: Message + Default>(
        &self,
        queue: &mpsc::Sender<Exchange>,
        request: Request<R>,
    ) -> Result<R, Failure> {
        let (exchange, answer) = Exchange::new(request.head, request.body);
        if let Err(TrySendError::Full(exchange)) = queue.try_send(exchange) {
            // Apart, since it is large and rare.
            drop(Box::pin(queue.send(exchange)).await);
        }
        // While it is full nothing tells the connection's task of what comes.
        if !self.has_room() {
            self.wake();
        }
        // One that was not taken has said so when it was dropped.
        let cut = || Failure::broken(tonic::Status::unavailable("the connection was cut off"));
        unary::decode(answer.await.unwrap_or_else(|_gone| Err(cut()))?)
    }
}
