//! What a client is told without having asked: pushes, publications, gaps, and what became of its connection.
//!
//! These are the words alone; how events wait to be read is the queue's (`unread`).

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use trunkline_proto::wire::{self, ErrorMessage};

use crate::defaults::EVENT_OVERHEAD;

/// A place in a channel's history. Offsets compare within one epoch only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The channel.
    pub channel: String,
    /// The identity of its history.
    pub epoch: u64,
    /// The last publication before this place.
    pub offset: u64,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The client is connected; the verdict says what became of its session.
    Started(Started),
    /// A push from a service.
    Push(Push),
    /// A publication of a channel.
    Publication(Publication),
    /// Publications that this client will not get.
    Gap(Gap),
    /// A service has put the client on a channel.
    Joined(Position),
    /// The client is off a channel, with the reason: a right withdrawn, or refused after a reconnection.
    Left {
        /// Which.
        channel: String,
        /// Why.
        error: ErrorMessage,
    },
    /// The connection is lost; the client reconnects by itself.
    Lost {
        /// The close code, where the gateway said one.
        code: Option<u32>,
        /// What is known of the reason.
        reason: String,
        /// When the next attempt begins.
        retry_in: Duration,
    },
    /// The end: the client has stopped, or was told to stay away. Nothing follows.
    Closed(Closed),
}

/// A START that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Whether the session goes on.
    pub verdict: Verdict,
    /// The session.
    pub session: String,
    /// The node that serves it.
    pub node: String,
    /// The protocol of the connection that won the race, `quic` and so on.
    pub transport: &'static str,
}

/// What became of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A new session. Gaps tell what the client's positions have lost; calls without a reply have an unknown
    /// result.
    Fresh,
    /// The same session, nothing lost.
    Resumed,
    /// The same session; gaps tell what is lost.
    Gap,
}

/// A push from a service, by its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// What kind of push it is.
    pub msg_type: String,
    /// A line for people.
    pub title: String,
    /// The text.
    pub content: String,
    /// Whatever the program reads.
    pub data: Bytes,
    /// Further names and values.
    pub metadata: HashMap<String, String>,
    /// Its place in a channel; `None` where it came with a call's reply.
    pub position: Option<Position>,
}

/// A publication of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its place.
    pub position: Position,
    /// What was published.
    pub data: Bytes,
    /// When, in Unix milliseconds.
    pub timestamp: i64,
    /// By whom, as the gateway knows it.
    pub sender: String,
}

/// Lost publications: those after `from`, up to and including `next`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The last position before the loss.
    pub from: Position,
    /// Delivery goes on after this; `None` where the channel is not delivered any more.
    pub next: Option<Position>,
}

/// Why a client has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// A close code of `docs/codes.md`; `None` where the program itself ended the client.
    pub code: Option<u32>,
    /// For people.
    pub reason: String,
}

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} ({code})", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl From<wire::ChannelPosition> for Position {
    fn from(wire: wire::ChannelPosition) -> Self {
        Position { channel: wire.channel, epoch: wire.epoch, offset: wire.offset }
    }
}

impl From<Position> for wire::ChannelPosition {
    fn from(position: Position) -> Self {
        wire::ChannelPosition { channel: position.channel, epoch: position.epoch, offset: position.offset }
    }
}

impl Push {
    pub(crate) fn new(message: wire::BusinessResponse, position: Option<Position>) -> Self {
        let wire::BusinessResponse { data, msg_type, title, content, metadata, .. } = message;
        Push { msg_type, title, content, data, metadata, position }
    }
}

impl Event {
    /// About what the event costs in memory.
    pub(crate) fn bytes(&self) -> usize {
        let own = match self {
            Event::Push(push) => {
                let pairs: usize = push.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
                push.data.len() + push.content.len() + push.title.len() + push.msg_type.len() + pairs
            }
            Event::Publication(publication) => publication.data.len() + publication.sender.len(),
            _ => 0,
        };
        own + EVENT_OVERHEAD
    }

    /// States are few and say where the client stands; they are never refused.
    pub(crate) fn is_state(&self) -> bool {
        matches!(self, Event::Started(_) | Event::Lost { .. } | Event::Closed(_))
    }
}
