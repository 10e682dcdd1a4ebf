//! The 16 bytes before a payload (docs/msgtrans.md), what a server answers, and the bytes of frames as a stream brings
//! them.

use std::ops::Range;

use anyhow::bail;

use crate::bench::transport::ours::ECHOED;

pub(super) const HEADER: usize = 16;

pub(super) const ONE_WAY: u8 = 0;
pub(super) const REQUEST: u8 = 1;
pub(super) const RESPONSE: u8 = 2;

/// Larger payloads are none of ours.
const LARGEST: usize = 64 << 20;

/// A read buffer begins with this much, since idle connections keep theirs, and grows to the other once it was full.
const SMALL: usize = 4 << 10;
const LARGE: usize = 64 << 10;

/// What is looked at of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) biz_type: u8,
    pub(super) id: u32,
    pub(super) length: usize,
}

impl Header {
    pub(super) fn bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = 1;
        (bytes[2], bytes[3]) = (self.kind, self.biz_type);
        bytes[4..8].copy_from_slice(&self.id.to_be_bytes());
        bytes[10..14].copy_from_slice(&u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes());
        bytes
    }

    /// Of the first bytes of a frame, which are at least a header.
    pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let number =
            |at: usize| bytes[at..at + 4].iter().fold(0_u32, |all, byte| all << 8 | u32::from(*byte));
        let (kind, biz_type) = (bytes[2], bytes[3]);
        let header = Header { kind, biz_type, id: number(4), length: number(10) as usize };
        if bytes[0] != 1 || bytes[1] != 0 || bytes[8..10] != [0, 0] || header.length > LARGEST {
            bail!("this is no plain frame: {:02x?}", &bytes[..HEADER]);
        }
        Ok(header)
    }
}

/// Appends a frame, behind its length where the protocol wants that.
pub(super) fn write(out: &mut Vec<u8>, prefix: Prefix, kind: u8, id: u32, payload: &[u8]) {
    let header = Header { kind, biz_type: 0, id, length: payload.len() };
    if prefix == Prefix::Length {
        let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
    }
    out.extend_from_slice(&header.bytes());
    out.extend_from_slice(payload);
}

/// What stands before a frame: over QUIC its length once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench::transport) enum Prefix {
    Nothing,
    Length,
}

/// What a server knows of a connection: how many one-way messages it has had.
#[derive(Debug, Default)]
pub(super) struct Answers {
    received: u64,
}

impl Answers {
    /// The payload that answers a frame: its own, or the number of one-way messages for a request that has none.
    pub(super) fn to<'a>(
        &mut self,
        header: Header,
        payload: &'a [u8],
        count: &'a mut [u8; 8],
    ) -> Option<&'a [u8]> {
        match header.kind {
            ONE_WAY if header.biz_type != ECHOED => {
                self.received += 1;
                None
            }
            _ if payload.is_empty() => {
                *count = self.received.to_be_bytes();
                Some(&count[..])
            }
            _ => Some(payload),
        }
    }
}

/// What was read and is not used up.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    used: Range<usize>,
    prefix: usize,
}

impl Buffer {
    pub(super) fn new(prefix: Prefix) -> Self {
        let prefix = if prefix == Prefix::Length { 4 } else { 0 };
        Buffer { bytes: vec![0; SMALL], used: 0..0, prefix }
    }

    /// Where the next bytes go.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.used.is_empty() {
            self.used = 0..0;
        } else if self.used.start > 0 {
            self.bytes.copy_within(self.used.clone(), 0);
            self.used = 0..self.used.len();
        }
        if self.used.end == self.bytes.len() {
            self.bytes.resize((self.bytes.len() * 2).max(LARGE), 0);
        }
        &mut self.bytes[self.used.end..]
    }

    /// So many bytes have come there.
    pub(super) fn add(&mut self, count: usize) {
        self.used.end += count;
        if self.used.end == self.bytes.len() && self.bytes.len() < LARGE {
            self.bytes.resize(LARGE, 0);
        }
    }

    /// The next whole frame.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<(Header, &[u8])>> {
        let begin = self.used.start + self.prefix;
        if begin + HEADER > self.used.end {
            return Ok(None);
        }
        let header = Header::parse(&self.bytes[begin..begin + HEADER])?;
        let end = begin + HEADER + header.length;
        if end > self.used.end {
            return Ok(None);
        }
        self.used.start = end;
        Ok(Some((header, &self.bytes[begin + HEADER..end])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_however_they_are_cut() {
        for prefix in [Prefix::Nothing, Prefix::Length] {
            let payloads = [vec![], vec![1; 64], vec![2; 200_000], vec![3; 5]];
            let mut bytes = Vec::new();
            for (id, payload) in (7..).zip(&payloads) {
                write(&mut bytes, prefix, REQUEST, id, payload);
            }
            for step in [1, 100, 70_000] {
                let (mut buffer, mut found) = (Buffer::new(prefix), Vec::new());
                for mut rest in bytes.chunks(step) {
                    while !rest.is_empty() {
                        let space = buffer.space();
                        let count = space.len().min(rest.len());
                        space[..count].copy_from_slice(&rest[..count]);
                        buffer.add(count);
                        rest = &rest[count..];
                        while let Some((header, payload)) = buffer.next().unwrap() {
                            assert_eq!((header.kind, header.length), (REQUEST, payload.len()));
                            found.push((header.id, payload.to_vec()));
                        }
                    }
                }
                assert!(found.into_iter().eq((7..).zip(payloads.clone())), "{prefix:?}, {step}");
            }
        }
        assert!(Header::parse(b"GET / HTTP/1.1\r\n").is_err());
    }
}
