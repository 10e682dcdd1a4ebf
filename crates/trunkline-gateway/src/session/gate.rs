//! The node's word on a session's calls and large operations: what holds for everybody first, then the share of the
//! session's user.

use std::cell::OnceCell;
use std::sync::Arc;

use trunkline_session::{CallGate, Now, Place, RequestRefusal, TurnedAway};

use crate::defaults::RETRY_AFTER;
use crate::gateway::Node;
use crate::limits::{UserShare, jittered};

/// Asked by the session's engine, under the session's lock.
pub(super) struct Gate<'a> {
    pub(super) node: &'a Node,
    pub(super) user: &'a Arc<str>,
    /// The session's.
    pub(super) share: &'a OnceCell<Arc<UserShare>>,
}

impl CallGate for Gate<'_> {
    fn enter(&self, now: Now, bytes: usize) -> Result<Place, TurnedAway> {
        let Gate { node, user, share } = self;
        let turned = |why| Err(TurnedAway { why, retry_after: jittered(RETRY_AFTER) });
        if node.is_stopping() {
            return turned(RequestRefusal::Stopping);
        }
        if node.limits.memory.is_short() {
            return turned(RequestRefusal::Memory);
        }
        if node.limits.reply_queue.bytes() >= node.options().reply_queue_bytes {
            return turned(RequestRefusal::ReplyQueue);
        }
        let share = share.get_or_init(|| node.limits.calls.share(user));
        Arc::clone(share).enter(now.at, bytes)
    }

    fn hold(&self, bytes: usize) -> Result<Place, TurnedAway> {
        let Gate { node, user, share } = self;
        share.get_or_init(|| node.limits.calls.share(user)).hold(bytes)
    }
}
