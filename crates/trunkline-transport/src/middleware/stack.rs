//! The middleware of one server, asked as one.

use std::{
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{Handshake, Middleware, Refusal, Verdict};
use crate::{CloseReason, Packet, SendError, Session, codes};

/// Middleware in order; cheap to clone. The default has none.
#[derive(Clone, Default)]
pub struct MiddlewareStack {
    layers: Arc<[Arc<dyn Middleware>]>,
    /// Newcomers that were refused, at the door or by their handshake.
    refused: Arc<AtomicU64>,
}

impl fmt::Debug for MiddlewareStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MiddlewareStack").field(&self.layers.len()).finish()
    }
}

impl MiddlewareStack {
    /// In this order.
    #[must_use]
    pub fn new(layers: Vec<Arc<dyn Middleware>>) -> Self {
        Self { layers: layers.into(), refused: Arc::default() }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.layers.len()
    }

    /// Within how long connections have to prove themselves, if any middleware asks for it: the shortest counts.
    pub(crate) fn authentication(&self) -> Option<Duration> {
        self.layers.iter().filter_map(|layer| layer.authentication()).min()
    }

    /// Whether somebody may come in.
    pub(crate) fn accepts(&self, peer: Option<SocketAddr>) -> bool {
        let all = || self.layers.iter().try_for_each(|layer| layer.on_accept(peer));
        // A panic here must not end the accept loop.
        let refusal = match catch_unwind(AssertUnwindSafe(all)) {
            Ok(Ok(())) => return true,
            Ok(Err(refusal)) => refusal,
            Err(_) => Refusal::new(codes::INTERNAL, "a middleware panicked"),
        };
        self.note_refused();
        tracing::debug!(?peer, %refusal, "a newcomer was refused");
        false
    }

    /// Judges a handshake.
    pub(crate) async fn judge(&self, handshake: &mut Handshake) -> Result<(), Refusal> {
        for layer in &*self.layers {
            if let Err(refusal) = layer.on_handshake(handshake).await {
                self.note_refused();
                tracing::debug!(peer = ?handshake.info.peer, %refusal, "a handshake was refused");
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// The verdict of the middleware at `index`; there is one.
    pub(crate) fn packet(&self, index: usize, session: &Session, packet: Packet) -> Verdict {
        match self.layers.get(index) {
            Some(layer) => layer.on_packet(session, packet),
            None => Verdict::Pass(packet),
        }
    }

    /// What is sent of a packet. A panic ends the connection it was for, and is an error for whoever sends: that may be
    /// anybody, in the middle of telling many.
    pub(crate) fn send(&self, session: &Session, packet: Packet) -> Result<Packet, SendError> {
        let all = || self.layers.iter().try_fold(packet, |packet, layer| layer.on_send(session, packet));
        match catch_unwind(AssertUnwindSafe(all)) {
            Ok(judged) => Ok(judged?),
            Err(_) => {
                session.core.close_for(CloseReason::HandlerPanicked);
                Err(SendError::Closed(CloseReason::HandlerPanicked))
            }
        }
    }

    /// Tells everybody of the end, the last first.
    pub(crate) fn close(&self, session: &Session, reason: &CloseReason) {
        for layer in self.layers.iter().rev() {
            // The others are told all the same.
            if catch_unwind(AssertUnwindSafe(|| layer.on_close(session, reason))).is_err() {
                tracing::error!(session = %session.id(), "a middleware panicked on close");
            }
        }
    }

    pub(crate) fn note_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}
