//! Where somebody is in a channel.

use std::sync::Arc;

use trunkline_proto::wire;

/// A channel's name. Cloning shares it.
pub type Channel = Arc<str>;

/// A place in a channel's history. Offsets rise and need not be dense: they are compared, never subtracted, and
/// only within one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position {
    /// The identity of the history.
    pub epoch: u64,
    /// The last publication before this place; 0: the history's begin.
    pub offset: u64,
}

impl Position {
    /// As the wire has it.
    pub fn to_wire(self, channel: &str) -> wire::ChannelPosition {
        wire::ChannelPosition { channel: channel.to_owned(), epoch: self.epoch, offset: self.offset }
    }
}

impl From<&wire::ChannelPosition> for Position {
    fn from(wire: &wire::ChannelPosition) -> Self {
        Position { epoch: wire.epoch, offset: wire.offset }
    }
}

/// Is this the name of a channel that sessions are put on without asking (protocol.md 2.3)? Nobody attaches to
/// another's.
pub fn is_implicit_name(channel: &str) -> bool {
    channel == "all"
        || ["user:", "session:", "zone:", "group:"].iter().any(|prefix| channel.starts_with(prefix))
}
