//! REFRESH: a new token for a session that goes on. A refused one changes nothing; an accepted one holds at once, for
//! rights and for groups, and the client is told what it lost and what it came to.

use std::sync::Arc;

use trunkline_proto::ErrorCode;
use trunkline_proto::wire::{ErrorMessage, StartRequest};
use trunkline_session::engine::Answer;
use trunkline_session::position::is_implicit_name;
use trunkline_session::{Channel, Fence, Position};

use super::membership::Arriving;
use super::{Attached, Session};
use crate::auth::{AuthError, Identity, May};
use crate::channels::{self, Refusal};
use crate::gateway::Node;

pub(super) async fn refresh(
    node: &Arc<Node>,
    session: &Arc<Session>,
    auth_token: String,
) -> Result<Answer, ErrorMessage> {
    let fence = session.link_fence();
    let caller = session.caller(node);
    let start = StartRequest { openid: session.user.to_string(), auth_token, ..StartRequest::default() };
    let identity = node.authenticator.authenticate(&start, &caller.transport, &caller.remote_address).await;
    let identity = identity.map_err(|error| match error {
        AuthError::Unavailable(text) => ErrorCode::Overloaded.message(text),
        AuthError::Refused(text) | AuthError::Closed { reason: text, .. } => {
            ErrorCode::Unauthenticated.message(text)
        }
    })?;
    let expires_at = identity.expires_at_ms;
    let groups = channels::group_channels(&identity.groups)?;
    let mut came = Vec::new();
    for group in groups.iter().filter(|group| !session.is_on(group)) {
        let (attached, position, _) = channels::attach(node, group, None).await?;
        came.push((attached, position));
    }
    // A START that took over meanwhile brought a token of its own.
    if session.renewed(node, fence, &identity) {
        session.regrouped(node, &groups, came);
        session.check_rights(node).await;
    }
    Ok(Answer::Refreshed { expires_at })
}

impl Session {
    /// The new token's identity is the session's. False: the connection that brought it no longer holds the session.
    fn renewed(self: &Arc<Self>, node: &Arc<Node>, fence: Option<Fence>, identity: &Identity) -> bool {
        let groups: Vec<Arc<str>> = identity.groups.iter().map(|group| group.as_str().into()).collect();
        let mut inner = self.inner.lock();
        if inner.link.as_ref().is_none_or(|link| Some(link.fence) != fence) {
            return false;
        }
        inner.owner.set(node, identity);
        node.hub.regroup(self, &groups);
        true
    }

    /// Leaves the groups that the token does not name, and follows those that it is the first to name.
    fn regrouped(self: &Arc<Self>, node: &Arc<Node>, groups: &[Channel], came: Vec<(Attached, Position)>) {
        let left: Vec<Channel> = {
            let inner = self.inner.lock();
            let on = inner.attached.iter().map(Attached::name);
            on.filter(|on| on.starts_with("group:") && !groups.contains(on)).cloned().collect()
        };
        for channel in left {
            let error = ErrorCode::Forbidden.message("the new token is not of this group");
            self.withdraw(node, &channel, error);
        }
        for (attached, position) in came {
            self.joined(node, Arriving { attached, joining: None }, position);
        }
    }

    /// What the token no longer allows ends. Where nobody can say, what was allowed before stays: an upstream that
    /// stumbles must not take every channel from everybody.
    async fn check_rights(self: &Arc<Self>, node: &Arc<Node>) {
        let own: Vec<Channel> = {
            let inner = self.inner.lock();
            let on = inner.attached.iter().map(Attached::name);
            on.filter(|on| !is_implicit_name(on)).cloned().collect()
        };
        for channel in own {
            if self.is_joined(&channel) {
                continue;
            }
            if let Err(Refusal::Denied(error)) =
                channels::check_right(node, self, &channel, May::Subscribe).await
            {
                self.withdraw(node, &channel, error);
            }
        }
    }

    /// Is the session attached to this channel?
    fn is_on(&self, channel: &str) -> bool {
        self.inner.lock().attached.contains(channel)
    }
}
