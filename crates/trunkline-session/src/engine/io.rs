//! What goes into an [`Engine`](super::Engine) and what comes out of it. Plain values: they do nothing.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use trunkline_proto::wire::{self, BusinessResponse, ChannelGap, CloseNotice, ErrorMessage};
use trunkline_proto::{Dialect, DownFrame, UpFrame};

use crate::config::Protocol;
use crate::gate::{CallGate, Place, RequestRefusal};
use crate::ids::{ClientSeq, ConnectionId, Fence, Seq, SessionId};
use crate::position::{Channel, Position};

/// What the connection's write side has already begun to send. It is asked while an ack is judged.
pub trait SentPositions {
    /// Where delivery on this channel stands: the last publication begun or gap told on this connection, or the
    /// position it goes on from if there was none yet. `None` where the channel is not delivered here.
    fn sent(&self, channel: &str) -> Option<Position>;

    /// Protocol 0: the highest number begun.
    fn highest_seq(&self) -> Seq;
}

/// A START whose token has been checked, for the session that the login policy chose.
#[derive(Debug, Clone)]
pub struct StartFacts {
    /// The connection it came on.
    pub connection: ConnectionId,
    /// Taken from the broker for this START, after its token was checked.
    pub fence: Fence,
    /// How the client speaks.
    pub protocol: Protocol,
    /// How its frames are written: group sizes depend on it.
    pub dialect: Dialect,
    /// The START frame's.
    pub msg_id: u32,
    /// Random per client object; 0 is not compared.
    pub instance: u64,
    /// Rises with each START of the client object.
    pub attempt: u64,
    /// The resume token's generation where one was given for this session, its MAC verified.
    pub token: TokenFact,
    /// The session of a genuine token that is not this session: it is gone, this one is `FRESH`.
    pub former: Option<SessionId>,
    /// Protocol 0: `last_acked_seq_id`.
    pub last_acked_seq: Seq,
    /// Every call up to this number is a retry.
    pub last_sent_client_seq: ClientSeq,
    /// The channels the session is on without asking: user, session, zone, all, and the claims' groups.
    pub implicit: Vec<Channel>,
    /// Where the client is: `StartRequest.positions`. In protocol 0 they are [`crate::Ledger`]'s: where delivery
    /// stood on a resume, what was acked for a new session of the same device.
    pub positions: Vec<wire::ChannelPosition>,
    /// When the token expires, in Unix milliseconds.
    pub expires_at: Option<u64>,
}

/// The resume token of a START.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFact {
    /// None was given, or protocol 0 names the session by its device.
    None,
    /// Of this session, with this generation.
    Generation(u64),
}

/// Why a session is on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    /// By what the session is; needs no right.
    Implicit,
    /// The client asked: authorise it.
    Own,
    /// A service joined it; needs no right.
    Joined,
}

/// A channel that an accepted START wants attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// Which.
    pub channel: Channel,
    /// Go on from here; `None`: from the head.
    pub from: Option<Position>,
    /// Why.
    pub kind: ChannelKind,
}

/// A channel that was attached.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelStart {
    /// Which.
    pub channel: Channel,
    /// As the request had it.
    pub kind: ChannelKind,
    /// Delivery goes on from here; where there is a gap, its `next`.
    pub position: Position,
    /// What is lost after the position asked for.
    pub gap: Option<ChannelGap>,
}

/// An asynchronous operation of a session; unique within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub u64);

/// What the gateway does for a client and answers with [`Input::Answer`]. It checks the right first.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Attach. Nothing is delivered before [`Output::Deliver`] names the channel.
    Subscribe {
        /// To which channel.
        channel: Channel,
        /// From where; `None`: from the head.
        since: Option<Position>,
    },
    /// Publish.
    Publish(wire::PublishRequest),
    /// Read a channel's history.
    History(wire::HistoryRequest),
    /// Ask who is on a channel.
    Presence(Channel),
    /// Check a new token.
    Refresh {
        /// The token.
        auth_token: String,
    },
}

impl Operation {
    /// What it holds on to while it waits and runs.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Operation::Subscribe { channel, .. } | Operation::Presence(channel) => channel.len(),
            Operation::Publish(request) => {
                request.channel.len() + request.data.len() + request.idempotency_key.len()
            }
            Operation::History(request) => request.channel.len(),
            Operation::Refresh { auth_token } => auth_token.len(),
        }
    }

    /// Holds on to nothing but its own bytes: data is a part of what was read with it, up to 64 KiB.
    pub(crate) fn detach(&mut self) {
        if let Operation::Publish(request) = self {
            request.data = Bytes::copy_from_slice(&request.data);
        }
    }
}

