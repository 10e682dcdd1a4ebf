//! The client of the packet level: one connection at a time, made when told to.
//!
//! It connects once per call and does not come back by itself; what is in flight when the link is lost ends as
//! disconnected.

mod builder;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub use self::builder::TransportClientBuilder;
use crate::{
    CloseReason, ConnectError, Connection, EventStream, EventsError, Packet, ReplyStream, Request,
    RequestError, SendError, Sending, Session, SessionId, Stats, TransportError, Wire, codes,
    protocols::{ClientProtocol, DialOptions, agreed_wire},
    session::{
        core::{Core, Shared},
        driver::{Driver, Handler},
        inbox::Item,
    },
};

/// A client. Clones share it and its connection. When the last clone is gone, the connection is closed.
#[derive(Clone, Debug)]
pub struct TransportClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    protocol: ClientProtocol,
    dial: DialOptions,
    shared: Arc<Shared>,
    current: Mutex<Option<Session>>,
    /// One at a time connects.
    connecting: Semaphore,
    tasks: TaskTracker,
    next: AtomicU64,
}

impl TransportClient {
    fn new(protocol: ClientProtocol, dial: DialOptions, shared: Arc<Shared>) -> Self {
        let inner = Inner {
            protocol,
            dial,
            shared,
            current: Mutex::new(None),
            connecting: Semaphore::new(1),
            tasks: TaskTracker::new(),
            next: AtomicU64::new(1),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Connects, unless it is connected. What the peer sends is an event.
    ///
    /// # Errors
    /// There is no connection within the time.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        self.connect_by(None::<fn(Session) -> std::future::Ready<Result<(), TransportError>>>).await
    }

    /// Connects, unless it is connected; what the peer sends is received by this async function, which runs in the
    /// connection's own task. The connection closes when it returns.
    ///
    /// # Errors
    /// There is no connection within the time.
    pub async fn connect_with<F, Fut>(&self, handler: F) -> Result<(), ConnectError>
    where
        F: FnOnce(Session) -> Fut,
        Fut: Future<Output = Result<(), TransportError>> + Send + 'static,
    {
        self.connect_by(Some(handler)).await
    }

    async fn connect_by<F, Fut>(&self, handler: Option<F>) -> Result<(), ConnectError>
    where
        F: FnOnce(Session) -> Fut,
        Fut: Future<Output = Result<(), TransportError>> + Send + 'static,
    {
        // It is never closed, so there always is a place some day.
        let Ok(_place) = self.inner.connecting.acquire().await else { return Ok(()) };
        if self.is_connected() {
            return Ok(());
        }
        let connection = self.inner.protocol.connect(&self.inner.dial).await?;
        self.adopt(connection, handler);
        Ok(())
    }

    fn adopt<F, Fut>(&self, connection: Connection, handler: Option<F>)
    where
        F: FnOnce(Session) -> Fut,
        Fut: Future<Output = Result<(), TransportError>> + Send + 'static,
    {
        let id = SessionId(self.inner.next.fetch_add(1, Relaxed));
        let info = connection.info.clone();
        let framing = connection.writer.framing();
        let wire = agreed_wire(&info).unwrap_or(self.inner.dial.wire);
        let is_evented = handler.is_none();
        let shared = Arc::clone(&self.inner.shared);
        let core = Arc::new(Core::new(id, info, framing, Some(wire), is_evented, shared));
        let session = Session::new(Arc::clone(&core));
        if is_evented {
            core.received(Item::Established);
        }
        let handler = handler.map(|handler| Box::pin(handler(session.clone())) as Handler);
        *self.inner.current.lock() = Some(session);
        let driver = Driver::new(Arc::clone(&core), connection, handler);
        let entry = Ended(core);
        self.inner.tasks.spawn(async move {
            let reason = driver.run(|| drop(entry)).await;
            tracing::debug!(session = %id, %reason, "connection ended");
        });
    }

    /// Everything that happens. What happens before it is taken is kept, within the limits.
    ///
    /// # Errors
    /// It was taken before.
    pub fn events(&self) -> Result<EventStream, EventsError> {
        self.inner.shared.hub.attach()?;
        Ok(EventStream::new(Arc::clone(&self.inner.shared)))
    }

    /// The connection, if there is one.
    #[must_use]
    pub fn session(&self) -> Option<Session> {
        self.inner.current.lock().clone().filter(Session::is_open)
    }

    /// Whether there is a connection that packets can be sent on.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.session().is_some()
    }

    /// As [`Session::send`].
    #[must_use = "nothing is sent unless it is awaited"]
    pub fn send(&self, packet: impl Into<Packet>) -> Sending {
        self.session().map_or_else(Sending::not_connected, |session| session.send(packet))
    }

    /// As [`Session::try_send`].
    ///
    /// # Errors
    /// As [`Session::try_send`].
    pub fn try_send(&self, packet: impl Into<Packet>) -> Result<(), SendError> {
        self.session().ok_or(SendError::NotConnected)?.try_send(packet)
    }

    /// As [`Session::request`]. It needs nobody to read the events.
    #[must_use = "nothing is sent unless it is awaited"]
    pub fn request(&self, packet: impl Into<Packet>) -> Request {
        match self.session() {
            Some(session) => session.request(packet),
            None => Request::not_connected(packet.into()),
        }
    }

    /// As [`Session::request_stream`].
    ///
    /// # Errors
    /// As [`Session::request_stream`].
    pub async fn request_stream(&self, packet: impl Into<Packet>) -> Result<ReplyStream, RequestError> {
        let session = self.session().ok_or(SendError::NotConnected)?;
        session.request_stream(packet).await
    }

    /// Sends what is queued, closes the connection, and waits until it has ended. Harmless without one.
    pub async fn disconnect(&self) {
        let session = self.inner.current.lock().clone();
        if let Some(session) = session {
            session.close(codes::NORMAL, "");
            session.closed().await;
        }
    }

    /// The figures of all connections of this client together.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let sum = crate::session::stats::Counters::default();
        sum.add(&self.inner.shared.ended.snapshot());
        if let Some(session) = self.session() {
            sum.add(&session.stats());
        }
        sum.snapshot()
    }

    /// The wire that is spoken when the handshake leaves it open.
    #[must_use]
    pub fn wire(&self) -> Wire {
        self.inner.dial.wire
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(session) = self.current.lock().take() {
            session.close(codes::NORMAL, "");
        }
        self.shared.hub.finish();
    }
}

/// Tells everybody who waits, should a connection's task be dropped rather than end.
struct Ended(Arc<Core>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended(&CloseReason::Lost("its task was dropped".to_owned()));
    }
}
