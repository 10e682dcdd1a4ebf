//! Shutting down in order: no new connections, GOAWAY, requests in flight are answered, everything is sent, then the
//! end; and a report of what was cut.

use std::{future::poll_fn, sync::Arc, task::Poll};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::TransportServer;
use crate::{
    SessionId, codes,
    defaults::CUT_GRACE,
    packet::control::ControlPacket,
    session::{
        core::Core,
        outbox::{Mark, State},
    },
};

/// How a shutdown went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Connections that were open when it began.
    pub sessions: usize,
    /// Those that ended in order.
    pub drained: usize,
    /// Those that did not: what was in flight or queued when time was over.
    pub cut: Vec<Cut>,
}

impl ShutdownReport {
    /// Whether nothing was lost.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.cut.is_empty()
    }
}

/// A connection that was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// Which.
    pub session_id: SessionId,
    /// The peer's requests that were never answered.
    pub requests: Vec<u32>,
    /// Bytes that the peer had not taken.
    pub queued_bytes: usize,
}

impl TransportServer {
    /// Stops accepting, tells v2 peers to send no new requests, waits until every request in flight is answered and
    /// everything queued is sent, and closes; all within the time of
    /// [`crate::TransportServerBuilder::graceful_shutdown`]. What is not done by then is cut, and reported; a handler that
    /// never comes back is not waited for. Repeated, it finds nothing more to do.
    pub async fn shutdown(&self) -> ShutdownReport {
        let deadline = Instant::now() + self.inner.settings.graceful_shutdown;
        self.inner.cancel.cancel();
        // Listeners of a server that never served are closed here.
        drop(self.inner.listeners.lock().take());
        let all = self.inner.registry.everyone();
        let mut report = ShutdownReport { sessions: all.len(), ..ShutdownReport::default() };
        let mut drains = JoinSet::new();
        for core in all {
            announce(&core);
            drains.spawn(drain(core, deadline));
        }
        while let Some(drained) = drains.join_next().await {
            match drained {
                Ok(None) => report.drained += 1,
                Ok(Some(cut)) => report.cut.push(cut),
                Err(error) => tracing::error!(%error, "draining a connection failed"),
            }
        }
        report.cut.sort_by_key(|cut| cut.session_id);
        self.inner.tasks.close();
        // A peer that takes its last bytes late, and a handler that does not notice the end, end by themselves.
        drop(timeout_at(deadline + CUT_GRACE, self.inner.tasks.wait()).await);
        self.inner.shared.hub.finish();
        report
    }
}

/// Tells a peer to ask nothing new.
fn announce(core: &Core) {
    core.open.lock().is_draining = true;
    core.control(&ControlPacket::GoAway { code: codes::GOING_AWAY, reason: "shutdown".to_owned() });
}

/// Ends a connection that came too late to be waited for.
pub(super) fn turn_away(core: &Core) {
    announce(core);
    core.close(codes::GOING_AWAY, "shutdown");
}

/// Waits for one connection's requests and output, then closes it: what was cut, if anything.
async fn drain(core: Arc<Core>, deadline: Instant) -> Option<Cut> {
    let answered =
        poll_fn(|cx| if core.open.lock().poll_drained(cx.waker()) { Poll::Ready(()) } else { Poll::Pending });
    let is_answered = timeout_at(deadline, answered).await.is_ok();
    let requests = core.open.lock().numbers();
    core.close(codes::GOING_AWAY, "shutdown");
    let is_sent = timeout_at(deadline, gone(&core)).await.is_ok();
    if is_answered && is_sent {
        return None;
    }
    let queued_bytes = core.out.lock().queued();
    core.cut();
    // Its task notices at once, unless a handler holds it up.
    drop(timeout_at(deadline + CUT_GRACE, gone(&core)).await);
    Some(Cut { session_id: core.id, requests, queued_bytes })
}

async fn gone(core: &Core) {
    poll_fn(|cx| {
        let mut out = core.out.lock();
        if matches!(out.state, State::Closed(_)) {
            return Poll::Ready(());
        }
        out.wait_for_flush(Mark::END, cx.waker());
        Poll::Pending
    })
    .await;
}
