//! The channels that a session is attached to: what keeps them attached, and who may see it.
//!
//! There is a set for every session, so it is a vector in the order of the names, which are the logs' own. It knows no
//! position: the engine says from where a channel is delivered, the connection how far it was.

use std::sync::Arc;

use trunkline_broker::{Attachment, Log};
use trunkline_session::Channel;

/// One attached channel. Dropping it detaches.
pub(crate) struct Attached {
    pub(crate) attachment: Attachment,
    /// Whether the session is a member that others can see.
    pub(crate) present: bool,
}

/// Attached channels by their names.
#[derive(Default)]
pub(super) struct AttachedSet {
    entries: Vec<Attached>,
}

impl Attached {
    pub(crate) fn log(&self) -> &Arc<Log> {
        self.attachment.log()
    }

    /// The channel's name, as everything on this node shares it.
    pub(crate) fn name(&self) -> &Channel {
        self.log().channel().as_shared()
    }
}

impl AttachedSet {
    fn find(&self, channel: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|known| (**known.name()).cmp(channel))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn contains(&self, channel: &str) -> bool {
        self.find(channel).is_ok()
    }

    pub(super) fn get(&self, channel: &str) -> Option<&Attached> {
        self.find(channel).ok().map(|at| &self.entries[at])
    }

    /// Takes a channel in; one that was there already is detached once more.
    pub(super) fn insert(&mut self, attached: Attached) {
        match self.find(attached.name()) {
            Ok(at) => self.entries[at] = attached,
            Err(at) => self.entries.insert(at, attached),
        }
    }

    pub(super) fn remove(&mut self, channel: &str) -> Option<Attached> {
        self.find(channel).ok().map(|at| self.entries.remove(at))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Attached> {
        self.entries.iter()
    }

    pub(super) fn extend(&mut self, channels: impl IntoIterator<Item = Attached>) {
        let channels = channels.into_iter();
        // Exactly: a session's channels rarely change behind its START.
        self.entries.reserve_exact(channels.size_hint().0);
        for attached in channels {
            self.insert(attached);
        }
    }

    /// Where the session is a member.
    pub(super) fn present(&self) -> impl Iterator<Item = &Channel> {
        self.entries.iter().filter(|attached| attached.present).map(Attached::name)
    }
}

impl IntoIterator for AttachedSet {
    type Item = Attached;
    type IntoIter = std::vec::IntoIter<Attached>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}
