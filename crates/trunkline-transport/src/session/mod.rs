//! One connection of the packet level, from its user's side: [`Session`].
//!
//! `core` is the state that handles share, `driver` the one task that reads and writes, `outbox`, `inbox` and
//! `requests` are the data between them. Nothing here knows how a connection came about: `server` and `client` do.

pub(crate) mod core;
pub(crate) mod driver;
mod ended;
pub(crate) mod events;
pub(crate) mod inbox;
mod lane;
mod numbers;
pub(crate) mod outbox;
mod pool;
mod reply_stream;
pub(crate) mod request;
pub(crate) mod requests;
mod send;
mod serve;
pub(crate) mod stats;
mod unsent;

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Poll, Waker},
};

use self::{
    core::{Core, closed},
    inbox::Item,
    outbox::{Mark, State},
};
pub use self::{
    events::{EventStream, TransportEvent},
    lane::{Delivery, Lane},
    reply_stream::{ReplySender, ReplyStream},
    request::{Request, RequestFuture},
    send::{Flushed, Permit, Sending},
    stats::Stats,
};
use crate::{CloseReason, ConnectionInfo, Packet, RecvError, SendError, SessionId, Wire};

/// One connection. Clones share it; it ends when its handler returns, when one side closes it, or when the link is
/// lost. Dropping every clone does not close it.
#[derive(Clone, Debug)]
pub struct Session {
    pub(crate) core: Arc<Core>,
}

