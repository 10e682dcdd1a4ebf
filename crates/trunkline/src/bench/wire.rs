//! How frames are told apart on a plain stream: our own two framings, and the one of a peer.
//!
//! It decodes nothing. Of WebSocket it knows what a server sends here: whole, unmasked messages; of Redis what a
//! subscriber gets (RESP2).

use anyhow::{Context, bail};

/// A frame that is longer is a mistake of the bench or of a peer.
const LONGEST: usize = 8 << 20;

/// How frames are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// A big-endian `u32` before each.
    Length,
    /// WebSocket, from a server.
    WebSocket,
    /// Redis' values.
    Redis,
}

/// One frame at the front of some bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cut {
    /// Where its payload begins and ends, and where the whole frame ends.
    pub(super) payload: usize,
    pub(super) payload_end: usize,
    pub(super) end: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Data,
    Ping,
    Close,
    Other,
}

/// Cuts the frames of one stream.
#[derive(Debug)]
pub(super) struct Cutter {
    wire: Wire,
    /// Redis: what the last message looked like, which the next one most likely does too: with it a message costs
    /// a comparison, as it does in the other framings.
    last: Vec<u8>,
    last_cut: Cut,
}

impl Cutter {
    pub(super) fn new(wire: Wire) -> Self {
        Cutter { wire, last: Vec::new(), last_cut: Cut::default() }
    }

    pub(super) fn wire(&self) -> Wire {
        self.wire
    }

    /// The frame at the front, if it is whole.
    pub(super) fn next(&mut self, bytes: &[u8]) -> anyhow::Result<Option<Cut>> {
        let found = match self.wire {
            Wire::Length => bytes.first_chunk().map(|length| {
                let end = (u32::from_be_bytes(*length) as usize).saturating_add(4);
                Cut { payload: 4, payload_end: end, end, kind: Kind::Data }
            }),
            Wire::WebSocket => message(bytes)?,
            Wire::Redis if !self.last.is_empty() && bytes.starts_with(&self.last) => Some(self.last_cut),
            Wire::Redis => {
                let found = value(bytes)?;
                if let Some(cut) = found.filter(|cut| cut.kind == Kind::Data) {
                    (self.last, self.last_cut) = (bytes[..cut.payload].to_vec(), cut);
                }
                found
            }
        };
        match found {
            Some(cut) if cut.end > LONGEST => bail!("a frame of {} bytes", cut.end),
            Some(cut) if cut.end <= bytes.len() => Ok(Some(cut)),
            _ => Ok(None),
        }
    }
}

/// A server's WebSocket frame (RFC 6455 section 5.2).
fn message(bytes: &[u8]) -> anyhow::Result<Option<Cut>> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let kind = match first {
        0x81 | 0x82 => Kind::Data,
        0x88 => Kind::Close,
        0x89 => Kind::Ping,
        0x8a => Kind::Other,
        other => bail!("a WebSocket frame that begins with {other:#x}: neither whole nor known"),
    };
    let (payload, length) = match second {
        126 => match rest.first_chunk::<2>() {
            Some(length) => (4, usize::from(u16::from_be_bytes(*length))),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (10, usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX)),
            None => return Ok(None),
        },
        masked if masked & 0x80 != 0 => bail!("a masked frame from a server"),
        length => (2, usize::from(*length)),
    };
    let end = length.saturating_add(payload);
    Ok(Some(Cut { payload, payload_end: end, end, kind }))
}

/// A value of RESP2: an integer, a status, or an array of bulk strings and integers, whose last element is the payload
/// where the first is `message`.
fn value(bytes: &[u8]) -> anyhow::Result<Option<Cut>> {
    let Some((kind, number, mut at)) = line(bytes)? else { return Ok(None) };
    let whole = |end: usize| Cut { payload: end, payload_end: end, end, kind: Kind::Other };
    match kind {
        b':' | b'+' => return Ok(Some(whole(at))),
        b'*' => {}
        b'-' => bail!("the peer refuses: {}", bytes[..at].trim_ascii_end().escape_ascii()),
        other => bail!("a value of Redis that begins with {other:#x}"),
    }
    let mut is_message = false;
    let mut payload = (at, at);
    for element in 0..number.context("an array without a length")? {
        let Some((kind, number, after)) = bytes.get(at..).map(line).transpose()?.flatten() else {
            return Ok(None);
        };
        at += after;
        if kind == b'$' {
            let length = number.context("a string without a length")?;
            payload = (at, at.saturating_add(length));
            at = payload.1.saturating_add(2);
            is_message |= element == 0 && bytes.get(payload.0..payload.1) == Some(b"message");
        }
        // The payload itself need not have arrived: the rest of the cut does not depend on it.
        if at > LONGEST {
            bail!("a value of {at} bytes");
        }
    }
    let (payload, payload_end) = payload;
    let kind = if is_message { Kind::Data } else { Kind::Other };
    Ok(Some(Cut { payload, payload_end, end: at, kind }))
}

