//! Masking (RFC 6455 §5.3), eight bytes at a time.

/// XORs `bytes`, which begin `offset` bytes into their payload, with the repeated key.
pub(super) fn apply(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    if key == [0; 4] {
        return;
    }
    let mut rotated = key;
    rotated.rotate_left(offset % 4);
    let [a, b, c, d] = rotated;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(rotated.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::apply;

    #[test]
    fn wide_masking_equals_byte_by_byte_at_every_offset_and_length() {
        let key = [0x11, 0xA2, 0x43, 0xF4];
        for offset in 0..9 {
            for length in 0..40 {
                let plain: Vec<u8> = (0..length).collect();
                let mut wide = plain.clone();
                apply(&mut wide, key, offset);
                let slow: Vec<u8> =
                    plain.iter().enumerate().map(|(i, byte)| byte ^ key[(i + offset) % 4]).collect();
                assert_eq!(wide, slow, "offset {offset}, length {length}");
            }
        }
    }
}
