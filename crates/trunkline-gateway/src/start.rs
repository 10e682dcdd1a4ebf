//! START: from the first frame of a connection to a session that it holds (protocol.md sections 2 and 3).
//!
//! In order: the token, the resume token, a fence, the session and the login policy, the channels, the answer. A
//! refusal is a START_RESP with an error, then the close.

mod attach;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;
use trunkline_proto::wire::{ChannelPosition, ErrorMessage, StartRequest, StartResponse};
use trunkline_proto::{CloseCode, Dialect, DownBody, DownFrame, ErrorCode};
use trunkline_session::engine::{StartFacts, TokenFact, TokenlessStart};
use trunkline_session::{
    Channel, ClientSeq, Engine, Fence, Ledger, Protocol, ResumeToken, Seq, SessionId, token,
};

use crate::auth::{AuthError, Identity};
use crate::channels;
use crate::connection::{Ending, Handle};
use crate::defaults::RETRY_AFTER;
use crate::encode::WireForm;
use crate::gateway::Node;
use crate::hub::Admission;
use crate::limits::jittered_ms;
use crate::session::{Attached, NewSession, Session, Stands};
use crate::words::cut_error;

/// An authenticator that is no faster does not answer.
const AUTH_DEADLINE: Duration = Duration::from_secs(5);

/// Protocol 0: the highest number that a client may say it has acked. What it is sent next is numbered above, and no
/// number on the wire reaches 2^53: this leaves as many as were ever taken.
const MAX_ACKED: u64 = 1 << 52;

/// A client may also list what it knows of a former session: its own channel, and groups that it is no longer in.
const MAX_FORMER_CHANNELS: usize = 256;

/// START_RESP has a channel's name up to three times (its position, its gap and the gap's end), and JSON may double
/// it by escapes: six, and two more for all the rest.
const NAMES_IN_ANSWER: usize = 8;

/// Device and platform names are for policies and people; they are short.
const MAX_NAME: usize = 128;

/// Why a START was refused for load, or since what it needs is away (503, 4005).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartRefusal {
    /// The process has as much memory as it may, and the START would begin a session.
    Memory,
    /// There are as many sessions as may be.
    Sessions,
    /// The authenticator does not answer.
    Authenticator,
    /// The broker is away, or too slow.
    Broker,
}

impl StartRefusal {
    /// Every reason.
    pub(crate) const ALL: [StartRefusal; 4] =
        [StartRefusal::Memory, StartRefusal::Sessions, StartRefusal::Authenticator, StartRefusal::Broker];

    /// As metrics name it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            StartRefusal::Memory => "memory",
            StartRefusal::Sessions => "sessions",
            StartRefusal::Authenticator => "authenticator",
            StartRefusal::Broker => "broker",
        }
    }
}

/// A START under way.
struct Start<'a> {
    node: &'a Arc<Node>,
    handle: &'a Arc<Handle>,
    dialect: Dialect,
    protocol: Protocol,
    msg_id: u32,
    request: StartRequest,
}

/// The session that a START is for.
struct Chosen {
    session: Arc<Session>,
    token: TokenFact,
    former: Option<SessionId>,
    /// Of a new session, which nobody but the hub knows yet: channels that are held until it is attached itself.
    held: Option<Vec<Attached>>,
    /// Protocol 0: what its device had acked; protocol 1: what it says itself.
    positions: Vec<ChannelPosition>,
    stands: Stands,
}

/// Carries out a START; the connection holds the session afterwards, or ends.
pub(crate) async fn start(
    node: &Arc<Node>,
    handle: &Arc<Handle>,
    dialect: Dialect,
    msg_id: u32,
    request: StartRequest,
) -> Result<(Arc<Session>, Fence), Ending> {
    let known = Protocol::from_number(request.protocol);
    // Who speaks a later protocol understands the latest that is spoken here best.
    let protocol = known.unwrap_or(Protocol::Trunkline);
    handle.set_form(WireForm { protocol, dialect, framing: handle.form().framing });
    let start = Start { node, handle, dialect, protocol, msg_id, request };
    let started = match known {
        Some(_) => start.run().await,
        None => Err(start.unknown_protocol()),
    };
    if started.is_err() {
        node.stats.starts_refused.one();
    }
    started
}

