//! From an accepted connection to a session: its place, its handshake's verdict, its task.

use std::{sync::Arc, time::Duration};

use http::{Extensions, HeaderMap};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    MakeHandler,
    registry::{Place, Registry},
    shutdown::turn_away,
};
use crate::{
    CloseReason, Connection, Handshake, Session, codes,
    middleware::Authenticated,
    protocols::agreed_wire,
    session::{
        core::{Core, Shared},
        driver::{Driver, Handler},
        inbox::Item,
    },
};

/// What an accept loop needs to make a session of a connection.
pub(super) struct Acceptor {
    pub(super) shared: Arc<Shared>,
    pub(super) registry: Arc<Registry>,
    pub(super) tasks: TaskTracker,
    pub(super) max_connections: usize,
    pub(super) handler: Option<MakeHandler>,
    pub(super) cancel: CancellationToken,
    pub(super) handshake_timeout: Duration,
}

impl Acceptor {
    pub(super) fn adopt(self: &Arc<Self>, mut connection: Connection) {
        let Some(place) = self.registry.take_place(self.max_connections) else {
            tracing::debug!(peer = ?connection.info.peer, "refused: the server holds max_connections");
            self.shared.middleware.note_refused();
            connection.writer.abort(codes::OVERLOADED.into(), "the server is full");
            return;
        };
        if connection.judged.is_some() || self.shared.middleware.is_empty() {
            let driving = self.session(connection, place);
            self.tasks.spawn(driving);
            return;
        }
        // Where the protocol has no word for a refusal, the handshake is judged here.
        let acceptor = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Some(connection) = acceptor.judged(connection).await {
                acceptor.session(connection, place).await;
            }
        });
    }

    async fn judged(&self, mut connection: Connection) -> Option<Connection> {
        let mut handshake = Handshake::new(connection.info.clone(), HeaderMap::new());
        let judging = timeout(self.handshake_timeout, self.shared.middleware.judge(&mut handshake));
        let verdict = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return None,
            verdict = judging => verdict,
        };
        match verdict {
            Ok(Ok(())) => {
                connection.judged = Some(Box::new(handshake.extensions));
                Some(connection)
            }
            Ok(Err(refusal)) => {
                connection.writer.abort(refusal.code.into(), &refusal.reason);
                None
            }
            Err(_) => {
                tracing::debug!(peer = ?connection.info.peer, "a middleware took too long over a handshake");
                None
            }
        }
    }

    /// Enters the session at once; the future drives it to its end.
    fn session(&self, mut connection: Connection, place: Place) -> impl Future<Output = ()> + Send + use<> {
        let id = self.registry.next_id();
        let info = connection.info.clone();
        let framing = connection.writer.framing();
        let wire = agreed_wire(&info);
        let is_evented = self.handler.is_none();
        let extensions = connection.judged.take().map(|extensions| *extensions).unwrap_or_default();
        let core =
            self.core(Core::new(id, info, framing, wire, is_evented, Arc::clone(&self.shared)), extensions);
        let entry = Entry { registry: Arc::clone(&self.registry), core: Arc::clone(&core), _place: place };
        self.registry.insert(Arc::clone(&core));
        // Whoever shuts down says so first and looks for connections then: one that it has not found is told here.
        if self.cancel.is_cancelled() {
            turn_away(&core);
        }
        if is_evented && core.is_admitted() {
            core.received(Item::Established);
        }
        let handler = self.handler.clone().map(|make| handler(make, Session::new(Arc::clone(&core))));
        let driver = Driver::new(core, connection, handler);
        async move {
            let reason = driver.run(|| drop(entry)).await;
            tracing::debug!(session = %id, %reason, "connection ended");
        }
    }

    fn core(&self, mut core: Core, extensions: Extensions) -> Arc<Core> {
        if extensions.get::<Authenticated>().is_some() {
            core.begin_authenticated();
        }
        *core.extensions.get_mut() = extensions;
        Arc::new(core)
    }
}

/// What is made of a session when it is first polled: a stranger's may never be.
fn handler(make: MakeHandler, session: Session) -> Handler {
    if session.core.is_admitted() { make(session) } else { Box::pin(async move { make(session).await }) }
}

/// A connection's place in the registry, given back however its task ends.
struct Entry {
    registry: Arc<Registry>,
    core: Arc<Core>,
    _place: Place,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.remove(self.core.id);
        // A task that was dropped rather than ended must not leave anybody waiting.
        self.core.ended(&CloseReason::Lost("its task was dropped".to_owned()));
    }
}
