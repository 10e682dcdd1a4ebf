//! Pushes: from a service's words to a publication on a user's, session's, group's or zone's channel, with an honest
//! answer of what became of it.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use trunkline_broker::defaults::IDEMPOTENCY_KEY_BYTES;
use trunkline_broker::{ChannelName, Item, PublishOptions, Published};
use trunkline_proto::ErrorCode;
use trunkline_proto::wire::{BusinessResponse, ErrorMessage};
use trunkline_service::{ContextError, Push, PushOutcome, SyncHint, Target};
use trunkline_session::ClientSeq;
use trunkline_session::engine::{BindAnswer, BindHint, BindTarget, BoundPush};

use crate::channels::{broker_error, check_json, check_size, trace_published};
use crate::encode::{push_exceeds_as_json, push_size};
use crate::gateway::Node;
use crate::session::{Session, to_session};

/// The longest that a push waits for a client's ack.
const MAX_WAIT_ACK: Duration = Duration::from_secs(60);

/// The longest idempotency key: the broker's, without what tells pushes from publications.
const MAX_KEY: usize = IDEMPOTENCY_KEY_BYTES - "push\n".len();

/// What a client receives, in one format for every hint.
pub(crate) fn business_response(push: Push) -> BusinessResponse {
    BusinessResponse {
        code: 200,
        message: format!("[{}] {}", push.msg_type, push.title),
        data: push.data,
        msg_type: push.msg_type,
        title: push.title,
        content: push.content,
        metadata: push.metadata,
    }
}

/// Pushes to a target: bound to a running call, or at once.
pub(crate) async fn push(node: &Arc<Node>, target: Target, push: Push) -> Result<PushOutcome, ContextError> {
    let hint = match push.hint {
        SyncHint::Immediately => return publish_to(node, &target, push).await,
        SyncHint::BeforeResponse => BindHint::Before,
        SyncHint::AfterResponse => BindHint::After,
    };
    let seq = ClientSeq(push.bind_client_seq);
    let (session, bind_target) = bind_to(node, &target, seq)?;
    let response = business_response(push.clone());
    // Where it cannot go with the reply it is published, so it must fit there too.
    let channel = match bind_target {
        BindTarget::Session => format!("session:{}", session.id),
        BindTarget::User => format!("user:{}", session.user),
    };
    check_push(node, &channel, &response, &push.idempotency_key)?;
    let bound = BoundPush { hint, target: bind_target, push: response };
    match session.bind(node, seq, &push.idempotency_key, bound) {
        BindAnswer::Bound => {
            node.stats.pushes.one();
            Ok(PushOutcome::Bound)
        }
        BindAnswer::PublishNow => publish_to(node, &target, push).await,
        BindAnswer::TooLate => Err(error("BIND_TOO_LATE", "the reply has left: push it immediately instead")),
        BindAnswer::TooLarge => {
            Err(error("TOO_LARGE", "with this push the group would pass max_frame_size_down"))
        }
        BindAnswer::NoSuchCall => Err(error("BIND_REFUSED", "the target has no call with this number")),
    }
}

/// The session whose call a push is bound to.
fn bind_to(node: &Node, target: &Target, seq: ClientSeq) -> Result<(Arc<Session>, BindTarget), ContextError> {
    match target {
        Target::Session(id) => {
            let session =
                session(node, id).ok_or_else(|| error("BIND_REFUSED", "there is no such session"))?;
            Ok((session, BindTarget::Session))
        }
        Target::User(user) => {
            let sessions = node.hub.user(user);
            let mut running = sessions.iter().filter(|session| session.runs(seq));
            match (running.next(), running.next(), sessions.as_slice()) {
                (Some(_), Some(_), _) => Err(error(
                    "BIND_AMBIGUOUS",
                    "several sessions of the user run this number: name the session",
                )),
                // The call may just have ended: with one session it is clear which is meant.
                (Some(session), None, _) | (None, _, [session]) => {
                    Ok((Arc::clone(session), BindTarget::User))
                }
                (None, _, _) => {
                    Err(error("BIND_REFUSED", "no session of the user runs a call with this number"))
                }
            }
        }
        Target::Group(_) | Target::Device(_) => {
            Err(error("BIND_REFUSED", "a push is bound to a call's session or its user, nobody else"))
        }
    }
}

