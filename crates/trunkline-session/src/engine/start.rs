//! START: which of two wins, which tokens are good, and what START_RESP says (protocol.md sections 2 and 3).

use std::collections::BTreeMap;

use trunkline_proto::wire::{
    self, ChannelGap, ChannelRefusal, CloseNotice, ErrorMessage, StartResponse, Verdict,
};
use trunkline_proto::{CloseCode, DownBody, DownFrame, ErrorCode};

use super::calls::ReplyTo;
use super::channels::{Begin, GoOn, Plan};
use super::io::{ChannelStart, Event, Output, StartAccepted, StartFacts, TokenFact};
use super::{Engine, Link, Phase};
use crate::Now;
use crate::config::Protocol;
use crate::ids::{ClientSeq, ConnectionId, Fence, Seq};
use crate::position::Position;
use crate::token::ResumeToken;

/// Which resume tokens of the session are good. The one issued last is always `proven + 1`.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// The newest generation that the client is known to have; 0: none yet.
    proven: u64,
    /// An ack has proven the token of the newest START.
    is_newest: bool,
}

impl Tokens {
    fn issued(&self) -> u64 {
        self.proven + 1
    }

    pub(super) fn begin(&self) -> Begin {
        if self.proven == 0 { Begin::Counts } else { Begin::Past }
    }

    /// An ack of the newest START's fence: the client has the token that came with it. Further acks of it say no
    /// more.
    pub(super) fn prove(&mut self) {
        if !self.is_newest {
            self.is_newest = true;
            self.proven = self.issued();
        }
    }
}

/// What a START means for a session of the same user and device that it does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenlessStart {
    /// It was overtaken by a later START of its own client object: give it to this session, which refuses it.
    Late,
    /// The first START again, whose answer was lost: give it to this session, with `TokenFact::None`.
    SameStart,
    /// Another session: begin one, and let the login policy say what becomes of this one.
    Another,
}

/// A START between `StartAccepted` and `Attached`.
#[derive(Debug)]
pub(super) struct Starting {
    msg_id: u32,
    continues: Continues,
    last_acked_seq: Seq,
    gaps: Vec<ChannelGap>,
    refused: Vec<ChannelRefusal>,
    /// Where the client says it is.
    given: BTreeMap<crate::Channel, Position>,
    expires_at: Option<u64>,
    /// Joined by a service meanwhile: told and delivered behind START_RESP.
    pub(super) joined: Vec<(crate::Channel, Position)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Continues {
    /// A new session, for the client too.
    New,
    /// The session lives, and its client does not know it.
    SameStart,
    Session,
}

impl Engine {
    /// What a START that does not name this session means for it: one without token, or whose token's session is
    /// gone. Ask each session of the user's device before another is begun: a delayed START must not replace what
    /// its own client has begun since, and one that is sent again must find the session of the first. A START that
    /// names a living session by its token is given to that one without asking.
    pub fn judge_tokenless(&self, instance: u64, attempt: u64) -> TokenlessStart {
        let same =
            instance != 0 && instance == self.instance && !matches!(self.phase, Phase::New | Phase::Ended(_));
        if same && attempt < self.attempt {
            TokenlessStart::Late
        } else if same && self.tokens.proven == 0 {
            TokenlessStart::SameStart
        } else {
            TokenlessStart::Another
        }
    }

    /// Would this START be accepted? For who has to prepare what an accepted one needs and a refused one must not
    /// change.
    pub fn accepts(&self, facts: &StartFacts) -> bool {
        self.judge_start(facts).is_ok()
    }

    pub(super) fn start(&mut self, now: Now, facts: StartFacts) {
        let continues = match self.judge_start(&facts) {
            Ok(continues) => continues,
            Err((code, text)) => return self.refuse_start(&facts, code, text),
        };
        let replaced = self.link.as_ref().map(|link| link.connection);
        let resumed = continues != Continues::New;
        if let TokenFact::Generation(given) = facts.token {
            self.tokens.proven = given;
            self.channels.forget_begin();
        }
        let go_on = if continues == Continues::SameStart { GoOn::FromBegin } else { GoOn::FromAck };
        let Plan { attach, gaps, refused, given } = self.channels.plan(&facts, go_on, self.config.channels);
        if continues != Continues::Session && facts.last_sent_client_seq > ClientSeq(0) {
            self.calls_begun().begin_after(facts.last_sent_client_seq);
        }
        self.channels.cut();
        self.undecodable = 0;
        self.instance = facts.instance;
        self.attempt = facts.attempt;
        self.fence = Some(facts.fence);
        self.tokens.is_newest = false;
        self.protocol = facts.protocol;
        self.dialect = facts.dialect;
        self.link = Some(Link { connection: facts.connection });
        self.heard_at = now.at.into();
        self.phase = Phase::Starting(Box::new(Starting {
            msg_id: facts.msg_id,
            continues,
            last_acked_seq: facts.last_acked_seq,
            gaps,
            refused,
            given,
            expires_at: facts.expires_at,
            joined: Vec::new(),
        }));
        self.outputs.push_back(Output::StartAccepted(StartAccepted {
            connection: facts.connection,
            fence: facts.fence,
            replaced,
            resumed,
            attach,
        }));
    }

