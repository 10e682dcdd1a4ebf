//! What goes into a [`ClientEngine`](super::ClientEngine) and what comes out of it. Plain values.

use std::collections::HashMap;
use std::time::Duration;

use trunkline_proto::codes::Advice;
use trunkline_proto::wire::{
    self, BusinessResponse, ChannelGap, ChannelPosition, ChannelResponse, ErrorMessage, Verdict,
};
use trunkline_proto::{DownFrame, UpFrame};

use crate::defaults;
use crate::position::Position;

/// Who a client is, and how it behaves.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The user; must equal the token's.
    pub user: String,
    /// What proves it.
    pub auth_token: String,
    /// Stays the same for a device; empty for one device per user.
    pub device_id: String,
    /// `name/version`, for people.
    pub client: String,
    /// `web`, `ios`, …
    pub platform: String,
    /// Random, and not 0: names this client object.
    pub instance: u64,
    /// Acks leave after so many publications …
    pub ack_every: u32,
    /// … or after so long.
    pub ack_after: Duration,
    /// How long START_RESP may take.
    pub start_timeout: Duration,
    /// Calls and requests that wait for a connection or for the window; the next is refused.
    pub queue: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            user: String::new(),
            auth_token: String::new(),
            device_id: String::new(),
            client: String::new(),
            platform: String::new(),
            instance: 1,
            ack_every: defaults::ACK_EVERY,
            ack_after: defaults::ACK_AFTER,
            start_timeout: defaults::START_TIMEOUT,
            queue: defaults::CLIENT_QUEUE,
        }
    }
}

/// A call of this client, for as long as it exists. Not its number: that is given when it is first sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// A request on a channel, or a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A call to make.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClientCall {
    /// What to do.
    pub request: wire::BusinessRequest,
    /// `x-order`, `x-timeout-ms`, and the upstream's own.
    pub headers: HashMap<String, String>,
    /// Whether the reply is wanted.
    pub reply: WantReply,
}

/// Whether a call's reply is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WantReply {
    /// Yes.
    #[default]
    Yes,
    /// No (`msg_id` 0): it ends with [`CallEnd::Received`], or with an error.
    ErrorsOnly,
}

/// How a call ended. Each ends exactly once, unless it was abandoned.
#[derive(Debug, Clone, PartialEq)]
pub enum CallEnd {
    /// The service answered.
    Reply {
        /// Its answer.
        response: BusinessResponse,
        /// Its headers.
        headers: HashMap<String, String>,
    },
    /// It failed; the message says whose fault it was.
    Error(ErrorMessage),
    /// It may or may not have run, and will not run again.
    ResultUnknown(ErrorMessage),
    /// [`WantReply::ErrorsOnly`]: the gateway has it. It may still fail, which is told with
    /// [`ClientOutput::LateError`].
    Received,
    /// It was never sent: the client stays away.
    NotSent,
}

/// What a [`RequestId`] stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Be on a channel, from `since` or its head, until `Unsubscribe`: also after a reconnection.
    Subscribe {
        /// Which.
        channel: String,
        /// From where.
        since: Option<Position>,
    },
    /// No longer be on it.
    Unsubscribe {
        /// Which.
        channel: String,
    },
    /// Publish. Without an idempotency key it is given one, so that it can be sent again after a cut.
    Publish(wire::PublishRequest),
    /// Read a history.
    History(wire::HistoryRequest),
    /// Who is there?
    Presence {
        /// Where.
        channel: String,
    },
    /// Use this token from now on.
    Refresh {
        /// The new token.
        auth_token: String,
    },
}

/// The engine does not take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many wait as may: come back when one has ended.
    #[error("too many calls or requests wait")]
    QueueFull,
    /// The client was closed, or told to stay away.
    #[error("the client is closed")]
    Closed,
}

/// What a client engine is given.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it passes by value once: a box would cost more than the copy")]
pub enum ClientInput {
    /// A connection is there: START is sent on it. A former one is no longer used.
    Connected,
    /// A frame of that connection.
    Frame(DownFrame),
    /// That connection has ended, with the code the transport knows, if any.
    Disconnected(Option<u32>),
    /// `next_timeout` has passed.
    Timeout,
}

/// What the driver does, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientOutput {
    /// Send on the connection.
    Send(UpFrame),
    /// A session began or goes on.
    Started(Started),
    /// A publication, once and in its channel's order.
    Publication {
        /// Where it is.
        position: ChannelPosition,
        /// `Publication`, or `BusinessData` of an upstream.
        frame: DownFrame,
    },
    /// A push that is no publication: it came with a reply, on its side of it.
    Push(BusinessResponse),
    /// Publications are lost; delivery goes on after `next`.
    Gap(ChannelGap),
    /// A call was refused for load (429, 503), with this word. It is sent again by itself when its time has come.
    CallRefused(CallId, ErrorMessage),
    /// A call has ended.
    CallEnded(CallId, CallEnd),
    /// A call that ended with `Received` has failed.
    LateError(CallId, ErrorMessage),
    /// A request was answered.
    Answered(RequestId, Result<ChannelResponse, ErrorMessage>),
    /// A service has put the session on this channel.
    Joined(ChannelPosition),
    /// The session is no longer on this channel.
    Left {
        /// Which.
        channel: String,
        /// Why.
        error: ErrorMessage,
    },
    /// A frame that was not delivered: a duplicate, or out of place. A right server sends none.
    Dropped(Dropped),
    /// The connection is of no use any more: close it. [`ClientOutput::Lost`] follows at once.
    Close {
        /// The code to close with.
        code: u32,
    },
    /// The connection is gone. What to do now.
    Lost(Lost),
}

/// START_RESP, for the application.
#[derive(Debug, Clone, PartialEq)]
pub struct Started {
    /// What became of the session.
    pub verdict: Verdict,
    /// Its id.
    pub session_id: String,
    /// Its fence.
    pub fence: u64,
    /// The node that has it.
    pub node: String,
    /// How often heartbeats leave.
    pub heartbeat: Duration,
    /// How long the session waits for a client that was cut.
    pub resume_window: Duration,
}

/// A connection has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Lost {
    /// Reconnect and resume, reconnect fresh, stay away, or fix the request. After `StayAway` and `FixRequest` the
    /// engine is closed: its calls have ended.
    pub advice: Advice,
    /// The close code, if one was told.
    pub code: Option<u32>,
    /// Why, for people.
    pub reason: String,
    /// Not before that, where the gateway says so.
    pub reconnect_after: Option<Duration>,
    /// Another node to go to.
    pub redirect: Option<String>,
}

/// Why a frame was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dropped {
    /// A publication at or before the channel's position.
    Duplicate(Position),
    /// A publication of a channel that the session is not on.
    Stray,
    /// A reply to no outstanding call, a second START_RESP, an unknown type.
    Unexpected,
}
