//! What is remembered by call number: the newest numbers each in its place, and apart those older ones that must not be
//! forgotten yet.
//!
//! Numbers come one after another, so finding one is a subtraction. It decides nothing: what may go is asked, and what
//! goes is told.

use std::collections::{BTreeMap, VecDeque};

use crate::defaults::CALL_WINDOW;
use crate::ids::ClientSeq;

/// See the module.
#[derive(Debug)]
pub(crate) struct Numbers<V> {
    /// The number of the first place.
    first: u64,
    /// Of at most [`CALL_WINDOW`] numbers.
    places: VecDeque<Option<V>>,
    /// Numbers without a place: those that were kept when the window moved on.
    older: BTreeMap<u64, V>,
}

impl<V> Default for Numbers<V> {
    fn default() -> Self {
        Numbers { first: 0, places: VecDeque::new(), older: BTreeMap::new() }
    }
}

impl<V> Numbers<V> {
    fn place(&self, seq: ClientSeq) -> Option<usize> {
        let at = usize::try_from(seq.0.checked_sub(self.first)?).ok()?;
        (at < self.places.len()).then_some(at)
    }

    pub(crate) fn get(&self, seq: ClientSeq) -> Option<&V> {
        match self.place(seq) {
            Some(at) => self.places[at].as_ref(),
            None => self.older.get(&seq.0),
        }
    }

    pub(crate) fn get_mut(&mut self, seq: ClientSeq) -> Option<&mut V> {
        match self.place(seq) {
            Some(at) => self.places[at].as_mut(),
            None => self.older.get_mut(&seq.0),
        }
    }

    pub(crate) fn insert(&mut self, seq: ClientSeq, value: V) {
        if self.places.is_empty() {
            self.first = seq.0;
        }
        self.make_place(seq);
        match self.place(seq) {
            Some(at) => self.places[at] = Some(value),
            None => drop(self.older.insert(seq.0, value)),
        }
    }

    /// A place for this number, and for those between it and the others, unless they are too many.
    fn make_place(&mut self, seq: ClientSeq) {
        let places = self.places.len() as u64;
        if let Some(below) = self.first.checked_sub(seq.0)
            && below.saturating_add(places) <= CALL_WINDOW
        {
            for _ in 0..below {
                self.first -= 1;
                self.places.push_front(self.older.remove(&self.first));
            }
        }
        let at = seq.0.saturating_sub(self.first);
        if at < CALL_WINDOW {
            for next in places..=at {
                self.places.push_back(self.older.remove(&(self.first + next)));
            }
        }
    }

    /// The older ones first, each kind in the order of its numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ClientSeq, &V)> {
        let older = self.older.iter().map(|(seq, value)| (ClientSeq(*seq), value));
        let places = self.places.iter().enumerate();
        let places =
            places.filter_map(|(at, value)| Some((ClientSeq(self.first + at as u64), value.as_ref()?)));
        older.chain(places)
    }

    /// Forgets the numbers below `oldest`, but for those that are to be kept; tells what has gone.
    pub(crate) fn trim(
        &mut self,
        oldest: ClientSeq,
        keep: impl Fn(&V) -> bool,
        mut gone: impl FnMut(ClientSeq, V),
    ) {
        while self.first < oldest.0
            && let Some(value) = self.places.pop_front()
        {
            match value {
                Some(kept) if keep(&kept) => drop(self.older.insert(self.first, kept)),
                Some(other) => gone(ClientSeq(self.first), other),
                None => {}
            }
            self.first += 1;
        }
        if self.older.is_empty() {
            return;
        }
        let below = self.older.range(..oldest.0).filter(|(_, value)| !keep(value));
        for seq in below.map(|(seq, _)| *seq).collect::<Vec<_>>() {
            if let Some(value) = self.older.remove(&seq) {
                gone(ClientSeq(seq), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_whatever_the_order_of_the_numbers(
            steps in prop::collection::vec((0_u8..3, 0_u64..200, any::<u8>()), 0..300),
        ) {
            let mut numbers = Numbers::default();
            let mut model = BTreeMap::<u64, u8>::new();
            // Odd values are to be kept.
            let keep = |value: &u8| value % 2 == 1;
            for (what, seq, value) in steps {
                match what {
                    0 | 1 => {
                        numbers.insert(ClientSeq(seq), value);
                        model.insert(seq, value);
                    }
                    _ => {
                        let mut gone = BTreeMap::new();
                        numbers.trim(ClientSeq(seq), keep, |seq, value| assert!(gone.insert(seq.0, value).is_none()));
                        let expected = model.extract_if(..seq, |_, value| !keep(value));
                        prop_assert_eq!(gone, expected.collect::<BTreeMap<_, _>>());
                    }
                }
                prop_assert_eq!(numbers.get(ClientSeq(seq)), model.get(&seq));
                prop_assert_eq!(numbers.get_mut(ClientSeq(seq)), model.get_mut(&seq));
                prop_assert!(numbers.places.len() <= CALL_WINDOW as usize);
                let all: BTreeMap<u64, u8> = numbers.iter().map(|(seq, value)| (seq.0, *value)).collect();
                prop_assert_eq!(&all, &model);
            }
        }
    }

    #[test]
    fn numbers_that_come_one_after_another_have_their_places() {
        let mut numbers = Numbers::default();
        for seq in (u64::MAX - 200)..=u64::MAX {
            let oldest = ClientSeq(seq - (CALL_WINDOW - 1));
            numbers.trim(oldest, |value| *value == 7, |_, _| {});
            numbers.insert(ClientSeq(seq), u8::from(seq == u64::MAX - 190) * 7);
        }
        assert_eq!((numbers.places.len(), numbers.places.capacity()), (64, 64));
        assert_eq!(numbers.older.keys().collect::<Vec<_>>(), [&(u64::MAX - 190)]);
    }
}
