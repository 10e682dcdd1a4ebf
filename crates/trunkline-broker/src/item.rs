//! What a channel carries, and how its bytes for the wire are made.
//!
//! The log never looks into an item: [`Encode`] is the gateway's, and the log only makes sure that it is asked
//! once per publication and variant, whatever the number of subscribers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::names::{ChannelName, Offset, Position};

/// What a publication is for the client that receives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ItemKind {
    /// Published by a client or a service: the client gets a `Publication`.
    Publication,
    /// Pushed by an upstream: the client gets a `BusinessResponse`.
    Push,
}

/// What is published: opaque to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Which of the two forms the client gets.
    pub kind: ItemKind,
    /// The payload of a publication, or the body of a push as the gateway encoded it.
    pub data: Bytes,
    /// The user or service that published it; may be empty.
    pub sender: Arc<str>,
}

impl Item {
    /// A client's or service's publication.
    pub fn publication(sender: impl Into<Arc<str>>, data: impl Into<Bytes>) -> Self {
        Item { kind: ItemKind::Publication, data: data.into(), sender: sender.into() }
    }

    /// An upstream's push, its body already encoded.
    pub fn push(sender: impl Into<Arc<str>>, data: impl Into<Bytes>) -> Self {
        Item { kind: ItemKind::Push, data: data.into(), sender: sender.into() }
    }

    /// What the item counts as in limits: its payload and its sender, without what the log adds.
    pub fn cost(&self) -> usize {
        self.data.len() + self.sender.len()
    }
}

/// One publication of a channel, at its place. A clone shares the item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub position: Position,
    /// The offset of the publication before it in this epoch; 0 for the first.
    pub prev: Offset,
    /// The broker's wall clock when it was accepted, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// What was published.
    pub item: Arc<Item>,
}

/// Which bytes a subscriber needs: one of at most [`Variant::COUNT`] pairs of dialect and framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant(u8);

impl Variant {
    /// How many variants a log can hold: two dialects times three framings, and two to spare.
    pub const COUNT: usize = 8;

    /// The variant of this index, or `None` from [`Variant::COUNT`] up.
    pub const fn new(index: usize) -> Option<Self> {
        if index < Self::COUNT { Some(Variant(index as u8)) } else { None }
    }

    /// Its index, below [`Variant::COUNT`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Makes the bytes of one variant of a publication.
///
/// A log calls it at most once per entry and variant while anyone is subscribed, outside its lock, and keeps the
/// bytes as long as the entry. The same variant index must always stand for the same encoding.
pub trait Encode: Send + Sync {
    /// Appends the whole frame, its framing header included, to `out`. Appending nothing leaves the entry out
    /// for this variant. It must not touch what `out` already holds.
    fn encode(&self, channel: &ChannelName, entry: &Entry, out: &mut BytesMut);
}
