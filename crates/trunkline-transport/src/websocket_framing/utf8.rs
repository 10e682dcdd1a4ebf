//! UTF-8 over pieces: a text message is checked as it arrives, and refused at the first byte that no
//! continuation could make valid.

/// The state between two pieces: the beginning of a character that is not complete.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Validator {
    partial: [u8; 4],
    have: u8,
}

/// The text cannot become valid any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid;

impl Validator {
    /// Checks the next piece.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> Result<(), Invalid> {
        while self.have > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            self.partial[usize::from(self.have)] = byte;
            self.have += 1;
            match std::str::from_utf8(&self.partial[..usize::from(self.have)]) {
                Ok(_) => self.have = 0,
                Err(error) if error.error_len().is_some() => return Err(Invalid),
                // At most three bytes are incomplete: the fourth decides, so this stays in bounds.
                Err(_) => {}
            }
        }
        let Err(error) = simdutf8::compat::from_utf8(piece) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(Invalid);
        }
        let tail = &piece[error.valid_up_to()..];
        self.partial[..tail.len()].copy_from_slice(tail);
        // An incomplete character is at most three bytes long.
        self.have = tail.len() as u8;
        Ok(())
    }

    /// The text ends here.
    pub(super) fn finish(&mut self) -> Result<(), Invalid> {
        if std::mem::take(&mut self.have) == 0 { Ok(()) } else { Err(Invalid) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Invalid, Validator};

    /// What a stream validator must say, by the standard library: the first prefix that cannot be continued.
    fn reference(bytes: &[u8]) -> Option<usize> {
        (1..=bytes.len())
            .find(|end| std::str::from_utf8(&bytes[..*end]).is_err_and(|error| error.error_len().is_some()))
    }

    proptest! {
        #[test]
        fn fails_exactly_at_the_byte_that_decides(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..24),
                prop::collection::vec(prop::sample::select(
                    vec![0x41, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5]), 0..24),
                any::<String>().prop_map(String::into_bytes),
            ],
        ) {
            let mut validator = Validator::default();
            let mut failed = None;
            for (i, byte) in bytes.iter().enumerate() {
                if validator.push(&[*byte]).is_err() {
                    failed = Some(i + 1);
                    break;
                }
            }
            prop_assert_eq!(failed, reference(&bytes));
            if failed.is_none() {
                prop_assert_eq!(validator.finish().is_ok(), std::str::from_utf8(&bytes).is_ok());
            }
        }

        #[test]
        fn any_split_gives_the_same_answer(bytes in any::<String>(), cut in 0usize..64, garbage in any::<Option<u8>>()) {
            let mut bytes = bytes.into_bytes();
            bytes.extend(garbage);
            let cut = cut.min(bytes.len());
            let mut whole = Validator::default();
            let mut pieces = Validator::default();
            let whole = whole.push(&bytes).and_then(|()| whole.finish());
            let pieces = pieces.push(&bytes[..cut])
                .and_then(|()| pieces.push(&bytes[cut..]))
                .and_then(|()| pieces.finish());
            prop_assert_eq!(whole, pieces);
        }
    }

    #[test]
    fn a_character_cut_off_is_invalid_only_at_the_end() {
        let mut validator = Validator::default();
        assert_eq!(validator.push(&[0xF0, 0x9F, 0x98]), Ok(()));
        assert_eq!(validator.finish(), Err(Invalid));
    }
}
