//! A dialect writes frames as bytes and reads them back. It is fixed by a connection's START.

use bytes::Bytes;

use crate::frame::{DownFrame, UpFrame};
use crate::{json, protobuf};

/// How frames are written inside the connection's framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// The schema's binary form: the default, and what a seed client speaks.
    Protobuf,
    /// The schema's names as JSON members: what a browser speaks.
    Json,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes do not decode; the text says where, never what they held.
    #[error("the frame does not decode: {0}")]
    Malformed(String),
}

impl Dialect {
    /// The dialect of a stream whose first frame begins so: no `ClientRequest` can begin with `{`.
    pub fn of_first_frame(frame: &[u8]) -> Self {
        if frame.first() == Some(&b'{') { Dialect::Json } else { Dialect::Protobuf }
    }

    /// Reads a client's frame. An unknown type is `UpBody::Unknown`, not an error.
    pub fn decode_up(self, frame: &Bytes) -> Result<UpFrame, DecodeError> {
        match self {
            Dialect::Protobuf => protobuf::decode_up(frame),
            Dialect::Json => json::decode_up(frame),
        }
    }

    /// Writes a client's frame.
    pub fn encode_up(self, frame: &UpFrame) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_up_into(frame, &mut out);
        out
    }

    /// Writes a client's frame after what `out` already holds, such as a length to be filled in.
    pub fn encode_up_into(self, frame: &UpFrame, out: &mut Vec<u8>) {
        match self {
            Dialect::Protobuf => protobuf::encode_up(frame, out),
            Dialect::Json => json::encode_up(frame, out),
        }
    }

    /// Reads a gateway's frame.
    pub fn decode_down(self, frame: &Bytes) -> Result<DownFrame, DecodeError> {
        match self {
            Dialect::Protobuf => protobuf::decode_down(frame),
            Dialect::Json => json::decode_down(frame),
        }
    }

    /// Writes a gateway's frame.
    pub fn encode_down(self, frame: &DownFrame) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_down_into(frame, &mut out);
        out
    }

    /// Writes a gateway's frame after what `out` already holds, such as a length to be filled in.
    pub fn encode_down_into(self, frame: &DownFrame, out: &mut Vec<u8>) {
        match self {
            Dialect::Protobuf => protobuf::encode_down(frame, out),
            Dialect::Json => json::encode_down(frame, out),
        }
    }
}
