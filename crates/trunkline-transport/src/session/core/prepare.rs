//! What a packet is sent as: the middleware's word, the limits, and its compression.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::Core;
use crate::{
    Compression, Flags, Packet, PacketType, SendError, Session, Wire, WireError,
    defaults::INLINE_COMPRESSION, packet::encode,
};

impl Core {
    /// Decides what a packet is about to be sent as. `None`: nothing is to be sent (a v1 peer cannot be refused).
    pub(crate) fn prepare(self: &Arc<Self>, packet: Packet) -> Result<Option<Packet>, SendError> {
        let packet = self.resolve_echo(packet);
        let stack = &self.shared.middleware;
        if stack.is_empty() {
            return self.prepare_judged(packet);
        }
        let packet = stack.send(&Session::new(Arc::clone(self)), packet)?;
        self.prepare_judged(packet)
    }

    /// An echo becomes a response if it answers an open request.
    pub(crate) fn resolve_echo(&self, mut packet: Packet) -> Packet {
        if std::mem::take(&mut packet.is_echo) && self.open.lock().contains(packet.message_id) {
            packet.packet_type = PacketType::Response;
        }
        packet
    }

    /// As [`Core::prepare`], for what the middleware has let pass.
    pub(crate) fn prepare_judged(&self, mut packet: Packet) -> Result<Option<Packet>, SendError> {
        self.judge_size(&packet)?;
        let wire = self.wire();
        if packet.packet_type == PacketType::Response && wire == Wire::V1 {
            if packet.flags.contains(Flags::ERROR) {
                self.answered(packet.message_id);
                return Ok(None);
            }
            if packet.flags.contains(Flags::MORE) {
                return Err(SendError::NeedsV2("streamed replies"));
            }
        }
        if packet.packet_type == PacketType::OneWay && packet.message_id == 0 {
            packet.message_id = self.pending.lock().next_id();
        }
        if wire == Wire::V1 {
            packet.flags = packet.flags.for_v1();
        }
        packet.compression = self.compression_for(&packet, wire);
        judge_compression(packet.compression)?;
        Ok(Some(packet))
    }

    /// Whether a packet is within the limits, which are the same for all connections of a server.
    pub(crate) fn judge_size(&self, packet: &Packet) -> Result<(), SendError> {
        let limit = self.shared.limits.message;
        if packet.payload.len() > limit {
            return Err(SendError::TooLarge { size: packet.payload.len(), limit });
        }
        if packet.ext_header.len() > crate::packet::MAX_EXT_HEADER {
            return Err(WireError::ExtHeader(packet.ext_header.len()).into());
        }
        Ok(())
    }

    fn compression_for(&self, packet: &Packet, wire: Wire) -> Compression {
        match (packet.compression, wire) {
            (Compression::None, Wire::V2) => match self.shared.compression {
                Some((how, from)) if packet.payload.len() >= from => self.inflated(how),
                _ => Compression::None,
            },
            // Version 1 has no word for a dictionary.
            (Compression::None | Compression::ZstdDictionary, Wire::V1) => Compression::None,
            // On v1 nobody can say what it inflates: who asks for it knows.
            (how, Wire::V1) => how,
            (how, Wire::V2) => self.inflated(how),
        }
    }

    /// What compression this connection would use for a packet that is encoded once for many.
    pub(crate) fn shared_compression(&self, packet: &Packet) -> (Wire, Compression) {
        let wire = self.wire();
        (wire, self.compression_for(packet, wire))
    }

    /// Compresses a prepared packet where the caller is: only for payloads up to [`INLINE_COMPRESSION`].
    pub(crate) fn deflate_here(&self, packet: Packet) -> Result<Packet, SendError> {
        if packet.compression == Compression::None {
            return Ok(packet);
        }
        Ok(encode::deflated(&packet, self.shared.dictionary.as_ref())?)
    }

    /// The same on another thread.
    pub(crate) fn deflate_elsewhere(&self, packet: Packet) -> JoinHandle<Result<Packet, WireError>> {
        let dictionary = self.shared.dictionary.clone();
        tokio::task::spawn_blocking(move || encode::deflated(&packet, dictionary.as_ref()))
    }
}

/// Whether this build has a compression.
pub(crate) fn judge_compression(how: Compression) -> Result<(), SendError> {
    if how.is_available() { Ok(()) } else { Err(WireError::NotCompiledIn(how).into()) }
}

/// Whether a prepared packet is to be compressed on another thread.
pub(crate) fn deflates_elsewhere(packet: &Packet) -> bool {
    packet.compression != Compression::None && packet.payload.len() > INLINE_COMPRESSION
}
