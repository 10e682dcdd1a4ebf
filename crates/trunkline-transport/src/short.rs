//! The bytes of a short frame, in one allocation with the count of those who share them.
//!
//! [`Bytes`] made of a vector need a second allocation as soon as somebody clones them, and most who answer a packet do.
//! A packet that is kept pins no more than three times its own bytes: nothing here is cut from a larger block.

use bytes::Bytes;

/// One block. With its length and the count it fills a size of the usual allocators.
struct Block<const N: usize> {
    len: u16,
    bytes: [u8; N],
}

impl<const N: usize> Block<N> {
    fn copy(from: &[u8]) -> Bytes {
        let mut bytes = [0; N];
        bytes[..from.len()].copy_from_slice(from);
        // N is below a thousand or so.
        Bytes::from_owner(Self { len: from.len() as u16, bytes })
    }
}

impl<const N: usize> AsRef<[u8]> for Block<N> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A copy. What is long is a vector's: there the second allocation is small beside the copying.
pub(crate) fn copy(from: &[u8]) -> Bytes {
    match from.len() {
        0 => Bytes::new(),
        1..=46 => Block::<46>::copy(from),
        47..=110 => Block::<110>::copy(from),
        111..=238 => Block::<238>::copy(from),
        239..=494 => Block::<494>::copy(from),
        495..=1006 => Block::<1006>::copy(from),
        _ => Bytes::copy_from_slice(from),
    }
}

#[cfg(test)]
mod tests {
    use super::copy;

    #[test]
    fn a_copy_of_any_length_is_the_same() {
        for len in (0..1100).chain([65_536]) {
            let from: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let copied = copy(&from);
            assert_eq!(copied, from);
            assert_eq!(copied.slice(len / 2..), from[len / 2..]);
        }
    }

    #[test]
    fn a_short_copy_is_one_allocation_however_often_it_is_shared() {
        for len in [1, 46, 47, 80, 110, 111, 238, 494, 495, 1006] {
            let from = vec![7; len];
            let counted = allocation_counter::measure(|| {
                let one = copy(&from);
                let other = one.clone();
                assert_eq!(one, other);
            });
            assert_eq!(counted.count_total, 1, "{len} bytes");
        }
    }
}
