//! Lanes: packets of one connection that want another guarantee than the rest.
//!
//! A lane is a number on its packets (v2), and a rule for what is not sent yet. Order holds within a lane as far as its
//! rule keeps packets at all. Over QUIC and WebTransport the first few lanes have a stream each, so that none of them waits
//! for another, and unreliable ones leave as datagrams; elsewhere all share the connection's one stream.

use std::sync::Arc;

use super::{
    core::Core,
    send::{Sending, prepared_at_once},
};
use crate::{Packet, PacketType, SendError, Wire};

/// What a lane promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// Everything, in order: sending waits for room.
    Reliable,
    /// The newest: a packet that has not begun to be sent is replaced by the next. Positions, prices, states. Sending never
    /// waits, and what is replaced is counted as `lane_replaced`.
    Latest,
    /// What gets through: a QUIC datagram if the packet fits into one, otherwise sent if there is room now. Sending never
    /// waits, and what is dropped is counted as `lane_dropped`.
    Unreliable,
}

/// One lane of a connection: [`crate::Session::lane`]. Clones share it.
///
/// Order holds within a lane, not between lanes. Over QUIC and WebTransport the first [`crate::defaults::LANE_STREAMS`] lanes
/// that are sent by have a stream each, if the peer takes them, so that what is lost of one holds up no other; later ones
/// share the stream of packets without a lane, as all do elsewhere.
#[derive(Clone, Debug)]
pub struct Lane {
    core: Arc<Core>,
    id: u8,
    delivery: Delivery,
}

impl Lane {
    pub(crate) fn new(core: Arc<Core>, id: u8, delivery: Delivery) -> Self {
        Self { core, id, delivery }
    }

    /// Its number, which the peer finds in [`Packet::lane`].
    #[must_use]
    pub fn id(&self) -> u8 {
        self.id
    }

    /// Sends a packet by this lane. Requests and responses are always sent reliably, since somebody waits for them. What the
    /// settings would compress on another thread is sent as it is, except on a reliable lane.
    ///
    /// # Errors
    /// As [`crate::Session::send`], but never [`SendError::Full`]; or the peer speaks v1, which has no lanes.
    pub async fn send(&self, packet: impl Into<Packet>) -> Result<(), SendError> {
        if self.core.wire() == Wire::V1 {
            return Err(SendError::NeedsV2("lanes"));
        }
        let mut packet = packet.into();
        packet.flags = packet.flags.with_lane(self.id);
        if self.delivery == Delivery::Reliable || packet.packet_type != PacketType::OneWay {
            return Sending::by_lane(Arc::clone(&self.core), packet, self.id).await;
        }
        let Some(packet) = prepared_at_once(&self.core, packet)? else { return Ok(()) };
        match self.delivery {
            Delivery::Latest => self.core.append_latest(&packet, self.id),
            _ => self.core.append_unreliable(&packet),
        }
    }
}