/// A line of RESP: its kind, its number if it is one, and where it ends.
fn line(bytes: &[u8]) -> anyhow::Result<Option<(u8, Option<usize>, usize)>> {
    /// Types, lengths and short words.
    const LONGEST_LINE: usize = 512;
    let searched = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = searched.windows(2).position(|two| two == b"\r\n") else {
        if searched.len() == LONGEST_LINE {
            bail!("a line without an end");
        }
        return Ok(None);
    };
    let number = std::str::from_utf8(searched.get(1..end).unwrap_or_default()).ok();
    Ok(Some((searched[0], number.and_then(|number| number.parse().ok()), end + 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(wire: Wire, bytes: &[u8]) -> Option<(usize, usize, Kind)> {
        let cut = Cutter::new(wire).next(bytes).unwrap();
        cut.map(|cut| (cut.payload, cut.end, cut.kind))
    }

    const MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$5\r\nbench\r\n$2\r\nab\r\n";

    #[test]
    fn frames_are_cut_where_they_end_and_only_when_whole() {
        let frames: [(Wire, &[u8], usize, Kind); 6] = [
            (Wire::Length, b"\0\0\0\x02ab", 4, Kind::Data),
            (Wire::WebSocket, b"\x82\x02ab", 2, Kind::Data),
            (Wire::WebSocket, &[&[0x82, 126, 0, 130][..], &[7; 130]].concat(), 4, Kind::Data),
            (Wire::Redis, MESSAGE, MESSAGE.len() - 4, Kind::Data),
            (Wire::Redis, b":12\r\n", 5, Kind::Other),
            (Wire::Redis, b"*3\r\n$9\r\nsubscribe\r\n$5\r\nbench\r\n:1\r\n", 30, Kind::Other),
        ];
        for (wire, frame, payload, kind) in frames {
            let followed = [frame, frame].concat();
            let (begins, end, is) = ends(wire, &followed).unwrap();
            assert_eq!((end, is), (frame.len(), kind), "{wire:?}");
            if kind == Kind::Data {
                assert_eq!(begins, payload, "{wire:?}");
            }
            for short in 0..frame.len() {
                assert_eq!(ends(wire, &frame[..short]), None, "{wire:?} {short}");
            }
        }
    }

    #[test]
    fn messages_that_look_alike_are_cut_alike() {
        let mut cutter = Cutter::new(Wire::Redis);
        let longer = b"*3\r\n$7\r\nmessage\r\n$5\r\nbench\r\n$3\r\nabc\r\n";
        for message in [MESSAGE, MESSAGE, longer, MESSAGE] {
            assert_eq!(cutter.next(&message[..message.len() - 1]).unwrap(), None);
            let cut = cutter.next(&[message, b"*3\r\n"].concat()).unwrap().unwrap();
            assert_eq!((cut.end, cut.payload_end + 2), (message.len(), message.len()));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for (wire, bytes) in [
            (Wire::Length, &[0xff; 8][..]),
            (Wire::WebSocket, &[0x02, 1, 1]),
            (Wire::WebSocket, &[0x82, 0x81, 1, 2, 3, 4, 5]),
            (Wire::Redis, b"-ERR no\r\n"),
            (Wire::Redis, b"*x\r\n"),
            (Wire::Redis, b"*1\r\n$99999999999\r\n"),
            (Wire::Redis, b"$"),
        ] {
            let result = Cutter::new(wire).next(bytes);
            assert!(result.is_err() || bytes == b"$", "{wire:?} {}", bytes.escape_ascii());
        }
    }
}
