//! Channels as sessions use them: rights, attachment, members.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use trunkline_broker::{
    AttachVerdict, BadChannelName, BrokerError, ChannelName, Item, Position, PublishOptions,
};
use trunkline_proto::ErrorCode;
use trunkline_proto::wire::{ChannelGap, ChannelPosition, ChannelResponse, ErrorMessage, Member};
use trunkline_session::Channel;
use trunkline_session::position::is_implicit_name;

use crate::auth::May;
use crate::defaults::RETRY_AFTER;
use crate::encode::{publication_exceeds_as_json, publication_size};
use crate::gateway::Node;
use crate::limits::jittered_ms;
use crate::session::{Attached, Session, error_message, to_session};
use crate::trace::{self, Step};
use crate::upstream::Upstreams;
use crate::words::cut_error;

/// A channel's name from the wire.
pub(crate) fn channel_name(channel: &str) -> Result<ChannelName, ErrorMessage> {
    ChannelName::new(channel).map_err(bad_name)
}

fn bad_name(error: BadChannelName) -> ErrorMessage {
    ErrorCode::BadRequest.message(error.to_string())
}

/// Why a client may not do something.
pub(crate) enum Refusal {
    /// The answer is no.
    Denied(ErrorMessage),
    /// Nobody could say.
    Unanswered(ErrorMessage),
}

impl From<Refusal> for ErrorMessage {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(error) | Refusal::Unanswered(error) => error,
        }
    }
}

/// The channel of each group. A group that cannot be a channel makes its token useless.
pub(crate) fn group_channels(groups: &[String]) -> Result<Vec<Channel>, ErrorMessage> {
    let channel = |group: &String| {
        let channel = format!("group:{group}");
        let error = match channel_name(&channel) {
            Ok(_) => return Ok(channel.into()),
            Err(error) => error.error_message,
        };
        Err(ErrorCode::BadRequest.message(format!("a group of the token is no channel: {error}")))
    };
    groups.iter().map(channel).collect()
}

/// May the session's client do this? What token and configuration do not allow, an upstream may.
pub(crate) async fn check_right(
    node: &Arc<Node>,
    session: &Session,
    channel: &str,
    what: May,
) -> Result<(), Refusal> {
    if is_implicit_name(channel) {
        let text = format!("{channel} is followed by what a session is, not by asking");
        return Err(Refusal::Denied(ErrorCode::Forbidden.message(text)));
    }
    if node.options().allow(session.rights().as_deref(), channel, what) {
        return Ok(());
    }
    if let Some(upstreams) = node.services.upstreams()
        && authorized_upstream(node, upstreams, session, channel, what).await?
    {
        return Ok(());
    }
    let text = format!("you may not {} on {channel}", what.as_str());
    Err(Refusal::Denied(ErrorCode::Forbidden.message(text)))
}

/// Asks the upstreams of the session's zone. Where there is none nobody can allow it, now or later.
async fn authorized_upstream(
    node: &Node,
    upstreams: &Upstreams,
    session: &Session,
    channel: &str,
    what: May,
) -> Result<bool, Refusal> {
    if !upstreams.has_authorizer(&session.user) {
        return Ok(false);
    }
    let answer = upstreams.authorize(&session.caller(node), channel, what.as_str()).await;
    let answer = answer.map_err(|status| Refusal::Unanswered(error_message(&status)))?;
    match answer.error {
        Some(error) if !answer.allowed && !error.error_message.is_empty() => {
            Err(Refusal::Denied(cut_error(error)))
        }
        _ => Ok(answer.allowed),
    }
}

/// Publishes a client's or a service's data. One publication is one frame, so it is no larger than a frame may be.
pub(crate) async fn publish(
    node: &Node,
    channel: &str,
    sender: Arc<str>,
    data: Bytes,
    ttl: Option<Duration>,
    idempotency_key: Option<Arc<str>>,
) -> Result<Position, ErrorMessage> {
    check_size(node, publication_size(channel, &sender, &data))?;
    check_json(node, |limit| publication_exceeds_as_json(channel, &sender, &data, limit))?;
    let (name, bytes) = (channel_name(channel)?, data.len());
    let options = PublishOptions { limits: node.options().history(channel), ttl, idempotency_key };
    let published = node.broker.publish(&name, Item::publication(sender, data), options).await;
    let published = published.map_err(|error| broker_error(&error))?;
    node.stats.publications.one();
    trace_published(node, channel, published.position, bytes);
    Ok(published.position)
}

