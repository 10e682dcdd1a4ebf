//! One packet to many: encoded once for each form that is needed, and never waiting for anybody.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::task::coop::consume_budget;

use crate::{
    Compression, FrameKind, Framing, Packet, SendError, Session, SessionId, Wire,
    defaults::COALESCE,
    packet::{HEADER, encode},
    session::{
        core::{Appended, Core, deflates_elsewhere, judge_compression},
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
    /// Peers to whom a middleware did not let it pass, or made something of it that cannot be sent.
    pub refused: usize,
    /// Who is counted as dropped, closed or refused.
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
    /// A middleware did not let the packet pass, or made something of it that is over the limit or no packet.
    Refused,
}

/// A form in which a packet may be needed. There are a handful.
type Form = (Wire, Framing, Compression);

/// Sends to all of `peers`. What is wrong with the packet itself is said before anybody gets it; what goes wrong for one peer
/// is that peer's outcome.
pub(super) async fn to_all(peers: Vec<Arc<Core>>, packet: Packet) -> Result<BroadcastReport, SendError> {
    let mut report = BroadcastReport::default();
    let mut forms: Vec<(Form, SharedFrame)> = Vec::new();
    if let Some(any) = peers.first() {
        any.judge_size(&packet)?;
        judge_compression(packet.compression)?;
    }
    for core in peers {
        // Nothing is told to all before one has said who one is.
        if !core.is_authenticated() {
            continue;
        }
        let outcome = match judged(&core, &packet) {
            Ok(Judged::Same) => {
                let (wire, compression) = core.shared_compression(&packet);
                let form = (wire, core.framing, compression);
                let at = match forms.iter().position(|(other, _)| *other == form) {
                    Some(at) => at,
                    None => {
                        let packet = Packet { compression, ..packet.clone() };
                        forms.push((form, encode(&core, packet, form).await?));
                        forms.len() - 1
                    }
                };
                outcome(core.append_shared(&forms[at].1))
            }
            Ok(Judged::Another(own)) => alone(&core, *own).await,
            Err(missed) => Err(missed),
        };
        report.count(core.id, outcome);
        // To write to thousands takes a while in which others of this thread want their turn.
        consume_budget().await;
    }
    Ok(report)
}

impl BroadcastReport {
    fn count(&mut self, id: SessionId, outcome: Result<(), Missed>) {
        let Err(missed) = outcome else {
            self.queued += 1;
            return;
        };
        match missed {
            Missed::Dropped => self.dropped += 1,
            Missed::ClosedAsSlow | Missed::Closed => self.closed += 1,
            Missed::Refused => self.refused += 1,
        }
        self.missed.push((id, missed));
    }
}

fn outcome(appended: Appended) -> Result<(), Missed> {
    match appended {
        Appended::Queued => Ok(()),
        Appended::Dropped => Err(Missed::Dropped),
        Appended::Disconnected => Err(Missed::ClosedAsSlow),
        Appended::Closed => Err(Missed::Closed),
    }
}

/// What the middleware makes of a broadcast for one peer.
enum Judged {
    Same,
    Another(Box<Packet>),
}

fn judged(core: &Arc<Core>, packet: &Packet) -> Result<Judged, Missed> {
    let stack = &core.shared.middleware;
    if stack.is_empty() {
        return Ok(Judged::Same);
    }
    match stack.send(&Session::new(Arc::clone(core)), packet.clone()) {
        // What shares its memory is the same, without a look at its bytes.
        Ok(own) if is_same(&own, packet) => Ok(Judged::Same),
        Ok(own) => Ok(Judged::Another(Box::new(own))),
        Err(error) => Err(missed(&error)),
    }
}

/// How an error of one peer alone is reported: what a middleware makes of a packet is its word for that peer, also where it
/// cannot be said.
fn missed(error: &SendError) -> Missed {
    if matches!(error, SendError::Closed(_)) { Missed::Closed } else { Missed::Refused }
}

fn is_same(one: &Packet, other: &Packet) -> bool {
    let shares = |a: &Bytes, b: &Bytes| a.len() == b.len() && a.as_ptr() == b.as_ptr();
    let bare = |packet: &Packet| Packet { payload: Bytes::new(), ext_header: Bytes::new(), ..packet.clone() };
    shares(&one.payload, &other.payload)
        && shares(&one.ext_header, &other.ext_header)
        && bare(one) == bare(other)
}

/// For one peer alone, by the same policy.
async fn alone(core: &Arc<Core>, packet: Packet) -> Result<(), Missed> {
    let Some(packet) = core.prepare_judged(packet).map_err(|error| missed(&error))? else {
        return Err(Missed::Dropped);
    };
    let packet = deflated(core, packet).await.map_err(|error| missed(&error))?;
    core.append_by_policy(&packet).map_err(|error| missed(&error)).and_then(outcome)
}

/// Compresses a prepared packet, a large one on another thread.
pub(super) async fn deflated(core: &Core, packet: Packet) -> Result<Packet, SendError> {
    if !deflates_elsewhere(&packet) {
        return core.deflate_here(packet);
    }
    let task = core.deflate_elsewhere(packet);
    Ok(task.await.map_err(|error| crate::WireError::Inflate(error.to_string()))??)
}

/// For all of a form: what `core` has of the server, the others have too.
async fn encode(core: &Core, packet: Packet, (wire, framing, _): Form) -> Result<SharedFrame, SendError> {
    let packet = deflated(core, packet).await?;
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
