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
    /// Connections to the same instance.
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
    /// How many of them are probes.
    probing: usize,
    /// Streams that the peer lets be open at once.
    streams: usize,
    /// No call may be sent now.
    full: bool,
    /// Another call would be sent at once.
    had_room: bool,
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
            streams: sender.current_max_send_streams(),
            greeting,
            connection,
            sender: Some(sender),
            inlets,
            running: FuturesUnordered::new(),
            probing: 0,
            full: false,
            had_room: true,
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
        let mut probes_wait = true;
        while let Some(streams) = self.sender.as_ref().map(SendRequest::current_max_send_streams) {
            self.streams = streams;
            // Who takes no call is of no use, and who waits for him would do so as long as the node.
            if self.streams == 0 {
                return self.close();
            }
            // h2 takes more than the peer does, and what it holds back has no longer certainly not been sent.
            self.full = self.is_full();
            if self.running.len() >= self.streams {
                return;
            }
            let Some(sender) = &mut self.sender else { return };
            match sender.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return self.close(),
                Poll::Pending => return,
            }
            if probes_wait {
                match self.inlets.probes.poll_recv(cx) {
                    Poll::Ready(Some(probe)) => self.send(probe, true),
                    // Those who call have both ends: the other queue says the same.
                    Poll::Ready(None) | Poll::Pending => probes_wait = false,
                }
                continue;
            }
            if self.full {
                return;
            }
            match self.inlets.queue.poll_recv(cx) {
                Poll::Ready(Some(exchange)) => self.send(exchange, false),
                Poll::Ready(None) => self.close(),
                Poll::Pending => return,
            }
        }
    }

    /// Calls that run, and those that may beside the stream that is a probe's: one at least.
    fn calls(&self) -> (usize, usize) {
        (self.running.len() - self.probing, self.streams.saturating_sub(1).max(1))
    }

    fn is_full(&self) -> bool {
        let (calls, room) = self.calls();
        calls >= room || self.running.len() >= self.streams
    }

    /// Hands calls that have no room here to connections that have.
    fn give_away(&mut self, cx: &mut Context<'_>) {
        // Before it looks at them.
        self.inlets.load.wait_for_others(cx.waker());
        if self.inlets.load.is_given_up() {
            return self.close();
        }
        let Some(siblings) = self.inlets.siblings.upgrade() else { return };
        while !self.inlets.queue.is_empty() {
            let Some(link) = siblings.with_room() else { return siblings.want() };
            let Poll::Ready(Some(exchange)) = self.inlets.queue.poll_recv(cx) else { return };
            link.take(exchange);
        }
    }

    /// Tells what runs, and those on which calls wait, when there is room again.
    fn tell(&mut self) {
        let (calls, room) = self.calls();
        self.inlets.load.set(calls, room);
        let has_room = calls + self.inlets.queue.len() < room;
        if has_room
            && !self.had_room
            && let Some(siblings) = self.inlets.siblings.upgrade()
        {
            siblings.relieve();
        }
        self.had_room = has_room;
    }

    fn send(&mut self, mut exchange: Exchange, is_probe: bool) {
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
                self.probing += usize::from(is_probe);
                let limit = self.max_response;
                self.running.push(Running { answering, limit, is_probe, reply: Some(reply) });
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
        while let Poll::Ready(Some(was_probe)) = this.running.poll_next_unpin(cx) {
            this.probing -= usize::from(was_probe);
        }
        if let Some(sender) = &this.sender {
            if this.full {
                // The peer may just have raised it.
                this.streams = sender.current_max_send_streams();
                let probe_waits = this.running.len() < this.streams && !this.inlets.probes.is_empty();
                if !this.is_full() || probe_waits {
                    cx.waker().wake_by_ref();
                }
            }
            this.tell();
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
    is_probe: bool,
    reply: Option<oneshot::Sender<Answer>>,
}

impl Future for Running {
    /// Whether it was a probe.
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let this = &mut *self;
        if let Poll::Ready(answer) = this.answering.poll(cx, this.limit) {
            if let Some(reply) = this.reply.take() {
                drop(reply.send(answer));
            }
            return Poll::Ready(this.is_probe);
        }
        if let Some(reply) = &mut this.reply {
            ready!(reply.poll_closed(cx));
        }
        Poll::Ready(this.is_probe)
    }
}
