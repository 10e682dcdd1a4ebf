//! A service and its words: calls, replies, session events.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::caller::Caller;
use crate::context::{Context, Target};
use crate::push::Push;

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Call {
    /// What to do.
    pub action: String,
    /// Named arguments.
    pub params: HashMap<String, String>,
    /// The body.
    pub data: Bytes,
    /// The frame's headers.
    pub headers: HashMap<String, String>,
    /// The call's number in its session. (session, number) is an idempotency key.
    pub client_seq: u64,
    /// It may have run before, on a node that can no longer be asked.
    pub retry: bool,
    /// How long the caller waits.
    pub deadline: Duration,
}

/// The answer to a call. Codes are HTTP's by custom; 200 is success.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// The service's own code.
    pub code: i32,
    /// A line for people.
    pub message: String,
    /// The body.
    pub data: Bytes,
    /// Headers for the client.
    pub headers: HashMap<String, String>,
    /// Pushes delivered atomically with this reply, in this order, by their hints.
    pub pushes: Vec<(Target, Push)>,
}

impl Reply {
    /// Success with a body.
    pub fn ok(data: impl Into<Bytes>) -> Self {
        Reply { code: 200, message: "ok".into(), data: data.into(), ..Reply::default() }
    }

    /// Any other answer of the service's own.
    pub fn code(code: i32, message: impl Into<String>) -> Self {
        Reply { code, message: message.into(), ..Reply::default() }
    }
}

/// Why there is no reply: the failure of a service or of the way to it, told apart from a service's own answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words are protocol.md section 8's")]
pub enum Code {
    BadRequest,
    Forbidden,
    NotFound,
    TooLarge,
    Internal,
    UpstreamFailed,
    Overloaded,
    UpstreamTimeout,
    ResultUnknown,
}

impl Code {
    /// Every code, in the table's order.
    pub const ALL: [Code; 9] = [
        Code::BadRequest,
        Code::Forbidden,
        Code::NotFound,
        Code::TooLarge,
        Code::Internal,
        Code::UpstreamFailed,
        Code::Overloaded,
        Code::UpstreamTimeout,
        Code::ResultUnknown,
    ];

    /// The name in protocol.md section 8's table.
    pub const fn name(self) -> &'static str {
        match self {
            Code::BadRequest => "BAD_REQUEST",
            Code::Forbidden => "FORBIDDEN",
            Code::NotFound => "NOT_FOUND",
            Code::TooLarge => "TOO_LARGE",
            Code::Internal => "INTERNAL",
            Code::UpstreamFailed => "UPSTREAM_FAILED",
            Code::Overloaded => "OVERLOADED",
            Code::UpstreamTimeout => "UPSTREAM_TIMEOUT",
            Code::ResultUnknown => "RESULT_UNKNOWN",
        }
    }

    /// The code with this name, if a service may answer it.
    pub fn from_name(name: &str) -> Option<Self> {
        Code::ALL.into_iter().find(|code| code.name() == name)
    }
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Status {
    /// Whose fault, and what the client can do.
    pub code: Code,
    /// What happened and what to do next; no secrets.
    pub message: String,
    /// For [`Code::Overloaded`]: when to come back.
    pub retry_after: Option<Duration>,
}

impl Status {
    /// A failure without a time to come back.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Status { code, message: message.into(), retry_after: None }
    }
}

/// What happened to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEvent {
    /// A new session began.
    Started,
    /// A session continues on a new connection.
    Resumed,
    /// The connection was lost; the session waits for its client.
    Lost,
    /// The session is over, with the close code that ended it (0: its resume window passed).
    Ended(u32),
}

/// Answers calls. One value serves all callers at once; `call` is dropped when its deadline passes or the node
/// ends, so what must not be half done belongs into a task of the service's own.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Calls whose action is this prefix, or begins with it, come here (`chat.`, `echo`).
    fn action_prefix(&self) -> &str;

    /// Called once, before the first call. Keep the context to push and publish with.
    fn mounted(&self, _context: Arc<dyn Context>) {}

    /// May this action run twice for the same (session, number)? Asked where a cut leaves it unknown.
    fn is_idempotent(&self, _action: &str) -> bool {
        false
    }

    /// Answers one call.
    async fn call(&self, caller: &Caller, call: Call) -> Result<Reply, Status>;

    /// Told of sessions, in order for each session, at least once.
    async fn session_event(&self, _caller: &Caller, _event: SessionEvent) {}
}
