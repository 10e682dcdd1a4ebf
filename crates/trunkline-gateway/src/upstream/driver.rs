//! The task that owns one HTTP/2 connection to an instance: it takes calls from the link's queue, sends them, and hands
//! back their answers.
//!
//! It is the only one that touches the connection, so nobody waits for another's write, and calls that come together
//! leave in one write. It knows nothing of what is called. What waits in its queue has not been sent: that is certain,
//! and a call is told so. Nothing is sent before the peer has shown that it speaks HTTP/2.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::Ping;
use h2::client::{Connection, SendRequest};
use http::uri::Authority;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use super::link::Stream;
use super::unary::{Answering, Failure, Head};

/// Calls that the connection has not taken yet. Beyond this whoever calls waits for a place.
pub(super) const QUEUE: usize = 1_024;

/// What a call's answer is: its message.
pub(super) type Answer = Result<Bytes, Failure>;

/// A call on its way to the connection. Dropped before it is sent, it says so.
pub(super) struct Exchange {
    head: Head,
    body: Bytes,
    /// `None` once it is sent.
    reply: Option<oneshot::Sender<Answer>>,
}

impl Exchange {
    pub(super) fn new(head: Head, body: Bytes) -> (Self, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        (Exchange { head, body, reply: Some(reply) }, answer)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            // Nobody may wait any more.
            drop(reply.send(Err(Failure::unsent("the connection was closed"))));
        }
    }
}

/// The ping that a connection begins with.
type Greeting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the module. It ends when the connection does, and ends the connection when nobody can send any more.
pub(super) struct Driver {
    connection: Connection<Box<dyn Stream>, Bytes>,
    /// A ping is under way: the peer has not spoken yet.
    greeting: Option<Greeting>,
    /// While calls can be sent.
    sender: Option<SendRequest<Bytes>>,
    queue: mpsc::Receiver<Exchange>,
    running: FuturesUnordered<Running>,
    authority: Authority,
    max_response: usize,
    /// Fires when no more calls can be sent.
    open: Option<DropGuard>,
}

impl Driver {
    pub(super) fn new(
        sender: SendRequest<Bytes>,
        mut connection: Connection<Box<dyn Stream>, Bytes>,
        queue: mpsc::Receiver<Exchange>,
        authority: Authority,
        max_response: usize,
        open: DropGuard,
    ) -> Self {
        let greeting = connection.ping_pong().map(|mut pings| -> Greeting {
            // Where it fails, so does the connection.
            Box::pin(async move { drop(pings.ping(Ping::opaque()).await) })
        });
        Driver {
            greeting,
            connection,
            sender: Some(sender),
            queue,
            running: FuturesUnordered::new(),
            authority,
            max_response,
            open: Some(open),
        }
    }

    /// Sends what waits, as far as the peer lets more calls run.
    fn send_waiting(&mut self, cx: &mut Context<'_>) {
        if let Some(greeting) = &mut self.greeting {
            if greeting.as_mut().poll(cx).is_pending() {
                return;
            }
            self.greeting = None;
        }
        while let Some(sender) = &mut self.sender {
            match sender.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return self.close(),
                Poll::Pending => return,
            }
            match self.queue.poll_recv(cx) {
                Poll::Ready(Some(exchange)) => self.send(exchange),
                Poll::Ready(None) => self.close(),
                Poll::Pending => return,
            }
        }
    }

    fn send(&mut self, mut exchange: Exchange) {
        let Some(sender) = &mut self.sender else { return };
        let Some(reply) = exchange.reply.take().filter(|reply| !reply.is_closed()) else { return };
        let head = exchange.head.request(&self.authority);
        let sent = sender.send_request(head, false).and_then(|(answer, mut body)| {
            // It lies in memory already, so it waits in the connection for the peer's window.
            body.send_data(std::mem::take(&mut exchange.body), true).map(|()| answer)
        });
        match sent {
            Ok(answer) => {
                let answering = Answering::Head(answer);
                self.running.push(Running { answering, limit: self.max_response, reply: Some(reply) });
            }
            Err(error) => {
                tracing::debug!(%error, "a call was not taken by its connection");
                drop(reply.send(Err(Failure::unsent("the connection does not take it"))));
            }
        }
    }

    /// Nothing more is sent; what runs goes on.
    fn close(&mut self) {
        self.open = None;
        // Without it the connection ends with its last call.
        self.sender = None;
        self.queue.close();
        while self.queue.try_recv().is_ok() {}
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.send_waiting(cx);
        let connection = Pin::new(&mut this.connection).poll(cx);
        // The peer may just have said that it takes no more.
        if let Some(sender) = &mut this.sender
            && let Poll::Ready(Err(_)) = sender.poll_ready(cx)
        {
            this.close();
        }
        while let Poll::Ready(Some(())) = this.running.poll_next_unpin(cx) {}
        // How it ended, its calls have heard.
        if connection.is_ready() {
            this.close();
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// A call that was sent. Whoever waits for its answer may go away, which cancels it.
struct Running {
    answering: Answering,
    limit: usize,
    reply: Option<oneshot::Sender<Answer>>,
}

impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Poll::Ready(answer) = this.answering.poll(cx, this.limit) {
            if let Some(reply) = this.reply.take() {
                drop(reply.send(answer));
            }
            return Poll::Ready(());
        }
        if let Some(reply) = &mut this.reply {
            ready!(reply.poll_closed(cx));
        }
        Poll::Ready(())
    }
}
