//! Many small pieces as one larger, for links that copy what they are given.

use std::{
    io::{self, IoSlice},
    task::Poll,
};

use crate::{defaults::COPY, reader::with_scratch};

/// Gives `write` up to 16 KiB from the front of `bufs` in one piece: full TLS records, one QUIC copy, instead
/// of one for each small frame.
pub(crate) fn gather(
    bufs: &[IoSlice<'_>],
    write: impl FnOnce(&[u8]) -> Poll<io::Result<usize>>,
) -> Poll<io::Result<usize>> {
    if bufs.len() == 1 || bufs[0].len() >= COPY {
        return write(&bufs[0][..bufs[0].len().min(COPY)]);
    }
    with_scratch(|scratch| {
        let mut filled = 0;
        for buf in bufs {
            let n = buf.len().min(COPY - filled);
            scratch[filled..filled + n].copy_from_slice(&buf[..n]);
            filled += n;
            if filled == COPY {
                break;
            }
        }
        write(&scratch[..filled])
    })
}
