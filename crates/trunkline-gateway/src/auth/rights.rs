//! Rights on channels: patterns and what they allow.

use serde::{Deserialize, Serialize};
use trunkline_proto::wire::ChannelRight;
use trunkline_session::position::is_implicit_name;

/// One thing that a client may do on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words are the protocol's")]
pub enum May {
    Subscribe,
    Publish,
    History,
    Presence,
}

impl May {
    /// All four.
    pub const ALL: [May; 4] = [May::Subscribe, May::Publish, May::History, May::Presence];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            May::Subscribe => "subscribe",
            May::Publish => "publish",
            May::History => "history",
            May::Presence => "presence",
        }
    }
}

/// A channel name, or a prefix of names followed by `*`. `*` alone stands for every channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChannelPattern(String);

impl ChannelPattern {
    /// A pattern as tokens and the configuration write it.
    pub fn new(pattern: impl Into<String>) -> Self {
        ChannelPattern(pattern.into())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Does the pattern cover this channel?
    pub fn covers(&self, channel: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => channel.starts_with(prefix),
            None => self.0 == channel,
        }
    }
}

/// One line of a token's rights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Right {
    /// Which channels.
    pub pattern: ChannelPattern,
    /// What is allowed there.
    pub may: Vec<May>,
}

/// What a client may do, as a list: whatever one line allows is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rights(pub Vec<Right>);

impl Rights {
    /// All four on every channel: the default of `--anonymous`.
    pub fn everything() -> Self {
        Rights(vec![Right { pattern: ChannelPattern::new("*"), may: May::ALL.to_vec() }])
    }

    /// Is `what` allowed on `channel`? Implicit channels are never granted here: they need no right, and nobody
    /// attaches to another's.
    pub fn allow(&self, channel: &str, what: May) -> bool {
        !is_implicit_name(channel)
            && self.0.iter().any(|right| right.may.contains(&what) && right.pattern.covers(channel))
    }

    /// Rights that an authenticator sent. An unknown word grants nothing.
    pub fn from_wire(rights: &[ChannelRight]) -> Self {
        let line = |right: &ChannelRight| Right {
            pattern: ChannelPattern::new(right.pattern.clone()),
            may: May::ALL
                .into_iter()
                .filter(|may| right.may.iter().any(|word| word == may.as_str()))
                .collect(),
        };
        Rights(rights.iter().map(line).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_its_prefix_and_nothing_else() {
        let rooms = ChannelPattern::new("room:*");
        assert!(rooms.covers("room:1") && rooms.covers("room:"));
        assert!(!rooms.covers("rooms") && !rooms.covers("xroom:1"));
        let one = ChannelPattern::new("news");
        assert!(one.covers("news") && !one.covers("news2"));
    }

    #[test]
    fn no_right_reaches_an_implicit_channel() {
        let rights = Rights::everything();
        assert!(rights.allow("room:1", May::Publish));
        for channel in ["all", "user:bob", "session:1", "zone:001", "group:g"] {
            assert!(!rights.allow(channel, May::Subscribe), "{channel}");
        }
    }

    #[test]
    fn an_unknown_word_from_an_authenticator_grants_nothing() {
        let wire = [ChannelRight { pattern: "*".into(), may: vec!["own".into(), "history".into()] }];
        let rights = Rights::from_wire(&wire);
        assert!(rights.allow("a", May::History) && !rights.allow("a", May::Publish));
    }
}
