//! Packets to bytes and back, compression included. Pure, and on the caller's thread: who may not be held up calls
//! it elsewhere.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Compression, HEADER, Header, Kind, MAX_EXT_HEADER, Packet, Wire, WireError};
use crate::compress::{self, Dictionary};

/// The header of a packet whose payload is as it will be on the wire.
pub(crate) fn header(packet: &Packet, wire: Wire) -> Result<Header, WireError> {
    let ext_len =
        u16::try_from(packet.ext_header.len()).map_err(|_| WireError::ExtHeader(packet.ext_header.len()))?;
    let payload_len = u32::try_from(packet.payload.len())
        .map_err(|_| WireError::TooLarge { length: packet.payload.len(), limit: u32::MAX as usize })?;
    Ok(Header {
        wire,
        compression: packet.compression,
        kind: Kind::Data(packet.packet_type),
        biz_type: packet.biz_type,
        message_id: packet.message_id,
        ext_len,
        payload_len,
        flags: packet.flags,
    })
}

/// The packet with its payload compressed as it says; as it is where it says nothing, or where that makes it no shorter:
/// so no packet within the limit is over it on the wire.
pub(crate) fn deflated(packet: &Packet, dictionary: Option<&Dictionary>) -> Result<Packet, WireError> {
    let mut packet = packet.clone();
    if packet.compression != Compression::None {
        let payload = compress::deflate(packet.compression, &packet.payload, dictionary)?;
        if payload.len() < packet.payload.len() {
            packet.payload = payload;
        } else {
            packet.compression = Compression::None;
        }
    }
    Ok(packet)
}

/// The whole packet, compressed as it says.
pub(crate) fn whole(packet: &Packet, wire: Wire) -> Result<Bytes, WireError> {
    let packet = deflated(packet, None)?;
    let header = header(&packet, wire)?;
    let mut out = BytesMut::with_capacity(header.total());
    out.put_slice(&header.to_bytes());
    out.put_slice(&packet.ext_header);
    out.put_slice(&packet.payload);
    Ok(out.freeze())
}

/// Splits one whole packet into its header, its extension header and its payload, still compressed.
pub(crate) fn split(mut bytes: Bytes, max_payload: usize) -> Result<(Header, Bytes, Bytes), WireError> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Err(WireError::Length { declared: HEADER, actual: bytes.len() });
    };
    let header = Header::parse(header, max_payload)?;
    if header.total() != bytes.len() {
        return Err(WireError::Length { declared: header.total(), actual: bytes.len() });
    }
    bytes.advance(HEADER);
    // Splitting shares memory at the price of a counter, so the usual packet without one is not split.
    let ext = if header.ext_len == 0 { Bytes::new() } else { bytes.split_to(header.ext_len.into()) };
    Ok((header, ext, bytes))
}

/// One whole data packet, inflated.
pub(crate) fn exact(
    bytes: Bytes,
    max_payload: usize,
    dictionary: Option<&Dictionary>,
) -> Result<Packet, WireError> {
    let (header, ext_header, payload) = split(bytes, max_payload)?;
    let Kind::Data(packet_type) = header.kind else { return Err(WireError::Control("control")) };
    let payload = match header.compression {
        Compression::None => payload,
        how => compress::inflate(how, &payload, max_payload, dictionary)?,
    };
    Ok(assemble(&header, packet_type, ext_header, payload))
}

/// Puts a packet together from its parts.
pub(crate) fn assemble(
    header: &Header,
    packet_type: super::PacketType,
    ext_header: Bytes,
    payload: Bytes,
) -> Packet {
    debug_assert!(ext_header.len() <= MAX_EXT_HEADER, "it came out of a u16");
    Packet {
        packet_type,
        message_id: header.message_id,
        biz_type: header.biz_type,
        compression: header.compression,
        flags: header.flags,
        ext_header,
        payload,
        is_echo: false,
    }
}
