//! The server of the packet level: listeners, the connections they bring, and what can be said to them.
//!
//! One task per connection, made here and nowhere else. A server serves in one of two styles: a handler for each
//! connection (`serve_with`), or one stream of events (`events` and `serve`).

mod adopt;
mod broadcast;
mod builder;
mod registry;
mod shutdown;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{adopt::Acceptor, registry::Registry};
pub use self::{
    broadcast::{BroadcastReport, Missed},
    builder::TransportServerBuilder,
    shutdown::{Cut, ShutdownReport},
};
use crate::{
    EventStream, EventsError, Packet, Request, SendError, ServeError, Session, SessionId, SlowConsumer,
    Stats, TransportError, codes, protocols,
    session::{
        core::{Appended, Core, Shared},
        driver::Handler,
        stats::write_figure,
    },
};

/// What a handler is made of: called once per connection.
type MakeHandler = Arc<dyn Fn(Session) -> Handler + Send + Sync>;

/// What a server listens with, bound.
type Listeners = Vec<Box<dyn protocols::Acceptor>>;

/// A server. Clones share it. When the last clone is gone, its listeners and connections are closed.
#[derive(Clone, Debug)]
pub struct TransportServer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    tasks: TaskTracker,
    /// Stops accepting.
    cancel: CancellationToken,
    /// Until somebody serves.
    listeners: Mutex<Option<Listeners>>,
    addresses: Vec<SocketAddr>,
    settings: Settings,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    max_connections: usize,
    graceful_shutdown: Duration,
    handshake_timeout: Duration,
}

#[cfg(test)]
impl TransportServer {
    pub(crate) fn shared(&self) -> std::sync::Weak<Shared> {
        Arc::downgrade(&self.inner.shared)
    }
}

impl TransportServer {
    fn new(
        shared: Arc<Shared>,
        registry: Arc<Registry>,
        listeners: Listeners,
        cancel: CancellationToken,
        settings: Settings,
    ) -> Self {
        let addresses = listeners.iter().filter_map(|listener| listener.local_addr()).collect();
        let inner = Inner {
            shared,
            registry,
            tasks: TaskTracker::new(),
            cancel,
            listeners: Mutex::new(Some(listeners)),
            addresses,
            settings,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The bound addresses, in the order of `with_protocol`; protocols without one (memory, Unix sockets) are left out.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.inner.addresses.clone()
    }

    /// Serves each connection by one async function, which runs in the connection's own task, beside its input and
    /// output. The connection closes when it returns. If it panics, or fails, its connection is closed and nothing else.
    /// When the connection ends first, what it waits for there says so, and it has the time of a close (10 s, or less by
    /// `graceful_shutdown`) to return before it is dropped.
    ///
    /// It returns once the server has shut down. Dropped, it stops accepting; connections go on.
    ///
    /// # Errors
    /// The server serves already, or the events were taken.
    pub async fn serve_with<F, Fut>(&self, handler: F) -> Result<(), ServeError>
    where
        F: Fn(Session) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), TransportError>> + Send + 'static,
    {
        let listeners = {
            let mut listeners = self.inner.listeners.lock();
            // Who cannot serve takes the events from nobody.
            if listeners.is_some() && !self.inner.shared.hub.exclude() {
                return Err(ServeError::EventsTaken);
            }
            listeners.take()
        };
        self.run(listeners, Some(Arc::new(move |session| Box::pin(handler(session))))).await
    }

    /// Serves by events: accepts connections, and tells everything that happens to [`TransportServer::events`].
    ///
    /// It returns once the server has shut down. Dropped, it stops accepting; connections go on.
    ///
    /// # Errors
    /// The server serves already.
    pub async fn serve(&self) -> Result<(), ServeError> {
        let listeners = self.inner.listeners.lock().take();
        self.run(listeners, None).await
    }

    /// Everything that happens on all connections. What happens before it is taken is kept, within the limits.
    ///
    /// # Errors
    /// It was taken before, or a handler serves.
    pub fn events(&self) -> Result<EventStream, EventsError> {
        self.inner.shared.hub.attach()?;
        Ok(EventStream::new(Arc::clone(&self.inner.shared)))
    }