impl Session {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// The connection's number.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.core.id
    }

    /// Who is on the other side, and how.
    #[must_use]
    pub fn connection_info(&self) -> &ConnectionInfo {
        &self.core.info
    }

    /// The wire that the peer speaks, as far as is known: v1 until its first packet has come.
    #[must_use]
    pub fn wire(&self) -> Wire {
        self.core.wire()
    }

    /// The next one-way packet or request of the peer; `None` once it has ended cleanly, or we have closed. Responses
    /// do not come here. Cancel-safe.
    ///
    /// # Errors
    /// [`RecvError::Lagged`] when packets were dropped here (receiving goes on behind them), [`RecvError::Closed`]
    /// once when the connection did not end cleanly; `None` follows that.
    pub async fn recv(&mut self) -> Result<Option<Packet>, RecvError> {
        poll_fn(|cx| {
            let mut inbox = self.core.inbox.lock();
            let (received, bytes) = loop {
                match inbox.pop() {
                    Some((Item::Packet(packet), bytes)) => break (Ok(Some(packet)), bytes),
                    Some((Item::Established | Item::GoingAway { .. } | Item::Writable, _)) => {}
                    Some((Item::Lagged(n), bytes)) => break (Err(RecvError::Lagged(n)), bytes),
                    Some((Item::Ended(reason), bytes)) if reason.is_clean() => break (Ok(None), bytes),
                    Some((Item::Ended(reason), bytes)) => break (Err(RecvError::Closed(reason)), bytes),
                    None if inbox.is_ended() => break (Ok(None), 0),
                    None => {
                        match &mut inbox.reader {
                            Some(old) if old.will_wake(cx.waker()) => {}
                            other => *other = Some(cx.waker().clone()),
                        }
                        return Poll::Pending;
                    }
                }
            };
            let wake = inbox.resume();
            drop(inbox);
            wake.into_iter().for_each(Waker::wake);
            self.core.shared.budget.give(bytes);
            Poll::Ready(received)
        })
        .await
    }

    /// Sends a packet: ready once it is in the connection's output, which waits for room. Usable from anywhere, the
    /// connection's own handler included. `.flushed()` waits until the link has taken it.
    ///
    /// Dropped before it is ready, nothing is sent.
    #[must_use = "nothing is sent unless it is awaited"]
    pub fn send(&self, packet: impl Into<Packet>) -> Sending {
        Sending::new(Arc::clone(&self.core), packet.into())
    }

    /// Sends a packet if there is room now. A payload that the settings would compress on another thread is sent as it
    /// is. Who is refused is told when there is room, in the event style ([`TransportEvent::Writable`]); elsewhere
    /// [`Session::reserve`] waits for it.
    ///
    /// # Errors
    /// [`SendError::Full`], and everything that [`Session::send`] can say.
    pub fn try_send(&self, packet: impl Into<Packet>) -> Result<(), SendError> {
        send::try_send(&self.core, packet.into())
    }

    /// Waits for room for a packet whose payload and extension header have at most `bytes`, and keeps it free until the
    /// permit is used or dropped.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn reserve(&self, bytes: usize) -> Result<Permit, SendError> {
        Permit::reserve(Arc::clone(&self.core), bytes).await
    }

    /// Asks the peer and waits for its response: `session.request(body).timeout(d).await`. At most
    /// [`crate::Limits::requests`] are in flight, further ones wait for a place. Dropped before it is answered, the
    /// peer (on v2) is told to give up.
    #[must_use = "nothing is sent unless it is awaited"]
    pub fn request(&self, packet: impl Into<Packet>) -> Request {
        Request::new(Arc::clone(&self.core), packet.into())
    }

    /// Asks the peer for a reply in many parts, on v2. The peer sends no further than
    /// [`crate::Limits::stream_window`] ahead of what was taken. Dropping the stream tells it to give up.
    ///
    /// # Errors
    /// As [`Session::request`], when the request cannot be sent.
    pub async fn request_stream(
        &self,
        packet: impl Into<Packet>,
    ) -> Result<ReplyStream, crate::RequestError> {
        ReplyStream::open(Arc::clone(&self.core), packet.into()).await
    }

    /// Answers a request in many parts, on v2. Dropped unfinished, it refuses the rest.
    #[must_use]
    pub fn reply_stream(&self, request: &Packet) -> ReplySender {
        ReplySender::new(Arc::clone(&self.core), request)
    }

    /// Whether the peer has given up this request. Only a v2 peer can.
    #[must_use]
    pub fn is_cancelled(&self, request: &Packet) -> bool {
        self.core.open.lock().is_cancelled(request.message_id)
    }

    /// A lane of this connection for packets that want another guarantee than the rest: [`Delivery`]. The peer finds its
    /// number in [`Packet::lane`]. v2 only. Lane 0 is the one of packets that are sent without any.
    #[must_use]
    pub fn lane(&self, id: u8, delivery: Delivery) -> Lane {
        Lane::new(Arc::clone(&self.core), id, delivery)
    }

    /// Until the link has taken everything that was sent before, by all lanes.
    ///
    /// # Errors
    /// The connection was closed first.
    #[must_use = "it waits only when awaited"]
    pub fn flushed(&self) -> Flushed {
        Flushed::all(Arc::clone(&self.core))
    }

    /// Bytes that were sent, by all lanes, and that the link has not taken yet.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.core.out.lock().queued()
    }

    /// The connection's figures.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.stats.snapshot()
    }

    /// The peer has proved itself, on a server that asks for it ([`crate::TransportServerBuilder::require_auth`],
    /// [`crate::AuthMiddleware`]): the limit of its packets is the usual one from now on.
    pub fn set_authenticated(&self) {
        self.core.authenticate();
    }

    /// Whether the peer has proved itself; always on servers that do not ask for it.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.core.is_authenticated()
    }

    /// What was kept for this connection under this type, by a middleware or by [`Session::insert_extension`].
    #[must_use]
    pub fn extension<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        self.core.extensions.lock().get::<T>().cloned()
    }

    /// Keeps one value of a type for this connection, and returns the one before.
    pub fn insert_extension<T: Clone + Send + Sync + 'static>(&self, value: T) -> Option<T> {
        self.core.extensions.lock().insert(value)
    }

    pub(crate) fn with_extensions(&self, change: impl FnOnce(&mut http::Extensions)) {
        change(&mut self.core.extensions.lock());
    }

    /// Moves a client's live QUIC or WebTransport connection to another local address, as a change of network would: what
    /// is under way goes on, and the server sees the same connection. Port 0 takes any.
    ///
    /// # Errors
    /// The address cannot be bound, or this is no client's connection over QUIC or WebTransport that lives
    /// ([`std::io::ErrorKind::Unsupported`]).
    pub fn rebind(&self, local: std::net::SocketAddr) -> std::io::Result<()> {
        let streams = self.core.streams.lock().clone();
        streams.ok_or(std::io::ErrorKind::Unsupported)?.rebind(local)
    }

    /// Sends what is queued, tells the peer the code and the reason, and ends the connection. Harmless when repeated.
    pub fn close(&self, code: u16, reason: &str) {
        self.core.close(code, reason);
    }

    /// Whether packets can be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        closed(&self.core.out.lock().state).is_none()
    }

    /// Why nothing can be sent any more, if so.
    pub(crate) fn end(&self) -> Option<CloseReason> {
        closed(&self.core.out.lock().state)
    }

    /// Until the connection has ended, and why it did. Cancel-safe.
    pub async fn closed(&self) -> CloseReason {
        poll_fn(|cx| {
            let mut out = self.core.out.lock();
            match &out.state {
                State::Closed(reason) => Poll::Ready(reason.clone()),
                State::Open | State::Closing(_) => {
                    out.wait_for_flush(Mark::END, cx.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// One-way packets that were sent here and that the link had not begun to take when the connection ended, in their order,
    /// those of lanes with a stream of their own behind the rest: to be sent on another one. Each is given back once, and nothing before [`Session::closed`] is ready. What the link
    /// has taken may have arrived or not.
    #[must_use]
    pub fn take_unsent(&self) -> Vec<Packet> {
        let unsent = std::mem::take(&mut self.core.out.lock().unsent);
        let dictionary = self.core.shared.dictionary.as_ref();
        unsent.into_iter().flat_map(|unsent| unsent.packets(self.core.framing, dictionary)).collect()
    }

    /// The peer's requests that have no response yet.
    #[must_use]
    pub fn open_requests(&self) -> usize {
        self.core.open.lock().len()
    }

    /// The last measured round trip, on v2.
    #[must_use]
    pub fn rtt(&self) -> Option<std::time::Duration> {
        let rtt = self.core.stats.rtt.load(Relaxed);
        (rtt > 0).then(|| std::time::Duration::from_micros(rtt))
    }
}
