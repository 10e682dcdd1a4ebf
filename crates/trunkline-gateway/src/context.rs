//! The gateway as a service in the process sees it: [`trunkline_service::Context`] on this node.

use std::sync::Arc;
use trunkline_session::position::is_implicit_name;

use async_trait::async_trait;
use bytes::Bytes;
use trunkline_proto::wire::ErrorMessage;
use trunkline_proto::{CloseCode, ErrorCode};
use trunkline_service::{Context, ContextError, Member, PublishOptions, Push, PushOutcome, Target};

use crate::channels;
use crate::gateway::Node;
use crate::push::{self, error, from_message};
use crate::session::{Arriving, Session};
use crate::zone::Zone;

/// The most members that one answer names.
const MAX_MEMBERS: usize = 10_000;

/// What a message repeats of a name that does not exist.
const MAX_NAMED: usize = 64;

pub(crate) struct NodeContext {
    node: Arc<Node>,
}

impl NodeContext {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        NodeContext { node }
    }

    fn sessions(&self, target: &Target) -> Vec<Arc<Session>> {
        match target {
            Target::Session(id) => push::session(&self.node, id).into_iter().collect(),
            Target::User(user) => self.node.hub.user(user),
            Target::Group(group) => self.node.hub.group(group),
            Target::Device(device) => self.node.hub.device(device),
        }
    }

    async fn join(&self, session: &Arc<Session>, channel: &str) -> Result<(), ErrorMessage> {
        let (attached, position, _) = channels::attach(&self.node, &channel.into(), None).await?;
        let joining = session.join(&self.node, channel).await?;
        session.joined(&self.node, Arriving { attached, joining }, position);
        Ok(())
    }
}

#[async_trait]
impl Context for NodeContext {
    async fn push(&self, target: Target, push: Push) -> Result<PushOutcome, ContextError> {
        push::push(&self.node, target, push).await
    }

    async fn broadcast(&self, zone: Option<String>, push: Push) -> Result<u32, ContextError> {
        let channel = match zone {
            None => "all".to_owned(),
            Some(zone) if self.node.options().zones.contains(&Zone::named(&*zone)) => format!("zone:{zone}"),
            Some(zone) => {
                let name: String = zone.chars().take(MAX_NAMED).collect();
                return Err(error("INVALID_ZONE_ID", format!("there is no zone {name:?}")));
            }
        };
        let key = push.idempotency_key.clone();
        let response = push::business_response(push);
        let key = (!key.is_empty()).then_some(&key);
        let published = push::publish_response(&self.node, &channel, &response, key).await?;
        Ok(published.live.unwrap_or_default())
    }

    async fn publish(
        &self,
        channel: &str,
        data: Bytes,
        options: PublishOptions,
    ) -> Result<(u64, u64), ContextError> {
        if is_implicit_name(channel) {
            return Err(error(
                ErrorCode::Forbidden.name(),
                "implicit channels carry pushes: use push or broadcast",
            ));
        }
        let PublishOptions { idempotency_key, ttl } = options;
        let key = (!idempotency_key.is_empty()).then(|| format!("service\n{idempotency_key}").into());
        let published = channels::publish(&self.node, channel, "".into(), data, ttl, key).await;
        let position = published.map_err(from_message)?;
        Ok((position.epoch.0, position.offset.0))
    }

    async fn subscribe(&self, target: Target, channel: &str) -> Result<u32, ContextError> {
        if is_implicit_name(channel) {
            return Err(error(
                ErrorCode::Forbidden.name(),
                "implicit channels are followed by what a session is",
            ));
        }
        let sessions = self.sessions(&target);
        for session in &sessions {
            self.join(session, channel).await.map_err(from_message)?;
        }
        Ok(u32::try_from(sessions.len()).unwrap_or(u32::MAX))
    }

    async fn unsubscribe(&self, target: Target, channel: &str) -> Result<u32, ContextError> {
        if is_implicit_name(channel) {
            return Err(error(
                ErrorCode::Forbidden.name(),
                "implicit channels are followed by what a session is",
            ));
        }
        let told = ErrorCode::Forbidden.message("a service took this session off the channel");
        let sessions = self.sessions(&target);
        let left = sessions.iter().filter(|session| session.withdraw(&self.node, channel, told.clone()));
        Ok(u32::try_from(left.count()).unwrap_or(u32::MAX))
    }

    async fn presence(&self, channel: &str) -> Result<Vec<Member>, ContextError> {
        let answer = channels::members(&self.node, channel, MAX_MEMBERS).await.map_err(from_message)?;
        let member = |member: trunkline_proto::wire::Member| Member {
            user: member.user,
            session: member.session_id,
            info: member.info,
        };
        Ok(answer.members.into_iter().map(member).collect())
    }

    async fn disconnect(&self, target: Target, code: u32, reason: &str) -> Result<u32, ContextError> {
        let code = if code == 0 { Some(CloseCode::Kicked) } else { CloseCode::from_number(code) };
        let Some(code) = code else {
            return Err(error(
                ErrorCode::BadRequest.name(),
                "code is not a close code: docs/codes.md lists them",
            ));
        };
        let sessions = self.sessions(&target);
        for session in &sessions {
            session.kick(&self.node, code.notice(reason));
        }
        Ok(u32::try_from(sessions.len()).unwrap_or(u32::MAX))
    }
}
