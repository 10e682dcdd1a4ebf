//! Hashing of request numbers: a few multiplications, where the standard hasher takes the time of a lock or two.
//!
//! A peer chooses its requests' numbers, and must not choose where they go in a table: the key is random, and never leaves the
//! process. What is hashed is a `u32` and nothing else; tables are bounded besides.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher},
    sync::LazyLock,
};

/// A table by the number of a request.
pub(super) type ByNumber<T> = HashMap<u32, T, Keyed>;

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