/// Tells the trace of a publication that the broker has taken.
pub(crate) fn trace_published(node: &Node, channel: &str, at: Position, bytes: usize) {
    node.trace.record(None, || Step::Published {
        channel: trace::name(channel),
        epoch: at.epoch.0,
        offset: at.offset.0,
        bytes,
    });
}

/// The limit of frames holds for one publication as protobuf (protocol.md section 8).
pub(crate) fn check_size(node: &Node, frame: usize) -> Result<(), ErrorMessage> {
    let limit = node.options().session.max_frame_size as usize;
    if frame > limit {
        let text = format!("its frame would have {frame} bytes, and {limit} are the most");
        return Err(ErrorCode::TooLarge.message(text));
    }
    Ok(())
}

/// What subscribers receive as JSON may be longer: a client that is sent more than it takes would drop the connection,
/// come back, and be sent the same again.
pub(crate) fn check_json(node: &Node, exceeds: impl FnOnce(usize) -> bool) -> Result<(), ErrorMessage> {
    let limit = node.options().session.max_frame_size_down as usize;
    if exceeds(limit) {
        let text = format!("as JSON its frame would have more than {limit} bytes");
        return Err(ErrorCode::TooLarge.message(text));
    }
    Ok(())
}

/// Attaches to a channel; answers where delivery goes on from, and what is lost of what came after `from`.
pub(crate) async fn attach(
    node: &Arc<Node>,
    channel: &Channel,
    from: Option<Position>,
) -> Result<(Attached, trunkline_session::Position, Option<ChannelGap>), ErrorMessage> {
    let name = ChannelName::try_from(Channel::clone(channel)).map_err(bad_name)?;
    let attached = node.broker.attach(&name, from, node.options().history(channel)).await;
    let attached = attached.map_err(|error| broker_error(&error))?;
    let position = to_session(attached.cursor.position());
    let gap = match attached.verdict {
        AttachVerdict::Gap { from, next } => {
            node.stats.gaps_told.one();
            Some(ChannelGap {
                channel: channel.to_string(),
                epoch: from.epoch.0,
                offset: from.offset.0,
                next: Some(ChannelPosition {
                    channel: channel.to_string(),
                    epoch: next.epoch.0,
                    offset: next.offset.0,
                }),
            })
        }
        AttachVerdict::Fresh | AttachVerdict::Continued => None,
    };
    Ok((Attached { attachment: attached.attachment, present: false }, position, gap))
}

/// Who is on a channel.
pub(crate) async fn members(
    node: &Arc<Node>,
    channel: &str,
    limit: usize,
) -> Result<ChannelResponse, ErrorMessage> {
    let name = channel_name(channel)?;
    let members = node.broker.members(&name, limit).await.map_err(|error| broker_error(&error))?;
    let member = |member: trunkline_broker::Member| Member {
        user: member.user.to_string(),
        session_id: member.session.to_string(),
        info: member.info,
    };
    Ok(ChannelResponse {
        channel: channel.to_owned(),
        members: members.members.into_iter().map(member).collect(),
        ..ChannelResponse::default()
    })
}

/// A broker's failure, as a client sees it.
pub(crate) fn broker_error(error: &BrokerError) -> ErrorMessage {
    let code = match error {
        BrokerError::Unavailable(_) => ErrorCode::Overloaded,
        BrokerError::Full { .. } => ErrorCode::Full,
        BrokerError::Invalid(_) => ErrorCode::BadRequest,
        _ => ErrorCode::Internal,
    };
    let mut message = code.message(error.to_string());
    // Publications end with their time, and channels with their last subscriber.
    if matches!(code, ErrorCode::Overloaded | ErrorCode::Full) {
        message.retry_after_ms = jittered_ms(RETRY_AFTER);
    }
    message
}
