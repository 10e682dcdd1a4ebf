//! The baselines: the frames of msgtrans' v1 wire by hand on tokio's TCP, on tokio-tungstenite and on quinn.
//!
//! As little as can be between a message and the protocol: a header of 16 bytes is written and parsed, requests are
//! answered, one-way messages are counted. One task a connection, no queue, no limit, no deadline, no heartbeat. A
//! server answers all that one read has brought with one write; a client writes each message, or 64 of them, at once.

pub(super) mod broadcast;
pub(super) mod frame;
pub(super) mod quic;
pub(super) mod stream;
pub(super) mod tcp;
pub(super) mod websocket;
