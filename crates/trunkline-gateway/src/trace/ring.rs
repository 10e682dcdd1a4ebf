//! The steps that are kept: a ring whose room is taken when the trace begins, so that it never grows.

use std::collections::VecDeque;

use super::{Entry, Step, TraceStatus};

/// What an allocator may take beside the bytes of a name.
const ALLOCATION: usize = 16;

/// Half of its bytes are the places of steps, the other half may be their names.
pub(super) struct Ring {
    bytes: usize,
    entries: VecDeque<Entry>,
    /// Of the entries' names.
    names: usize,
    forgotten: u64,
}

impl Ring {
    /// A ring that holds nothing until it begins.
    pub(super) fn new(bytes: usize) -> Self {
        Ring { bytes, entries: VecDeque::new(), names: 0, forgotten: 0 }
    }

    pub(super) fn begin(&mut self) {
        self.entries = VecDeque::with_capacity(self.places());
    }

    /// Forgets everything and gives its room back.
    pub(super) fn end(&mut self) {
        *self = Ring::new(self.bytes);
    }

    /// Takes another size. The newest steps stay, as far as they fit.
    pub(super) fn resize(&mut self, bytes: usize) {
        self.bytes = bytes;
        if self.entries.capacity() == 0 {
            return;
        }
        self.make_room_for(0, 0);
        let mut entries = VecDeque::with_capacity(self.places());
        entries.append(&mut self.entries);
        self.entries = entries;
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let names = names(&entry);
        self.make_room_for(1, names);
        self.names += names;
        self.entries.push_back(entry);
    }

    pub(super) fn status(&self, on: bool) -> TraceStatus {
        let bytes = self.entries.capacity() * size_of::<Entry>() + self.names;
        TraceStatus { on, steps: self.entries.len(), bytes, forgotten: self.forgotten }
    }

    /// Oldest first.
    pub(super) fn pick<T>(&self, pick: impl FnMut(&Entry) -> Option<T>) -> Vec<T> {
        self.entries.iter().filter_map(pick).collect()
    }

    fn places(&self) -> usize {
        self.bytes / 2 / size_of::<Entry>()
    }

    fn make_room_for(&mut self, entries: usize, names: usize) {
        while self.entries.len() + entries > self.places() || self.names + names > self.bytes / 2 {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.names -= self::names(&oldest);
            self.forgotten += 1;
        }
    }
}

/// What an entry holds beside itself.
fn names(entry: &Entry) -> usize {
    let name = match &entry.step {
        Step::Received { action: name, .. }
        | Step::Ended { outcome: name, .. }
        | Step::Queued { error: Some(name), .. }
        | Step::Followed { channel: name, .. }
        | Step::Published { channel: name, .. }
        | Step::Delivered { channel: name, .. }
        | Step::Gap { channel: name, .. }
        | Step::Acked { channel: name, .. } => name,
        Step::Refused { .. }
        | Step::Started { .. }
        | Step::Queued { error: None, .. }
        | Step::Written { .. }
        | Step::RepliesAcked { .. }
        | Step::Connected { .. }
        | Step::Lost
        | Step::SessionEnded { .. } => return 0,
    };
    name.len() + ALLOCATION
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring for so many steps.
    fn ring(places: usize) -> Ring {
        let mut ring = Ring::new(2 * places * size_of::<Entry>());
        ring.begin();
        ring
    }

    fn started(call: u64) -> Entry {
        Entry { at: call, session: None, step: Step::Started { call } }
    }

    fn received(call: u64, action: usize) -> Entry {
        let action = "a".repeat(action).into();
        Entry { step: Step::Received { call, msg_id: 1, action, bytes: 9 }, ..started(call) }
    }

    fn calls(ring: &Ring) -> Vec<u64> {
        ring.pick(|entry| Some(entry.at))
    }

    #[test]
    fn the_oldest_make_room_and_the_ring_never_grows() {
        let mut ring = ring(3);
        let (room, capacity) = (ring.bytes, ring.entries.capacity());
        for call in 1..=100 {
            ring.push(received(call, call as usize % 50));
            assert!(ring.status(true).bytes <= room, "at call {call}");
        }
        assert_eq!((calls(&ring), ring.forgotten), (vec![98, 99, 100], 97));
        assert_eq!(ring.entries.capacity(), capacity);
    }

    #[test]
    fn names_make_room_too() {
        let mut ring = ring(4);
        let longest = ring.bytes / 2 - ALLOCATION;
        (1..=3).for_each(|call| ring.push(started(call)));
        ring.push(received(4, longest / 2));
        assert_eq!(calls(&ring), [1, 2, 3, 4]);
        ring.push(received(5, longest));
        assert_eq!(calls(&ring), [5]);
        assert!(ring.status(true).bytes <= ring.bytes);
    }

    #[test]
    fn another_size_keeps_the_newest() {
        let mut ring = ring(4);
        (1..=4).for_each(|call| ring.push(received(call, 1)));
        ring.resize(4 * size_of::<Entry>());
        assert_eq!((calls(&ring), ring.status(true).bytes <= ring.bytes), (vec![3, 4], true));
        ring.resize(20 * size_of::<Entry>());
        (5..=14).for_each(|call| ring.push(started(call)));
        assert_eq!(calls(&ring), (5..=14).collect::<Vec<u64>>());
    }
}
