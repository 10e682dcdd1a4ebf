//! Our requests: one future each, without a timer or a channel of its own. The connection's driver keeps the time.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    core::Core,
    requests::Taken,
    send::{Sending, send_or_wait},
};
use crate::{
    BoxFuture, Flags, Packet, PacketType, RequestError, SendError, TransportClient, defaults::LONGEST,
    packet::control::ControlPacket,
};

/// A request that is not sent yet. Await it, or give it a time-out first.
#[derive(Debug)]
#[must_use = "nothing is sent unless it is awaited"]
pub struct Request {
    /// None: there is no connection.
    core: Option<Arc<Core>>,
    packet: Packet,
    timeout: Duration,
    /// Who can ask again on another connection.
    client: Option<TransportClient>,
}

impl Request {
    pub(crate) fn new(core: Arc<Core>, packet: Packet) -> Self {
        let timeout = core.shared.request_timeout;
        Self { core: Some(core), packet, timeout, client: None }
    }

    /// Says that there is no connection.
    pub(crate) fn not_connected(packet: Packet) -> Self {
        Self { core: None, packet, timeout: Duration::ZERO, client: None }
    }

    /// A client's, which can ask again if it comes back by itself.
    pub(crate) fn by_client(
        core: Option<Arc<Core>>,
        packet: Packet,
        timeout: Duration,
        client: Option<TransportClient>,
    ) -> Self {
        Self { core, packet, timeout, client }
    }

    /// How long it may take, the wait for a place included; 10 s unless the builder was told otherwise.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: timeout.min(LONGEST), ..self }
    }

    /// Handling it twice does no harm ([`Flags::IDEMPOTENT`]): if its connection is lost before the answer, a client that comes back by itself
    /// ([`crate::TransportClientBuilder::reconnect`], a pool) asks again on the next one, within the time-out. A client that
    /// sends early (`QuicClientConfig::early_data`) may ask while it connects. Without that, and on a [`crate::Session`]'s own
    /// requests, it changes nothing: those end with their connection.
    pub fn idempotent(mut self) -> Self {
        self.packet.flags |= Flags::IDEMPOTENT;
        self
    }
}

impl IntoFuture for Request {
    type Output = Result<Packet, RequestError>;
    type IntoFuture = RequestFuture;

    fn into_future(self) -> RequestFuture {
        if self.packet.flags.contains(Flags::IDEMPOTENT)
            && let Some(client) = self.client
        {
            return RequestFuture(Asking::Again(Box::pin(client.request_again(self.packet, self.timeout))));
        }
        let exchange = self.core.map(|core| Exchange::new(core, self.packet, self.timeout, None));
        RequestFuture(Asking::Once(exchange))
    }
}

/// A request on its way. Dropped before it is ready, the peer (on v2) is told to give up.
#[must_use = "nothing is sent unless it is awaited"]
pub struct RequestFuture(Asking);

enum Asking {
    Once(Option<Exchange>),
    Again(BoxFuture<'static, Result<Packet, RequestError>>),
}

impl fmt::Debug for RequestFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Asking::Once(exchange) => f.debug_tuple("RequestFuture").field(exchange).finish(),
            Asking::Again(_) => f.write_str("RequestFuture(..)"),
        }
    }
}

impl Future for RequestFuture {
    type Output = Result<Packet, RequestError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let exchange = match &mut self.0 {
            Asking::Again(asking) => return asking.as_mut().poll(cx),
            Asking::Once(Some(exchange)) => exchange,
            Asking::Once(None) => return Poll::Ready(Err(SendError::NotConnected.into())),
        };
        if ready!(exchange.poll_sent(cx))? == Sent::JustNow {
            return Poll::Pending;
        }
        match ready!(exchange.poll_answer(cx))? {
            Some(packet) => Poll::Ready(Ok(packet)),
            // Only a stream ends without an answer.
            None => Poll::Ready(Err(RequestError::Disconnected(crate::CloseReason::Ended))),
        }
    }
}

/// Since when a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Since this very poll, whose waker will be told of the answer: it need not be asked for.
    JustNow,
    Before,
}

