//! A client's channels: the position of each, what of it is acked, and whether what arrives is next.
//!
//! Positions are stored when something is delivered or told, so they are what a START gives.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;

use trunkline_proto::DownFrame;
use trunkline_proto::wire::{ChannelGap, ChannelPosition, StartResponse};

use super::io::{ClientConfig, ClientOutput, Dropped};
use crate::position::Position;

/// The channels of one client.
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_name: BTreeMap<String, Known>,
    /// Publications and gaps since the last ack.
    unacked: u32,
    /// Since when there is something to ack.
    since: Option<Duration>,
}

#[derive(Debug)]
struct Known {
    position: Position,
    /// The position has moved since the last ack.
    moved: bool,
}

impl Channels {
    /// `StartRequest.positions`: the whole list.
    pub(super) fn positions(&self) -> Vec<ChannelPosition> {
        self.by_name.iter().map(|(name, known)| known.position.to_wire(name)).collect()
    }

    pub(super) fn has(&self, channel: &str) -> bool {
        self.by_name.contains_key(channel)
    }

    pub(super) fn put(&mut self, channel: &str, position: Position) {
        self.by_name.insert(channel.to_owned(), Known { position, moved: false });
    }

    pub(super) fn remove(&mut self, channel: &str) -> bool {
        self.by_name.remove(channel).is_some()
    }

    /// START_RESP lists every channel that is live. What it lost is told; so is a jump that it does not tell.
    /// `leaving` is what START did not list, because it is to be left.
    pub(super) fn started(
        &mut self,
        response: &StartResponse,
        leaving: &[String],
        outputs: &mut VecDeque<ClientOutput>,
    ) {
        let mut former = std::mem::take(&mut self.by_name);
        (self.unacked, self.since) = (0, None);
        for gap in &response.gaps {
            outputs.push_back(ClientOutput::Gap(gap.clone()));
        }
        for wire in &response.positions {
            let mut position = Position::from(wire);
            if let Some(known) = former.remove(&wire.channel) {
                let told = response.gaps.iter().any(|gap| gap.channel == wire.channel);
                if known.position.epoch == position.epoch && position.offset < known.position.offset {
                    // It goes back: what comes again was delivered here before.
                    position = known.position;
                } else if position != known.position && !told && !is_begin_of(position, known.position) {
                    outputs.push_back(ClientOutput::Gap(gap(&wire.channel, known.position, position)));
                }
            }
            self.put(&wire.channel, position);
        }
        for refusal in &response.refused {
            former.remove(&refusal.channel);
            let error = refusal.error.clone().unwrap_or_default();
            outputs.push_back(ClientOutput::Left { channel: refusal.channel.clone(), error });
        }
        // Those of the former session, whose loss `gaps` has told, and those of groups that the user has left.
        for (channel, known) in former {
            if !leaving.contains(&channel) && !response.gaps.iter().any(|gap| gap.channel == channel) {
                let lost = ChannelGap { next: None, ..gap(&channel, known.position, known.position) };
                outputs.push_back(ClientOutput::Gap(lost));
            }
        }
    }

    /// A SUBSCRIBE was answered. What `since` has lost is told now: the PUSH_GAP behind may be cut off.
    pub(super) fn subscribed(
        &mut self,
        channel: &str,
        since: Option<Position>,
        position: Position,
        outputs: &mut VecDeque<ClientOutput>,
    ) {
        self.put(channel, position);
        if let Some(since) = since.filter(|since| *since != position) {
            outputs.push_back(ClientOutput::Gap(gap(channel, since, position)));
        }
    }

    /// A publication: delivered once, in order.
    pub(super) fn publication(
        &mut self,
        now: Duration,
        at: ChannelPosition,
        frame: DownFrame,
        outputs: &mut VecDeque<ClientOutput>,
    ) {
        let position = Position::from(&at);
        let Some(known) = self.by_name.get_mut(&at.channel) else {
            return outputs.push_back(ClientOutput::Dropped(Dropped::Stray));
        };
        if position <= known.position {
            return outputs.push_back(ClientOutput::Dropped(Dropped::Duplicate(position)));
        }
        let next = Position { epoch: position.epoch, offset: 0 };
        if position.epoch != known.position.epoch && !is_begin_of(next, known.position) {
            // A right server tells a new epoch with a gap before; what lies between is lost either way.
            outputs.push_back(ClientOutput::Gap(gap(&at.channel, known.position, next)));
        }
        known.position = position;
        known.moved = true;
        self.moved(now);
        outputs.push_back(ClientOutput::Publication { position: at, frame });
    }

    pub(super) fn gap(&mut self, now: Duration, gap: ChannelGap, outputs: &mut VecDeque<ClientOutput>) {
        let Some(known) = self.by_name.get_mut(&gap.channel) else {
            return outputs.push_back(ClientOutput::Dropped(Dropped::Stray));
        };
        if let Some(next) = gap.next.as_ref().map(Position::from) {
            // The answer to SUBSCRIBE has told it before, or its frame came again.
            if next <= known.position {
                return outputs.push_back(ClientOutput::Dropped(Dropped::Duplicate(next)));
            }
            known.position = next;
            known.moved = true;
        }
        self.moved(now);
        outputs.push_back(ClientOutput::Gap(gap));
    }

    fn moved(&mut self, now: Duration) {
        self.unacked += 1;
        self.since.get_or_insert(now);
    }

    pub(super) fn ack_due(&self, config: &ClientConfig) -> Option<Duration> {
        let since = self.since?;
        Some(if self.unacked >= config.ack_every { since } else { since + config.ack_after })
    }

    pub(super) fn take_ack(&mut self) -> Vec<ChannelPosition> {
        (self.unacked, self.since) = (0, None);
        let moved = self.by_name.iter_mut().filter(|(_, known)| known.moved);
        moved
            .map(|(name, known)| {
                known.moved = false;
                known.position.to_wire(name)
            })
            .collect()
    }
}

/// (e, 0) means "from the first publication after e": a channel that begins later goes on from there, and nothing
/// lies between.
fn is_begin_of(next: Position, from: Position) -> bool {
    from.offset == 0 && next.offset == 0 && next.epoch > from.epoch
}

fn gap(channel: &str, from: Position, next: Position) -> ChannelGap {
    let Position { epoch, offset } = from;
    ChannelGap { channel: channel.to_owned(), epoch, offset, next: Some(next.to_wire(channel)) }
}