    /// Late STARTs come first: a delayed one must not be told that its client's token is used up.
    fn judge_start(&self, facts: &StartFacts) -> Result<Continues, (CloseCode, &'static str)> {
        if let Phase::Ended(code) = self.phase {
            // Before its first START only a kick ends a session: a later login of the device, say, whose place this
            // client must not take back by coming anew.
            let kicked = CloseCode::from_number(code).filter(|_| self.fence.is_none());
            return Err((kicked.unwrap_or(CloseCode::SessionLost), "the session has just ended"));
        }
        if self.fence.is_some_and(|fence| facts.fence <= fence) {
            return Err((CloseCode::Replaced, "a later START has taken the session"));
        }
        let known = !matches!(self.phase, Phase::New);
        let same = facts.instance != 0 && facts.instance == self.instance;
        if known && same && facts.attempt < self.attempt {
            return Err((CloseCode::Replaced, "a later START of the same client has taken the session"));
        }
        match facts.token {
            TokenFact::Generation(given) if known && given != 0 => {
                // The old one, until its successor is proven; and the successor, which proves itself.
                if given == self.tokens.proven || given == self.tokens.issued() {
                    Ok(Continues::Session)
                } else {
                    Err((CloseCode::TokenUsed, "the resume token was used before"))
                }
            }
            TokenFact::Generation(_) => Err((CloseCode::TokenUsed, "the resume token is of no use here")),
            TokenFact::None if !known => Ok(Continues::New),
            TokenFact::None if facts.protocol == Protocol::Seed => Ok(Continues::Session),
            TokenFact::None if same && self.tokens.proven == 0 => Ok(Continues::SameStart),
            TokenFact::None => Err((CloseCode::TokenUsed, "the session needs its resume token")),
        }
    }

    fn refuse_start(&mut self, facts: &StartFacts, code: CloseCode, text: &str) {
        let error = match code {
            CloseCode::TokenUsed => ErrorCode::Unauthenticated,
            CloseCode::SessionLost => ErrorCode::Gone,
            _ => ErrorCode::Conflict,
        };
        self.outputs.push_back(Output::StartRefused {
            connection: facts.connection,
            response: refusal(facts.msg_id, error.message(text)).into(),
            close: code.notice(text),
        });
    }

    pub(super) fn attached(&mut self, now: Now, channels: Vec<ChannelStart>, refused: Vec<ChannelRefusal>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Live);
        let Phase::Starting(mut starting) = phase else {
            self.phase = phase;
            return;
        };
        for refusal in &refused {
            self.channels.refused(&refusal.channel);
        }
        starting.refused.extend(refused);
        let mut positions = Vec::with_capacity(channels.len());
        let mut deliver = Vec::with_capacity(channels.len());
        for start in channels {
            // A service has taken the session off it meanwhile; and where it has joined it anew since, that is told and
            // delivered behind START_RESP.
            if starting.is_withdrawn(&start.channel) {
                if !starting.joins(&start.channel) {
                    self.outputs.push_back(Output::Detach(start.channel));
                }
                continue;
            }
            positions.push(start.position.to_wire(&start.channel));
            starting.gaps.extend(start.gap);
            self.channels.attached(start.channel.clone(), start.kind, start.position, true);
            if let Some(given) = starting.given.get(&start.channel) {
                self.channels.confirm(&start.channel, *given, start.position, self.tokens.begin());
            }
            deliver.push((start.channel, start.position));
        }
        self.expires_at(now, starting.expires_at);
        self.heard_at = now.at.into();
        let event = if starting.continues == Continues::New { Event::Started } else { Event::Resumed };
        let response = self.start_response(&starting, positions);
        self.send(DownFrame::new(starting.msg_id, DownBody::StartResp(response.into())));
        self.outputs.push_back(Output::Deliver(deliver));
        self.outputs.push_back(Output::Event(event));
        for (channel, position) in starting.joined {
            self.joined(channel, position);
        }
        if self.protocol == Protocol::Seed {
            self.with_calls(|calls, cx| calls.send_unsent(cx));
        }
    }

