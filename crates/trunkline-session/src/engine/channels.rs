//! Which channels a session is on, where each began and what of it was acked.
//!
//! It decides what a START attaches and what an ack means. It never sees a publication.

use std::collections::BTreeMap;

use trunkline_proto::ErrorCode;
use trunkline_proto::wire::{ChannelGap, ChannelPosition, ChannelRefusal};

use super::io::{AttachRequest, ChannelKind, SentPositions, StartFacts};
use crate::by_channel::ByChannel;
use crate::config::Protocol;
use crate::position::{Channel, Position, is_implicit_name};

/// The channels of a session.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    by_name: ByChannel<Subscription>,
    /// Boxed, since clients prove their tokens at once.
    began: Option<Box<Began>>,
}

/// Where channels began for this session, of those that are on and were acked since. Only a session whose client has
/// never proven its token can be asked for that.
#[derive(Debug, Default)]
struct Began(BTreeMap<Channel, Position>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// What the client told that it has, by an ack or by the positions of a START; where it began until then.
    acked: Position,
    has_acked: bool,
    pub(crate) kind: ChannelKind,
    /// Delivered on the connection of now.
    pub(crate) live: bool,
}

/// What a START asks of the channels.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) attach: Vec<AttachRequest>,
    pub(crate) gaps: Vec<ChannelGap>,
    pub(crate) refused: Vec<ChannelRefusal>,
    /// Where the client says it is, of those that are attached.
    pub(crate) given: BTreeMap<Channel, Position>,
}

/// Whether it may yet be asked where channels began for this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Its token is not proven.
    Counts,
    Past,
}

/// Where an implicit channel goes on that the client named no position for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GoOn {
    /// A resume: from the last ack, else from where the session began.
    FromAck,
    /// The same first START again: from where the session began.
    FromBegin,
}

/// An ack that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AckOfTheFuture {
    pub(crate) channel: String,
}

impl Channels {
    /// The connection is gone, and with it its cursors.
    pub(crate) fn cut(&mut self) {
        for subscription in self.by_name.values_mut() {
            subscription.live = false;
        }
    }

