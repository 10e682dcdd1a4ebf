//! Where a session is a member that others can see: where it is attached to a channel with presence, and nowhere else.
//!
//! Joins are made by STARTs, by the session's operations and by services, side by side; leaves wait in the session's
//! queue. So a leave looks again before and behind its work, and a join that comes to nothing leaves by itself.

use std::sync::Arc;

use trunkline_broker::Member;
use trunkline_proto::wire::ErrorMessage;
use trunkline_session::Channel;

use super::jobs::Job;
use super::{Attached, Inner, Session};
use crate::channels::{broker_error, channel_name};
use crate::gateway::Node;

/// A channel that is attached for a session and not yet the session's own. Dropped, it is let go of.
pub(crate) struct Arriving {
    pub(crate) attached: Attached,
    /// `None`: the channel has no presence.
    pub(crate) joining: Option<Joining>,
}

/// A membership that has begun and that no attached channel stands for yet. Dropped without one, the member leaves.
/// Not to be dropped under the session's lock: [`Inner::arrive`] takes it there.
pub(crate) struct Joining {
    node: Arc<Node>,
    session: Arc<Session>,
    channel: Channel,
    settled: bool,
}

/// The channels of a session's [`Joining`]s. Boxed, since most sessions never join anything again.
#[derive(Default)]
pub(super) struct UnderWay(Option<Box<Names>>);

#[derive(Default)]
struct Names(Vec<Channel>);

impl UnderWay {
    fn add(&mut self, channel: &Channel) {
        self.0.get_or_insert_default().0.push(Channel::clone(channel));
    }

    fn take(&mut self, channel: &Channel) {
        let Some(Names(joining)) = self.0.as_deref_mut() else { return };
        if let Some(at) = joining.iter().position(|joining| joining == channel) {
            joining.swap_remove(at);
        }
        if joining.is_empty() {
            self.0 = None;
        }
    }

    fn contains(&self, channel: &str) -> bool {
        self.0.iter().flat_map(|names| &names.0).any(|joining| **joining == *channel)
    }
}

impl Joining {
    fn begin(node: &Arc<Node>, session: &Arc<Session>, channel: &str) -> Self {
        let channel = Channel::from(channel);
        session.inner.lock().joining.add(&channel);
        Joining { node: Arc::clone(node), session: Arc::clone(session), channel, settled: false }
    }

    fn settle(&mut self, inner: &mut Inner) {
        self.settled = true;
        inner.joining.take(&self.channel);
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let session = Arc::clone(&self.session);
        let is_member = {
            let mut inner = session.inner.lock();
            self.settle(&mut inner);
            inner.is_member(&self.channel)
        };
        if !is_member {
            session.jobs.add(&self.node, &session, Job::Leave(Channel::clone(&self.channel)));
        }
    }
}

impl Inner {
    /// The channel is the session's from here on.
    pub(super) fn arrive(&mut self, arriving: Arriving) {
        let Arriving { mut attached, joining } = arriving;
        attached.present = joining.is_some();
        if let Some(mut joining) = joining {
            joining.settle(self);
        }
        // Whoever was a member stays one, also where the channel has lost its presence meanwhile.
        attached.present |= self.attached.get(attached.name()).is_some_and(|known| known.present);
        self.attached.insert(attached);
    }

    /// Should others see the session on this channel? A channel of the last connection counts until the START that is
    /// under way has attached it anew, or has not.
    pub(super) fn is_member(&self, channel: &str) -> bool {
        let present = |of: Option<&Attached>| of.is_some_and(|attached| attached.present);
        present(self.attached.get(channel))
            || present(self.former.as_ref().and_then(|former| former.get(channel)))
            || self.joining.contains(channel)
    }
}

impl Session {
    /// Makes the session a member of a channel; `None` where the channel has no presence.
    pub(crate) async fn join(
        self: &Arc<Self>,
        node: &Arc<Node>,
        channel: &str,
    ) -> Result<Option<Joining>, ErrorMessage> {
        if !node.options().presence(channel) {
            return Ok(None);
        }
        let name = channel_name(channel)?;
        let member = Member {
            session: self.id.to_string().into(),
            user: Arc::clone(&self.user),
            info: bytes::Bytes::new(),
        };
        let joining = Joining::begin(node, self, channel);
        // A failure may have come behind the deed; so may the end of this future.
        node.broker.join(&name, member, node.lease()).await.map_err(|error| broker_error(&error))?;
        Ok(Some(joining))
    }

    /// The node has a new lease: what lived by the old one is done again.
    pub(crate) async fn join_anew(self: &Arc<Self>, node: &Arc<Node>) {
        for channel in self.present_channels() {
            self.join_again(node, &channel).await;
        }
    }

    /// The session is no longer a member of a channel, unless it has become one again.
    pub(super) async fn leave(self: &Arc<Self>, node: &Arc<Node>, channel: &str) {
        let is_member = || self.inner.lock().is_member(channel);
        let Ok(name) = channel_name(channel) else { return };
        if is_member() {
            return;
        }
        if let Err(error) = node.broker.leave(&name, &self.id.to_string()).await {
            tracing::warn!(%error, "a member could not leave: it goes with the node's lease");
        }
        // A join that was under way may have come before or behind the leave.
        if is_member() {
            self.join_again(node, channel).await;
        }
    }

    async fn join_again(self: &Arc<Self>, node: &Arc<Node>, channel: &str) {
        if let Err(error) = self.join(node, channel).await {
            tracing::warn!(error = error.error_message, "a session could not join its channel anew");
        }
    }

    /// Where the session is a member that others can see.
    fn present_channels(&self) -> Vec<Channel> {
        self.inner.lock().attached.present().cloned().collect()
    }
}
