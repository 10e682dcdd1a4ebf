//! The node's word on a session's calls and large operations: what holds for everybody first, then the share of the
//! session's user. Calls that come together are asked for together, since what they are counted by is everybody's.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use trunkline_proto::UpBody;
use trunkline_session::engine::request_bytes;
use trunkline_session::{CallGate, Now, Place, RequestRefusal, TurnedAway};

use crate::connection::Decoded;
use crate::defaults::RETRY_AFTER;
use crate::gateway::Node;
use crate::limits::{UserShare, jittered};

/// Asked by the session's engine, under the session's lock.
pub(super) struct Gate<'a> {
    pub(super) node: &'a Node,
    pub(super) user: &'a Arc<str>,
    /// The session's.
    pub(super) share: &'a OnceCell<Arc<UserShare>>,
    pub(super) together: &'a Together,
}

/// The calls among the frames of one read. Drop gives back the places that none of them has taken: those of calls that
/// the session knew already, or has refused itself.
#[derive(Default)]
pub(super) struct Together {
    /// How many they are and the bytes of their requests, until they are asked for.
    asked: Cell<Option<(usize, usize)>>,
    places: Cell<Place>,
}

impl Together {
    pub(super) fn of(frames: &[Decoded]) -> Self {
        let together = Together::default();
        let (mut calls, mut bytes) = (0, 0);
        for frame in frames.iter().flatten() {
            if let UpBody::Business(request) = &frame.body {
                calls += 1;
                bytes += request_bytes(request, &frame.headers);
            }
        }
        together.asked.set((calls > 1).then_some((calls, bytes)));
        together
    }

    /// The place of one of them.
    fn place(&self, bytes: usize) -> Option<Place> {
        let mut places = self.places.take();
        let place = places.split(bytes);
        self.places.set(places);
        place
    }
}

impl CallGate for Gate<'_> {
    fn enter(&self, now: Now, bytes: usize) -> Result<Place, TurnedAway> {
        let Gate { node, user, share, together } = self;
        let turned = |why| Err(TurnedAway { why, retry_after: jittered(RETRY_AFTER) });
        if node.is_stopping() {
            return turned(RequestRefusal::Stopping);
        }
        if let Some(place) = together.place(bytes) {
            return Ok(place);
        }
        if node.limits.memory.is_short() {
            return turned(RequestRefusal::Memory);
        }
        if node.limits.reply_queue.bytes() >= node.options().reply_queue_bytes {
            return turned(RequestRefusal::ReplyQueue);
        }
        let share = share.get_or_init(|| node.limits.calls.share(user));
        if let Some((calls, bytes)) = together.asked.take()
            && let Some(places) = share.enter_together(calls, bytes)
        {
            together.places.set(places);
        }
        together.place(bytes).map_or_else(|| share.enter(now.at, bytes), Ok)
    }

    fn hold(&self, bytes: usize) -> Result<Place, TurnedAway> {
        let Gate { node, user, share, .. } = self;
        share.get_or_init(|| node.limits.calls.share(user)).hold(bytes)
    }
}