    pub(crate) fn get(&self, channel: &str) -> Option<&Subscription> {
        self.by_name.get(channel)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn remove(&mut self, channel: &str) -> Option<Subscription> {
        if let Some(began) = &mut self.began {
            began.0.remove(channel);
        }
        self.by_name.remove(channel)
    }

    /// A START could not attach it. What the client asked for itself it may ask for again; what a service joined is
    /// tried again at the next START.
    pub(crate) fn refused(&mut self, channel: &str) {
        if self.by_name.get(channel).is_some_and(|known| known.kind == ChannelKind::Own) {
            self.remove(channel);
        }
    }

    /// Is it delivered on the connection of now?
    pub(crate) fn is_live(&self, channel: &str) -> bool {
        self.by_name.get(channel).is_some_and(|known| known.live)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = (&Channel, &Subscription)> {
        self.by_name.iter()
    }

    /// A service joins the session to a channel that it is on already. Says whether it is: delivered, or waiting for
    /// its client as all channels are.
    pub(crate) fn join(&mut self, channel: &str, live: bool) -> bool {
        let Some(known) = self.by_name.get_mut(channel).filter(|known| known.live || !live) else {
            return false;
        };
        if known.kind == ChannelKind::Own {
            known.kind = ChannelKind::Joined;
        }
        true
    }

    /// Attached: delivery goes on from `position`.
    pub(crate) fn attached(&mut self, channel: Channel, kind: ChannelKind, position: Position, live: bool) {
        if let Some(known) = self.by_name.get_mut(&channel) {
            (known.kind, known.live) = (kind, live);
        } else {
            self.by_name.insert(channel, Subscription { acked: position, has_acked: false, kind, live });
        }
    }

    /// The client has said in START that it is at `given`, and delivery goes on from `position`. What it has is acked;
    /// a position of the future is no ack of what comes.
    pub(crate) fn confirm(&mut self, channel: &Channel, given: Position, position: Position, begin: Begin) {
        if given <= position {
            self.acked_up_to(channel, given, begin);
        }
    }

    fn acked_up_to(&mut self, channel: &str, position: Position, begin: Begin) {
        let Some((name, subscription)) = self.by_name.get_entry_mut(channel) else { return };
        if begin == Begin::Counts && !subscription.has_acked {
            self.began.get_or_insert_default().0.insert(Channel::clone(name), subscription.acked);
        }
        subscription.confirm(position);
    }

    /// The client has proven its token.
    pub(crate) fn forget_begin(&mut self) {
        self.began = None;
    }

    fn resume_from(&self, channel: &str, go_on: GoOn) -> Option<Position> {
        let acked = self.by_name.get(channel)?.acked;
        let began = self.began.as_ref().and_then(|began| began.0.get(channel)).copied();
        Some(began.filter(|_| go_on == GoOn::FromBegin).unwrap_or(acked))
    }

    /// Which channels a START attaches, and from where. What the client no longer lists is left.
    pub(crate) fn plan(&mut self, facts: &StartFacts, go_on: GoOn, limit: usize) -> Plan {
        let mut given: BTreeMap<&str, Position> = BTreeMap::new();
        for position in &facts.positions {
            given.entry(&position.channel).or_insert_with(|| Position::from(position));
        }
        let mut plan = Plan::default();
        let mut wanted: BTreeMap<Channel, ChannelKind> =
            facts.implicit.iter().map(|channel| (channel.clone(), ChannelKind::Implicit)).collect();
        for (channel, subscription) in self.by_name.iter() {
            if subscription.kind == ChannelKind::Joined {
                wanted.entry(channel.clone()).or_insert(ChannelKind::Joined);
            }
        }
        for (channel, position) in &given {
            if !wanted.contains_key(*channel)
                && let Some(kind) = plan.judge(channel, *position, facts, wanted.len() < limit)
            {
                wanted.insert(Channel::from(*channel), kind);
            }
        }
        self.by_name.retain(|channel, _| wanted.contains_key(channel));
        if let Some(began) = &mut self.began {
            began.0.retain(|channel, _| wanted.contains_key(channel));
        }
        for (channel, kind) in wanted {
            let given = given.get(&*channel).copied();
            let from = given.or_else(|| self.resume_from(&channel, go_on));
            plan.given.extend(given.map(|position| (Channel::clone(&channel), position)));
            plan.attach.push(AttachRequest { channel, from, kind });
        }
        plan
    }

    /// All or nothing: an ack with one position of the future changes nothing. Answers what it has moved.
    pub(crate) fn ack(
        &mut self,
        positions: &[ChannelPosition],
        sent: &dyn SentPositions,
        begin: Begin,
    ) -> Result<Vec<ChannelPosition>, AckOfTheFuture> {
        let mut moved = Vec::new();
        for wire in positions {
            let position = Position::from(wire);
            let live = self.by_name.get(&wire.channel).filter(|subscription| subscription.live);
            // A channel just left: ignored.
            let Some((subscription, sent)) = live.and_then(|known| Some((known, sent.sent(&wire.channel)?)))
            else {
                continue;
            };
            // An older epoch orders below, so it can only be old: ignored as lower. A newer one was never sent.
            if position > sent {
                return Err(AckOfTheFuture { channel: wire.channel.clone() });
            }
            if position.epoch == sent.epoch && subscription.is_news(position) {
                moved.push(wire.clone());
            }
        }
        for wire in &moved {
            self.acked_up_to(&wire.channel, Position::from(wire), begin);
        }
        Ok(moved)
    }

    /// Where a new session of the same device begins: what the client has of each channel.
    pub(crate) fn handover(&self) -> Vec<ChannelPosition> {
        self.by_name.iter().map(|(name, known)| known.acked.to_wire(name)).collect()
    }
}

impl Subscription {
    fn confirm(&mut self, position: Position) {
        if self.is_news(position) {
            self.acked = position;
            self.has_acked = true;
        }
    }

    /// Does a client that says so have more than it has told?
    fn is_news(&self, position: Position) -> bool {
        !self.has_acked || position > self.acked
    }
}

impl Plan {
    /// A position of a channel that the session is not on by what it is. `None`: refused, or answered as a gap.
    fn judge(
        &mut self,
        channel: &str,
        position: Position,
        facts: &StartFacts,
        has_room: bool,
    ) -> Option<ChannelKind> {
        let former = facts.former.is_some_and(|former| channel == format!("session:{former}"));
        if former && facts.protocol == Protocol::Seed && has_room {
            // A seed client cannot ask for its pushes again: what its former session's channel still has is
            // delivered to the new one ("begins with the pushes the device had not acked").
            return Some(ChannelKind::Joined);
        }
        if former {
            self.gaps.push(ChannelGap {
                channel: channel.to_owned(),
                epoch: position.epoch,
                offset: position.offset,
                next: None,
            });
            return None;
        }
        let error = if channel.is_empty() {
            ErrorCode::BadRequest.message("a position names no channel")
        } else if is_implicit_name(channel) {
            ErrorCode::Forbidden.message("nobody attaches to another's channel")
        } else if has_room {
            return Some(ChannelKind::Own);
        } else {
            ErrorCode::Full.message("the session is on as many channels as it may")
        };
        self.refused.push(ChannelRefusal { channel: channel.to_owned(), error: Some(error) });
        None
    }
}
