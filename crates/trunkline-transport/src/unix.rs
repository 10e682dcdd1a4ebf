//! Connections over Unix sockets: byte streams as TCP's, without addresses.

use tokio::net::UnixStream;

use crate::{
    ByteWriter, Connection, ConnectionInfo, FrameReader, Framing, Protocol, Streams, reader::Source,
    writer::Sink,
};

/// Makes a connection of a connected socket.
pub(crate) fn connection(stream: UnixStream, framing: Framing, max_frame: usize) -> Connection {
    let (read, write) = stream.into_split();
    Connection {
        info: ConnectionInfo::new(Protocol::Unix),
        reader: FrameReader::new(Source::Unix(read), framing, max_frame, &[]),
        writer: ByteWriter::new(Sink::Unix(write), framing),
        streams: Streams::unsupported(),
        judged: None,
    }
}
