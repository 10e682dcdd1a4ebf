//! Calls that run. Those of one session that begin together are a round: a service of the process answers most of its
//! calls at once, in the thread that has read them, and a task for each would cost more than all the rest of a short
//! call. What the calls of a round share is looked up, counted and timed once for all.
//!
//! A call that waits for something goes on in a task of its own, as do all calls to upstreams. Every call ends as an
//! input to the session's engine. Who may call, and what becomes of the answer, is not decided here.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{Ordering::SeqCst, fence};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::ReusableBoxFuture;
use tokio_util::task::task_tracker::TaskTrackerToken;
use trunkline_proto::ErrorCode;
use trunkline_proto::wire::{BusinessResponse, ErrorMessage};
use trunkline_service::{Call, Caller, Push, Reply, Service, Status, SyncHint, Target};
use trunkline_session::engine::{
    BindHint, BindTarget, BoundPush, CallHistory, CallOutcome, CallReply, CallRequest,
};
use trunkline_session::{ClientSeq, Place, RequestRefusal};

use super::Session;
use super::operations::error_message;
use crate::defaults::RETRY_AFTER;
use crate::gateway::Node;
use crate::limits::jittered_ms;
use crate::push;
use crate::trace::{self, Step};

/// Calls that have begun together, and the outcomes of those that have ended. They count as under way until the engine
/// knows the outcomes and this is dropped.
pub(super) struct Round {
    running: Running,
    begin: Instant,
    /// Who calls, once one of them has had to be told.
    caller: Option<Arc<Caller>>,
    /// The action of the last call, and the service of the process that answers it: mostly the next one's too.
    last: Option<(String, Option<Arc<Called>>)>,
    ended: Vec<(ClientSeq, CallOutcome)>,
    /// Those that have run and ended here, and their places, given back together: all sessions count on the same
    /// numbers.
    ran: u64,
    places: Place,
    /// The room of a service's answer that has come, for the next one.
    room: Option<Waited>,
}

/// A service of the process and who calls it. A round has it by a reference of its own, since a service's is counted
/// by all threads.
struct Called {
    service: Arc<dyn Service>,
    caller: Arc<Caller>,
}

/// Calls of a session under way, which a drain waits for.
struct Running {
    session: Arc<Session>,
    _node: TaskTrackerToken,
}

impl Running {
    /// Counted before it is looked whether the node stops: the drain looks in the other order, so that it sees every
    /// call that starts.
    fn begin(node: &Node, session: &Arc<Session>) -> Self {
        session.calling.fetch_add(1, SeqCst);
        let running = Running { session: Arc::clone(session), _node: node.call_begins() };
        fence(SeqCst);
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.session.calling.fetch_sub(1, SeqCst);
    }
}

/// A service's answer, or that it has panicked.
type Answer = std::thread::Result<Result<Reply, Status>>;

/// An answer that may have to be waited for.
type Waited = ReusableBoxFuture<'static, Answer>;

impl Round {
    /// A round of so many calls, or fewer.
    pub(super) fn begin(node: &Node, session: &Arc<Session>, calls: usize) -> Self {
        Round {
            running: Running::begin(node, session),
            begin: Instant::now(),
            caller: None,
            last: None,
            ended: Vec::with_capacity(calls),
            ran: 0,
            places: Place::default(),
            room: None,
        }
    }

    /// Runs a call.
    pub(super) fn call(&mut self, node: &Arc<Node>, call: CallRequest) {
        let CallRequest { seq, request, headers, timeout, history, place } = call;
        let retry = history == CallHistory::MayHaveRun;
        if let Err(error) = may_run(node, &request.action, retry) {
            node.stats.calls_refused.one();
            return self.end(node, seq, CallOutcome::Error(error));
        }
        self.running.session.trace(node, || Step::Started { call: seq.0 });
        let called = self.called(node, &request.action);
        let may_end_at_once = called.is_some();
        let call = Call {
            action: request.action,
            params: request.params,
            data: request.data,
            headers,
            client_seq: seq.0,
            retry,
            deadline: timeout,
        };
        let mut answer = match called {
            Some(called) => {
                let answer = async move { called.service.call(&called.caller, call).await };
                self.in_room(AssertUnwindSafe(answer).catch_unwind())
            }
            None => {
                let (node, caller) = (Arc::clone(node), self.caller(node));
                let answer = async move { node.services.call_upstream(&caller, call).await };
                Waited::new(AssertUnwindSafe(answer).catch_unwind())
            }
        };
        // This look has nobody to wake; the task looks again. Who ends by it is not counted among the running.
        let at_once = &mut Context::from_waker(Waker::noop());
        if may_end_at_once && let Poll::Ready(ended) = answer.poll(at_once) {
            self.room = Some(answer);
            self.ran += 1;
            self.places.join(place);
            let outcome = outcome(node, &self.running.session, ended);
            return self.end(node, seq, outcome);
        }
        // Its time counts from here: what the calls before it in the round took is not its own.
        let alone = Round::begin(node, &self.running.session, 1);
        node.spawn(alone.wait(Arc::clone(node), seq, timeout, place, answer));
    }

