//! What takes time for a session: calls and channel operations, each in a task of the node, each ending as an input to
//! the session's engine. A session that ends meanwhile ignores the answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use trunkline_broker::{BrokerError, Condition, Direction, Life, Written};
use trunkline_proto::ErrorCode;
use trunkline_proto::wire::{self, BusinessResponse, ChannelResponse, ErrorMessage, Publication};
use trunkline_service::{Call, Code, Push, Reply, Service, Status, SyncHint, Target};
use trunkline_session::engine::{
    Answer, BindHint, BindTarget, BoundPush, CallHistory, CallOutcome, CallRequest, Input, Operation,
    OperationId,
};
use trunkline_session::{Channel, ClientSeq, Ledger, RequestRefusal};

use super::membership::Arriving;
use super::{Session, refresh, to_broker};
use crate::auth::May;
use crate::channels::{self, broker_error, channel_name};
use crate::defaults::RETRY_AFTER;
use crate::gateway::Node;
use crate::limits::jittered_ms;
use crate::push;
use crate::trace::{self, Step};

/// A page of history has at most so many publications, whatever the client asks for.
const MAX_HISTORY_PAGE: u32 = 1_000;

/// And so many where the client does not say.
const HISTORY_PAGE: u32 = 100;

/// How long a broker that reserved no delivery numbers is left alone.
const RESERVE_AGAIN: Duration = Duration::from_secs(1);

/// The most members that one answer names.
const MAX_MEMBERS: usize = 1_000;

/// A call that has ended. It counts as under way until the engine knows its outcome and this is dropped.
pub(super) struct Ended {
    seq: ClientSeq,
    outcome: Option<CallOutcome>,
    running: Running,
}

/// A call under way, which a drain waits for.
struct Running {
    session: Arc<Session>,
    _node: TaskTrackerToken,
}

impl Ended {
    /// What the engine is told, once.
    pub(super) fn input(&mut self) -> Option<Input<'static>> {
        Some(Input::CallEnded { seq: self.seq, outcome: self.outcome.take()? })
    }
}

