//! A connection within one process: two ends joined by two byte pipes, for tests and embedding.
//!
//! It frames and limits exactly as a socket would. It has no further streams, and no close codes of its own.

use crate::{
    Connection, ConnectionInfo, Framing, Protocol, Role, defaults::MEMORY_BUFFER, sink::Sink, source::Source,
};

/// Two ends of one connection. Under [`Framing::WebSocket`] the first end has the role given, the second the
/// other one. A reader refuses frames over `max_frame`.
#[must_use]
pub fn pair(framing: Framing, max_frame: usize) -> (Connection, Connection) {
    let (first, second) = tokio::io::duplex(MEMORY_BUFFER);
    let opposite = match framing {
        Framing::Length => Framing::Length,
        Framing::Packet => Framing::Packet,
        Framing::WebSocket { role: Role::Server } => Framing::WebSocket { role: Role::Client },
        Framing::WebSocket { role: Role::Client } => Framing::WebSocket { role: Role::Server },
    };
    (end(first, framing, max_frame), end(second, opposite, max_frame))
}

/// As [`pair`], under a framing without roles, with faults between the two.
#[cfg(feature = "chaos")]
pub(crate) fn disturbed_pair(
    chaos: &crate::chaos::StreamChaos,
    framing: Framing,
    max_frame: usize,
) -> (Connection, Connection) {
    let (far, second) = tokio::io::duplex(MEMORY_BUFFER);
    let first = chaos.link(far);
    (end(first, framing, max_frame), end(second, framing, max_frame))
}

fn end(stream: tokio::io::DuplexStream, framing: Framing, max_frame: usize) -> Connection {
    let (read, write) = tokio::io::split(stream);
    let halves = (Source::Memory(read), Sink::Memory(write));
    Connection::framed(ConnectionInfo::new(Protocol::Memory), halves, framing, max_frame, &[])
}
