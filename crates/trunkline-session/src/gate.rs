//! What a node says of a call or a large operation before it runs, beside the session's own limits, and why they are
//! refused.
//!
//! The engine asks the gate once for each of them, and carries the place that it got with the work. It knows neither the
//! node's limits nor its other sessions; the gate knows nothing of numbers, windows and replies.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::Now;

/// The node's word on calls, and on what else may wait with many bytes.
pub trait CallGate {
    /// A call whose request has so many bytes would run: it gets a place, or is turned away before it has cost
    /// anything. A call that is sent again is asked for again; one that is answered from the cache is not.
    ///
    /// # Errors
    /// Why not now, and when to come again.
    fn enter(&self, now: Now, bytes: usize) -> Result<Place, TurnedAway>;

    /// A channel operation with so many bytes would wait for its turn and run. It is no call: rates and numbers of calls
    /// are not its own.
    ///
    /// # Errors
    /// Why not now, and when to come again.
    fn hold(&self, bytes: usize) -> Result<Place, TurnedAway>;
}

/// A gate that is always open.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenGate;

impl CallGate for OpenGate {
    fn enter(&self, _: Now, _: usize) -> Result<Place, TurnedAway> {
        Ok(Place::default())
    }

    fn hold(&self, _: usize) -> Result<Place, TurnedAway> {
        Ok(Place::default())
    }
}

/// Whoever counts places.
pub trait Places: fmt::Debug + Send + Sync {
    /// So many calls, which held so many bytes together, are over.
    fn leave(&self, calls: usize, bytes: usize);
}

/// The place of a call, or of an operation, on its node. It travels with the work: drop gives it back, wherever the work
/// has got to.
///
/// Calls that begin or end together can have theirs in one value, since whoever counts them counts for all threads.
#[derive(Debug, Default)]
pub struct Place {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    places: Arc<dyn Places>,
    calls: usize,
    bytes: usize,
}

impl Place {
    /// A place that was counted with these.
    pub fn held(places: Arc<dyn Places>, bytes: usize) -> Self {
        Place::of_calls(places, 1, bytes)
    }

    /// The places of several calls with so many bytes together.
    pub fn of_calls(places: Arc<dyn Places>, calls: usize, bytes: usize) -> Self {
        Place { held: Some(Held { places, calls, bytes }) }
    }

    /// Takes the place of one call with so many bytes out of this; `None` where there is none of that size.
    pub fn split(&mut self, bytes: usize) -> Option<Place> {
        let held = self.held.as_mut()?;
        if held.calls == 1 && held.bytes == bytes {
            return Some(std::mem::take(self));
        }
        let (calls, rest) = (held.calls.checked_sub(1)?, held.bytes.checked_sub(bytes)?);
        (held.calls, held.bytes) = (calls, rest);
        Some(Place::held(Arc::clone(&held.places), bytes))
    }

    /// Takes another in, to be given back with this one. What was counted with others is given back at once.
    pub fn join(&mut self, mut other: Place) {
        match (&mut self.held, &other.held) {
            (Some(own), Some(more)) if Arc::ptr_eq(&own.places, &more.places) => {
                own.calls += more.calls;
                own.bytes += more.bytes;
                // It is counted here now.
                other.held = None;
            }
            (_, None) => {}
            _ => *self = other,
        }
    }
}

/// Two calls are the same whatever places they have.
impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(Held { places, calls, bytes }) = self.held.take() {
            places.leave(calls, bytes);
        }
    }
}

/// The node takes a call not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnedAway {
    /// For the counters and the client.
    pub why: RequestRefusal,
    /// When to come again, spread already so that clients do not come back together.
    pub retry_after: Duration,
}

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $text:literal;)+) => {
        /// Why a request was refused for load before it ran (429, 503). Its number stays usable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum RequestRefusal { $($(#[doc = $doc])+ $variant,)+ }

        impl RequestRefusal {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[RequestRefusal] = &[$(RequestRefusal::$variant,)+];

            /// As metrics name it.
            pub const fn as_str(self) -> &'static str {
                match self { $(RequestRefusal::$variant => $name,)+ }
            }

            /// As the client is told.
            pub const fn text(self) -> &'static str {
                match self { $(RequestRefusal::$variant => $text,)+ }
            }
        }
    };
}