/// How an [`Operation`] ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// `Subscribe`: attached.
    Subscribed {
        /// Delivery goes on from here; where there is a gap, its `next`.
        position: Position,
        /// What `since` has lost.
        gap: Option<ChannelGap>,
    },
    /// `Publish`, `History`, `Presence`: the whole answer.
    Channel(wire::ChannelResponse),
    /// `Refresh`: the new token is good.
    Refreshed {
        /// When the new token expires, in Unix milliseconds.
        expires_at: Option<u64>,
    },
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub enum CallOutcome {
    /// The service answered.
    Reply(Box<CallReply>),
    /// It did not. 503 and 429 mean that it has not run: the number stays usable.
    Error(ErrorMessage),
}

/// A service's answer to a call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CallReply {
    /// The answer itself.
    pub response: BusinessResponse,
    /// Headers for the client.
    pub headers: HashMap<String, String>,
    /// Pushes to this session that the answer itself brought; they are bound as if pushed just before.
    pub bound: Vec<BoundPush>,
}

/// A push that shares a reply's fate.
#[derive(Debug, Clone, PartialEq)]
pub struct BoundPush {
    /// Before or after the reply.
    pub hint: BindHint,
    /// Where it goes if it cannot be bound after all.
    pub target: BindTarget,
    /// What the client is told.
    pub push: BusinessResponse,
}

/// On which side of its reply a bound push is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindHint {
    /// Before it.
    Before,
    /// After it.
    After,
}

/// Whom the pusher named. It is the publication's channel where a push goes out as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindTarget {
    /// The call's session.
    Session,
    /// The call's user.
    User,
}

/// What became of a push to a running call; see [`Engine::bind`](super::Engine::bind).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindAnswer {
    /// It shares the reply's fate now (`OUTCOME_BOUND`).
    Bound,
    /// A *before*, and the reply has left (`BIND_TOO_LATE`).
    TooLate,
    /// An *after*, and the reply has left: publish it now.
    PublishNow,
    /// The group would pass `max_frame_size_down` (`TOO_LARGE`).
    TooLarge,
    /// This session has never had such a call (`BIND_REFUSED`).
    NoSuchCall,
}

/// Which cached replies a session gives up, so that others' calls can run; see
/// [`Engine::give_up_replies`](super::Engine::give_up_replies).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// Those that were put on a connection: their clients most likely have them.
    Left,
    /// All of them.
    All,
}

/// Whether the reply queue of the connection takes more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// It is full: no further call is started. Reading is paused by the gateway.
    Full,
    /// There is room again.
    Room,
}

/// What an engine is given.
pub enum Input<'a> {
    /// A START for this session. Answered at once with `StartAccepted` or `StartRefused`.
    Start(Box<StartFacts>),
    /// The channels of the accepted START with this fence are attached: START_RESP follows.
    Attached {
        /// Of the START; a stale one is ignored.
        fence: Fence,
        /// What was attached.
        channels: Vec<ChannelStart>,
        /// What was not: own channels without right.
        refused: Vec<wire::ChannelRefusal>,
    },
    /// The channels of the accepted START with this fence cannot be attached, for load or with the broker away.
    StartFailed {
        /// Of the START; a stale one is ignored.
        fence: Fence,
        /// For START_RESP.
        error: ErrorMessage,
        /// For the connection.
        close: CloseNotice,
    },
    /// A frame of the connection with this fence. The gateway reads none between `StartAccepted` and START_RESP
    /// ([`Engine::reads`](super::Engine::reads)).
    Frame {
        /// A stale one is ignored: an old connection can never act.
        fence: Fence,
        /// The frame.
        frame: UpFrame,
        /// What was sent until now.
        sent: &'a dyn SentPositions,
        /// The node's word, should the frame be a call.
        gate: &'a dyn CallGate,
    },
    /// A frame that does not decode.
    Undecodable {
        /// A stale one is ignored.
        fence: Fence,
        /// For the client; no content of the frame.
        detail: String,
    },
    /// An [`Output::Operation`] has ended.
    Answer {
        /// Which.
        id: OperationId,
        /// How.
        result: Result<Answer, ErrorMessage>,
    },
    /// An [`Output::Call`] has ended. Every call ends, by its time-out at the latest.
    CallEnded {
        /// Which.
        seq: ClientSeq,
        /// How.
        outcome: CallOutcome,
    },
    /// A service has joined the session to a channel, or a new token has put it into a group; delivery waits for
    /// [`Output::Deliver`].
    Joined {
        /// Which.
        channel: Channel,
        /// Delivery goes on from here.
        position: Position,
    },
    /// A service has taken the session off a channel, or a right was withdrawn.
    Withdrawn {
        /// Which.
        channel: Channel,
        /// For the client.
        error: ErrorMessage,
    },
    /// The reply queue became full, or has room again.
    Pressure(Pressure),
    /// The connection with this fence has ended.
    Disconnected {
        /// A stale one is ignored.
        fence: Fence,
    },
    /// `next_timeout` has passed.
    Timeout,
    /// A service, an operator, a login policy or a drain ends the connection. Codes below 4100 keep the session
    /// for its client to resume; all others end it.
    Kick(CloseNotice),
}

