//! Session events on their way to one instance: a bounded queue and the task that empties it.
//!
//! Order is that of the queue, one request at a time, each repeated until it is taken: an instance hears of a
//! session in order and at least once. Overflow policy: *drop oldest*, counted and logged; an instance that is
//! away for that long must ask the sessions' state anew, which the newest events tell it best.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use trunkline_proto::wire;

use super::defaults;
use super::keeper::jittered;
use super::peer::Peer;
use super::signal::Changes;
use super::unary::SESSION_EVENTS;

/// Events that one instance has not taken yet.
#[derive(Default)]
pub(super) struct EventQueue {
    waiting: Mutex<VecDeque<wire::SessionEvent>>,
    ready: Notify,
    lost: AtomicU64,
}

impl EventQueue {
    /// Never waits.
    pub(super) fn push(&self, event: wire::SessionEvent) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= defaults::EVENT_QUEUE {
            waiting.pop_front();
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        waiting.push_back(event);
        drop(waiting);
        self.ready.notify_one();
    }

    /// Events dropped because the instance did not take them.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The oldest events, at least one.
    async fn take(&self) -> Vec<wire::SessionEvent> {
        loop {
            let ready = self.ready.notified();
            {
                let mut waiting = self.waiting.lock();
                let count = waiting.len().min(defaults::EVENT_BATCH);
                if count > 0 {
                    return waiting.drain(..count).collect();
                }
            }
            ready.await;
        }
    }
}

/// Sends a peer's events until the peer is cancelled.
pub(super) async fn pump(peer: Arc<Peer>, changes: Changes) {
    let cancel = peer.cancel.clone();
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = send_all(&peer, &changes) => {}
    }
}

async fn send_all(peer: &Peer, changes: &Changes) {
    let mut reported = 0;
    loop {
        let events = peer.events.take().await;
        let lost = peer.events.lost();
        if lost > reported {
            tracing::warn!(address = %peer.address, lost = lost - reported, "session events dropped: not taken");
            reported = lost;
        }
        send(peer, changes, wire::SessionEventsRequest { events }).await;
    }
}

/// Returns when the instance has taken the events, or says that it never will.
async fn send(peer: &Peer, changes: &Changes, batch: wire::SessionEventsRequest) {
    let mut back_off = defaults::EVENT_BACK_OFF;
    loop {
        let mut changed = changes.subscribe();
        let Some(link) = peer.channels.pick() else {
            changed.changed().await;
            continue;
        };
        let answer = link.call(SESSION_EVENTS.request(&batch, defaults::EVENTS_TIMEOUT));
        let answer = tokio::time::timeout(defaults::EVENTS_TIMEOUT, answer).await;
        match answer.map(|answer| answer.map_err(|failure| failure.status)) {
            Ok(Ok(_)) => return,
            Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => {
                tracing::warn!(address = %peer.address, "registered for session events, but does not take them");
                return;
            }
            Ok(Err(status)) => tracing::debug!(address = %peer.address, %status, "session events failed"),
            Err(_) => tracing::debug!(address = %peer.address, "session events timed out"),
        }
        tokio::time::sleep(jittered(back_off)).await;
        back_off = (back_off * 2).min(defaults::EVENT_BACK_OFF_MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_drops_its_oldest_and_counts_it() {
        let queue = EventQueue::default();
        for at in 0..=defaults::EVENT_QUEUE {
            queue.push(wire::SessionEvent { at: at as i64, ..Default::default() });
        }
        assert_eq!(queue.lost(), 1);
        let batch = queue.take().await;
        assert_eq!(batch.len(), defaults::EVENT_BATCH);
        assert_eq!(batch[0].at, 1, "the oldest is gone, order is kept");
    }
}