refusals! {
    /// The session sends frames too fast.
    FrameRate = "frame_rate", "frames come too fast";
    /// The session has as many calls or operations under way as it may.
    Session = "session", "as much is under way in this session as may be";
    /// The replies that are kept leave no room for another.
    ReplyCache = "reply_cache", "the node has no room for further replies";
    /// The replies that wait to be written leave no room for another.
    ReplyQueue = "reply_queue", "too many replies wait to be read by their clients";
    /// The node starts as many calls a second as it may.
    CallRate = "call_rate", "the node starts no more calls now";
    /// The same, and this user has had a fair share.
    UserCallRate = "user_call_rate", "the node starts no more calls of this user now";
    /// As many calls are under way on the node as may be.
    InFlight = "in_flight", "as many calls are under way as may be";
    /// This user has as many calls under way as there are places left.
    UserInFlight = "user_in_flight", "as many calls of this user are under way as may be now";
    /// The requests under way have as many bytes as may be, the user's own or all.
    CallBytes = "call_bytes", "the requests under way have as many bytes as may be";
    /// The process has as much memory as it may.
    Memory = "memory", "the node is short of memory";
    /// The node stops.
    Stopping = "stopping", "the node stops: send it again when you are back";
}

impl RequestRefusal {
    /// Whether it is the client's own pace (429) or the node's load (503).
    pub const fn is_pace(self) -> bool {
        matches!(self, RequestRefusal::FrameRate)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// Calls, bytes, and how often it was told of any.
    #[derive(Debug, Default)]
    struct Left(AtomicUsize, AtomicUsize, AtomicUsize);

    impl Places for Left {
        fn leave(&self, calls: usize, bytes: usize) {
            self.0.fetch_add(calls, Relaxed);
            self.1.fetch_add(bytes, Relaxed);
            self.2.fetch_add(1, Relaxed);
        }
    }

    impl Left {
        fn so_far(&self) -> (usize, usize, usize) {
            (self.0.load(Relaxed), self.1.load(Relaxed), self.2.load(Relaxed))
        }
    }

    fn of_calls(left: &Arc<Left>, calls: usize, bytes: usize) -> Place {
        Place::of_calls(Arc::<Left>::clone(left), calls, bytes)
    }

    #[test]
    fn places_that_were_taken_together_are_given_out_one_by_one_and_come_back_once() {
        let left = Arc::<Left>::default();
        let mut together = of_calls(&left, 3, 10);
        let first = together.split(4).unwrap();
        assert!(together.split(7).is_none(), "more bytes than are left");
        let mut second = together.split(5).unwrap();
        second.join(first);
        assert_eq!(left.so_far(), (0, 0, 0));
        drop(second);
        assert_eq!(left.so_far(), (2, 9, 1));
        drop(together.split(1).unwrap());
        assert_eq!(left.so_far(), (3, 10, 2));
        assert!(together.split(0).is_none());
        drop(together);
        assert_eq!(left.so_far(), (3, 10, 2), "nothing was left to give back");
        let unused = of_calls(&left, 2, 6);
        drop(unused);
        assert_eq!(left.so_far(), (5, 16, 3));
    }

    #[test]
    fn places_of_two_counts_are_given_back_to_each() {
        let (left, other) = (Arc::<Left>::default(), Arc::<Left>::default());
        let mut place = Place::default();
        place.join(of_calls(&left, 1, 2));
        place.join(of_calls(&other, 1, 3));
        assert_eq!((left.so_far(), other.so_far()), ((1, 2, 1), (0, 0, 0)));
        place.join(Place::default());
        assert_eq!(other.so_far(), (0, 0, 0), "there was nothing to join");
    }
}
