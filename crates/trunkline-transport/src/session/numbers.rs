//! Requests by their numbers: the first without a table, and hashing that takes a few multiplications, where the standard
//! hasher takes the time of a lock or two.
//!
//! A peer chooses its requests' numbers, and must not choose where they go in a table: the key is random, and never leaves the
//! process. What is hashed is a `u32` and nothing else; tables are bounded besides.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher},
    sync::LazyLock,
};

/// What is known of requests, by their numbers. Most connections have one at a time: it costs no table.
#[derive(Debug)]
pub(super) struct ByNumber<T> {
    one: Option<(u32, T)>,
    others: HashMap<u32, T, Keyed>,
}

impl<T> Default for ByNumber<T> {
    fn default() -> Self {
        Self { one: None, others: HashMap::default() }
    }
}

impl<T> ByNumber<T> {
    pub(super) fn len(&self) -> usize {
        usize::from(self.one.is_some()) + self.others.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.get(number).is_some()
    }

    pub(super) fn get(&self, number: u32) -> Option<&T> {
        match &self.one {
            Some((one, value)) if *one == number => Some(value),
            _ => self.others.get(&number),
        }
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        match &mut self.one {
            Some((one, value)) if *one == number => Some(value),
            _ => self.others.get_mut(&number),
        }
    }

    /// Puts it in the place of what had this number, if anything.
    pub(super) fn insert(&mut self, number: u32, value: T) {
        let is_one = match &self.one {
            Some((one, _)) => *one == number,
            None => !self.others.contains_key(&number),
        };
        if is_one {
            self.one = Some((number, value));
        } else {
            self.others.insert(number, value);
        }
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        match self.one.take_if(|(one, _)| *one == number) {
            Some((_, value)) => Some(value),
            None => self.others.remove(&number),
        }
    }

    /// As removing it, where it lies.
    pub(super) fn discard(&mut self, number: u32) {
        match &self.one {
            Some((one, _)) if *one == number => self.one = None,
            _ => drop(self.others.remove(&number)),
        }
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.one.iter().map(|(number, _)| *number).chain(self.others.keys().copied())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        let one = self.one.iter_mut().map(|(number, value)| (*number, value));
        one.chain(self.others.iter_mut().map(|(number, value)| (*number, value)))
    }
}

/// 2^64 by the golden ratio: it spreads what differs in a few bits.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

static KEY: LazyLock<[u64; 2]> = LazyLock::new(rand::random);

/// Makes hashers with the key of the process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keyed;

impl BuildHasher for Keyed {
    type Hasher = Mix;

    fn build_hasher(&self) -> Mix {
        Mix::new(*KEY)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Mix {
    state: u64,
    factor: u64,
}

impl Mix {
    fn new([state, factor]: [u64; 2]) -> Self {
        Self { state, factor: factor | 1 }
    }
}

impl Hasher for Mix {
    fn write_u32(&mut self, number: u32) {
        let product = u128::from(self.state ^ u64::from(number)) * u128::from(self.factor);
        // The low half of a product knows nothing of the high bits, nor the high half enough of the low ones.
        self.state = (product as u64) ^ (product >> 64) as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn finish(&self) -> u64 {
        (self.state ^ (self.state >> 32)).wrapping_mul(GOLDEN)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_number_has_one_place() {
        let mut table = ByNumber::default();
        for (number, value) in [(7, 'a'), (8, 'b'), (7, 'c'), (8, 'd')] {
            table.insert(number, value);
        }
        assert_eq!((table.len(), table.get(7), table.get(8)), (2, Some(&'c'), Some(&'d')));
        assert_eq!(table.remove(7), Some('c'));
        assert_eq!(table.remove(7), None);
        table.insert(8, 'e');
        assert_eq!((table.len(), table.get_mut(8)), (1, Some(&mut 'e')), "it stays where it was");
        table.insert(9, 'f');
        let mut all: Vec<_> = table.iter_mut().map(|(number, value)| (number, *value)).collect();
        all.sort_unstable();
        assert_eq!(all, [(8, 'e'), (9, 'f')]);
        assert_eq!(table.numbers().count(), 2);
        assert!(table.contains(9) && table.remove(9) == Some('f') && table.remove(8) == Some('e'));
        assert!(table.is_empty());
    }

    #[test]
    fn a_table_spreads_them_over_its_places() {
        for key in [[0x0123_4567_89AB_CDEF, 0xF00D_FACE_CAFE_D00D], [1, GOLDEN]] {
            for step in [1, 2, 256, 65_536, 0x0101_0101] {
                let place = |i: u32| {
                    let mut mix = Mix::new(key);
                    mix.write_u32(i.wrapping_mul(step));
                    mix.finish() % 8192
                };
                let places: HashSet<u64> = (0..4096).map(place).collect();
                assert!(places.len() > 1024, "{key:?}, {step}: {}", places.len());
            }
        }
    }
}
