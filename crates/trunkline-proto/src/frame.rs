//! Typed frames: what a dialect reads from the wire and writes to it.
//!
//! An [`UpFrame`] is a `ClientRequest` and a [`DownFrame`] a `ServerPush` whose payload is already the
//! message that belongs to its type, so that no later layer decodes, and none can mistake one for another.

use std::collections::HashMap;

use crate::wire;

/// One frame from a client: a `ClientRequest` with its payload decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct UpFrame {
    /// Chosen by the client, echoed by the reply; 0 asks for no reply but errors.
    pub msg_id: u32,
    /// The call number of a `Business` frame, 0 in all others.
    pub seq_id: u64,
    /// `x-order`, `x-timeout-ms`, and whatever an upstream understands.
    pub headers: HashMap<String, String>,
    /// What the client wants.
    pub body: UpBody,
}

/// The payload of an [`UpFrame`].
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the request type of the same name in the schema")]
pub enum UpBody {
    /// Boxed, as its answer is: it is four times as large as any other, and comes once.
    Start(Box<wire::StartRequest>),
    Stop(wire::StopRequest),
    Heartbeat(wire::HeartbeatRequest),
    Business(wire::BusinessRequest),
    Ack(wire::ClientAck),
    Subscribe(wire::ChannelRequest),
    Unsubscribe(wire::ChannelRequest),
    Publish(wire::PublishRequest),
    History(wire::HistoryRequest),
    Presence(wire::ChannelRequest),
    Refresh(wire::RefreshRequest),
    /// A type that this schema does not have. It is answered 400, never guessed at.
    Unknown(String),
}

/// One frame to a client: a `ServerPush` with its payload still typed.
#[derive(Debug, Clone, PartialEq)]
pub struct DownFrame {
    /// The request's, or 0 for a push.
    pub msg_id: u32,
    /// Protocol 0: the delivery number. Protocol 1: 0.
    pub seq_id: u64,
    /// Headers of a reply.
    pub headers: HashMap<String, String>,
    /// Set where the frame is a publication: its channel, epoch and offset.
    pub position: Option<wire::ChannelPosition>,
    /// What the client is told.
    pub body: DownBody,
}

/// The payload of a [`DownFrame`].
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the push type of the same name in the schema")]
pub enum DownBody {
    StartResp(Box<wire::StartResponse>),
    HeartbeatResp(wire::HeartbeatResponse),
    BusinessData(wire::BusinessResponse),
    Error(wire::ErrorMessage),
    ChannelResp(wire::ChannelResponse),
    Publication(wire::Publication),
    Close(wire::CloseNotice),
    Gap(wire::ChannelGap),
    /// Bound pushes and their reply, all or none.
    Group(Vec<DownFrame>),
    /// A type that this schema does not have: a newer server's. Clients ignore it.
    Unknown(String),
}

impl UpFrame {
    /// A frame without headers.
    pub fn new(msg_id: u32, seq_id: u64, body: UpBody) -> Self {
        UpFrame { msg_id, seq_id, headers: HashMap::new(), body }
    }
}

impl DownFrame {
    /// A frame that answers `msg_id`, or with 0 a push, outside any channel.
    pub fn new(msg_id: u32, body: DownBody) -> Self {
        DownFrame { msg_id, seq_id: 0, headers: HashMap::new(), position: None, body }
    }

    /// A publication: a push in its channel's place.
    pub fn publication(position: wire::ChannelPosition, body: DownBody) -> Self {
        DownFrame { position: Some(position), ..DownFrame::new(0, body) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p16_a_call_is_moved_as_a_frame_that_is_no_larger_than_it_must_be() {
        let frame = size_of::<UpFrame>();
        assert!(frame <= 176, "a frame has {frame} B");
    }
}
