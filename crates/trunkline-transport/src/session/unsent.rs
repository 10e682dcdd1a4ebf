//! What a connection that has ended had still to send: given back on request, as the packets that they were.
//!
//! Only whole packets of which the link has taken nothing: of anything else nobody knows what the peer has.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::outbox::Part;
use crate::{
    Framing, Incoming, Packet, PacketType, Role,
    compress::Dictionary,
    length,
    packet::{encode, stream},
    websocket_framing::Decoder,
};

/// The rest of an output.
#[derive(Debug)]
pub(crate) struct Unsent {
    parts: VecDeque<Part>,
    /// How much of the first part the link has taken.
    taken: usize,
}

impl Unsent {
    /// Parts in their order; what goes on with a packet whose beginning is gone is left out.
    pub(crate) fn new(mut parts: VecDeque<Part>, mut taken: usize) -> Self {
        while parts.front().is_some_and(Part::continues) {
            parts.pop_front();
            taken = 0;
        }
        Self { parts, taken }
    }

    /// The one-way packets in it. Requests have ended already, and nobody waits for responses.
    pub(crate) fn packets(self, framing: Framing, dictionary: Option<&Dictionary>) -> Vec<Packet> {
        let mut chunk = BytesMut::new();
        self.parts.iter().for_each(|part| chunk.extend_from_slice(part.bytes()));
        let total = chunk.len();
        // As the peer would have read it.
        let mut decoder = match framing {
            Framing::WebSocket { role: Role::Client } => Some(Decoder::new(Role::Server, usize::MAX)),
            Framing::WebSocket { role: Role::Server } => Some(Decoder::new(Role::Client, usize::MAX)),
            Framing::Length | Framing::Packet => None,
        };
        let mut packets = Vec::new();
        loop {
            let begins = total - chunk.len();
            let frame = match (&mut decoder, framing) {
                (Some(decoder), _) => decoder.decode(&mut chunk),
                (None, Framing::Packet) => {
                    stream::decode(&mut chunk, usize::MAX).map(|packet| packet.map(Incoming::binary))
                }
                (None, _) => length::decode(&mut chunk, usize::MAX).map(|frame| frame.map(Incoming::binary)),
            };
            // It is what we wrote ourselves, so it ends where it ends.
            let Ok(Some(frame)) = frame else { return packets };
            let Incoming::Frame(frame) = frame else { continue };
            if begins < self.taken {
                continue;
            }
            let packet = encode::exact(frame.bytes, usize::MAX, dictionary);
            packets.extend(packet.ok().filter(|packet| packet.packet_type == PacketType::OneWay));
        }
    }
}
