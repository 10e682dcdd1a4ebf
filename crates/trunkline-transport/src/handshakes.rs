//! Handshakes under way: what every listener on a network keeps beside its accept loop.
//!
//! A handshake is a tracked task that ends when the connection is handed over. Their number is capped. At the
//! cap a newcomer waits in the kernel's backlog until a handshake ends or the oldest has had its second; then
//! it replaces that one. So silent peers cannot keep others out, and a storm of honest ones is not cut down.

use std::{collections::VecDeque, io};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use crate::defaults::{ACCEPT_BACKOFF, HANDSHAKE_GRACE};

/// The handshakes of one listener; dropping it ends them.
pub(crate) struct Handshakes<T> {
    tasks: JoinSet<Option<T>>,
    /// Oldest first. Ended ones are removed when they come to the front.
    started: VecDeque<(Instant, AbortHandle)>,
    max: usize,
}

impl<T: Send + 'static> Handshakes<T> {
    pub(crate) fn new(max: usize) -> Self {
        Self { tasks: JoinSet::new(), started: VecDeque::new(), max: max.max(1) }
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// When the next handshake may begin; `None` means now.
    pub(crate) fn room_at(&mut self) -> Option<Instant> {
        while self.started.front().is_some_and(|(_, task)| task.is_finished()) {
            self.started.pop_front();
        }
        if self.tasks.len() < self.max {
            return None;
        }
        let room = self.started.front().map(|(started, _)| *started + HANDSHAKE_GRACE)?;
        (room > Instant::now()).then_some(room)
    }

    /// Begins a handshake (plain TCP alone has none); at the cap the oldest one makes room.
    #[cfg(any(feature = "tls", feature = "websocket"))]
    pub(crate) fn begin(&mut self, handshake: impl std::future::Future<Output = Option<T>> + Send + 'static) {
        if self.tasks.len() >= self.max
            && let Some((_, oldest)) = self.started.pop_front()
        {
            tracing::debug!("handshake cut off: the cap is reached and it was the oldest");
            oldest.abort();
        }
        let task = self.tasks.spawn(handshake);
        self.started.push_back((Instant::now(), task));
    }

    /// The next handshake that ends: `None` if it failed. Pending for ever without handshakes. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> Option<T> {
        match self.tasks.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(error)) => {
                if error.is_panic() {
                    tracing::error!(%error, "a handshake panicked");
                }
                None
            }
            None => std::future::pending().await,
        }
    }
}

/// Until when an accept loop pauses after this error: a moment when descriptors or memory have run out, not
/// at all when only the one connection failed.
pub(crate) fn pause_after(error: &io::Error) -> Option<Instant> {
    let one_peers_fault = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    );
    (!one_peers_fault).then(|| Instant::now() + ACCEPT_BACKOFF)
}
