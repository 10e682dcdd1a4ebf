//! Fuzzing on stable Rust: seeds, mutated at random, through a decoder, a given number of times.
//!
//! It does not look at coverage: what it reaches, it reaches from good seeds by small changes. Every input follows from
//! the seed number and its own number alone, so a failure is replayed by itself. It uses the standard library alone:
//! tests of crates that this one depends on include this very file.

use std::io::Write as _;

/// Inputs of each decoder in `./test`. `./prove R6` asks for a million and more by `FUZZ_RUNS`.
const RUNS: u64 = 4_000;

/// A mutated input is no longer than this, unless its seed was.
const LONGEST: usize = 1 << 16;

/// Feeds mutated seeds to a decoder, which says whether it took the input. It must take some and refuse some: a
/// fuzzer whose inputs all fail the first check has tested that check only.
///
/// `words` are what the format is made of. `FUZZ_RUNS` says how many inputs, `FUZZ_SEED` which; `FUZZ_ONLY` replays
/// the one with this number. With `FIGURES` a line goes to that file, as `./prove` wants it.
///
/// # Panics
/// Where the decoder does, after saying how to replay it; and where it takes all inputs or none.
#[allow(clippy::print_stdout, clippy::expect_used, reason = "it is a test, and reports and fails as one")]
pub fn fuzz(what: &str, seeds: &[Vec<u8>], words: &[&[u8]], mut takes: impl FnMut(&[u8]) -> bool) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("FUZZ_SEED").unwrap_or(1);
    let runs = match number("FUZZ_ONLY") {
        Some(only) => only..only + 1,
        None => 0..number("FUZZ_RUNS").unwrap_or(RUNS),
    };
    let (count, mut taken) = (runs.end - runs.start, 0);
    for run in runs {
        let input = Dice::new(seed, run).mutated(seeds, words);
        let told = Told { what, seed, run, input: &input };
        taken += u64::from(takes(&input));
        drop(told);
    }
    println!("{what}: {count} inputs of seed {seed}, {taken} of them taken");
    assert!(count == 1 || (taken > 0 && taken < count), "{what}: {taken} of {count} inputs were taken");
    if let Some(file) = std::env::var_os("FIGURES") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
        let line = format!(
            "{what}\tno crash in {count} inputs of seed {seed}, {taken} taken\tno crash (goal: in 100000000)\tpass\n"
        );
        // One write, since tests of several threads append to one file.
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the file of figures");
    }
}

/// Says how to replay an input if the decoder panics.
struct Told<'a> {
    what: &'a str,
    seed: u64,
    run: u64,
    input: &'a [u8],
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Told { what, seed, run, input } = self;
            eprintln!(
                "{what}: replay with FUZZ_SEED={seed} FUZZ_ONLY={run}; the input is \"{}\"",
                input.escape_ascii()
            );
        }
    }
}

/// Numbers that formats stumble over: borders of lengths, of signs, of varints.
const NUMBERS: [u64; 16] = [
    0,
    1,
    125,
    126,
    127,
    128,
    255,
    65_535,
    65_536,
    (1 << 20) + 1,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    1 << 53,
    0x7FFF_FFFF_FFFF_FFFF,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// SplitMix64 (Steele, Lea, Flood 2014): every state is a good one, so (seed, run) can be put in directly.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, run: u64) -> Self {
        let mut dice = Dice(seed);
        let mixed = dice.next();
        Dice(mixed ^ run.wrapping_mul(0xD134_2543_DE82_EF95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `bound`; 0 for a bound of 0.
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below a usize")]
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % (bound as u64).max(1)) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &'a [&'a T]) -> Option<&'a T> {
        from.get(self.below(from.len())).copied()
    }

    /// A part of the bytes, often a short one.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        let most = if self.below(2) == 0 { 8 } else { length };
        from..(from + self.below(most + 1)).min(length)
    }

    /// A seed with one to six changes, rarely none, rarely bytes without any sense.
    fn mutated(&mut self, seeds: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
        if self.below(50) == 0 {
            let length = self.below(64);
            return (0..length).map(|_| self.byte()).collect();
        }
        let mut bytes = seeds.get(self.below(seeds.len())).cloned().unwrap_or_default();
        let longest = LONGEST.max(bytes.len());
        for _ in 0..self.below(7) {
            self.mutate(&mut bytes, seeds, words);
            bytes.truncate(longest);
        }
        bytes
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&[u8]]) {
        let at = self.below(bytes.len());
        match self.below(10) {
            0 => {
                let bit = self.below(8);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << bit);
            }
            1 => {
                let value = self.byte();
                bytes.get_mut(at).into_iter().for_each(|byte| *byte = value);
            }
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(self.range(bytes.len()))),
            4 => {
                let part = bytes[self.range(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let other = seeds.get(self.below(seeds.len())).map_or(&[][..], Vec::as_slice);
                let part = &other[self.range(other.len())];
                let place = self.range(bytes.len());
                bytes.splice(place, part.iter().copied());
            }
            6 => {
                let word = self.pick(words).unwrap_or(b"\0");
                bytes.splice(at..at, word.iter().copied());
            }
            7 => {
                let word = self.pick(words).unwrap_or(b"\xff");
                let place = self.range(bytes.len());
                bytes.splice(place, word.iter().copied());
            }
            8 => {
                let number = self.number();
                let end = (at + number.len()).min(bytes.len());
                bytes.splice(at..end, number);
            }
            _ => {
                let times = 1 + self.below(40);
                let part = bytes[self.range(bytes.len())].repeat(times);
                bytes.splice(at..at, part.into_iter().take(LONGEST));
            }
        }
    }

    /// A number in one of the ways in which formats write them: fixed, of either order, or as a varint.
    fn number(&mut self) -> Vec<u8> {
        let mut number = NUMBERS[self.below(NUMBERS.len())];
        let width = [1, 2, 4, 8][self.below(4)];
        match self.below(3) {
            0 => number.to_be_bytes()[8 - width..].to_vec(),
            1 => number.to_le_bytes()[..width].to_vec(),
            _ => {
                let mut out = Vec::new();
                while number >= 0x80 {
                    out.push(number.to_le_bytes()[0] | 0x80);
                    number >>= 7;
                }
                out.push(number.to_le_bytes()[0]);
                out
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_follows_from_its_numbers_alone_and_all_differ() {
        let seeds = [b"a seed to change".to_vec(), b"{\"another\": 1}".to_vec()];
        let input = |run| Dice::new(7, run).mutated(&seeds, &[b"word"]);
        let all: std::collections::BTreeSet<_> = (0..1_000).map(input).collect();
        assert_eq!(input(500), input(500));
        assert!(all.len() > 700, "only {} inputs differ", all.len());
        assert!(all.iter().any(|input| input.windows(4).any(|part| part == b"word")));
    }

    #[test]
    #[should_panic(expected = "0 of 4000 inputs were taken")]
    fn a_decoder_that_refuses_everything_was_not_tested() {
        fuzz("nothing", &[b"seed".to_vec()], &[], |_| false);
    }
}
