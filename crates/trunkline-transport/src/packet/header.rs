//! The 16-byte header of MsgTrans' wire, in version 1 and 2. Pure.
//!
//! `version u8 | compression u8 | type u8 | biz_type u8 | message_id u32 | ext_header_len u16 | payload_len u32 |
//! flags u16`, big-endian; then the extension header, then the payload. Version 2 differs by its first byte, and by
//! having control types and four more flags, the number of a lane in the high byte of the flags, and one more compression.
//! What is not known is refused, never guessed.

use std::{fmt, ops::BitOr, ops::BitOrAssign};

/// Bytes of the header.
pub(crate) const HEADER: usize = 16;

/// The longest extension header: its length is a `u16`.
pub(crate) const MAX_EXT_HEADER: usize = u16::MAX as usize;

/// A packet wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// MsgTrans' own. Its peer is never sent a control packet.
    V1,
    /// The same header with version 2: pings, refusals, cancellation, streamed replies and negotiated compression.
    V2,
}

impl Wire {
    fn byte(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketType {
    /// It asks for no answer.
    OneWay,
    /// It asks for a response with the same number.
    Request,
    /// It answers a request.
    Response,
}

/// How a payload is compressed on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Zstandard (RFC 8878); feature `zstd`.
    Zstd,
    /// Zlib (RFC 1950); feature `zlib`.
    Zlib,
    /// Zstandard with the dictionary that the builder was given (`dictionary`); feature `zstd`. A peer of v2 that has not said
    /// that it has the same one is sent [`Compression::Zstd`]; a v1 peer what is not compressed, since it cannot say so.
    ZstdDictionary,
}

impl Compression {
    /// Whether this build can do it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::None => true,
            Self::Zstd | Self::ZstdDictionary => cfg!(feature = "zstd"),
            Self::Zlib => cfg!(feature = "zlib"),
        }
    }
}

/// Flags of a packet: a set of bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u16);

impl Flags {
    /// MsgTrans: a part of a larger message. Carried, not acted on.
    pub const FRAGMENTED: Self = Self(1);
    /// MsgTrans: urgent. Carried, not acted on.
    pub const HIGH_PRIORITY: Self = Self(1 << 1);
    /// MsgTrans: the extension header is a route. Carried, not acted on.
    pub const ROUTE_TAG: Self = Self(1 << 2);
    /// v2, on responses: another one follows.
    pub const MORE: Self = Self(1 << 3);
    /// v2, on responses: the request was refused; the payload is a code and a reason.
    pub const ERROR: Self = Self(1 << 4);
    /// v2, on requests: the answer may be a stream, within the window.
    pub const STREAM: Self = Self(1 << 5);
    /// v2, on requests and one-way packets: handling it twice does no harm.
    pub const IDEMPOTENT: Self = Self(1 << 6);

    /// The bits as they are on the wire.
    #[must_use]
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Flags from the wire. Unknown bits are kept.
    #[must_use]
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Without those that only v2 knows.
    pub(crate) fn for_v1(self) -> Self {
        let v2 = Self::MORE | Self::ERROR | Self::STREAM | Self::IDEMPOTENT;
        Self(self.0 & !v2.0)
    }

    /// The same bits with the number of a lane, which is v2's high byte.
    pub(crate) fn with_lane(self, lane: u8) -> Self {
        Self((self.0 & 0x00FF) | (u16::from(lane) << 8))
    }

    /// The number of the lane; 0 is none.
    pub(crate) fn lane(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Whether all bits of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({:#06b})", self.0)
    }
}

/// Every type that the wire knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data(PacketType),
    Control(Control),
}

/// The control types of version 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    Ping,
    Pong,
    GoAway,
    Cancel,
    Window,
}

/// Control types begin here, far from whatever a later MsgTrans might add to its three.
const CONTROL: u8 = 16;

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Data(PacketType::OneWay) => 0,
            Self::Data(PacketType::Request) => 1,
            Self::Data(PacketType::Response) => 2,
            Self::Control(Control::Ping) => CONTROL,
            Self::Control(Control::Pong) => CONTROL + 1,
            Self::Control(Control::GoAway) => CONTROL + 2,
            Self::Control(Control::Cancel) => CONTROL + 3,
            Self::Control(Control::Window) => CONTROL + 4,
        }
    }

    fn parse(byte: u8, wire: Wire) -> Option<Self> {
        Some(match (byte, wire) {
            (0, _) => Self::Data(PacketType::OneWay),
            (1, _) => Self::Data(PacketType::Request),
            (2, _) => Self::Data(PacketType::Response),
            (16, Wire::V2) => Self::Control(Control::Ping),
            (17, Wire::V2) => Self::Control(Control::Pong),
            (18, Wire::V2) => Self::Control(Control::GoAway),
            (19, Wire::V2) => Self::Control(Control::Cancel),
            (20, Wire::V2) => Self::Control(Control::Window),
            _ => return None,
        })
    }
}

