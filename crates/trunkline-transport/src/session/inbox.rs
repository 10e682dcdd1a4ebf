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
    /// The peer's going away stands here, or was told.
    is_going: bool,
    /// That there is room again stands here.
    is_writable: bool,
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
    GoingAway {
        code: u16,
        reason: String,
    },
    /// There is room again in the output, which was found full.
    Writable,
    Lagged(u64),
    Ended(CloseReason),
}

/// What is left to tell of a connection that has ended.
#[derive(Debug)]
pub(crate) struct Left {
    /// That it was there is not told yet.
    pub(crate) is_new: bool,
    /// Packets that were dropped, those that were unread until now included.
    pub(crate) lagged: u64,
    pub(crate) going_away: Option<(u16, String)>,
    pub(crate) end: CloseReason,
    /// The packets that were unread until now, and the bytes that they give back.
    pub(crate) packets: u64,
    pub(crate) bytes: usize,
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
            is_going: false,
            is_writable: false,
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

    /// Adds what is no packet. A peer that says again and again that it goes away is told of once: what it says costs no
    /// bytes of the limit. Room is told of once until that is read, and not behind the end.
    pub(crate) fn push(&mut self, item: Item) {
        let is_known = match item {
            Item::GoingAway { .. } => std::mem::replace(&mut self.is_going, true),
            Item::Writable => self.is_ended || std::mem::replace(&mut self.is_writable, true),
            Item::Established | Item::Packet(_) | Item::Lagged(_) | Item::Ended(_) => false,
        };
        if is_known {
            return;
        }
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

    /// The next item, and how many bytes it gives back. Packets are dropped from behind the connection's beginning, which
    /// is told first.
    pub(crate) fn pop(&mut self) -> Option<(Item, usize)> {
        if self.lagged > 0 && !matches!(self.items.front(), Some(Item::Established)) {
            return Some((Item::Lagged(std::mem::take(&mut self.lagged)), 0));
        }
        match self.items.pop_front() {
            Some(Item::Packet(packet)) => {
                let cost = packet.cost();
                self.bytes -= cost;
                Some((Item::Packet(packet), cost))
            }
            Some(item) => {
                self.is_writable &= !matches!(item, Item::Writable);
                Some((item, 0))
            }
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

    /// Takes what is left to tell of a connection that has ended, without its packets; `None` if it has not, or if that was
    /// told. Nothing is left here then.
    pub(crate) fn leave(&mut self) -> Option<Left> {
        let end = self.end.take()?;
        let mut left = Left {
            is_new: false,
            lagged: std::mem::take(&mut self.lagged),
            going_away: None,
            end,
            packets: 0,
            bytes: std::mem::take(&mut self.bytes),
        };
        for item in std::mem::take(&mut self.items) {
            match item {
                Item::Established => left.is_new = true,
                Item::Packet(_) => left.packets += 1,
                Item::Lagged(n) => left.lagged += n,
                Item::GoingAway { code, reason } => left.going_away = Some((code, reason)),
                // There is nothing left to write to.
                Item::Writable | Item::Ended(_) => {}
            }
        }
        left.lagged += left.packets;
        Some(left)
    }

    /// Forgets everything that is unread: how many packets, how many bytes.
    pub(crate) fn clear(&mut self) -> (u64, usize) {
        let packets = self.items.iter().filter(|item| matches!(item, Item::Packet(_))).count();
        self.items = VecDeque::new();
        self.is_writable = false;
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

#[cfg(test)]
mod tests {
    use super::*;

    const END: CloseReason = CloseReason::Ended;

    fn told(inbox: &mut Inbox) -> Vec<String> {
        let name = |item| match item {
            Item::Established => "there".to_owned(),
            Item::Packet(packet) => packet.payload_as_string().unwrap(),
            Item::GoingAway { reason, .. } => reason,
            Item::Writable => "room".to_owned(),
            Item::Lagged(n) => format!("lagged {n}"),
            Item::Ended(_) => "gone".to_owned(),
        };
        std::iter::from_fn(|| inbox.pop()).map(|(item, _)| name(item)).collect()
    }

    fn packet(text: &str) -> Packet {
        Packet::one_way(1, text.to_owned())
    }

    /// Room for two packets of one letter.
    fn small() -> Inbox {
        Inbox::new(2 * packet("a").cost())
    }

    #[test]
    fn a_connections_beginning_is_told_before_what_it_has_lost() {
        let mut inbox = small();
        inbox.push(Item::Established);
        for text in ["a", "b", "c", "d"] {
            inbox.push_packet(packet(text), Overflow::DropOldest);
        }
        assert_eq!(told(&mut inbox), ["there", "lagged 2", "c", "d"]);
        inbox.push_packet(packet("e"), Overflow::DropOldest);
        inbox.push(Item::GoingAway { code: 1001, reason: "going".to_owned() });
        inbox.push(Item::GoingAway { code: 1001, reason: "again".to_owned() });
        inbox.finish(END);
        assert_eq!(told(&mut inbox), ["e", "going", "gone"]);
        inbox.push(Item::GoingAway { code: 1001, reason: "again".to_owned() });
        assert!(inbox.is_empty(), "it was told once");
    }

    #[test]
    fn room_is_told_once_until_it_is_read_and_never_dropped_nor_told_behind_the_end() {
        let mut inbox = small();
        inbox.push(Item::Writable);
        for text in ["a", "b", "c"] {
            inbox.push_packet(packet(text), Overflow::DropOldest);
            inbox.push(Item::Writable);
        }
        assert_eq!(told(&mut inbox), ["lagged 1", "room", "b", "c"]);
        inbox.push(Item::Writable);
        inbox.finish(END);
        assert_eq!(told(&mut inbox), ["room", "gone"]);
        inbox.push(Item::Writable);
        assert!(inbox.is_empty(), "nothing follows the end");
    }

    #[test]
    fn what_has_ended_leaves_everything_but_its_packets() {
        let mut inbox = small();
        inbox.push(Item::Established);
        for text in ["a", "b", "c"] {
            inbox.push_packet(packet(text), Overflow::DropOldest);
        }
        inbox.push_packet(packet("d"), Overflow::DropNewest);
        inbox.push(Item::GoingAway { code: 1001, reason: "going".to_owned() });
        assert!(inbox.leave().is_none(), "it lives");
        let bytes = inbox.bytes();
        inbox.finish(END);
        let left = inbox.leave().unwrap();
        assert!(left.is_new && left.end == END);
        assert_eq!((left.lagged, left.packets, left.bytes), (4, 2, bytes));
        assert_eq!(left.going_away, Some((1001, "going".to_owned())));
        assert!(inbox.is_empty() && inbox.leave().is_none());
        assert_eq!(inbox.bytes(), 0);
    }
}
