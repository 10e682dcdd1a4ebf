//! The client protocol as types: what is generated from `proto/gatesvr.proto`, typed frames, the dialects
//! that write them on the wire, and the one table of error and close codes.
//!
//! This crate decides what bytes mean, not what a session does with them: it holds no state, and it sees
//! no socket, clock or runtime. The gRPC stubs are the feature `grpc`.

pub mod codes;
pub mod dialect;
mod frame;
mod json;
mod protobuf;

pub use codes::{CloseCode, ErrorCode};
pub use dialect::{DecodeError, Dialect};
pub use frame::{DownBody, DownFrame, UpBody, UpFrame};

/// The messages of `proto/gatesvr.proto`, generated; with the feature `grpc` also the stubs of its services.
#[allow(missing_docs, unreachable_pub, reason = "generated; the documentation is in the schema")]
#[allow(
    clippy::all,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/gatesvr.proto.rs"));
}

/// The compiled schema, an encoded `FileDescriptorSet`: for gRPC reflection and for tools.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gatesvr.descriptors"));