    fn start_response(&self, starting: &Starting, positions: Vec<wire::ChannelPosition>) -> StartResponse {
        let verdict = match starting.continues {
            // The client has never heard of the session, so to it the session is new.
            Continues::New | Continues::SameStart => Verdict::Fresh,
            Continues::Session if starting.gaps.is_empty() => Verdict::Resumed,
            Continues::Session => Verdict::Gap,
        };
        let token =
            ResumeToken { session: self.session, device: self.device, generation: self.tokens.issued() };
        StartResponse {
            success: true,
            error: self.seed_gap(starting),
            heartbeat_interval: i32::try_from(self.config.heartbeat.as_secs()).unwrap_or(i32::MAX),
            connection_id: self.session.to_string(),
            session_id: self.session.to_string(),
            resume_token: token.issue(&self.config.token_key),
            verdict: verdict as i32,
            gaps: starting.gaps.clone(),
            last_client_seq: self.calls.as_ref().map_or(0, |calls| calls.last_client_seq()),
            max_frame_size: self.config.max_frame_size,
            resume_window: u32::try_from(self.config.resume_window.as_secs()).unwrap_or(u32::MAX),
            node: self.config.node.clone(),
            positions,
            fence: self.fence.map_or(0, |fence| fence.number()),
            refused: starting.refused.clone(),
            max_frame_size_down: self.config.max_frame_size_down,
        }
    }

    /// How a seed client is told of a loss: it knows no gaps, but it prints errors.
    fn seed_gap(&self, starting: &Starting) -> Option<ErrorMessage> {
        if self.protocol != Protocol::Seed {
            return None;
        }
        if starting.continues == Continues::New && starting.last_acked_seq > Seq(0) {
            let text =
                format!("the session is gone: what followed number {} is lost", starting.last_acked_seq);
            return Some(ErrorCode::Gone.message(text));
        }
        let lost: Vec<_> = starting.gaps.iter().map(gap_text).collect();
        (!lost.is_empty()).then(|| ErrorCode::Gone.message(lost.join("; ")))
    }

    pub(super) fn start_failed(&mut self, now: Now, error: ErrorMessage, close: CloseNotice) {
        let Phase::Starting(starting) = &self.phase else { return };
        let (msg_id, new) = (starting.msg_id, starting.continues == Continues::New);
        let Some(Link { connection }) = self.link.take() else { return };
        let response = refusal(msg_id, error);
        self.outputs.push_back(Output::StartRefused {
            connection,
            response: response.into(),
            close: close.clone(),
        });
        if new {
            // Nobody knows of it yet, so nobody is told that it ended but the hub.
            self.end(close.code);
        } else {
            self.phase = Phase::Lost(now.at);
        }
    }

    pub(super) fn reply_to(&self) -> Option<ReplyTo> {
        let fence = self.fence.filter(|_| self.link.is_some() && matches!(self.phase, Phase::Live))?;
        Some(ReplyTo { fence, protocol: self.protocol })
    }

    /// The connection and its fence, while there is one.
    pub fn connection(&self) -> Option<(ConnectionId, Fence)> {
        Some((self.link.as_ref()?.connection, self.fence?))
    }
}

impl Starting {
    fn is_withdrawn(&self, channel: &str) -> bool {
        self.refused.iter().any(|refusal| refusal.channel == channel)
    }

    /// Has a service joined the session to this channel while its others were being attached?
    pub(super) fn joins(&self, channel: &str) -> bool {
        self.joined.iter().any(|(joined, _)| &**joined == channel)
    }

    /// A service has taken the session off a channel while it was being attached.
    pub(super) fn withdraw(&mut self, channel: &str, error: ErrorMessage) {
        self.joined.retain(|(joined, _)| &**joined != channel);
        self.refused.push(ChannelRefusal { channel: channel.to_owned(), error: Some(error) });
    }
}

/// A gap for people: seed clients read it in START_RESP's error, and in PUSH_ERROR while connected.
pub(crate) fn gap_text(gap: &ChannelGap) -> String {
    let from = format!("{}: lost after {}", gap.channel, gap.offset);
    match &gap.next {
        Some(next) if next.epoch == gap.epoch => format!("{from}, up to {}", next.offset),
        Some(next) => format!("{from}, and its history began anew at {}", next.offset),
        None => format!("{from}, for good"),
    }
}

fn refusal(msg_id: u32, error: ErrorMessage) -> DownFrame {
    let response = StartResponse { success: false, error: Some(error), ..StartResponse::default() };
    DownFrame::new(msg_id, DownBody::StartResp(response.into()))
}
