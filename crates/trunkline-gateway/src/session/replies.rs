//! Room for cached replies: where the node's budget is nearly used up, sessions give theirs up, those whose calls ended
//! longest ago first, so that no call is refused because clients have not said what they have.
//!
//! It decides only whose replies go; what that means for a call that is asked for again is the engine's.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use trunkline_session::engine::GiveUp;

use crate::gateway::Node;

/// After so many sessions other tasks have a turn.
const AT_ONCE: usize = 64;

/// Makes room if it is needed, in a task of the node; one at a time.
pub(super) fn make_room(node: &Arc<Node>) {
    if node.reply_budget.is_short() && !node.making_room.swap(true, Relaxed) {
        let this = Arc::clone(node);
        node.spawn(async move {
            give_up(&this).await;
            this.making_room.store(false, Relaxed);
        });
    }
}

async fn give_up(node: &Node) {
    let mut cached = Vec::new();
    for (at, session) in node.hub.all().into_iter().enumerate() {
        cached.extend(session.cached_since().map(|since| (since, session)));
        if at % AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
    cached.sort_by_key(|(since, _)| *since);
    // What nobody has heard yet is given up last.
    for which in [GiveUp::Left, GiveUp::All] {
        for (at, (_, session)) in cached.iter().enumerate() {
            if node.reply_budget.is_relaxed() {
                return;
            }
            session.give_up_replies(which);
            if at % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}