impl Running {
    /// Counted before it is looked whether the node stops: the drain looks in the other order, so that it sees every
    /// call that starts.
    fn begin(node: &Node, session: &Arc<Session>) -> Self {
        session.calling.fetch_add(1, SeqCst);
        Running { session: Arc::clone(session), _node: node.call_begins() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.session.calling.fetch_sub(1, SeqCst);
    }
}

/// Runs a call: one that a service of the process answers at once has ended then, any other goes on in a task of its
/// own and tells the session.
pub(super) fn begin_call(node: &Arc<Node>, session: &Arc<Session>, call: CallRequest) -> Option<Ended> {
    let service = node.services.local(&call.request.action);
    let may_end_at_once = service.is_some();
    let running = Running::begin(node, session);
    let mut call = Box::pin(whole_call(Arc::clone(node), running, service, call));
    // A task for each would cost more than all the rest of a short call. This look has nobody to wake; the task
    // looks again.
    if may_end_at_once && let Some(ended) = call.as_mut().now_or_never() {
        return Some(ended);
    }
    let of = Arc::clone(node);
    node.spawn(async move {
        let ended = call.await;
        let session = Arc::clone(&ended.running.session);
        session.calls_ended(&of, vec![ended]);
    });
    None
}

async fn whole_call(
    node: Arc<Node>,
    running: Running,
    service: Option<Arc<dyn Service>>,
    call: CallRequest,
) -> Ended {
    let (begin, seq) = (Instant::now(), call.seq);
    let outcome = match may_run(&node, &call) {
        Ok(()) => {
            running.session.trace(&node, || Step::Started { call: seq.0 });
            counted(&node, begin, run_call(&node, &running.session, service, call)).await
        }
        Err(error) => {
            node.stats.calls_refused.one();
            CallOutcome::Error(error)
        }
    };
    running.session.trace(&node, || end_step(seq, &outcome));
    Ended { seq, outcome: Some(outcome), running }
}

/// How a call ended, for the trace.
fn end_step(seq: ClientSeq, outcome: &CallOutcome) -> Step {
    let (outcome, bytes) = match outcome {
        CallOutcome::Reply { response, .. } => {
            (format!("reply {}", response.code).into(), response.data.len())
        }
        CallOutcome::Error(error) => (trace::name(&error.name), 0),
    };
    Step::Ended { call: seq.0, outcome, bytes }
}

/// A call that runs, in the node's figures. `begin` is its arrival.
async fn counted(node: &Node, begin: Instant, call: impl Future<Output = CallOutcome>) -> CallOutcome {
    node.stats.calls.one();
    node.stats.calls_running.up();
    let outcome = call.await;
    node.stats.calls_running.down();
    node.stats.call_durations.observe(begin.elapsed());
    if let CallOutcome::Error(error) = &outcome {
        node.stats.calls_failed.one();
        let code = ErrorCode::from_name(&error.name).unwrap_or(ErrorCode::Internal);
        node.stats.calls_failed_by.one(ErrorCode::ALL, &code);
    }
    outcome
}

/// The last look before it runs: since it was let in it may have waited for its session's turn.
fn may_run(node: &Node, call: &CallRequest) -> Result<(), ErrorMessage> {
    if node.is_stopping() {
        node.stats.calls_refused_by.one(RequestRefusal::ALL, &RequestRefusal::Stopping);
        return Err(stopping());
    }
    let retry = call.history == CallHistory::MayHaveRun;
    if retry && !node.services.is_idempotent(&call.request.action) {
        let text = "the call may have run in a session that is gone: its action is not declared idempotent";
        return Err(ErrorCode::ResultUnknown.message(text));
    }
    Ok(())
}

/// A node that stops starts no call: its number stays good for the next node. By then the client has been told to
/// come back elsewhere.
fn stopping() -> ErrorMessage {
    let mut error = ErrorCode::Overloaded.message(RequestRefusal::Stopping.text());
    error.retry_after_ms = jittered_ms(RETRY_AFTER);
    error
}

async fn run_call(
    node: &Arc<Node>,
    session: &Session,
    service: Option<Arc<dyn Service>>,
    call: CallRequest,
) -> CallOutcome {
    // Its place is given back when it has ended.
    let CallRequest { seq, request, headers, timeout, history, place: _place } = call;
    let call = Call {
        action: request.action,
        params: request.params,
        data: request.data,
        headers,
        client_seq: seq.0,
        retry: history == CallHistory::MayHaveRun,
        deadline: timeout,
    };
    let caller = session.caller(node);
    let answer = AssertUnwindSafe(node.services.call(service, &caller, call)).catch_unwind();
    match tokio::time::timeout(timeout, answer).await {
        Ok(Ok(Ok(reply))) => reply_outcome(node, session, reply),
        Ok(Ok(Err(status))) => CallOutcome::Error(error_message(&status)),
        Ok(Err(_panic)) => CallOutcome::Error(ErrorCode::Internal.message("the service panicked")),
        Err(_elapsed) => {
            let text = format!("no answer within {} ms", timeout.as_millis());
            CallOutcome::Error(ErrorCode::UpstreamTimeout.message(text))
        }
    }
}

/// Pushes of a reply to the caller itself share its fate; those to others go their own way.
fn reply_outcome(node: &Arc<Node>, session: &Session, reply: Reply) -> CallOutcome {
    let (mut bound, mut others) = (Vec::new(), Vec::new());
    for (target, push) in reply.pushes {
        let own = match &target {
            Target::Session(id) if *id == session.id.to_string() => Some(BindTarget::Session),
            Target::User(user) if **user == *session.user => Some(BindTarget::User),
            _ => None,
        };
        let hint = match push.hint {
            SyncHint::Immediately => None,
            SyncHint::BeforeResponse => Some(BindHint::Before),
            SyncHint::AfterResponse => Some(BindHint::After),
        };
        match (own, hint) {
            (Some(target), Some(hint)) => {
                bound.push(BoundPush { hint, target, push: push::business_response(push) })
            }
            _ => others.push((target, push)),
        }
    }
    if !others.is_empty() {
        node.spawn(push_in_order(Arc::clone(node), others));
    }
    let response = BusinessResponse {
        code: reply.code,
        message: reply.message,
        data: reply.data,
        ..BusinessResponse::default()
    };
    CallOutcome::Reply { response, headers: reply.headers, bound }
}

/// One after the other, as the reply has them. The reply does not wait for what others are told.
async fn push_in_order(node: Arc<Node>, pushes: Vec<(Target, Push)>) {
    for (target, push) in pushes {
        if let Err(error) = push::publish_to(&node, &target, push).await {
            tracing::debug!(%error, "a reply's push to another target was not accepted");
        }
    }
}

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
