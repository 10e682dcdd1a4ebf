//! The event style: everything that happens on all connections of a server or client, as one stream.
//!
//! There is no common queue of packets: each connection has its own, bounded in bytes, and the hub only knows which
//! connections have something. They are served in turn, one item each, so no peer can starve another.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
};

use futures_core::Stream;
use parking_lot::Mutex;

use super::{
    core::{Core, Shared},
    inbox::Item,
};
use crate::{CloseReason, ConnectionInfo, EventsError, Overflow, Packet, SessionId};

/// Connections that ended and whose last events nobody has read; older ones are forgotten, and counted as lagged.
const MAX_ENDED: usize = 1024;

/// What happens on connections. The names and fields are MsgTrans' own.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TransportEvent {
    /// A connection is there.
    ConnectionEstablished {
        /// Its number.
        session_id: SessionId,
        /// Who is on the other side, and how.
        info: ConnectionInfo,
    },
    /// A one-way packet or a request has come. Answer a request with [`Packet::reply`].
    MessageReceived {
        /// On which connection.
        session_id: SessionId,
        /// The packet.
        packet: Packet,
    },
    /// Packets of this connection were dropped unread, by the policy [`Overflow`].
    Lagged {
        /// On which connection.
        session_id: SessionId,
        /// How many.
        n: u64,
    },
    /// The peer takes no new requests on this connection and will close it.
    GoingAway {
        /// Which connection.
        session_id: SessionId,
        /// Why, as a code.
        code: u16,
        /// Why, in words.
        reason: String,
    },
    /// The connection is gone. Nothing follows from it.
    ConnectionClosed {
        /// Its number.
        session_id: SessionId,
        /// Why.
        reason: CloseReason,
    },
}

/// Which connections have something to tell.
#[derive(Debug, Default)]
pub(crate) struct Hub(Mutex<Ready>);

#[derive(Debug, Default)]
struct Ready {
    connections: VecDeque<Arc<Core>>,
    ended: usize,
    consumer: Option<Waker>,
    was_taken: bool,
    is_attached: bool,
    excludes: bool,
    is_over: bool,
}

impl Hub {
    /// Takes the one stream.
    pub(crate) fn attach(&self) -> Result<(), EventsError> {
        let mut ready = self.0.lock();
        if ready.excludes {
            return Err(EventsError::Handler);
        }
        if std::mem::replace(&mut ready.was_taken, true) {
            return Err(EventsError::Taken);
        }
        ready.is_attached = true;
        Ok(())
    }

    /// A handler takes what would have been events. False if they were taken.
    pub(crate) fn exclude(&self) -> bool {
        let mut ready = self.0.lock();
        ready.excludes = !ready.was_taken;
        ready.excludes
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.0.lock().is_attached
    }

    /// A connection has something to tell; it is not announced yet.
    pub(crate) fn announce(&self, core: &Arc<Core>) {
        let wake = {
            let mut ready = self.0.lock();
            ready.connections.push_back(Arc::clone(core));
            ready.consumer.take()
        };
        wake.into_iter().for_each(Waker::wake);
    }

    /// A connection has ended, its last events unread.
    pub(crate) fn note_end(&self) {
        let forgotten = {
            let mut ready = self.0.lock();
            ready.ended += 1;
            if ready.ended <= MAX_ENDED {
                return;
            }
            ready.ended -= 1;
            let at = ready.connections.iter().position(|core| core.has_ended());
            at.and_then(|at| ready.connections.remove(at))
        };
        if let Some(core) = forgotten {
            forget(&core);
        }
    }

    /// Nothing more will come, once what is there has been told.
    pub(crate) fn finish(&self) {
        let wake = {
            let mut ready = self.0.lock();
            ready.is_over = true;
            ready.consumer.take()
        };
        wake.into_iter().for_each(Waker::wake);
    }

    fn detach(&self) {
        let connections = {
            let mut ready = self.0.lock();
            ready.is_attached = false;
            ready.ended = 0;
            std::mem::take(&mut ready.connections)
        };
        // Drivers that wait for room must learn that nobody will make any: the policy is another one now.
        for core in connections {
            core.inbox.lock().is_announced = false;
            forget(&core);
        }
    }

    /// An item was told: whether the connection has more, or has ended by it.
    fn told(&self, core: &Arc<Core>, has_more: bool, was_end: bool) {
        if has_more || was_end {
            let mut ready = self.0.lock();
            if has_more {
                ready.connections.push_back(Arc::clone(core));
            }
            if was_end {
                ready.ended = ready.ended.saturating_sub(1);
            }
        }
    }

    fn poll_connection(&self, cx: &Context<'_>) -> Poll<Option<Arc<Core>>> {
        let mut ready = self.0.lock();
        match ready.connections.pop_front() {
            Some(core) => Poll::Ready(Some(core)),
            None if ready.is_over => Poll::Ready(None),
            None => {
                match &mut ready.consumer {
                    Some(old) if old.will_wake(cx.waker()) => {}
                    other => *other = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

/// Drops what a connection has received and nobody will read.
fn forget(core: &Core) {
    let (wake, packets, bytes) = {
        let mut inbox = core.inbox.lock();
        let (packets, bytes) = inbox.clear();
        (inbox.resume(), packets, bytes)
    };
    core.shared.budget.give(bytes);
    core.stats.dropped_received.fetch_add(packets, Relaxed);
    wake.into_iter().for_each(Waker::wake);
}

/// All events of a server or a client, in order per connection. Dropping it drops what is unread, and what comes
/// from then on: the connections go on.
#[derive(Debug)]
pub struct EventStream {
    shared: Arc<Shared>,
}

impl EventStream {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The next event; `None` once the server has shut down, or every handle of the client is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<TransportEvent> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&self, cx: &Context<'_>) -> Poll<Option<TransportEvent>> {
        loop {
            let Some(core) = std::task::ready!(self.shared.hub.poll_connection(cx)) else {
                return Poll::Ready(None);
            };
            let (item, has_more, wake) = {
                let mut inbox = core.inbox.lock();
                let item = inbox.pop();
                let has_more = !inbox.is_empty();
                inbox.is_announced = has_more;
                (item, has_more, inbox.resume())
            };
            wake.into_iter().for_each(Waker::wake);
            let Some((item, bytes)) = item else { continue };
            self.shared.hub.told(&core, has_more, matches!(item, Item::Ended(_)));
            self.shared.budget.give(bytes);
            return Poll::Ready(Some(event(&core, item)));
        }
    }
}

fn event(core: &Core, item: Item) -> TransportEvent {
    let session_id = core.id;
    match item {
        Item::Established => TransportEvent::ConnectionEstablished { session_id, info: core.info.clone() },
        Item::Packet(packet) => TransportEvent::MessageReceived { session_id, packet },
        Item::GoingAway { code, reason } => TransportEvent::GoingAway { session_id, code, reason },
        Item::Lagged(n) => TransportEvent::Lagged { session_id, n },
        Item::Ended(reason) => TransportEvent::ConnectionClosed { session_id, reason },
    }
}

impl Stream for EventStream {
    type Item = TransportEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_event(cx)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.shared.hub.detach();
    }
}

/// The policy for unread packets that holds for this connection now.
pub(crate) fn overflow(core: &Core) -> Overflow {
    match core.shared.overflow {
        // Nobody reads, or what is awaited may stand behind what is unread: holding the peer up would be for ever.
        Overflow::Wait if core.is_evented && !core.shared.hub.is_attached() => Overflow::DropOldest,
        Overflow::Wait if core.pending.lock().len() > 0 => Overflow::DropOldest,
        policy => policy,
    }
}
