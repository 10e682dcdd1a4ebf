//! What one connection has received and its user has not taken yet, bounded in bytes.
//!
//! Data behind a short lock, as the outbox. Whether the connection is read is the driver's decision; the inbox says
//! whether there is room, and whom to wake.

use std::{collections::VecDeque, task::Waker};

use super::outbox::first_of_few;
use crate::{CloseReason, Overflow, Packet};

/// Received, in order.
#[derive(Debug)]
pub(crate) struct Inbox {
    items: VecDeque<Item>,
    bytes: usize,
    limit: usize,
    /// Packets dropped at the front since the user was last told.
    lagged: u64,
    /// How it ended, until the user has been told.
    end: Option<CloseReason>,
    is_ended: bool,
    /// Who waits for the next item.
    pub(crate) reader: Option<Waker>,
    /// The driver, while it does not read for want of room here.
    paused: Option<Waker>,
    /// Whether the connection stands in the event queue already.
    pub(crate) is_announced: bool,
}

/// One received thing.
#[derive(Debug)]
pub(crate) enum Item {
    Established,
    Packet(Packet),
    GoingAway { code: u16, reason: String },
    Lagged(u64),
    Ended(CloseReason),
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Kept,
    /// So many bytes of so many packets were given up, this one or older ones; and the numbers of the requests among
    /// them, which will have no answer.
    Dropped {
        packets: u64,
        bytes: usize,
        requests: Vec<u32>,
    },
    /// The policy says that the connection is to end.
    Overflow,
}

impl Inbox {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            items: VecDeque::new(),
            bytes: 0,
            limit,
            lagged: 0,
            end: None,
            is_ended: false,
            reader: None,
            paused: None,
            is_announced: false,
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.bytes < self.limit
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, item: Item) {
        first_of_few(&mut self.items);
        self.items.push_back(item);
    }

    /// Adds a packet. `policy` is what holds now: [`Overflow::Wait`] means that the driver stops reading by itself.
    pub(crate) fn push_packet(&mut self, packet: Packet, policy: Overflow) -> Pushed {
        if self.is_ended {
            // Nobody will take it.
            return Pushed::Dropped { packets: 1, bytes: packet.cost(), requests: Vec::new() };
        }
        let cost = packet.cost();
        let mut dropped = (0, 0, Vec::new());
        if !self.has_room() {
            match policy {
                Overflow::Wait => {}
                Overflow::Disconnect => return Pushed::Overflow,
                Overflow::DropNewest => {
                    match self.items.back_mut() {
                        Some(Item::Lagged(n)) => *n += 1,
                        _ => self.items.push_back(Item::Lagged(1)),
                    }
                    let requests = if packet.is_request() { vec![packet.message_id] } else { Vec::new() };
                    return Pushed::Dropped { packets: 1, bytes: cost, requests };
                }
                Overflow::DropOldest => dropped = self.drop_oldest(cost),
            }
        }
        self.bytes += cost;
        first_of_few(&mut self.items);
        self.items.push_back(Item::Packet(packet));
        match dropped {
            (0, ..) => Pushed::Kept,
            (packets, bytes, requests) => Pushed::Dropped { packets, bytes, requests },
        }
    }

    /// The next item, and how many bytes it gives back.
    pub(crate) fn pop(&mut self) -> Option<(Item, usize)> {
        if self.lagged > 0 {
            return Some((Item::Lagged(std::mem::take(&mut self.lagged)), 0));
        }
        match self.items.pop_front() {
            Some(Item::Packet(packet)) => {
                let cost = packet.cost();
                self.bytes -= cost;
                Some((Item::Packet(packet), cost))
            }
            Some(item) => Some((item, 0)),
            None => self.end.take().map(|reason| (Item::Ended(reason), 0)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.lagged == 0 && self.end.is_none()
    }

    /// Forgets a request that is still unread: `true` and its bytes if it was there.
    pub(crate) fn withdraw(&mut self, message_id: u32) -> Option<usize> {
        let at = self.items.iter().position(
            |item| matches!(item, Item::Packet(packet) if packet.is_request() && packet.message_id == message_id),
        )?;
        let Some(Item::Packet(packet)) = self.items.remove(at) else { return None };
        self.bytes -= packet.cost();
        Some(packet.cost())
    }

    /// Nothing more will come.
    pub(crate) fn finish(&mut self, reason: CloseReason) {
        if !self.is_ended {
            self.is_ended = true;
            self.end = Some(reason);
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Forgets everything that is unread: how many packets, how many bytes.
    pub(crate) fn clear(&mut self) -> (u64, usize) {
        let packets = self.items.iter().filter(|item| matches!(item, Item::Packet(_))).count();
        self.items = VecDeque::new();
        (packets as u64, std::mem::take(&mut self.bytes))
    }

    pub(crate) fn pause(&mut self, driver: &Waker) {
        self.paused = Some(driver.clone());
    }

    /// The driver, if it waits for room and should read again. Half is the low-water mark, as in the outbox.
    pub(crate) fn resume(&mut self) -> Option<Waker> {
        if self.bytes <= self.limit / 2 { self.paused.take() } else { None }
    }

    fn drop_oldest(&mut self, room_for: usize) -> (u64, usize, Vec<u32>) {
        let (mut packets, mut bytes, mut requests) = (0, 0, Vec::new());
        let mut at = 0;
        while self.bytes + room_for > self.limit && at < self.items.len() {
            if let Item::Packet(packet) = &self.items[at] {
                let cost = packet.cost();
                if packet.is_request() {
                    requests.push(packet.message_id);
                }
                self.items.remove(at);
                self.bytes -= cost;
                packets += 1;
                bytes += cost;
            } else {
                at += 1;
            }
        }
        self.lagged += packets;
        (packets, bytes, requests)
    }
}
