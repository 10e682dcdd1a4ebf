//! One packet to many: encoded once for each form that is needed, and never waiting for anybody.

use std::{collections::HashMap, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    Compression, FrameKind, Framing, Packet, SendError, SessionId, Wire,
    defaults::{COALESCE, INLINE_COMPRESSION},
    packet::{HEADER, encode},
    session::{
        core::{Appended, Core},
        outbox::SharedFrame,
    },
};

/// What became of a broadcast, peer by peer. "Queued" is not "received": what a connection loses afterwards is in its
/// own figures and its close reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BroadcastReport {
    /// Peers whose output has the packet.
    pub queued: usize,
    /// Peers whose queue was full, so that the policy dropped it for them.
    pub dropped: usize,
    /// Peers that were closed, before or because of it.
    pub closed: usize,
    /// Who is counted as dropped or closed.
    pub missed: Vec<(SessionId, Missed)>,
}

/// Why a peer did not get a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Missed {
    /// Its queue was full; the policy dropped the packet.
    Dropped,
    /// Its queue was full; the policy closes it.
    ClosedAsSlow,
    /// It was closed before.
    Closed,
}

/// The forms in which a packet may be needed: a handful.
type Form = (Wire, Framing, Compression);

/// Sends to all of `peers`.
pub(super) async fn to_all(peers: Vec<Arc<Core>>, packet: Packet) -> Result<BroadcastReport, SendError> {
    let mut report = BroadcastReport::default();
    let mut forms: HashMap<Form, SharedFrame> = HashMap::new();
    for core in peers {
        let limit = core.shared.limits.message;
        if packet.payload.len() > limit {
            return Err(SendError::TooLarge { size: packet.payload.len(), limit });
        }
        let (wire, compression) = core.shared_compression(&packet);
        let form = (wire, core.framing, compression);
        let frame = match forms.get(&form) {
            Some(frame) => frame.clone(),
            None => {
                let frame = encode(Packet { compression, ..packet.clone() }, form).await?;
                forms.insert(form, frame.clone());
                frame
            }
        };
        match core.append_shared(&frame) {
            Appended::Queued => report.queued += 1,
            Appended::Dropped => {
                report.dropped += 1;
                report.missed.push((core.id, Missed::Dropped));
            }
            Appended::Disconnected => {
                report.closed += 1;
                report.missed.push((core.id, Missed::ClosedAsSlow));
            }
            Appended::Closed => {
                report.closed += 1;
                report.missed.push((core.id, Missed::Closed));
            }
        }
    }
    Ok(report)
}

async fn encode(packet: Packet, (wire, framing, compression): Form) -> Result<SharedFrame, SendError> {
    let packet = if compression != Compression::None && packet.payload.len() > INLINE_COMPRESSION {
        tokio::task::spawn_blocking(move || encode::deflated(&packet))
            .await
            .map_err(|error| crate::WireError::Inflate(error.to_string()))??
    } else {
        encode::deflated(&packet)?
    };
    let header = encode::header(&packet, wire)?;
    let mut framed = Vec::with_capacity(Framing::MAX_HEADER);
    framing.write_header(FrameKind::Binary, header.total(), &mut framed);
    let is_short = packet.payload.len() <= COALESCE;
    let payload_len = if is_short { packet.payload.len() } else { 0 };
    let mut head = BytesMut::with_capacity(framed.len() + HEADER + packet.ext_header.len() + payload_len);
    head.put_slice(&framed);
    head.put_slice(&header.to_bytes());
    head.put_slice(&packet.ext_header);
    if is_short {
        head.put_slice(&packet.payload);
        return Ok(SharedFrame { head: head.freeze(), body: Bytes::new() });
    }
    Ok(SharedFrame { head: head.freeze(), body: packet.payload })
}
