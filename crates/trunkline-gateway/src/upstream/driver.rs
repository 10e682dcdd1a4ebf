//! The task that owns one HTTP/2 connection to an instance: it takes calls from the link's queue, sends them, and hands
//! back their answers.
//!
//! It is the only one that touches the connection, so nobody waits for another's write, and calls that come together
//! leave in one write. It knows nothing of what is called. What waits in its queue has not been sent: that is certain,
//! and a call is told so. Nothing is sent before the peer has shown that it speaks HTTP/2, and that within a time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::Ping;
use h2::client::{Connection, SendRequest};
use http::uri::Authority;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
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

/// The ping that a connection begins with; whether the peer said anything within its time.
type Greeting = Pin<Box<dyn Future<Output = bool> + Send>>;

/// See the module. It ends when the connection does, and ends the connection when nobody can send any more.
pub(super) struct Driver {
    connection: Connection<Box<dyn Stream>, Bytes>,
    /// A ping is under way: the peer has not spoken yet.
    greeting: Option<Greeting>,
    /// While calls can be sent.
    sender: Option<SendRequest<Bytes>>,
    queue: mpsc::Receiver<Exchange>,
    running: FuturesUnordered<Running>,
    /// As many run as the peer takes.
    full: bool,
    /// The connection is over; it must not be polled again.
    ended: bool,
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
        greet_within: Duration,
        open: DropGuard,
    ) -> Self {
        let greeting = connection.ping_pong().map(|mut pings| -> Greeting {
            // Where it fails, so does the connection.
            Box::pin(async move { timeout(greet_within, pings.ping(Ping::opaque())).await.is_ok() })
        });
        Driver {
            greeting,
            connection,
            sender: Some(sender),
            queue,
            running: FuturesUnordered::new(),
            full: false,
            ended: false,
            authority,
            max_response,
            open: Some(open),
        }
    }

    /// Sends what waits, as far as the peer lets more calls run.
    fn send_waiting(&mut self, cx: &mut Context<'_>) {
        if let Some(greeting) = &mut self.greeting {
            match greeting.as_mut().poll(cx) {
                Poll::Pending => return,
                Poll::Ready(true) => self.greeting = None,
                // Nobody may look at it any more: without an end of its own it would stay as long as the node.
                Poll::Ready(false) => {
                    self.ended = true;
                    return;
                }
            }
        }
        self.full = false;
        while let Some(sender) = &mut self.sender {
            // Who takes no call is of no use, and who waits for him would do so as long as the node.
            if sender.current_max_send_streams() == 0 {
                return self.close();
            }
            // h2 takes more than the peer does, and what it holds back has no longer certainly not been sent.
            if self.running.len() >= sender.current_max_send_streams() {
                self.full = true;
                return;
            }
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
    }

    /// Gives back what waits and can no longer be sent; whether nobody can come any more.
    fn give_back(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            match self.queue.poll_recv(cx) {
                Poll::Ready(Some(_unsent)) => {}
                Poll::Ready(None) => return true,
                // Somebody has a place in the queue and has yet to use it.
                Poll::Pending => return false,
            }
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if !this.ended {
            this.send_waiting(cx);
        }
        this.ended = this.ended || Pin::new(&mut this.connection).poll(cx).is_ready();
        // The peer may just have said that it takes no more.
        if let Some(sender) = &mut this.sender
            && (this.ended || matches!(sender.poll_ready(cx), Poll::Ready(Err(_))))
        {
            this.close();
        }
        // If it ended, they hear how.
        while let Poll::Ready(Some(())) = this.running.poll_next_unpin(cx) {}
        if let Some(sender) = &this.sender {
            if this.full && this.running.len() < sender.current_max_send_streams() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        let nobody_comes = this.give_back(cx);
        if this.ended && nobody_comes { Poll::Ready(()) } else { Poll::Pending }
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