    /// Where the last answer was, if there is room.
    fn in_room(&mut self, answer: impl Future<Output = Answer> + Send + 'static) -> Waited {
        match self.room.take() {
            Some(mut room) => {
                room.set(answer);
                room
            }
            None => Waited::new(answer),
        }
    }

    fn caller(&mut self, node: &Node) -> Arc<Caller> {
        Arc::clone(self.caller.get_or_insert_with(|| self.running.session.caller(node)))
    }

    /// The service of the process that answers this action.
    fn called(&mut self, node: &Node, action: &str) -> Option<Arc<Called>> {
        if let Some((last, called)) = &self.last
            && last == action
        {
            return called.clone();
        }
        let service = node.services.local(action);
        let called = service.map(|service| Arc::new(Called { service, caller: self.caller(node) }));
        self.last = Some((action.to_owned(), called.clone()));
        called
    }

    /// Waits for the answer to a call that is alone in its round, and tells the session.
    async fn wait(
        mut self,
        node: Arc<Node>,
        seq: ClientSeq,
        timeout: Duration,
        place: Place,
        answer: Waited,
    ) {
        let session = Arc::clone(&self.running.session);
        node.stats.calls.one();
        node.stats.calls_running.up();
        let outcome = match timeout_at(self.begin + timeout, answer).await {
            Ok(answer) => outcome(&node, &session, answer),
            Err(_elapsed) => {
                let text = format!("no answer within {} ms", timeout.as_millis());
                failure(&node, ErrorCode::UpstreamTimeout.message(text))
            }
        };
        node.stats.calls_running.down();
        node.stats.call_durations.observe(self.begin.elapsed(), 1);
        drop(place);
        self.end(&node, seq, outcome);
        session.calls_ended(&node, self);
    }

    fn end(&mut self, node: &Node, seq: ClientSeq, outcome: CallOutcome) {
        self.running.session.trace(node, || end_step(seq, &outcome));
        self.ended.push((seq, outcome));
    }

    /// All of its calls have begun. `None`: none of them has ended yet.
    pub(super) fn begun(mut self, node: &Node) -> Option<Self> {
        if self.ran > 0 {
            node.stats.calls.add(self.ran);
            node.stats.call_durations.observe(self.begin.elapsed(), self.ran);
            self.places = Place::default();
        }
        (!self.ended.is_empty()).then_some(self)
    }

    /// The outcomes of the calls that have ended, once.
    pub(super) fn take_outcomes(&mut self) -> Vec<(ClientSeq, CallOutcome)> {
        std::mem::take(&mut self.ended)
    }
}

/// How a call ended, for the trace.
fn end_step(seq: ClientSeq, outcome: &CallOutcome) -> Step {
    let (outcome, bytes) = match outcome {
        CallOutcome::Reply(reply) => {
            (format!("reply {}", reply.response.code).into(), reply.response.data.len())
        }
        CallOutcome::Error(error) => (trace::name(&error.name), 0),
    };
    Step::Ended { call: seq.0, outcome, bytes }
}

/// The last look before a call runs: since it was let in it may have waited for its session's turn.
fn may_run(node: &Node, action: &str, retry: bool) -> Result<(), ErrorMessage> {
    if node.is_stopping() {
        node.stats.calls_refused_by.one(RequestRefusal::ALL, &RequestRefusal::Stopping);
        return Err(stopping());
    }
    if retry && !node.services.is_idempotent(action) {
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

/// What the engine is told of an answer.
fn outcome(node: &Arc<Node>, session: &Session, answer: Answer) -> CallOutcome {
    match answer {
        Ok(Ok(reply)) => reply_outcome(node, session, reply),
        Ok(Err(status)) => failure(node, error_message(&status)),
        Err(_panic) => failure(node, ErrorCode::Internal.message("the service panicked")),
    }
}

/// A call that has run ends without a reply.
fn failure(node: &Node, error: ErrorMessage) -> CallOutcome {
    node.stats.calls_failed.one();
    let code = ErrorCode::from_name(&error.name).unwrap_or(ErrorCode::Internal);
    node.stats.calls_failed_by.one(ErrorCode::ALL, &code);
    CallOutcome::Error(error)
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
    CallOutcome::Reply(Box::new(CallReply { response, headers: reply.headers, bound }))
}

/// One after the other, as the reply has them. The reply does not wait for what others are told.
async fn push_in_order(node: Arc<Node>, pushes: Vec<(Target, Push)>) {
    for (target, push) in pushes {
        if let Err(error) = push::publish_to(&node, &target, push).await {
            tracing::debug!(%error, "a reply's push to another target was not accepted");
        }
    }
}