/// One request and what comes back.
#[derive(Debug)]
pub(crate) struct Exchange {
    core: Arc<Core>,
    packet: Option<Packet>,
    timeout: Duration,
    deadline: Option<Instant>,
    window: Option<usize>,
    /// The number, once there is one.
    id: Option<u32>,
    /// It waits for room, or for its compression.
    sending: Option<Box<Sending>>,
}

impl Exchange {
    pub(super) fn new(core: Arc<Core>, packet: Packet, timeout: Duration, window: Option<usize>) -> Self {
        Self { core, packet: Some(packet), timeout, deadline: None, window, id: None, sending: None }
    }

    /// A request that has its place and was sent.
    pub(crate) fn begun(core: Arc<Core>, id: u32, timeout: Duration, deadline: Instant) -> Self {
        let deadline = Some(deadline);
        Self { core, packet: None, timeout, deadline, window: None, id: Some(id), sending: None }
    }

    /// The answer to a request that was sent.
    pub(crate) async fn answer(mut self) -> Result<Packet, RequestError> {
        // Only a stream ends without an answer.
        let ended = RequestError::Disconnected(crate::CloseReason::Ended);
        std::future::poll_fn(|cx| self.poll_answer(cx)).await?.ok_or(ended)
    }

    /// Takes a place and sends the request.
    pub(super) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sent, RequestError>> {
        let Some(packet) = self.packet.take() else {
            return match self.sending.take() {
                Some(sending) => self.poll_sending(sending, cx),
                None => Poll::Ready(Ok(Sent::Before)),
            };
        };
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + self.timeout);
        let (begun, arms) = {
            let mut pending = self.core.pending.lock();
            let begun = pending.begin(deadline, self.timeout, self.window, cx.waker());
            (begun, pending.arms(deadline))
        };
        if arms {
            self.core.wake_driver();
        }
        let id = match begun {
            None if deadline <= Instant::now() => {
                return Poll::Ready(Err(RequestError::TimedOut(self.timeout)));
            }
            None => {
                self.packet = Some(packet);
                return Poll::Pending;
            }
            Some(id) => id?,
        };
        self.id = Some(id);
        let mut packet =
            Packet { packet_type: PacketType::Request, message_id: id, is_echo: false, ..packet };
        if self.window.is_some() {
            packet.flags |= Flags::STREAM;
        }
        match send_or_wait(&self.core, packet)? {
            None => {
                self.grant();
                Poll::Ready(Ok(Sent::JustNow))
            }
            Some(sending) => self.poll_sending(Box::new(sending), cx),
        }
    }

    fn poll_sending(
        &mut self,
        mut sending: Box<Sending>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Sent, RequestError>> {
        let Poll::Ready(sent) = Pin::new(&mut *sending).poll(cx) else {
            self.sending = Some(sending);
            // While it waits for room its time may be over: the driver says so by the answer.
            return match self.poll_answer(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Pending,
            };
        };
        sent?;
        self.grant();
        Poll::Ready(Ok(Sent::Before))
    }

    /// The other side of a stream has no credit but what it is granted.
    fn grant(&self) {
        if let (Some(message_id), Some(window)) = (self.id, self.window) {
            let bytes = u32::try_from(window).unwrap_or(u32::MAX);
            self.core.control(&ControlPacket::Window { message_id, bytes });
        }
    }

    /// The next answer; `None` is the end of a stream.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Packet>, RequestError>> {
        let Some(message_id) = self.id else { return Poll::Ready(Ok(None)) };
        let taken = self.core.pending.lock().take(message_id, cx.waker());
        match taken {
            None => Poll::Pending,
            Some(Taken::Answer(packet, next)) => {
                self.id = None;
                next.into_iter().for_each(Waker::wake);
                Poll::Ready(Ok(Some(packet)))
            }
            Some(Taken::Part(packet, grant)) => {
                if grant > 0 {
                    self.core.control(&ControlPacket::Window { message_id, bytes: grant });
                }
                Poll::Ready(Ok(Some(packet)))
            }
            Some(Taken::End(end)) => Poll::Ready(end.map(|()| None)),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some(message_id) = self.id else { return };
        let (was_going_on, next) = self.core.pending.lock().end(message_id);
        next.into_iter().for_each(Waker::wake);
        // What was never sent need not be given up.
        if was_going_on && self.sending.is_none() {
            self.core.control(&ControlPacket::Cancel { message_id });
        }
    }
}
