//! The client of the packet level: one connection, or a pool of them, over one protocol or the quickest of several.
//!
//! Unless told otherwise it connects once per call and does not come back by itself; what is in flight when a link is lost
//! ends as disconnected. Kept connections are the keeper's work.

mod builder;
mod keeper;
mod links;
mod retry;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{builder::TransportClientBuilder, retry::RetryConfig};
use self::{
    keeper::{Keeping, keep},
    links::Links,
};
use crate::{
    CloseReason, ConnectError, Connection, EventStream, EventsError, Packet, ReplyStream, Request,
    RequestError, SendError, Sending, Session, SessionId, Stats, TransportError, Wire, codes,
    early::Entered,
    protocols::{ClientProtocol, DialOptions, agreed_wire},
    race::first_to_answer,
    session::{
        core::{Core, Shared},
        driver::{Driver, Handler},
        inbox::Item,
        request::Exchange,
    },
};

/// A client. Clones share it and its connections. When the last clone is gone, they are closed.
#[derive(Clone, Debug)]
pub struct TransportClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Several are raced.
    protocols: Vec<ClientProtocol>,
    dial: DialOptions,
    retry: Option<RetryConfig>,
    keeping: Option<Keeping>,
    shared: Arc<Shared>,
    links: Links,
    /// One at a time connects.
    connecting: Semaphore,
    is_kept: AtomicBool,
    keeper_end: CancellationToken,
    tasks: TaskTracker,
    next: AtomicU64,
}

impl TransportClient {
    fn new(
        protocols: Vec<ClientProtocol>,
        dial: DialOptions,
        retry: Option<RetryConfig>,
        keeping: Option<Keeping>,
        shared: Arc<Shared>,
    ) -> Self {
        let inner = Inner {
            protocols,
            dial,
            retry,
            keeping,
            shared,
            links: Links::default(),
            connecting: Semaphore::new(1),
            is_kept: AtomicBool::new(false),
            keeper_end: CancellationToken::new(),
            tasks: TaskTracker::new(),
            next: AtomicU64::new(1),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Connects, unless it is connected: a pool to its least number. What the peer sends is an event. By the retry
    /// strategy it tries again, each time for as long as the builder's time-out says.
    ///
    /// # Errors
    /// There is no connection within the time, or not as many as a pool must have.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        // It is never closed, so there always is a place some day.
        let Ok(_place) = self.inner.connecting.acquire().await else { return Ok(()) };
        if self.is_connected() {
            return Ok(());
        }
        let count = self.inner.keeping.map_or(1, |keeping| keeping.min);
        self.inner.links.sweep();
        self.inner.links.want(count);
        let attempts = (0..count).map(|_| self.inner.connect_retrying());
        if let Err(error) = futures_util::future::try_join_all(attempts).await {
            // A pool that is half there is none.
            self.inner.close_all();
            return Err(error);
        }
        if let Some(keeping) = self.inner.keeping
            && !self.inner.is_kept.swap(true, Relaxed)
        {
            let end = self.inner.keeper_end.clone();
            self.inner.tasks.spawn(keep(Arc::downgrade(&self.inner), keeping, end));
        }
        self.inner.shared.changed.notify_waiters();
        Ok(())
    }

    /// Makes one connection, unless it is connected; what the peer sends is received by this async function, which runs in
    /// the connection's own task. The connection closes when it returns, and is not made anew. When the connection ends
    /// first, what it waits for there says so, and it has 10 s to return before it is dropped. From the first connection of
    /// this kind on, the client has no events.
    ///
    /// # Errors
    /// There is no connection within the time, or the events were taken ([`ConnectError::EventsTaken`]).
    pub async fn connect_with<F, Fut>(&self, handler: F) -> Result<(), ConnectError>
    where
        F: FnOnce(Session) -> Fut,
        Fut: Future<Output = Result<(), TransportError>> + Send + 'static,
    {
        let Ok(_place) = self.inner.connecting.acquire().await else { return Ok(()) };
        if self.is_connected() {
            return Ok(());
        }
        let hub = &self.inner.shared.hub;
        if hub.was_taken() {
            return Err(ConnectError::EventsTaken);
        }
        let connection = self.inner.dial_retrying().await?;
        // Only now: who gets no connection takes the events from nobody. They may have been taken meanwhile.
        if !hub.exclude() {
            return Err(ConnectError::EventsTaken);
        }
        self.inner.links.sweep();
        self.inner.links.want(1);
        self.inner.adopt(connection, Some(handler));
        Ok(())
    }

    /// Everything that happens. What happens before it is taken is kept, within the limits.
    ///
    /// # Errors
    /// It was taken before, or a handler receives ([`TransportClient::connect_with`]).
    pub fn events(&self) -> Result<EventStream, EventsError> {
        self.inner.shared.hub.attach()?;
        Ok(EventStream::new(Arc::clone(&self.inner.shared)))
    }

    /// The connection, if there is one; of a pool the one with the least load.
    #[must_use]
    pub fn session(&self) -> Option<Session> {
        self.inner.links.least_loaded()
    }

    /// All connections that packets can be sent on.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        self.inner.links.open()
    }

