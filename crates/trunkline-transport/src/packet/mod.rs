//! Packets: the envelope that the packet level sends and receives, in both of its wires.
//!
//! A [`Packet`] is plain data. Encoding and decoding are pure functions of bytes (`header`, `control`); no socket
//! and no clock is known here. The field names and the 16-byte header are MsgTrans' own.

pub(crate) mod control;
pub(crate) mod encode;
pub(crate) mod header;
pub(crate) mod stream;

use std::{borrow::Cow, fmt};

use bytes::Bytes;

pub use self::header::{Compression, Flags, PacketType, Wire, WireError};
pub(crate) use self::header::{HEADER, Header, Kind, MAX_EXT_HEADER};

/// One message with its envelope. Cloning shares payload and extension header.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// What it is: one-way, a request, or a response.
    pub packet_type: PacketType,
    /// The number that joins a response to its request. `send` gives a one-way packet with id 0 the next
    /// number of its connection; `request` always does.
    pub message_id: u32,
    /// The user's own sort of message; nothing here acts on it but rate limits.
    pub biz_type: u8,
    /// How the payload is to be compressed on the wire. A received packet's payload is inflated already, and this
    /// says how it came.
    pub compression: Compression,
    /// Flags of the wire. Nothing here acts on MsgTrans' three.
    pub flags: Flags,
    /// Opaque bytes of at most 64 KiB beside the payload, never compressed; often empty.
    pub ext_header: Bytes,
    /// The message.
    pub payload: Bytes,
    /// Made by [`Packet::echo`]: its type is decided when it is sent.
    pub(crate) is_echo: bool,
}

impl Packet {
    /// A packet that asks for no answer. Given to `request`, it becomes the request.
    #[must_use]
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self::typed(PacketType::OneWay, 0, payload)
    }

    /// A one-way packet of text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(text.into())
    }

    /// A one-way packet with a number of the caller's choice.
    #[must_use]
    pub fn one_way(message_id: u32, payload: impl Into<Bytes>) -> Self {
        Self::typed(PacketType::OneWay, message_id, payload)
    }

    /// A request with a number of the caller's choice; sent by `request`, it gets the connection's next one.
    #[must_use]
    pub fn request(message_id: u32, payload: impl Into<Bytes>) -> Self {
        Self::typed(PacketType::Request, message_id, payload)
    }

    /// The response to the request of this number.
    #[must_use]
    pub fn response(message_id: u32, payload: impl Into<Bytes>) -> Self {
        Self::typed(PacketType::Response, message_id, payload)
    }

    /// What answers a received packet that is known by its number only: a response if that number is an open request
    /// of the connection it is sent on, otherwise a one-way packet.
    #[must_use]
    pub fn echo(message_id: u32, payload: impl Into<Bytes>) -> Self {
        Self { is_echo: true, ..Self::typed(PacketType::OneWay, message_id, payload) }
    }

    /// What answers this packet: a response to a request, otherwise a one-way packet, with its number and `biz_type`.
    #[must_use]
    pub fn reply(&self, payload: impl Into<Bytes>) -> Self {
        let packet_type = match self.packet_type {
            PacketType::Request => PacketType::Response,
            PacketType::OneWay | PacketType::Response => PacketType::OneWay,
        };
        Self { biz_type: self.biz_type, ..Self::typed(packet_type, self.message_id, payload) }
    }

    /// Refuses this request: the peer's `request` fails with the code and the reason. A v1 peer has no word for it
    /// and is sent nothing: its request times out.
    #[must_use]
    pub fn reply_error(&self, code: u16, reason: &str) -> Self {
        let mut refusal = Self::response(self.message_id, control::coded(code, reason));
        refusal.biz_type = self.biz_type;
        refusal.flags |= Flags::ERROR;
        refusal
    }

    /// The same packet with this `biz_type`.
    #[must_use]
    pub fn with_biz_type(self, biz_type: u8) -> Self {
        Self { biz_type, ..self }
    }

    /// The same packet with this extension header. Over 64 KiB - 1 it cannot be sent.
    #[must_use]
    pub fn with_ext_header(self, ext_header: impl Into<Bytes>) -> Self {
        Self { ext_header: ext_header.into(), ..self }
    }

    /// The same packet, its payload to be compressed on the wire. On v2 it is left as it is for a peer that has
    /// not said that it can inflate this; a v1 peer cannot say, so the caller has to know. With a dictionary it is as
    /// [`Compression::ZstdDictionary`] says.
    #[must_use]
    pub fn with_compression(self, compression: Compression) -> Self {
        Self { compression, ..self }
    }

    /// The lane that it came by, on v2; 0 is the ordinary one. See [`crate::Session::lane`].
    #[must_use]
    pub fn lane(&self) -> u8 {
        self.flags.lane()
    }

    /// Whether it asks for a response.
    #[must_use]
    pub fn is_request(&self) -> bool {
        self.packet_type == PacketType::Request
    }

    /// The payload as text, if it is UTF-8.
    #[must_use]
    pub fn payload_as_string(&self) -> Option<String> {
        self.payload_as_str().map(str::to_owned)
    }

    /// The payload as text without a copy, if it is UTF-8.
    #[must_use]
    pub fn payload_as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.payload).ok()
    }

    /// The payload as text, what is not UTF-8 replaced.
    #[must_use]
    pub fn payload_as_text_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.payload)
    }

    /// The whole packet under this wire, as `msgtrans` would write it, without any framing.
    ///
    /// # Errors
    /// The extension header or the payload is longer than the header can say, or the payload is to be compressed in a
    /// way that was not compiled in, or with a dictionary, which only connections have.
    pub fn to_bytes(&self, wire: Wire) -> Result<Bytes, WireError> {
        encode::whole(self, wire)
    }

    /// Reads exactly one packet of either wire; `max_payload` also limits what a compressed payload may inflate to.
    ///
    /// # Errors
    /// The bytes are not one packet, or over the limit, or compressed with a dictionary, which only connections have.
    pub fn from_bytes(bytes: Bytes, max_payload: usize) -> Result<Self, WireError> {
        encode::exact(bytes, max_payload, None)
    }

    fn typed(packet_type: PacketType, message_id: u32, payload: impl Into<Bytes>) -> Self {
        Self {
            packet_type,
            message_id,
            biz_type: 0,
            compression: Compression::None,
            flags: Flags::default(),
            ext_header: Bytes::new(),
            payload: payload.into(),
            is_echo: false,
        }
    }

    /// What it costs a queue that counts bytes: its own, and the room of the envelope in memory.
    pub(crate) fn cost(&self) -> usize {
        self.payload.len() + self.ext_header.len() + size_of::<Self>()
    }
}

impl fmt::Debug for Packet {
    /// Lengths only: a payload belongs into no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("packet_type", &self.packet_type)
            .field("message_id", &self.message_id)
            .field("biz_type", &self.biz_type)
            .field("compression", &self.compression)
            .field("flags", &self.flags)
            .field("ext_header_len", &self.ext_header.len())
            .field("payload_len", &self.payload.len())
            .finish()
    }
}

impl From<Bytes> for Packet {
    fn from(payload: Bytes) -> Self {
        Self::new(payload)
    }
}

impl From<Vec<u8>> for Packet {
    fn from(payload: Vec<u8>) -> Self {
        Self::new(payload)
    }
}

impl From<&'static str> for Packet {
    fn from(text: &'static str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Packet {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}
