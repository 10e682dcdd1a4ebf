//! What takes time for a session beside its calls: channel operations, each ending as an input to the session's engine.
//! A session that ends meanwhile ignores the answer.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use trunkline_broker::{BrokerError, Condition, Direction, Life, Written};
use trunkline_proto::ErrorCode;
use trunkline_proto::wire::{self, BusinessResponse, ChannelResponse, ErrorMessage, Publication};
use trunkline_service::{Code, Status};
use trunkline_session::engine::{Answer, BindTarget, Input, Operation, OperationId};
use trunkline_session::{Channel, Ledger};

use super::membership::Arriving;
use super::{Session, refresh, to_broker};
use crate::auth::May;
use crate::channels::{self, broker_error, channel_name};
use crate::gateway::Node;
use crate::push;

/// A page of history has at most so many publications, whatever the client asks for.
const MAX_HISTORY_PAGE: u32 = 1_000;

/// And so many where the client does not say.
const HISTORY_PAGE: u32 = 100;

/// How long a broker that reserved no delivery numbers is left alone.
const RESERVE_AGAIN: Duration = Duration::from_secs(1);

/// The most members that one answer names.
const MAX_MEMBERS: usize = 1_000;

/// A service's failure, as a client sees it.
pub(crate) fn error_message(status: &Status) -> ErrorMessage {
    let code = match status.code {
        Code::BadRequest => ErrorCode::BadRequest,
        Code::Forbidden => ErrorCode::Forbidden,
        Code::NotFound => ErrorCode::NotFound,
        Code::TooLarge => ErrorCode::TooLarge,
        Code::Internal => ErrorCode::Internal,
        Code::UpstreamFailed => ErrorCode::UpstreamFailed,
        Code::Overloaded => ErrorCode::Overloaded,
        Code::UpstreamTimeout => ErrorCode::UpstreamTimeout,
        Code::ResultUnknown => ErrorCode::ResultUnknown,
    };
    let mut message = code.message(status.message.clone());
    if let Some(after) = status.retry_after {
        message.retry_after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
    }
    message
}

/// Does one operation and gives the engine its answer.
pub(super) async fn operate(node: &Arc<Node>, session: &Arc<Session>, id: OperationId, operation: Operation) {
    let result = match operation {
        Operation::Subscribe { channel, since } => {
            match subscribe(node, session, &channel, since.map(to_broker)).await {
                Ok((arriving, answer)) => {
                    session.subscribed(node, arriving, id, answer);
                    return;
                }
                Err(error) => Err(error),
            }
        }
        Operation::Publish(request) => publish(node, session, request).await.map(Answer::Channel),
        Operation::History(request) => history(node, session, request).await.map(Answer::Channel),
        Operation::Presence(channel) => presence(node, session, &channel).await.map(Answer::Channel),
        Operation::Refresh { auth_token } => refresh::refresh(node, session, auth_token).await,
    };
    session.apply(node, Input::Answer { id, result });
}

async fn subscribe(
    node: &Arc<Node>,
    session: &Arc<Session>,
    channel: &Channel,
    since: Option<trunkline_broker::Position>,
) -> Result<(Arriving, Answer), ErrorMessage> {
    channels::check_right(node, session, channel, May::Subscribe).await?;
    let (attached, position, gap) = channels::attach(node, channel, since).await?;
    let joining = session.join(node, channel).await?;
    Ok((Arriving { attached, joining }, Answer::Subscribed { position, gap }))
}

/// Publishes a bound push of a call that has no reply to go with.
pub(super) async fn publish_bound(
    node: &Arc<Node>,
    session: &Session,
    target: BindTarget,
    push: BusinessResponse,
) {
    let channel = match target {
        BindTarget::Session => format!("session:{}", session.id),
        BindTarget::User => format!("user:{}", session.user),
    };
    if let Err(error) = push::publish_response(node, &channel, &push, None).await {
        tracing::warn!(%error, "a bound push of a call without reply could not be published");
    }
}

