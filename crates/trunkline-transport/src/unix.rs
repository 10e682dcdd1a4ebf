//! Connections over Unix sockets: byte streams as TCP's, without addresses.

use tokio::net::UnixStream;

use crate::{Connection, ConnectionInfo, Framing, Protocol, sink::Sink, source::Source};

/// Makes a connection of a connected socket.
pub(crate) fn connection(stream: UnixStream, framing: Framing, max_frame: usize) -> Connection {
    let (read, write) = stream.into_split();
    let halves = (Source::Unix(read), Sink::Unix(write));
    Connection::framed(ConnectionInfo::new(Protocol::Unix), halves, framing, max_frame, &[])
}
