//! The smallest broker that keeps the promises engines rely on: channels with epochs, offsets with holes, a window.

use std::collections::{BTreeMap, VecDeque};

use trunkline_proto::wire::ChannelGap;
use trunkline_session::Position;

use crate::checker::Place;

#[derive(Debug)]
pub(crate) struct Log {
    channels: BTreeMap<String, Channel>,
    /// Below it no epoch lies; rises with each wipe.
    incarnation: u64,
    window: usize,
}

#[derive(Debug, Clone)]
struct Channel {
    epoch: u64,
    head: u64,
    /// The highest offset that the window has lost.
    lost: u64,
    items: VecDeque<(u64, String)>,
}

/// What a cursor finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    Item(Position, String),
    Gap(Position),
}

impl Log {
    pub(crate) fn new(window: usize) -> Self {
        Log { channels: BTreeMap::new(), incarnation: 1, window }
    }

    fn channel(&mut self, name: &str) -> &mut Channel {
        let epoch = self.incarnation;
        self.channels.entry(name.to_owned()).or_insert(Channel {
            epoch,
            head: 0,
            lost: 0,
            items: VecDeque::new(),
        })
    }

    pub(crate) fn publish(&mut self, name: &str, step: u64, content: String) -> Position {
        let window = self.window;
        let channel = self.channel(name);
        channel.head += step;
        channel.items.push_back((channel.head, content));
        while channel.items.len() > window {
            if let Some((offset, _)) = channel.items.pop_front() {
                channel.lost = offset;
            }
        }
        Position { epoch: channel.epoch, offset: channel.head }
    }

    /// All is gone, as after a kill -9 of a node with the memory broker.
    pub(crate) fn wipe(&mut self) {
        self.incarnation += 1;
        self.channels.clear();
    }

    /// Where delivery goes on from, and what is lost.
    pub(crate) fn attach(&mut self, name: &str, from: Option<Position>) -> (Position, Option<ChannelGap>) {
        let channel = self.channel(name);
        let head = Position { epoch: channel.epoch, offset: channel.head };
        let Some(from) = from else { return (head, None) };
        let oldest = Position { epoch: channel.epoch, offset: channel.lost };
        if from.epoch == channel.epoch && from.offset >= channel.lost && from.offset <= channel.head {
            return (from, None);
        }
        let gap = ChannelGap {
            channel: name.to_owned(),
            epoch: from.epoch,
            offset: from.offset,
            next: Some(oldest.to_wire(name)),
        };
        (oldest, Some(gap))
    }

    pub(crate) fn next(&mut self, name: &str, cursor: Position) -> Next {
        let channel = self.channel(name);
        if cursor.epoch != channel.epoch || cursor.offset < channel.lost {
            return Next::Gap(Position { epoch: channel.epoch, offset: channel.lost });
        }
        let item = channel.items.iter().find(|(offset, _)| *offset > cursor.offset);
        item.map_or(Next::Nothing, |(offset, content)| {
            Next::Item(Position { epoch: channel.epoch, offset: *offset }, content.clone())
        })
    }

    /// Everything that can still be delivered was delivered to a cursor here.
    pub(crate) fn is_at_head(&mut self, name: &str, cursor: Position) -> bool {
        self.next(name, cursor) == Next::Nothing
    }
}

pub(crate) fn place(position: Position) -> Place {
    Place { epoch: position.epoch, offset: position.offset }
}
