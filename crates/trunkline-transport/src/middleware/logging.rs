//! A middleware that writes what happens to the log. Payloads and headers never get there.

use std::net::SocketAddr;

use super::{BoxFuture, Handshake, Middleware, Refusal, Verdict};
use crate::{CloseReason, Packet, Session};

/// Logs connections at `info` and packets at `debug`, by their sizes, under the target `trunkline_transport::log`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoggingMiddleware(());

/// What a subscriber filters by.
const TARGET: &str = "trunkline_transport::log";

impl LoggingMiddleware {
    /// It has no settings: the subscriber's filter decides what is written.
    #[must_use]
    pub fn new() -> Self {
        Self(())
    }
}

impl Middleware for LoggingMiddleware {
    fn on_accept(&self, peer: Option<SocketAddr>) -> Result<(), Refusal> {
        tracing::debug!(target: TARGET, ?peer, "accepted");
        Ok(())
    }

    fn on_handshake<'a>(&'a self, handshake: &'a mut Handshake) -> BoxFuture<'a, Result<(), Refusal>> {
        let info = &handshake.info;
        tracing::info!(target: TARGET, peer = ?info.peer, protocol = %info.protocol, path = ?info.path, "connected");
        Box::pin(std::future::ready(Ok(())))
    }

    fn on_packet(&self, session: &Session, packet: Packet) -> Verdict {
        log_packet(session, &packet, "received");
        Verdict::Pass(packet)
    }

    fn on_send(&self, session: &Session, packet: Packet) -> Result<Packet, Refusal> {
        log_packet(session, &packet, "sent");
        Ok(packet)
    }

    fn on_close(&self, session: &Session, reason: &CloseReason) {
        let info = session.connection_info();
        tracing::info!(target: TARGET, session = %session.id(), peer = ?info.peer, %reason, "closed");
    }
}

fn log_packet(session: &Session, packet: &Packet, way: &'static str) {
    tracing::debug!(
        target: TARGET,
        session = %session.id(),
        kind = ?packet.packet_type,
        message_id = packet.message_id,
        biz_type = packet.biz_type,
        bytes = packet.payload.len(),
        way,
        "packet"
    );
}
