//! Events that wait to be read, in one queue of bounded size.
//!
//! The queue never drops a publication silently: what does not fit is refused, and the client's task asks the gateway
//! for it again later (see [`Pushes`]).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::defaults::{EVENT_OVERHEAD, UNREAD_STATES};
use crate::event::Event;

/// The events of a client: a stream that ends after [`Event::Closed`].
///
/// What happens when nobody reads: events wait up to [`crate::Options::event_bytes`]. Beyond that the client pauses the
/// reading of publications: while no reply is awaited it does not read at all, so that the gateway waits; while one
/// is, it reads on, keeps no publication, and once there is room resumes its session from the last event
/// that was kept. So unread events never hold up a reply, and what was skipped is delivered later or told as
/// [`Event::Gap`].
///
/// Several `Pushes` of one client share its events: each event goes to one of them. Dropping one loses nothing.
#[derive(Debug)]
pub struct Pushes {
    queue: Arc<EventQueue>,
}

impl Pushes {
    pub(crate) fn new(queue: Arc<EventQueue>) -> Self {
        Pushes { queue }
    }

    /// The next event; `None` after the last. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.queue.poll_next(cx)).await
    }
}

impl Stream for Pushes {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.queue.poll_next(cx)
    }
}

/// Events that nobody has read yet.
#[derive(Debug)]
pub(crate) struct EventQueue {
    limit: usize,
    state: Mutex<Unread>,
    /// Told when a queue that was full has room again.
    room: Notify,
}

#[derive(Debug, Default)]
struct Unread {
    events: VecDeque<Event>,
    bytes: usize,
    full: bool,
    ended: bool,
    /// One for each `Pushes` that waits; they are all woken by the next event.
    waiting: Vec<Waker>,
}

impl EventQueue {
    pub(crate) fn new(limit: usize) -> Self {
        EventQueue { limit, state: Mutex::new(Unread::default()), room: Notify::new() }
    }

    /// Whether events are refused now: from the first that did not fit until half the queue has been read.
    pub(crate) fn is_full(&self) -> bool {
        self.state.lock().full
    }

    /// Waits until there is room. Cancel safe.
    pub(crate) async fn room(&self) {
        loop {
            let notified = self.room.notified();
            if !self.is_full() {
                return;
            }
            notified.await;
        }
    }

    /// Whether an event with so many bytes of its own may be added. One larger than the whole queue may when
    /// the queue is empty. The first refusal makes the queue full, so that nothing later overtakes what was refused.
    pub(crate) fn admits(&self, own_bytes: usize) -> bool {
        let mut state = self.state.lock();
        let fits = state.events.is_empty() || state.bytes + own_bytes + EVENT_OVERHEAD <= self.limit;
        state.full |= !fits;
        !state.full
    }

    /// Adds an event, whatever the limit: whoever can ask for it again asks [`EventQueue::admits`] before.
    pub(crate) fn push(&self, event: Event) {
        let mut state = self.state.lock();
        let bytes = event.bytes();
        if event.is_state() {
            state.forget_old_states();
        }
        state.add(event, bytes);
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut state = self.state.lock();
        let Some(event) = state.events.pop_front() else {
            if state.ended {
                return Poll::Ready(None);
            }
            if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.waiting.push(cx.waker().clone());
            }
            return Poll::Pending;
        };
        state.bytes -= event.bytes();
        if state.full && state.bytes <= self.limit / 2 {
            state.full = false;
            self.room.notify_waiters();
        }
        Poll::Ready(Some(event))
    }
}

impl Unread {
    fn add(&mut self, event: Event, bytes: usize) {
        self.ended |= matches!(event, Event::Closed(_));
        self.bytes += bytes;
        self.events.push_back(event);
        for waker in self.waiting.drain(..) {
            waker.wake();
        }
    }

    fn forget_old_states(&mut self) {
        let states = self.events.iter().filter(|event| event.is_state()).count();
        if states < UNREAD_STATES {
            return;
        }
        if let Some(oldest) = self.events.iter().position(Event::is_state) {
            let removed = self.events.remove(oldest);
            self.bytes -= removed.map_or(0, |event| event.bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;
    use crate::event::{Closed, Position, Publication};

    fn publication(offset: u64, length: usize) -> Event {
        let position = Position { channel: "c".into(), epoch: 1, offset };
        let data = Bytes::from(vec![0; length]);
        Event::Publication(Publication { position, data, timestamp: 0, sender: String::new() })
    }

    fn lost(number: u64) -> Event {
        Event::Lost { code: None, reason: number.to_string(), retry_in: Duration::ZERO }
    }

    fn queue(limit: usize) -> (Arc<EventQueue>, Pushes) {
        let queue = Arc::new(EventQueue::new(limit));
        (Arc::clone(&queue), Pushes::new(queue))
    }

    #[test]
    fn what_does_not_fit_is_refused_until_half_is_read() {
        let (queue, mut pushes) = queue(4 * (EVENT_OVERHEAD + 100));
        for offset in 0..4 {
            assert!(queue.admits(100));
            queue.push(publication(offset, 100));
        }
        assert!(!queue.is_full(), "full only once something was refused");
        assert!(!queue.admits(1));
        assert!(queue.is_full());
        pushes.next().now_or_never().unwrap();
        assert!(!queue.admits(1), "a later one must not overtake a refused one");
        assert!(queue.room().now_or_never().is_none());
        pushes.next().now_or_never().unwrap();
        assert!(queue.room().now_or_never().is_some());
        assert!(queue.admits(1));
    }

    #[test]
    fn one_event_larger_than_the_queue_passes_through_an_empty_one() {
        let (queue, mut pushes) = queue(10);
        assert!(queue.admits(1000));
        queue.push(publication(0, 1000));
        assert!(!queue.admits(1000));
        pushes.next().now_or_never().unwrap();
        assert!(queue.admits(1000));
    }

    #[test]
    fn states_are_kept_but_only_the_latest() {
        let (queue, mut pushes) = queue(1);
        for number in 0..100 {
            queue.push(lost(number));
        }
        let mut seen = 0;
        while let Some(Some(event)) = pushes.next().now_or_never() {
            assert_eq!(event, lost(100 - UNREAD_STATES as u64 + seen));
            seen += 1;
        }
        assert_eq!(seen, UNREAD_STATES as u64);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken_and_the_stream_ends_after_closed() {
        let (queue, mut pushes) = queue(1000);
        let (first, ()) = tokio::join!(pushes.next(), async {
            tokio::task::yield_now().await;
            queue.push(publication(1, 1));
        });
        assert_eq!(first, Some(publication(1, 1)));
        let closed = Event::Closed(Closed { code: Some(4300), reason: "stopped".into() });
        queue.push(closed.clone());
        assert_eq!(pushes.next().await, Some(closed));
        assert_eq!(pushes.next().await, None);
    }
}