    /// Whether there is a connection that packets can be sent on.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.session().is_some()
    }

    /// As [`Session::send`]. Packets that a pool sends on different connections have no order.
    #[must_use = "nothing is sent unless it is awaited"]
    pub fn send(&self, packet: impl Into<Packet>) -> Sending {
        self.choose().map_or_else(Sending::not_connected, |session| session.send(packet))
    }

    /// As [`Session::try_send`].
    ///
    /// # Errors
    /// As [`Session::try_send`].
    pub fn try_send(&self, packet: impl Into<Packet>) -> Result<(), SendError> {
        self.choose().ok_or(SendError::NotConnected)?.try_send(packet)
    }

    /// As [`Session::request`]. It needs nobody to read the events. [`Request::idempotent`] asks again where the client comes
    /// back by itself, and early where it may (`QuicClientConfig::early_data`).
    #[must_use = "nothing is sent unless it is awaited"]
    pub fn request(&self, packet: impl Into<Packet>) -> Request {
        let can_wait = self.inner.keeping.is_some() || self.inner.dial.early.is_some();
        let again = can_wait.then(|| self.clone());
        let core = self.choose().map(|session| session.core);
        Request::by_client(core, packet.into(), self.inner.shared.request_timeout, again)
    }

    /// As [`Session::request_stream`].
    ///
    /// # Errors
    /// As [`Session::request_stream`].
    pub async fn request_stream(&self, packet: impl Into<Packet>) -> Result<ReplyStream, RequestError> {
        let session = self.choose().ok_or(SendError::NotConnected)?;
        session.request_stream(packet).await
    }

    /// Sends what is queued, closes every connection, and waits until it has ended; none is made anew. Harmless without
    /// one.
    ///
    /// Over QUIC and WebTransport the end takes back what the server's library has and its user has not read yet: whoever has
    /// to know that a one-way packet was read asks a request behind it first.
    pub async fn disconnect(&self) {
        for session in self.inner.close_all() {
            session.closed().await;
        }
    }

    /// The figures of all connections of this client together.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.shared.sum(self.inner.links.open().iter().map(|session| &session.core))
    }

    /// The wire that is spoken when the handshake leaves it open.
    #[must_use]
    pub fn wire(&self) -> Wire {
        self.inner.dial.wire
    }

    /// The connection to use next; a pool grows where that one is busy.
    fn choose(&self) -> Option<Session> {
        let chosen = self.inner.links.least_loaded()?;
        if let Some(keeping) = self.inner.keeping
            && self.inner.links.grow(&chosen, keeping.max)
        {
            self.inner.shared.changed.notify_waiters();
        }
        Some(chosen)
    }

    /// Asks until there is an answer, on one connection after another.
    pub(crate) async fn request_again(
        self,
        packet: Packet,
        timeout: Duration,
    ) -> Result<Packet, RequestError> {
        let deadline = Instant::now() + timeout;
        loop {
            let Ok(way) = timeout_at(deadline, self.way_for(&packet, deadline, timeout)).await else {
                return Err(RequestError::TimedOut(timeout));
            };
            let answer = match way {
                None => return Err(SendError::NotConnected.into()),
                Some(Way::Session(session)) => {
                    let left = deadline.duration_since(Instant::now());
                    session.request(packet.clone()).timeout(left).await
                }
                Some(Way::Early(begun)) => match timeout_at(deadline, begun).await {
                    Ok(Ok(exchange)) => exchange.answer().await,
                    // There is no connection after all.
                    Ok(Err(_)) => continue,
                    Err(_) => return Err(RequestError::TimedOut(timeout)),
                },
            };
            match answer {
                Err(RequestError::TimedOut(_)) => return Err(RequestError::TimedOut(timeout)),
                Err(
                    RequestError::Disconnected(_)
                    | RequestError::GoingAway
                    | RequestError::NotSent(SendError::Closed(_)),
                ) if self.inner.keeping.is_some() => {}
                answer => return answer,
            }
        }
    }

    /// A connection that takes this idempotent request, or one to be that takes it early, as soon as there is either; `None`
    /// when none is to be expected.
    async fn way_for(&self, packet: &Packet, deadline: Instant, timeout: Duration) -> Option<Way> {
        loop {
            let changed = self.inner.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            // One that could be used a moment ago may have ended since: that is no answer.
            if self.inner.links.usable() > 0
                && let Some(session) = self.choose()
            {
                return Some(Way::Session(session));
            }
            // Without a keeper there is one only while somebody connects.
            let is_expected = self.inner.keeping.is_some() || self.inner.connecting.available_permits() == 0;
            if self.inner.links.wanted() == 0 || !is_expected {
                return None;
            }
            let early = self.inner.dial.early.as_ref();
            if let Some(begun) = early.and_then(|early| early.offer(packet, deadline, timeout)) {
                return Some(Way::Early(begun));
            }
            changed.await;
        }
    }
}

