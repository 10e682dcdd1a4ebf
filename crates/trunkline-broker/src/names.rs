//! The ids and numbers of this crate, each a type of its own so that none can be taken for another.
//!
//! Offsets and epochs order publications; they are never subtracted, because offsets need not be dense.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A channel's name: 1 to 255 bytes without control characters. A clone shares the text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// Why a text is no [`ChannelName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadChannelName {
    /// The text has no bytes.
    #[error("a channel's name is empty")]
    Empty,
    /// The text is longer than [`ChannelName::MAX_BYTES`].
    #[error("a channel's name has {0} bytes, more than {max}", max = ChannelName::MAX_BYTES)]
    TooLong(usize),
    /// The text has a control character at this byte.
    #[error("a channel's name has a control character at byte {0}")]
    Control(usize),
}

impl ChannelName {
    /// The longest name, in bytes of UTF-8: what fits a Redis key or a NATS subject with room for a prefix.
    pub const MAX_BYTES: usize = 255;

    /// Takes a text that is a valid name.
    pub fn new(text: impl AsRef<str>) -> Result<Self, BadChannelName> {
        let text = text.as_ref();
        check(text).map(|()| ChannelName(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text as it is shared.
    pub fn as_shared(&self) -> &Arc<str> {
        &self.0
    }
}

fn check(text: &str) -> Result<(), BadChannelName> {
    if text.is_empty() {
        return Err(BadChannelName::Empty);
    }
    if text.len() > ChannelName::MAX_BYTES {
        return Err(BadChannelName::TooLong(text.len()));
    }
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(BadChannelName::Control(at)),
        None => Ok(()),
    }
}

impl TryFrom<Arc<str>> for ChannelName {
    type Error = BadChannelName;
    fn try_from(text: Arc<str>) -> Result<Self, BadChannelName> {
        check(&text).map(|()| ChannelName(text))
    }
}

impl TryFrom<&str> for ChannelName {
    type Error = BadChannelName;
    fn try_from(text: &str) -> Result<Self, BadChannelName> {
        ChannelName::new(text)
    }
}

impl AsRef<str> for ChannelName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a channel's history: the broker's clock in µs at its first publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// A publication's place within an epoch. Offsets rise and need not be dense; 0 is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Offset(pub u64);

/// A place in a channel: what comes after it is what a reader there has not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// Which history.
    pub epoch: Epoch,
    /// Where in it.
    pub offset: Offset,
}

impl Position {
    /// The position of these two numbers.
    pub fn new(epoch: u64, offset: u64) -> Self {
        Position { epoch: Epoch(epoch), offset: Offset(offset) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch.0, self.offset.0)
    }
}

/// One gateway process of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A rising number that proves who owns a thing, compared as (number, node).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Fence {
    /// From the broker's counter, which never falls and never expires.
    pub number: u64,
    /// The node that drew it.
    pub node: NodeId,
}

/// The version of one keyed value. It changes with every write and rises for one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// What an engine that has lost data gets anew: no epoch of its channels lies below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// A lease's identity, unique within the engine's incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LeaseId(pub u64);
