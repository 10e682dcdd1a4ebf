//! The task that owns one HTTP/2 connection to an instance: it takes calls from the link's queue, sends them, and hands
//! back their answers.
//!
//! It is the only one that touches the connection, so nobody waits for another's write, and calls that come together
//! leave in one write. It knows nothing of what is called, but that probes have a queue of their own and a stream that
//! calls leave them: an instance as busy as can be is no less well. What waits in a queue has not been sent: that is
//! certain, and a call is told so. Nothing is sent before the peer has shown that it speaks HTTP/2, and that within a
//! time.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
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
use tokio_util::sync::{CancellationToken, DropGuard};

use super::channels::Channels;
use super::link::Stream;
use super::load::Load;
use super::unary::{Answering, Failure, Head};

/// Calls that the connection has not taken yet. Beyond this whoever calls waits for a place.
pub(super) const QUEUE: usize = 1_024;
/// The same for probes, of which one runs at a time.
pub(super) const PROBES: usize = 1;

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

/// What others reach the connection by.
pub(super) struct Inlets {
    pub(super) probes: mpsc::Receiver<Exchange>,
    pub(super) queue: mpsc::Receiver<Exchange>,
    /// Told what runs and what the peer takes.
    pub(super) load: Arc<Load>,
    /// Connections to the same instance, itself among them.
    pub(super) siblings: Weak<Channels>,
    /// Fires when the peer has spoken.
    pub(super) spoken: CancellationToken,
    /// Fires when no more calls can be sent.
    pub(super) open: Option<DropGuard>,
}

/// See the module. It ends when the connection does, and ends the connection when nobody can send any more.
pub(super) struct Driver {
    connection: Connection<Box<dyn Stream>, Bytes>,
    /// A ping is under way: the peer has not spoken yet.
    greeting: Option<Greeting>,
    /// While calls can be sent.
    sender: Option<SendRequest<Bytes>>,
    inlets: Inlets,
    running: FuturesUnordered<Running>,
    /// As many run as the peer takes, less the probe's stream.
    full: bool,
    /// The connection is over; it must not be polled again.
    ended: bool,
    authority: Authority,
    max_response: usize,
}

impl Driver {
    pub(super) fn new(
        sender: SendRequest<Bytes>,
        mut connection: Connection<Box<dyn Stream>, Bytes>,
        inlets: Inlets,
        authority: Authority,
        max_response: usize,
        greet_within: Duration,
    ) -> Self {
        let greeting = connection.ping_pong().map(|mut pings| -> Greeting {
            // Where it fails, so does the connection.
            Box::pin(async move { timeout(greet_within, pings.ping(Ping::opaque())).await.is_ok() })
        });
        Driver {
            greeting,
            connection,
            sender: Some(sender),
            inlets,
            running: FuturesUnordered::new(),
            full: false,
            ended: false,
            authority,
            max_response,
        }
    }

    /// Sends what waits, as far as the peer lets more calls run.
    fn send_waiting(&mut self, cx: &mut Context<'_>) {
        if let Some(greeting) = &mut self.greeting {
            match greeting.as_mut().poll(cx) {
                Poll::Pending => return,
                Poll::Ready(true) => {
                    self.greeting = None;
                    self.inlets.spoken.cancel();
                }
                // Nobody may look at it any more: without an end of its own it would stay as long as the node.
                Poll::Ready(false) => {
                    self.ended = true;
                    return;
                }
            }
        }
        self.full = false;
        while let Some(sender) = &mut self.sender {
            let streams = sender.current_max_send_streams();
            // Who takes no call is of no use, and who waits for him would do so as long as the node.
            if streams == 0 {
                return self.close();
            }
            let room = calls_of(streams);
            self.inlets.load.set(self.running.len(), room);
            // h2 takes more than the peer does, and what it holds back has no longer certainly not been sent.
            self.full = self.running.len() >= room;
            if self.running.len() >= streams {
                return;
            }
            match sender.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return self.close(),
                Poll::Pending => return,
            }
            match self.poll_waiting(cx) {
                Poll::Ready(Some(exchange)) => self.send(exchange),
                Poll::Ready(None) => self.close(),
                Poll::Pending => return,
            }
        }
    }

    /// What goes next: a probe, or a call where there is room for one. `None` when nobody can come any more.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Option<Exchange>> {
        match self.inlets.probes.poll_recv(cx) {
            Poll::Ready(Some(probe)) => Poll::Ready(Some(probe)),
            _ if self.full => Poll::Pending,
            // Those who call have both ends.
            _ => self.inlets.queue.poll_recv(cx),
        }
    }

    /// Hands calls that have no room here to connections that have.
    fn give_away(&mut self, cx: &mut Context<'_>) {
        // Before it looks at them.
        self.inlets.load.wait_for_others(cx.waker());
        let Some(siblings) = self.inlets.siblings.upgrade() else { return };
        while !self.inlets.queue.is_empty() {
            let Some(link) = siblings.with_room() else { return siblings.want() };
            let Poll::Ready(Some(exchange)) = self.inlets.queue.poll_recv(cx) else { return };
            link.take(exchange);
        }
    }

    /// Calls have ended.
    fn tell_room(&self, room: usize) {
        self.inlets.load.set(self.running.len(), room);
        if self.running.len() < room
            && let Some(siblings) = self.inlets.siblings.upgrade()
        {
            siblings.relieve();
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
        self.inlets.open = None;
        // Without it the connection ends with its last call.
        self.sender = None;
        self.inlets.probes.close();
        self.inlets.queue.close();
    }

    /// Gives back what waits and can no longer be sent; whether nobody can come any more.
    fn give_back(&mut self, cx: &mut Context<'_>) -> bool {
        let mut nobody_comes = true;
        for queue in [&mut self.inlets.probes, &mut self.inlets.queue] {
            loop {
                match queue.poll_recv(cx) {
                    Poll::Ready(Some(_unsent)) => {}
                    Poll::Ready(None) => break,
                    // Somebody has a place in the queue and has yet to use it.
                    Poll::Pending => {
                        nobody_comes = false;
                        break;
                    }
                }
            }
        }
        nobody_comes
    }
}

/// How many calls run beside the stream that is a probe's: one at least.
fn calls_of(streams: usize) -> usize {
    streams.saturating_sub(1).max(1)
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if !this.ended {
            this.send_waiting(cx);
        }
        if this.full {
            this.give_away(cx);
        }
        this.ended = this.ended || Pin::new(&mut this.connection).poll(cx).is_ready();
        // The peer may just have said that it takes no more.
        if let Some(sender) = &mut this.sender
            && (this.ended || matches!(sender.poll_ready(cx), Poll::Ready(Err(_))))
        {
            this.close();
        }
        // If it ended, they hear how.
        let before = this.running.len();
        while let Poll::Ready(Some(())) = this.running.poll_next_unpin(cx) {}
        if let Some(sender) = &this.sender {
            let room = calls_of(sender.current_max_send_streams());
            if this.running.len() < before {
                this.tell_room(room);
            }
            if this.full && this.running.len() < room {
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
