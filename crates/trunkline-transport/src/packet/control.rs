//! The bodies of version 2's control packets. Pure.
//!
//! A control packet has no extension header and no compression. Pings and pongs end with what the sender can do: a byte of
//! features, and the eight of its dictionary's number if the features say so. A later version may lengthen them; every other
//! body has one exact form.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Compression, HEADER, Header, Kind, Wire, WireError,
    header::{Control, Flags},
};
use crate::compress::Dictionary;

/// A control packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ControlPacket {
    /// Answered by a pong with the same token. `features` is what the sender can do.
    Ping {
        token: u64,
        features: Features,
    },
    Pong {
        token: u64,
        features: Features,
    },
    /// With [`codes::GOING_AWAY`]: send no new requests here, those in flight will be answered. With any other code:
    /// the connection ends behind this packet.
    GoAway {
        code: u16,
        reason: String,
    },
    /// The answer to the request of this number is wanted no more.
    Cancel {
        message_id: u32,
    },
    /// The streamed reply to this request may go on for so many more bytes.
    Window {
        message_id: u32,
        bytes: u32,
    },
}

/// What a peer of version 2 can do: what it inflates, and whether it takes lanes on streams of their own. Unknown bits are
/// those of a later version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    bits: u8,
    /// The number of its dictionary. What it inflates with that is no bit, since that depends on ours.
    dictionary: Option<u64>,
}

impl Features {
    const ZLIB: u8 = 1;
    const ZSTD: u8 = 1 << 1;
    /// Over QUIC and WebTransport a unidirectional stream carries the packets of one lane.
    const LANES: u8 = 1 << 2;
    /// The number of a dictionary follows.
    const DICTIONARY: u8 = 1 << 3;

    /// What this build can do with the dictionary that it was given.
    pub(crate) fn ours(dictionary: Option<&Dictionary>) -> Self {
        let zlib = if Compression::Zlib.is_available() { Self::ZLIB } else { 0 };
        let zstd = if Compression::Zstd.is_available() { Self::ZSTD } else { 0 };
        Self { bits: zlib | zstd | Self::LANES, dictionary: dictionary.map(Dictionary::id) }
    }

    /// The byte that says it, but for what else follows that.
    pub(crate) fn from_bits(bits: u8) -> Self {
        Self { bits: bits & !Self::DICTIONARY, dictionary: None }
    }

    pub(crate) fn bits(self) -> u8 {
        self.bits
    }

    pub(crate) fn dictionary(self) -> Option<u64> {
        self.dictionary
    }

    pub(crate) fn takes_lanes(self) -> bool {
        self.bits & Self::LANES != 0
    }

    /// Whether it inflates this without a dictionary.
    pub(crate) fn inflates(self, compression: Compression) -> bool {
        match compression {
            Compression::None => true,
            Compression::Zlib => self.bits & Self::ZLIB != 0,
            Compression::Zstd => self.bits & Self::ZSTD != 0,
            Compression::ZstdDictionary => false,
        }
    }

