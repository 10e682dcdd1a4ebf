//! What the node knows of a connection while its actor lives, and how far the connection has come.

use std::sync::Arc;

use trunkline_proto::CloseCode;
use trunkline_session::Fence;
use trunkline_transport::{ByteWriter, ConnectionInfo};

use super::handle::{Ending, Handle};
use super::serving::Boxed;
use super::write_state::Pending;
use crate::gateway::{Moment, Node};
use crate::session::Session;

/// What the node knows of a connection while its actor lives. Drop takes it back, also when the actor panics: the
/// session goes on without the connection.
pub(super) struct Hold {
    pub(super) node: Arc<Node>,
    pub(super) handle: Arc<Handle>,
    pub(super) stage: Stage,
}

/// How far a connection has come.
pub(super) enum Stage {
    /// Its first frame has to come by then.
    Stranger { start_by: Moment },
    /// Its first frame is being answered; nothing is read meanwhile, and START has deadlines of its own.
    Starting(Boxed<Started>),
    /// Its first frame was no START that the node accepts: it ends.
    Refused,
    /// It holds this session, under this fence.
    Holder(Arc<Session>, Fence),
}

pub(super) type Started = Result<(Arc<Session>, Fence), Ending>;

impl Hold {
    pub(super) fn new(node: &Arc<Node>, info: &ConnectionInfo, writer: &ByteWriter) -> Self {
        let start_by = Moment::not_before(node.uptime() + node.options().start_timeout);
        let handle = Handle::new(node.next_connection(), info, writer, node);
        node.stats.gauge(handle.protocol()).up();
        node.connections.insert(&handle);
        // A drain looks at all connections when it has begun: who comes in behind its look is told here.
        if node.is_stopping() {
            handle.end(Ending::new(CloseCode::GoingAway, "the node stops: reconnect"));
        }
        Hold { node: Arc::clone(node), handle, stage: Stage::Stranger { start_by } }
    }

    pub(super) fn session(&self) -> Option<(&Arc<Session>, Fence)> {
        match &self.stage {
            Stage::Holder(session, fence) => Some((session, *fence)),
            Stage::Stranger { .. } | Stage::Starting(_) | Stage::Refused => None,
        }
    }

    /// A seed client's frames wait for numbers.
    pub(super) fn on_not_numbered(&self, pending: &Pending) {
        match pending {
            Pending::Unacked => {
                let text = "1,000 frames or 1 MiB are not acked: reconnect and resume";
                self.handle.end(Ending::new(CloseCode::Slow, text));
            }
            Pending::NotReserved | Pending::Nothing | Pending::Bytes => {}
        }
        if let Some((session, _)) = self.session() {
            session.reserve_numbers(&self.node);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The session first: what it sends until then is kept for its next connection.
        if let Some((session, fence)) = self.session() {
            session.disconnected(&self.node, fence);
        }
        self.handle.abandon();
        self.node.connections.remove(self.handle.id);
        self.node.stats.gauge(self.handle.protocol()).down();
    }
}