/// Publishes a push on its target's channel and says what became of it. A session whose first START is not answered
/// yet does not count: it begins behind what is published now.
pub(crate) async fn publish_to(
    node: &Arc<Node>,
    target: &Target,
    push: Push,
) -> Result<PushOutcome, ContextError> {
    let wait = Duration::from_millis(push.wait_ack_ms.into()).min(MAX_WAIT_ACK);
    let key = push.idempotency_key.clone();
    let key = (!key.is_empty()).then_some(&key);
    let response = business_response(push);
    let mut sessions = match target {
        Target::User(user) => node.hub.user(user),
        Target::Group(group) => node.hub.group(group),
        Target::Session(id) => session(node, id).into_iter().collect(),
        Target::Device(device) => node.hub.device(device),
    };
    sessions.retain(|session| session.has_begun());
    let nobody = sessions.is_empty();
    if nobody && !matches!(target, Target::User(_)) {
        return Ok(PushOutcome::NotFound);
    }
    let channels: Vec<(String, Vec<Arc<Session>>)> = match target {
        Target::User(user) => vec![(format!("user:{user}"), sessions)],
        Target::Group(group) => vec![(format!("group:{group}"), sessions)],
        Target::Session(_) | Target::Device(_) => {
            sessions.into_iter().map(|session| (format!("session:{}", session.id), vec![session])).collect()
        }
    };
    let (mut delivered, mut acks) = (false, Vec::new());
    for (channel, sessions) in &channels {
        let published = publish_response(node, channel, &response, key).await?;
        let live = || sessions.iter().any(|session| session.is_live());
        delivered |= published.live.map_or_else(live, |count| count > 0);
        if !wait.is_zero() {
            let position = to_session(published.position);
            acks.extend(sessions.iter().map(|session| session.wait_ack(channel, position)));
        }
    }
    let acked = !acks.is_empty()
        && tokio::time::timeout(wait, futures_util::future::select_ok(acks))
            .await
            .is_ok_and(|acked| acked.is_ok());
    Ok(match (acked, delivered, nobody) {
        (true, _, _) => PushOutcome::Acked,
        (_, true, _) => PushOutcome::Delivered,
        (_, _, true) => PushOutcome::Offline,
        _ => PushOutcome::Queued,
    })
}

/// Publishes a push on one channel.
pub(crate) async fn publish_response(
    node: &Arc<Node>,
    channel: &str,
    response: &BusinessResponse,
    key: Option<&String>,
) -> Result<Published, ContextError> {
    check_push(node, channel, response, key.map_or("", String::as_str))?;
    let name =
        ChannelName::new(channel).map_err(|bad| error(ErrorCode::BadRequest.name(), bad.to_string()))?;
    let options = PublishOptions {
        limits: node.options().history(channel),
        ttl: None,
        idempotency_key: key.map(|key| format!("push\n{key}").into()),
    };
    let payload = response.encode_to_vec();
    let bytes = payload.len();
    let published = node.broker.publish(&name, Item::push("", payload), options).await;
    let published = published.map_err(|failed| from_message(broker_error(&failed)))?;
    node.stats.pushes.one();
    trace_published(node, channel, published.position, bytes);
    Ok(published)
}

/// What no frame and no broker takes is refused before anything is promised.
fn check_push(
    node: &Node,
    channel: &str,
    response: &BusinessResponse,
    key: &str,
) -> Result<(), ContextError> {
    check_size(node, push_size(channel, response.encoded_len())).map_err(from_message)?;
    check_json(node, |limit| push_exceeds_as_json(channel, response, limit)).map_err(from_message)?;
    if key.len() > MAX_KEY {
        let text = format!("an idempotency_key has at most {MAX_KEY} bytes");
        return Err(error(ErrorCode::BadRequest.name(), text));
    }
    Ok(())
}

/// The session with this id, as services write it.
pub(crate) fn session(node: &Node, id: &str) -> Option<Arc<Session>> {
    node.hub.session(id.parse().ok()?)
}

pub(crate) fn error(code: impl Into<String>, message: impl Into<String>) -> ContextError {
    ContextError { code: code.into(), message: message.into(), ..ContextError::default() }
}

/// A client's error, as a service is told it.
pub(crate) fn from_message(message: ErrorMessage) -> ContextError {
    ContextError { retry_after_ms: message.retry_after_ms, ..error(message.name, message.error_message) }
}
