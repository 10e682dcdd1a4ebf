//! The event style: everything that happens on all connections of a server or client, as one stream.
//!
//! There is no common queue of packets: each connection has its own, bounded in bytes, and the hub only knows which
//! connections have something. They are served in turn, one item each, so no peer can starve another. It never forgets the
//! end of a connection that its reader knows of, however late that is.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_core::Stream;
use parking_lot::Mutex;

use super::{
    core::{Core, Shared},
    ended::Ended,
    inbox::Item,
};
use crate::{
    CloseReason, ConnectionInfo, EventsError, Overflow, Packet, SessionId, defaults::ENDED_CONNECTIONS,
};

/// What happens on connections. The names and fields are MsgTrans' own.
///
/// Who has more to send than there is room for sends until it is refused, and goes on when it is told so:
///
/// ```
/// # use std::collections::VecDeque;
/// use trunkline_transport::{Packet, SendError, TransportEvent};
/// # use trunkline_transport::{MemoryServerConfig, TransportClientBuilder, TransportServerBuilder};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (memory, protocol) = MemoryServerConfig::new();
/// # let server = TransportServerBuilder::new().with_protocol(memory).build().await?;
/// # let client = TransportClientBuilder::new().with_protocol(protocol).build().await?;
/// # let mut tasks = tokio::task::JoinSet::new();
/// # tasks.spawn(async move {
/// #     server.serve_with(|mut session| async move {
/// #         while session.recv().await?.is_some() {}
/// #         Ok(())
/// #     }).await
/// # });
/// // A megabyte, four times as much as the queue takes.
/// let mut rest: VecDeque<Packet> = (0..1024).map(|_| Packet::new(vec![7; 1024])).collect();
/// let mut events = client.events()?;
/// client.connect().await?;
/// # let mut told = 0;
/// while !rest.is_empty() && let Some(event) = events.next().await {
///     if matches!(event, TransportEvent::ConnectionEstablished { .. } | TransportEvent::Writable { .. }) {
/// #         told += 1;
///         while let Some(packet) = rest.front() {
///             match client.try_send(packet.clone()) {
///                 Ok(()) => drop(rest.pop_front()),
///                 Err(SendError::Full { .. }) => break,
///                 Err(error) => return Err(error.into()),
///             }
///         }
///     }
/// }
/// # assert!(rest.is_empty() && told >= 4, "told {told} times");
/// # Ok(())
/// # }
/// ```
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
    /// There is room again on a connection that was found full: [`crate::Session::try_send`] or
    /// [`crate::TransportServer::send_to`] has said [`crate::SendError::Full`], or a broadcast has passed it by.
    ///
    /// It is told when half of [`crate::Limits::queued_bytes`] is free and what was refused fits, once for each time that the
    /// connection was found full; while one is unread, it stands for all. It is never dropped. A peer that takes nothing is
    /// closed by the policy instead: with [`crate::SlowConsumer::Wait`] who was refused counts as one who waits.
    Writable {
        /// Which connection.
        session_id: SessionId,
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
#[derive(Debug)]
pub(crate) struct Hub {
    ready: Mutex<Ready>,
    /// Ended connections of which a reader that has never heard of them is told all the same.
    max_ended: usize,
}

#[derive(Debug, Default)]
struct Ready {
    queue: VecDeque<Entry>,
    /// How many of the queue's connections have ended and have their packets still.
    ended: usize,
    consumer: Option<Waker>,
    was_taken: bool,
    is_attached: bool,
    excludes: bool,
    is_over: bool,
}

/// Somebody who has something to tell.
#[derive(Debug)]
enum Entry {
    Open(Arc<Core>),
    /// A connection that is gone, and its packets with it.
    Ended(Box<Ended>),
}

impl Ready {
    /// Whether nobody reads, now or ever: the one stream is gone, or a handler takes its place.
    fn is_unread(&self) -> bool {
        self.excludes || (self.was_taken && !self.is_attached)
    }
}

impl Hub {
    /// For a server or a client that has so many connections at once.
    pub(crate) fn new(max_connections: usize) -> Self {
        Self { ready: Mutex::default(), max_ended: max_connections.max(ENDED_CONNECTIONS) }
    }

    /// Takes the one stream.
    pub(crate) fn attach(&self) -> Result<(), EventsError> {
        let mut ready = self.ready.lock();
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
        let mut ready = self.ready.lock();
        ready.excludes = !ready.was_taken;
        ready.excludes
    }

    /// Whether the one stream was taken, which excludes a handler for ever.
    pub(crate) fn was_taken(&self) -> bool {
        self.ready.lock().was_taken
    }

    /// Whether nobody reads, nor ever will.
    pub(crate) fn is_unread(&self) -> bool {
        self.ready.lock().is_unread()
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.ready.lock().is_attached
    }

    /// A connection has something to tell; it is not announced yet.
    pub(crate) fn announce(&self, core: &Arc<Core>) {
        let wake = {
            let mut ready = self.ready.lock();
            if ready.is_unread() {
                return;
            }
            ready.queue.push_back(Entry::Open(Arc::clone(core)));
            ready.consumer.take()
        };
        wake.into_iter().for_each(Waker::wake);
    }

    /// A connection has ended, its last events unread. While few have, they are kept as they are. Of more, the oldest lose
    /// their packets and what they hold, but are told; what has never been told of is bounded by how many connections there
    /// may be, and what has been, by how many there were.
    pub(crate) fn note_end(&self, core: &Arc<Core>) {
        let mut lost = Lost::default();
        {
            let mut ready = self.ready.lock();
            if ready.is_unread() {
                drop(ready);
                forget(core);
                return;
            }
            ready.ended += 1;
            // A share of all that wait, so that each look at them is paid for by as many ends.
            let may_stay = ENDED_CONNECTIONS.max(ready.queue.len() / 4);
            if ready.ended > may_stay {
                ready.reduce(may_stay / 2, self.max_ended, &mut lost);
            }
        }
        lost.settle();
    }

    /// Nothing more will come, once what is there has been told.
    pub(crate) fn finish(&self) {
        let wake = {
            let mut ready = self.ready.lock();
            ready.is_over = true;
            ready.consumer.take()
        };
        wake.into_iter().for_each(Waker::wake);
    }

    /// The server or client is gone, and with it the last who could take the stream. One that was taken is read to its end;
    /// otherwise nothing waits any more, since connections that wait here hold what they share, and so this too.
    pub(crate) fn abandon(&self) {
        self.finish();
        let was_taken = std::mem::replace(&mut self.ready.lock().was_taken, true);
        if !was_taken {
            self.detach();
        }
    }

    fn detach(&self) {
        let queue = {
            let mut ready = self.ready.lock();
            ready.is_attached = false;
            ready.ended = 0;
            std::mem::take(&mut ready.queue)
        };
        // Drivers that wait for room must learn that nobody will make any: the policy is another one now.
        for entry in queue {
            if let Entry::Open(core) = entry {
                core.inbox.lock().is_announced = false;
                forget(&core);
            }
        }
    }

    /// An item was told: whether the connection has more, or has ended by it.
    fn told(&self, core: Arc<Core>, has_more: bool, was_end: bool) {
        if has_more || was_end {
            let mut ready = self.ready.lock();
            if has_more {
                ready.queue.push_back(Entry::Open(core));
            }
            if was_end {
                ready.ended = ready.ended.saturating_sub(1);
            }
        }
    }

    fn poll_entry(&self, cx: &Context<'_>) -> Poll<Option<Entry>> {
        let mut ready = self.ready.lock();
        match ready.queue.pop_front() {
            Some(entry) => Poll::Ready(Some(entry)),
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

impl Ready {
    /// Leaves their packets to `stay` ended connections, the newest, and of the others what is left to tell. The reader has
    /// heard of no more of these than it had of living ones when it last read; of those that are new to it, `max_new` stay.
    fn reduce(&mut self, stay: usize, max_new: usize, lost: &mut Lost) {
        let mut surplus = self.ended.saturating_sub(stay);
        let mut new = 0_usize;
        for entry in &mut self.queue {
            let left = match entry {
                Entry::Open(core) if surplus > 0 && core.has_ended() => core.inbox.lock().leave(),
                _ => None,
            };
            if let (Some(left), Entry::Open(core)) = (left, &mut *entry) {
                surplus -= 1;
                self.ended -= 1;
                lost.packets.push((Arc::clone(core), left.packets, left.bytes));
                *entry = Entry::Ended(Ended::new(core.id, &core.info, left));
            }
            new += usize::from(matches!(entry, Entry::Ended(ended) if !ended.is_known()));
        }
        let mut too_many = new.saturating_sub(max_new);
        if too_many > 0 {
            lost.forgotten = too_many;
            self.queue.retain(|entry| {
                let goes = too_many > 0 && matches!(entry, Entry::Ended(ended) if !ended.is_known());
                too_many -= usize::from(goes);
                !goes
            });
        }
    }
}

/// What a look at the queue has cost; settled when no lock is held.
#[derive(Default)]
struct Lost {
    /// Connections that have lost packets: how many, of how many bytes.
    packets: Vec<(Arc<Core>, u64, usize)>,
    /// Connections of which nobody will hear.
    forgotten: usize,
}

impl Lost {
    fn settle(self) {
        if self.forgotten > 0 {
            tracing::warn!(connections = self.forgotten, "they came and went while nobody read the events");
        }
        for (core, packets, bytes) in self.packets {
            core.shared.budget.give(bytes);
            core.lost_received(packets);
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
    core.lost_received(packets);
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
            let core = match std::task::ready!(self.shared.hub.poll_entry(cx)) {
                None => return Poll::Ready(None),
                Some(Entry::Open(core)) => core,
                Some(Entry::Ended(mut ended)) => {
                    let event = ended.next();
                    if !ended.is_over() {
                        self.shared.hub.ready.lock().queue.push_back(Entry::Ended(ended));
                    }
                    return Poll::Ready(event);
                }
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
            self.shared.budget.give(bytes);
            let was_end = matches!(item, Item::Ended(_));
            let event = event(&core, item);
            self.shared.hub.told(core, has_more, was_end);
            return Poll::Ready(Some(event));
        }
    }
}

fn event(core: &Core, item: Item) -> TransportEvent {
    let session_id = core.id;
    match item {
        Item::Established => TransportEvent::ConnectionEstablished { session_id, info: core.info.clone() },
        Item::Packet(packet) => TransportEvent::MessageReceived { session_id, packet },
        Item::GoingAway { code, reason } => TransportEvent::GoingAway { session_id, code, reason },
        Item::Writable => TransportEvent::Writable { session_id },
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