/// How a request gets to the server.
enum Way {
    Session(Session),
    Early(oneshot::Receiver<Exchange>),
}

impl Inner {
    /// One connection more, by events.
    async fn connect_once(&self) -> Result<(), ConnectError> {
        let connection = self.dial_once().await?;
        self.adopt(connection, None::<fn(Session) -> std::future::Ready<Result<(), TransportError>>>);
        Ok(())
    }

    async fn connect_retrying(&self) -> Result<(), ConnectError> {
        let connection = self.dial_retrying().await?;
        self.adopt(connection, None::<fn(Session) -> std::future::Ready<Result<(), TransportError>>>);
        Ok(())
    }

    /// By the strategy, as long as it is worth it.
    async fn dial_retrying(&self) -> Result<Connection, ConnectError> {
        let mut failures = 0;
        loop {
            let error = match self.dial_once().await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            failures += 1;
            let pause = self.retry.and_then(|retry| retry.pause(failures, rand::random()));
            match pause {
                Some(pause) if error.is_retryable() => {
                    tracing::debug!(%error, ?pause, "connecting failed; it is tried again");
                    sleep(pause).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// The first protocol that answers; QUIC has a head start, and what loses is dropped.
    async fn dial_once(&self) -> Result<Connection, ConnectError> {
        let all: Vec<&ClientProtocol> = self.protocols.iter().collect();
        let connected = first_to_answer(all, |protocol| protocol.connect(&self.dial)).await;
        connected.unwrap_or(Err(ConnectError::Memory))
    }

    fn adopt<F, Fut>(&self, mut connection: Connection, handler: Option<F>)
    where
        F: FnOnce(Session) -> Fut,
        Fut: Future<Output = Result<(), TransportError>> + Send + 'static,
    {
        let id = SessionId(self.next.fetch_add(1, Relaxed));
        let info = connection.info.clone();
        let framing = connection.writer.framing();
        let wire = agreed_wire(&info).unwrap_or(self.dial.wire);
        let is_evented = handler.is_none();
        let core = Arc::new(Core::new(id, info, framing, Some(wire), is_evented, Arc::clone(&self.shared)));
        let session = Session::new(Arc::clone(&core));
        // Before anybody else can ask by it.
        let begun = connection.begun.take().map(|begun| begun.enter(&core));
        if !self.links.add(&session) {
            // Somebody has disconnected meanwhile: the connection is dropped, and who has asked by it is told nothing more.
            drop(core.out.lock().end(CloseReason::Ended));
            return;
        }
        begun.into_iter().for_each(Entered::go_on);
        if is_evented {
            core.received(Item::Established);
        }
        let handler = handler.map(|handler| Box::pin(handler(session)) as Handler);
        let driver = Driver::new(Arc::clone(&core), connection, handler);
        let entry = Ended(core);
        self.tasks.spawn(async move {
            let reason = driver.run(|| drop(entry)).await;
            tracing::debug!(session = %id, %reason, "connection ended");
        });
        self.shared.changed.notify_waiters();
    }

    /// Closes every connection and wants none any more.
    fn close_all(&self) -> Vec<Session> {
        let sessions = self.links.take_all();
        sessions.iter().for_each(|session| session.close(codes::NORMAL, ""));
        self.shared.changed.notify_waiters();
        sessions
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close_all();
        self.keeper_end.cancel();
        self.shared.hub.abandon();
    }
}

/// Tells everybody who waits, should a connection's task be dropped rather than end.
struct Ended(Arc<Core>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended(&CloseReason::Lost("its task was dropped".to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use tokio::{task::JoinSet, time::timeout};

    use super::*;
    use crate::{MemoryServerConfig, Session, TransportError, TransportServerBuilder};

    /// Connections end behind whoever lets go of them.
    async fn until_gone(shared: &Weak<Shared>) {
        let gone = async {
            while shared.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), gone).await.expect("somebody still holds it");
    }

    #[tokio::test]
    async fn nothing_is_left_of_who_is_gone_though_nobody_has_read_the_events() {
        for is_served in [true, false] {
            let (memory, protocol) = MemoryServerConfig::new();
            let server = TransportServerBuilder::new().with_protocol(memory).build().await.unwrap();
            let (serving, mut tasks) = (server.clone(), JoinSet::new());
            if is_served {
                let idle = |mut session: Session| async move {
                    while session.recv().await?.is_some() {}
                    Ok::<_, TransportError>(())
                };
                tasks.spawn(async move { serving.serve_with(idle).await });
            } else {
                tasks.spawn(async move { serving.serve().await });
            }
            let client = TransportClientBuilder::new().with_protocol(protocol).build().await.unwrap();
            client.connect().await.unwrap();
            let (ours, theirs) = (Arc::downgrade(&client.inner.shared), server.shared());
            client.disconnect().await;
            drop(client);
            until_gone(&ours).await;
            tasks.shutdown().await;
            drop(server);
            until_gone(&theirs).await;
        }
    }
}