/// Protocol 0: writes the end of the next block of numbers to the broker, so that no other node gives them out.
pub(super) fn spawn_reserve(node: &Arc<Node>, session: &Arc<Session>, ledger: Arc<Mutex<Ledger>>) {
    let (node, session) = (Arc::clone(node), Arc::clone(session));
    node.clone().spawn(async move {
        if let Err(error) = reserve(&node, &session, &ledger).await {
            tracing::warn!(%error, "the broker did not reserve delivery numbers; it is asked again");
            tokio::time::sleep(RESERVE_AGAIN).await;
        }
        session.reserved();
    });
}

pub(crate) async fn reserve(
    node: &Node,
    session: &Session,
    ledger: &Mutex<Ledger>,
) -> Result<(), BrokerError> {
    let Some(up_to) = ledger.lock().wants() else { return Ok(()) };
    let key = format!("seq/{}", session.id);
    let value = bytes::Bytes::copy_from_slice(&up_to.0.to_be_bytes());
    // Longer than any session waits for its client; renewed with each block.
    let life = Life::Ttl(node.session_config.resume_window * 2);
    if let Written::Done(_) = node.broker.put(&key, value, Condition::Any, life).await? {
        ledger.lock().reserved(up_to);
    }
    Ok(())
}

async fn publish(
    node: &Arc<Node>,
    session: &Session,
    request: wire::PublishRequest,
) -> Result<ChannelResponse, ErrorMessage> {
    channels::check_right(node, session, &request.channel, May::Publish).await?;
    // A key is the user's own: nobody can occupy another's.
    let key = (!request.idempotency_key.is_empty())
        .then(|| format!("client\n{}\n{}", session.user, request.idempotency_key).into());
    let sender = Arc::clone(&session.user);
    let position = channels::publish(node, &request.channel, sender, request.data, None, key).await?;
    Ok(ChannelResponse {
        channel: request.channel,
        epoch: position.epoch.0,
        offset: position.offset.0,
        ..ChannelResponse::default()
    })
}

async fn history(
    node: &Arc<Node>,
    session: &Session,
    request: wire::HistoryRequest,
) -> Result<ChannelResponse, ErrorMessage> {
    channels::check_right(node, session, &request.channel, May::History).await?;
    let name = channel_name(&request.channel)?;
    let since = request.since.map(|since| trunkline_broker::Position::new(since.epoch, since.offset));
    let limit = if request.limit == 0 { HISTORY_PAGE } else { request.limit.min(MAX_HISTORY_PAGE) };
    let direction = if request.reverse { Direction::Reverse } else { Direction::Forward };
    let page = node.broker.history(&name, since, limit as usize, direction).await;
    let page = page.map_err(|error| broker_error(&error))?;
    let mut room = node.options().session.max_frame_size as usize;
    let mut first = true;
    let fits = |entry: &trunkline_broker::Entry| {
        // A publication's other fields: offset, timestamp, lengths.
        const OVERHEAD: usize = 64;
        let size = entry.item.data.len() + entry.item.sender.len() + OVERHEAD;
        // The first is in the page whatever its size, or who pages would never come past it: a frame of its own
        // could carry it, so the page passes the limit by its own few fields at most.
        let fits = std::mem::take(&mut first) || size <= room;
        room = room.saturating_sub(size);
        fits
    };
    let publications = page.publications.into_iter().take_while(fits);
    Ok(ChannelResponse {
        channel: request.channel,
        epoch: page.position.epoch.0,
        offset: page.position.offset.0,
        publications: publications
            .map(|entry| Publication {
                offset: entry.position.offset.0,
                data: entry.item.data.clone(),
                timestamp: entry.timestamp_ms,
                sender: entry.item.sender.to_string(),
            })
            .collect(),
        recovered: page.recovered,
        ..ChannelResponse::default()
    })
}

async fn presence(
    node: &Arc<Node>,
    session: &Session,
    channel: &str,
) -> Result<ChannelResponse, ErrorMessage> {
    channels::check_right(node, session, channel, May::Presence).await?;
    if !node.options().presence(channel) {
        return Err(ErrorCode::Forbidden.message("this channel has no presence"));
    }
    channels::members(node, channel, MAX_MEMBERS).await
}