    /// Accepts until the server shuts down.
    async fn run(
        &self,
        listeners: Option<Listeners>,
        handler: Option<MakeHandler>,
    ) -> Result<(), ServeError> {
        let listeners = listeners.ok_or(ServeError::Serving)?;
        // Dropped with this future, which ends the accept loops.
        let mut loops = JoinSet::new();
        for mut listener in listeners {
            // The loops must not keep the server alive.
            let acceptor = Arc::new(Acceptor {
                shared: Arc::clone(&self.inner.shared),
                registry: Arc::clone(&self.inner.registry),
                tasks: self.inner.tasks.clone(),
                max_connections: self.inner.settings.max_connections,
                handler: handler.clone(),
                cancel: self.inner.cancel.clone(),
                handshake_timeout: self.inner.settings.handshake_timeout,
            });
            loops.spawn(async move {
                while let Some(connection) = listener.accept().await {
                    acceptor.adopt(connection);
                }
            });
        }
        while let Some(ended) = loops.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "an accept loop has ended");
            }
        }
        Ok(())
    }

    /// Sends to one connection, from anywhere: the packet is appended to its output. A full queue is dealt with by the
    /// policy: [`SlowConsumer::Wait`] waits for room, the others never do.
    ///
    /// # Errors
    /// There is no such connection, or the policy has dropped the packet ([`SendError::Full`]) or closed the peer.
    pub async fn send_to(&self, session_id: SessionId, packet: impl Into<Packet>) -> Result<(), SendError> {
        let packet = packet.into();
        let session = self.session(session_id).ok_or(SendError::UnknownSession(session_id))?;
        if matches!(self.inner.shared.slow_consumer, SlowConsumer::Wait(_)) {
            return session.send(packet).await;
        }
        let core = &session.core;
        let Some(packet) = core.prepare(packet)? else { return Ok(()) };
        let packet = broadcast::deflated(core, packet).await?;
        match core.append_by_policy(&packet)? {
            Appended::Queued => Ok(()),
            Appended::Dropped => Err(SendError::Full { queued: session.queued_bytes() }),
            Appended::Disconnected | Appended::Closed => Err(SendError::Closed(crate::CloseReason::Slow)),
        }
    }

    /// Asks one connection's peer.
    #[must_use = "nothing is sent unless it is awaited"]
    pub fn request(&self, session_id: SessionId, packet: impl Into<Packet>) -> Request {
        match self.session(session_id) {
            Some(session) => session.request(packet),
            None => Request::not_connected(packet.into()),
        }
    }

    /// Sends to every connection: encoded once, shared by all, never waiting for a peer.
    ///
    /// # Errors
    /// The packet cannot be said on the wire.
    pub async fn broadcast(&self, packet: impl Into<Packet>) -> Result<BroadcastReport, SendError> {
        broadcast::to_all(self.inner.registry.all(), packet.into()).await
    }

    /// As [`TransportServer::broadcast`], to the connections that `choose` says yes to.
    ///
    /// # Errors
    /// The packet cannot be said on the wire.
    pub async fn broadcast_where(
        &self,
        packet: impl Into<Packet>,
        choose: impl Fn(&Session) -> bool,
    ) -> Result<BroadcastReport, SendError> {
        let chosen: Vec<Arc<Core>> = self.sessions().filter(choose).map(|session| session.core).collect();
        broadcast::to_all(chosen, packet.into()).await
    }

    /// As [`TransportServer::broadcast`], to the members of a group.
    ///
    /// # Errors
    /// The packet cannot be said on the wire.
    pub async fn broadcast_to_group(
        &self,
        group: &str,
        packet: impl Into<Packet>,
    ) -> Result<BroadcastReport, SendError> {
        broadcast::to_all(self.inner.registry.members(group), packet.into()).await
    }

    /// Adds a connection to a group, which it leaves when it ends. Groups come and go with their members.
    ///
    /// # Errors
    /// There is no such connection.
    pub fn join_group(&self, group: &str, session_id: SessionId) -> Result<(), SendError> {
        if self.inner.registry.join(group, session_id) {
            Ok(())
        } else {
            Err(SendError::UnknownSession(session_id))
        }
    }

    /// Takes a connection out of a group. Harmless if it is not in it.
    pub fn leave_group(&self, group: &str, session_id: SessionId) {
        self.inner.registry.leave(group, session_id);
    }

    /// The members of a group.
    #[must_use]
    pub fn group(&self, group: &str) -> Vec<SessionId> {
        self.inner.registry.members(group).iter().map(|core| core.id).collect()
    }

    /// One connection, if it lives.
    #[must_use]
    pub fn session(&self, session_id: SessionId) -> Option<Session> {
        self.inner.registry.find(session_id).map(Session::new)
    }

    /// The numbers of all connections, in order.
    #[must_use]
    pub fn active_sessions(&self) -> Vec<SessionId> {
        let mut ids: Vec<SessionId> = self.inner.registry.all().iter().map(|core| core.id).collect();
        ids.sort_unstable();
        ids
    }

    /// How many connections there are, those that have yet to prove themselves included.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.inner.registry.len()
    }

    /// Closes one connection: what is queued is still sent.
    ///
    /// # Errors
    /// There is no such connection.
    pub fn close_session(&self, session_id: SessionId) -> Result<(), SendError> {
        let session = self.session(session_id).ok_or(SendError::UnknownSession(session_id))?;
        session.close(codes::NORMAL, "");
        Ok(())
    }

    /// The sums of all connections, of those that have ended too.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        let sum = shared.sum(self.inner.registry.everyone().iter());
        Stats { refused_connections: shared.middleware.refused(), ..sum }
    }

    /// [`TransportServer::stats`] in Prometheus' text format, with how many connections there are and what waits in their
    /// queues; each name behind `prefix_`.
    #[must_use]
    pub fn prometheus(&self, prefix: &str) -> String {
        let mut text = self.stats().prometheus(prefix);
        let gauges = [
            ("connections", "Connections that there are.", self.session_count()),
            ("queued_bytes", "Bytes that wait in queues, over all connections.", self.queued_bytes()),
        ];
        for (name, help, value) in gauges {
            write_figure(&mut text, &format!("{prefix}_{name}"), help, "gauge", value);
        }
        text
    }

    /// Everything that waits in queues, over all connections: what [`crate::Limits::total_bytes`] limits.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.inner.shared.budget.used()
    }

    fn sessions(&self) -> impl Iterator<Item = Session> {
        self.inner.registry.all().into_iter().map(Session::new)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.cancel.cancel();
        for core in self.registry.everyone() {
            core.close(codes::GOING_AWAY, "the server is gone");
        }
        self.shared.hub.abandon();
    }
}