/// Why bytes are no packet, or a packet cannot become bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The first byte is no version that we speak.
    #[error("unknown packet version {0}")]
    Version(u8),
    /// The type is unknown in its version.
    #[error("unknown packet type {0}")]
    Type(u8),
    /// The compression is unknown.
    #[error("unknown compression {0}")]
    Compression(u8),
    /// The payload is declared, or inflates, over the limit.
    #[error("payload of {length} bytes is over the limit of {limit}")]
    TooLarge {
        /// The declared length, or what had been inflated when it was given up.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The lengths in the header do not add up to the frame's.
    #[error("a packet of {declared} bytes in a frame of {actual}")]
    Length {
        /// What the header says, itself included.
        declared: usize,
        /// What there is.
        actual: usize,
    },
    /// An extension header of more than 64 KiB - 1 cannot be said.
    #[error("extension header of {0} bytes is over the limit of 65535")]
    ExtHeader(usize),
    /// The payload is compressed in a way that was not compiled in.
    #[error("{0:?} is not compiled in")]
    NotCompiledIn(Compression),
    /// The payload was compressed with a dictionary of this number (its last four bytes), which is not here.
    #[error("the payload is compressed with the dictionary ..{0:08x}, which is not here")]
    Dictionary(u32),
    /// The payload is to be compressed with a dictionary where there is none, or on version 1, which has no word for it.
    #[error("there is no dictionary to compress with")]
    NoDictionary,
    /// The payload does not inflate.
    #[error("the payload does not inflate: {0}")]
    Inflate(String),
    /// A control packet's body is malformed.
    #[error("malformed {0} packet")]
    Control(&'static str),
}

/// The header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) wire: Wire,
    pub(crate) compression: Compression,
    pub(crate) kind: Kind,
    pub(crate) biz_type: u8,
    pub(crate) message_id: u32,
    pub(crate) ext_len: u16,
    pub(crate) payload_len: u32,
    pub(crate) flags: Flags,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0] = self.wire.byte();
        out[1] = match self.compression {
            Compression::None => 0,
            Compression::Zstd => 1,
            Compression::Zlib => 2,
            Compression::ZstdDictionary => 3,
        };
        out[2] = self.kind.byte();
        out[3] = self.biz_type;
        out[4..8].copy_from_slice(&self.message_id.to_be_bytes());
        out[8..10].copy_from_slice(&self.ext_len.to_be_bytes());
        out[10..14].copy_from_slice(&self.payload_len.to_be_bytes());
        out[14..].copy_from_slice(&self.flags.bits().to_be_bytes());
        out
    }

    /// Judges a header, without its body: a payload that is declared over `max_payload` is refused here.
    pub(crate) fn parse(bytes: &[u8; HEADER], max_payload: usize) -> Result<Self, WireError> {
        let [version, compression, kind, biz_type, i0, i1, i2, i3, e0, e1, p0, p1, p2, p3, f0, f1] = *bytes;
        let wire = match version {
            1 => Wire::V1,
            2 => Wire::V2,
            other => return Err(WireError::Version(other)),
        };
        let compression = match (compression, wire) {
            (0, _) => Compression::None,
            (1, _) => Compression::Zstd,
            (2, _) => Compression::Zlib,
            (3, Wire::V2) => Compression::ZstdDictionary,
            (other, _) => return Err(WireError::Compression(other)),
        };
        let kind = Kind::parse(kind, wire).ok_or(WireError::Type(kind))?;
        let payload_len = u32::from_be_bytes([p0, p1, p2, p3]);
        let length = usize::try_from(payload_len).unwrap_or(usize::MAX);
        if length > max_payload {
            return Err(WireError::TooLarge { length, limit: max_payload });
        }
        Ok(Self {
            wire,
            compression,
            kind,
            biz_type,
            message_id: u32::from_be_bytes([i0, i1, i2, i3]),
            ext_len: u16::from_be_bytes([e0, e1]),
            payload_len,
            flags: Flags::from_bits(u16::from_be_bytes([f0, f1])),
        })
    }

    /// Bytes of the whole packet.
    pub(crate) fn total(&self) -> usize {
        HEADER + usize::from(self.ext_len) + self.payload_len as usize
    }
}