impl Start<'_> {
    async fn run(self) -> Result<(Arc<Session>, Fence), Ending> {
        let identity = self.authenticate().await?;
        self.check_names()?;
        self.check_numbers()?;
        self.check_positions()?;
        self.check_groups(&identity)?;
        let token = self.resume_token(&identity)?;
        let fence = self.fence().await?;
        let chosen = self.choose(&identity, token, fence).await?;
        let session = Arc::clone(&chosen.session);
        if chosen.held.is_none() {
            self.reserve(&session).await?;
        }
        let facts = self.facts(&identity, &chosen, fence);
        let begun = session.begin(self.node, self.handle, facts, chosen.stands, identity);
        // Not where a later START has found it in the hub and holds it now: nobody would end that one any more.
        if begun.is_err() && chosen.held.is_some() && !session.was_accepted() {
            self.node.hub.remove(&session);
        }
        let accepted = begun?;
        attach::attach(self.node, self.handle, &session, accepted).await;
        Ok((session, fence))
    }

    /// Protocol 0: the session has numbers for what it will send.
    async fn reserve(&self, session: &Session) -> Result<(), Ending> {
        let Some(ledger) = session.ledger() else { return Ok(()) };
        let reserved = crate::session::reserve(self.node, session, &ledger).await;
        reserved.map_err(|error| self.overloaded(StartRefusal::Broker, error.to_string()))
    }

    /// Sends the refusal and says how the connection ends.
    fn refuse(&self, error: ErrorMessage, ending: Ending) -> Ending {
        let error = Some(cut_error(error));
        let response = StartResponse { success: false, error, ..StartResponse::default() };
        let frame = DownFrame::new(self.msg_id, DownBody::StartResp(response.into()));
        self.handle.send(&frame);
        ending
    }

    /// A START that can never succeed as it is: its client stays away until the app is mended.
    fn bad_request(&self, text: String) -> Ending {
        let ending = Ending::new(CloseCode::Unauthenticated, text.clone());
        self.refuse(ErrorCode::BadRequest.message(text), ending)
    }

    fn unknown_protocol(&self) -> Ending {
        let number = self.request.protocol;
        self.bad_request(format!("protocol {number} is unknown here: this node speaks 0 and 1"))
    }

    fn check_names(&self) -> Result<(), Ending> {
        let long = |name: &str| name.len() > MAX_NAME || name.chars().any(char::is_control);
        if long(&self.request.device_id) || long(&self.request.platform) || long(&self.request.client) {
            let text = format!(
                "device_id, platform and client have at most {MAX_NAME} bytes, no control characters"
            );
            return Err(self.bad_request(text));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), Ending> {
        let acked = self.request.last_acked_seq_id;
        if acked > MAX_ACKED {
            let text = format!("last_acked_seq_id is {acked}: nobody was ever sent so many frames");
            return Err(self.bad_request(text));
        }
        Ok(())
    }

    /// What a START lists is answered channel by channel, so a list that no session can have had would be answered
    /// with a frame that no client takes.
    fn check_positions(&self) -> Result<(), Ending> {
        let config = &self.node.session_config;
        let positions = &self.request.positions;
        let most = config.channels + MAX_FORMER_CHANNELS;
        if positions.len() > most {
            let text = format!("{} positions: a session has at most {most}", positions.len());
            return Err(self.bad_request(text));
        }
        let bytes: usize = positions.iter().map(|position| position.channel.len()).sum();
        let most = config.max_frame_size_down as usize / NAMES_IN_ANSWER;
        if bytes > most {
            let text = format!("the names in positions have {bytes} bytes, and {most} are the most");
            return Err(self.bad_request(text));
        }
        Ok(())
    }

    /// A group that cannot be a channel would fail every START of its users: coming back helps nobody.
    fn check_groups(&self, identity: &Identity) -> Result<(), Ending> {
        let groups = channels::group_channels(&identity.groups);
        groups.map(drop).map_err(|error| self.bad_request(error.error_message))
    }

    async fn authenticate(&self) -> Result<Identity, Ending> {
        let transport = self.handle.protocol().as_str();
        let remote = self.handle.remote();
        let answer = self.node.authenticator.authenticate(&self.request, transport, &remote);
        let answer = timeout(AUTH_DEADLINE, answer).await;
        let error = match answer {
            Ok(Ok(identity)) => return Ok(identity),
            Ok(Err(error)) => error,
            Err(_elapsed) => AuthError::Unavailable("the authenticator does not answer".into()),
        };
        Err(match error {
            AuthError::Refused(text) => {
                let ending = Ending::new(CloseCode::Unauthenticated, text.clone());
                self.refuse(ErrorCode::Unauthenticated.message(text), ending)
            }
            AuthError::Closed { code, reason } => {
                let code = CloseCode::from_number(code).unwrap_or(CloseCode::Unauthenticated);
                self.refuse(ErrorCode::Forbidden.message(reason.clone()), Ending::new(code, reason))
            }
            AuthError::Unavailable(text) => self.overloaded(StartRefusal::Authenticator, text),
        })
    }

    /// A refusal for load, or since what START needs is away: the client comes back by itself.
    fn overloaded(&self, why: StartRefusal, text: String) -> Ending {
        self.node.stats.starts_refused_by.one(&StartRefusal::ALL, &why);
        let after = jittered_ms(RETRY_AFTER);
        let mut error = ErrorCode::Overloaded.message(text.clone());
        error.retry_after_ms = after;
        self.refuse(error, Ending::new(CloseCode::Overloaded, text).after_ms(after))
    }

    /// A session more costs memory for as long as its resume window; one that goes on, or takes the place of another,
    /// does not.
    fn check_room(&self, identity: &Identity) -> Result<(), Ending> {
        let node = self.node;
        let (why, text) = if node.limits.memory.is_short() {
            (StartRefusal::Memory, "the node is short of memory")
        } else if node.hub.len() >= node.options().max_sessions {
            (StartRefusal::Sessions, "the node has as many sessions as it may")
        } else {
            return Ok(());
        };
        let replaces = !self.on_device(identity).is_empty();
        if replaces { Ok(()) } else { Err(self.overloaded(why, text.to_owned())) }
    }

    /// The resume token, proven genuine and this user's and device's own. A forged one is refused without a look-up.
    fn resume_token(&self, identity: &Identity) -> Result<Option<ResumeToken>, Ending> {
        let text = &self.request.resume_token;
        if text.is_empty() || self.protocol == Protocol::Seed {
            return Ok(None);
        }
        let own = token::device_hash(&identity.user, &self.request.device_id);
        match ResumeToken::verify(text, &self.node.session_config.token_key) {
            Ok(token) if token.device == own => Ok(Some(token)),
            Ok(_) | Err(_) => {
                self.node.stats.tokens_reused.one();
                let text = "the resume token is not this user's and device's: reconnect without it";
                tracing::warn!(user = %identity.user, remote = %self.handle.remote(), "a foreign resume token was refused");
                let error = ErrorCode::Unauthenticated.message(text);
                Err(self.refuse(error, Ending::new(CloseCode::TokenUsed, text)))
            }
        }
    }

    async fn fence(&self) -> Result<Fence, Ending> {
        let fence = match self.node.broker.next_fence().await {
            Ok(fence) => fence,
            Err(error) => return Err(self.overloaded(StartRefusal::Broker, error.to_string())),
        };
        let node = u16::try_from(fence.node.0).unwrap_or(u16::MAX);
        Fence::new(fence.number, node)
            .ok_or_else(|| self.overloaded(StartRefusal::Broker, "the broker's fences are used up".into()))
    }

    /// The session that this START is for: the token's, the one whose first answer was lost, or a new one.
    async fn choose(
        &self,
        identity: &Identity,
        token: Option<ResumeToken>,
        fence: Fence,
    ) -> Result<Chosen, Ending> {
        if self.protocol == Protocol::Seed {
            return self.choose_seed(identity, fence).await;
        }
        let node = self.node;
        let positions = self.request.positions.clone();
        let named = token.and_then(|token| Some((node.hub.session(token.session)?, token.generation)));
        // A session of protocol 0 numbers what it sends, so no START of protocol 1 can go on with it.
        let named = named.filter(|(session, _)| session.protocol() == Protocol::Trunkline);
        if let Some((session, generation)) = named {
            let token = TokenFact::Generation(generation);
            let stands = Stands::AsSaid;
            return Ok(Chosen { session, token, former: None, held: None, positions, stands });
        }
        // Also where the token's session is gone: a START that was delayed must not replace what its own client has
        // begun since, and one that is sent again must find the session of the first.
        let StartRequest { instance, attempt, .. } = self.request;
        let known = self.on_device(identity).into_iter().find(|session| {
            session.protocol() == Protocol::Trunkline
                && session.judge_tokenless(instance, attempt) != TokenlessStart::Another
        });
        let (session, held) = match known {
            Some(session) => (session, None),
            None => self.begin_session(identity, fence).await?,
        };
        let former = token.map(|token| token.session);
        let stands = Stands::AsSaid;
        Ok(Chosen { session, token: TokenFact::None, former, held, positions, stands })
    }

    /// The seed resumes by who and where: an ack of 0 says that the device starts anew, with what it has not acked.
    async fn choose_seed(&self, identity: &Identity, fence: Fence) -> Result<Chosen, Ending> {
        let last_acked = Seq(self.request.last_acked_seq_id);
        let known = self.on_device(identity).into_iter().find_map(|session| {
            let ledger = session.ledger()?;
            Some((session, ledger))
        });
        let token = TokenFact::None;
        // A number that was never given out is of a session that this one has replaced.
        let resumes = |session: &Session| last_acked > Seq(0) && session.ack_numbers(last_acked).is_ok();
        if let Some((session, _)) = known.as_ref().filter(|(session, _)| resumes(session)) {
            let (session, positions, stands) = (Arc::clone(session), Vec::new(), Stands::WhereSent);
            return Ok(Chosen { session, token, former: None, held: None, positions, stands });
        }
        let (session, held) = self.begin_session(identity, fence).await?;
        // What the replaced session's channel still has is the new one's, so the engine must know whose it was. Its
        // acks are asked for now that no more of them come.
        let former = known.as_ref().map(|(session, _)| session.id);
        let positions = known.map(|(_, ledger)| ledger.lock().acked_positions()).unwrap_or_default();
        Ok(Chosen { session, token, former, held, positions, stands: Stands::AsSaid })
    }

    /// Attaches the implicit channels of a session that may replace another, to see that they can be.
    async fn hold_channels(&self, identity: &Identity, session: &Session) -> Result<Vec<Attached>, Ending> {
        let mut held = Vec::new();
        if self.node.hub.user(&identity.user).is_empty() {
            return Ok(held);
        }
        let attach = async {
            for channel in self.implicit(identity, session) {
                held.push(channels::attach(self.node, &channel, None).await?.0);
            }
            Ok::<_, ErrorMessage>(())
        };
        match timeout(attach::DEADLINE, attach).await {
            Ok(Ok(())) => Ok(held),
            Ok(Err(error)) => Err(self.overloaded(StartRefusal::Broker, error.error_message)),
            Err(_elapsed) => Err(self.overloaded(StartRefusal::Broker, "the broker does not answer".into())),
        }
    }

    fn on_device(&self, identity: &Identity) -> Vec<Arc<Session>> {
        let mut sessions = self.node.hub.user(&identity.user);
        sessions.retain(|session| *session.device == *self.request.device_id);
        sessions
    }

    /// A new session, as far as the login policy lets it in. Whatever of the broker it needs is asked for before it
    /// replaces another: a START that fails must not cost the user the session that they have.
    async fn begin_session(
        &self,
        identity: &Identity,
        fence: Fence,
    ) -> Result<(Arc<Session>, Option<Vec<Attached>>), Ending> {
        self.check_room(identity)?;
        let node = self.node;
        let id = SessionId(rand::random());
        let device = token::device_hash(&identity.user, &self.request.device_id);
        let platform = identity.platform.clone().unwrap_or_else(|| self.request.platform.clone());
        let config = Arc::clone(&node.session_config);
        let session = Session::new(NewSession {
            created_ms: self.node.now().unix_ms,
            id,
            user: identity.user.as_str().into(),
            device: self.request.device_id.clone(),
            platform,
            fence,
            engine: Engine::new(id, device, config, node.reply_budget.clone()),
            ledger: (self.protocol == Protocol::Seed)
                .then(|| Arc::new(Mutex::new(Ledger::new(Seq(self.request.last_acked_seq_id), Seq(0))))),
        });
        self.reserve(&session).await?;
        let held = self.hold_channels(identity, &session).await?;
        let policy = identity.login_policy.unwrap_or(node.options().login_policy);
        match node.hub.admit(&session, policy, node.options().max_devices) {
            Admission::Admitted { replaced } => {
                for old in replaced {
                    old.kick(node, CloseCode::Replaced.notice("a newer login has taken this place"));
                }
                Ok((session, Some(held)))
            }
            Admission::DeviceLimit => {
                let text = "the user has as many sessions as the login policy allows";
                let error = ErrorCode::Full.message(text);
                Err(self.refuse(error, Ending::new(CloseCode::DeviceLimit, text)))
            }
            Admission::Late => {
                let text = "a later login has taken this place";
                let error = ErrorCode::Conflict.message(text);
                Err(self.refuse(error, Ending::new(CloseCode::Replaced, text)))
            }
        }
    }

    /// What the session follows by what it is.
    fn implicit(&self, identity: &Identity, session: &Session) -> Vec<Channel> {
        let user = &identity.user;
        let zone = self.node.options().zones.zone_of(user);
        let mut implicit = vec![
            Channel::from(format!("user:{user}")),
            Channel::from(format!("session:{}", session.id)),
            Channel::from(format!("zone:{}", zone.as_str())),
            Channel::from("all"),
        ];
        implicit.extend(identity.groups.iter().map(|group| Channel::from(format!("group:{group}"))));
        implicit
    }

    fn facts(&self, identity: &Identity, chosen: &Chosen, fence: Fence) -> StartFacts {
        let request = &self.request;
        let implicit = self.implicit(identity, &chosen.session);
        StartFacts {
            connection: self.handle.id,
            fence,
            protocol: self.protocol,
            dialect: self.dialect,
            msg_id: self.msg_id,
            instance: request.instance,
            attempt: request.attempt,
            token: chosen.token,
            former: chosen.former,
            last_acked_seq: Seq(request.last_acked_seq_id),
            last_sent_client_seq: ClientSeq(request.last_sent_client_seq),
            implicit,
            positions: chosen.positions.clone(),
            expires_at: identity.expires_at_ms,
        }
    }
}