/// An accepted START.
#[derive(Debug, Clone, PartialEq)]
pub struct StartAccepted {
    /// Whose.
    pub connection: ConnectionId,
    /// The session's owner from now on.
    pub fence: Fence,
    /// A connection of this session to close with 4301.
    pub replaced: Option<ConnectionId>,
    /// The session lived before this START.
    pub resumed: bool,
    /// Attach these, then give [`Input::Attached`].
    pub attach: Vec<AttachRequest>,
}

/// A call to run.
#[derive(Debug, PartialEq)]
pub struct CallRequest {
    /// With the session's id the idempotency key.
    pub seq: ClientSeq,
    /// What to do.
    pub request: wire::BusinessRequest,
    /// The frame's headers.
    pub headers: HashMap<String, String>,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether it may have run before.
    pub history: CallHistory,
    /// Its place on the node, to be held until it has ended.
    pub place: Place,
}

/// What a session knows of one call number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallStage {
    /// It has not been seen.
    Unknown,
    /// Accepted, and waits for the session's turn.
    Waiting,
    /// Given out to run.
    Running,
    /// Ended; its reply waits for earlier ones.
    Held,
    /// Ended; its reply is kept, with the message id that it answers.
    Kept {
        /// Of the frame that asked last.
        msg_id: u32,
    },
    /// Refused for load before it ran.
    Refused,
    /// Ended well, and nobody wanted the reply.
    Done,
    /// Ended; its reply was confirmed or evicted.
    Forgotten,
    /// Older than the window.
    TooOld,
}

/// Whether a call may have run before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallHistory {
    /// It has not.
    New,
    /// It may have, in a session that is gone. Ask the previous node; where it cannot be asked, run it only if its
    /// action is declared idempotent (and say `retry`), else end it with `RESULT_UNKNOWN`.
    MayHaveRun,
}

/// What happened to a session, for services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It began.
    Started,
    /// It continues on a new connection.
    Resumed,
    /// Its connection was lost; it waits for its client.
    Lost,
    /// It is over, with the close code that ended it (0: its resume window passed). The last output, but for the
    /// detaching of what was still being attached.
    Ended(u32),
}

/// What the gateway does for an engine, in this order. Each is moved several times, so what is large in it is boxed.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Send this START_RESP on that connection, then close it. The session is as before.
    StartRefused {
        /// Whose START it was.
        connection: ConnectionId,
        /// `success` is false.
        response: Box<DownFrame>,
        /// The close.
        close: CloseNotice,
    },
    /// The START is accepted.
    StartAccepted(StartAccepted),
    /// Put this frame into the reply queue of the session's connection.
    Send(Box<DownFrame>),
    /// Deliver these attached channels on the session's connection, each from its position on, behind what was sent
    /// before.
    Deliver(Vec<(Channel, Position)>),
    /// Stop delivering this channel at once, and let go of it.
    Detach(Channel),
    /// Run a call, answer with [`Input::CallEnded`].
    Call(Box<CallRequest>),
    /// A call was refused for load before it ran (429, 503): for the counters, the client is told by a frame.
    CallRefused(ClientSeq, RequestRefusal),
    /// The same for any other request.
    RequestRefused(RequestRefusal),
    /// Do an operation, answer with [`Input::Answer`].
    Operation {
        /// For the answer.
        id: OperationId,
        /// What.
        operation: Operation,
    },
    /// Publish a bound push to the session's or the user's own channel: its call had `msg_id` 0.
    Publish(BindTarget, Box<BusinessResponse>),
    /// The client has these publications.
    Acked(Vec<wire::ChannelPosition>),
    /// Protocol 0: the client has everything up to this number.
    AckedSeq(Seq),
    /// Close the connection, with a PUSH_CLOSE before it in protocol 1. The engine sends it nothing more.
    Close {
        /// Which.
        connection: ConnectionId,
        /// With what.
        notice: CloseNotice,
    },
    /// Tell the services.
    Event(Event),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p16_what_is_moved_for_each_call_is_small() {
        let (output, outcome) = (size_of::<Output>(), size_of::<CallOutcome>());
        assert!(output <= 104, "an output has {output} B");
        assert!(outcome <= 96, "an outcome has {outcome} B");
    }
}