    fn write(self, out: &mut BytesMut) {
        match self.dictionary {
            None => out.put_u8(self.bits),
            Some(id) => {
                out.put_u8(self.bits | Self::DICTIONARY);
                out.put_u64(id);
            }
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (bits, rest) = bytes.split_first()?;
        let features = Self::from_bits(*bits);
        if *bits & Self::DICTIONARY == 0 {
            return Some(features);
        }
        Some(Self { dictionary: Some(u64::from_be_bytes(*rest.first_chunk()?)), ..features })
    }
}

/// The longest reason: what a WebSocket close frame could say too.
const MAX_REASON: usize = crate::defaults::MAX_CLOSE_REASON;

/// A code and a reason, as in `goaway` and in refused requests. The reason is cut at a character's boundary.
pub(crate) fn coded(code: u16, reason: &str) -> Bytes {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = BytesMut::with_capacity(2 + end);
    out.put_u16(code);
    out.put_slice(&reason.as_bytes()[..end]);
    out.freeze()
}

/// Reads what [`coded`] wrote. Of a longer reason the beginning is kept: it outlives the packet, and the connection.
pub(crate) fn decode_coded(body: &[u8]) -> Option<(u16, String)> {
    let (code, reason) = body.split_first_chunk::<2>()?;
    let reason = &reason[..reason.len().min(MAX_REASON)];
    Some((u16::from_be_bytes(*code), String::from_utf8_lossy(reason).into_owned()))
}

impl ControlPacket {
    /// The whole packet.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let (control, message_id, body) = match self {
            Self::Ping { token, features } => (Control::Ping, 0, beat(*token, *features)),
            Self::Pong { token, features } => (Control::Pong, 0, beat(*token, *features)),
            Self::GoAway { code, reason } => (Control::GoAway, 0, coded(*code, reason)),
            Self::Cancel { message_id } => (Control::Cancel, *message_id, Bytes::new()),
            Self::Window { message_id, bytes } => {
                (Control::Window, *message_id, Bytes::copy_from_slice(&bytes.to_be_bytes()))
            }
        };
        let header = Header {
            wire: Wire::V2,
            compression: Compression::None,
            kind: Kind::Control(control),
            biz_type: 0,
            message_id,
            ext_len: 0,
            // The longest body is a reason of 123 bytes and its code.
            payload_len: body.len() as u32,
            flags: Flags::default(),
        };
        let mut out = BytesMut::with_capacity(HEADER + body.len());
        out.put_slice(&header.to_bytes());
        out.put_slice(&body);
        out.freeze()
    }

    /// Reads the body behind a control header.
    pub(crate) fn parse(header: &Header, control: Control, body: &[u8]) -> Result<Self, WireError> {
        if header.ext_len != 0 || header.compression != Compression::None {
            return Err(WireError::Control("control"));
        }
        let message_id = header.message_id;
        Ok(match control {
            Control::Ping => {
                let (token, features) = parse_beat(body).ok_or(WireError::Control("ping"))?;
                Self::Ping { token, features }
            }
            Control::Pong => {
                let (token, features) = parse_beat(body).ok_or(WireError::Control("pong"))?;
                Self::Pong { token, features }
            }
            Control::GoAway => {
                let (code, reason) = decode_coded(body).ok_or(WireError::Control("goaway"))?;
                Self::GoAway { code, reason }
            }
            Control::Cancel if body.is_empty() => Self::Cancel { message_id },
            Control::Cancel => return Err(WireError::Control("cancel")),
            Control::Window => {
                let bytes = body.try_into().map_err(|_| WireError::Control("window"))?;
                Self::Window { message_id, bytes: u32::from_be_bytes(bytes) }
            }
        })
    }
}

fn beat(token: u64, features: Features) -> Bytes {
    let mut out = BytesMut::with_capacity(17);
    out.put_u64(token);
    features.write(&mut out);
    out.freeze()
}

fn parse_beat(body: &[u8]) -> Option<(u64, Features)> {
    let (token, rest) = body.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*token), Features::parse(rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn ping(body: &[u8]) -> Result<ControlPacket, WireError> {
        let any = ControlPacket::Ping { token: 0, features: Features::default() }.to_bytes();
        let header = Header::parse(any.first_chunk().unwrap(), 1 << 10)?;
        ControlPacket::parse(&Header { payload_len: body.len() as u32, ..header }, Control::Ping, body)
    }

    #[test]
    fn a_heartbeat_names_a_dictionary_behind_its_features() {
        let with = |dictionary| Features { bits: Features::ZSTD | Features::LANES, dictionary };
        for (features, body) in [
            (with(None), "000000000000000706"),
            (with(Some(0x0102_0304_0506_0708)), "00000000000000070e0102030405060708"),
        ] {
            let packet = ControlPacket::Ping { token: 7, features };
            let bytes = packet.to_bytes();
            assert_eq!(hex(&bytes[HEADER..]), body);
            assert_eq!(ping(&bytes[HEADER..]), Ok(packet.clone()));
            // A later version may say more.
            assert_eq!(ping(&[&bytes[HEADER..], &[7; 3]].concat()), Ok(packet));
        }
        let cut = [0, 0, 0, 0, 0, 0, 0, 7, Features::DICTIONARY, 1, 2, 3, 4, 5, 6, 7];
        assert_eq!(ping(&cut), Err(WireError::Control("ping")), "it says that a number follows");
        assert_eq!(ping(&cut[..8]), Err(WireError::Control("ping")));
    }
}
