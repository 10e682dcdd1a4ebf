//! Connecting over TCP.

use std::io;

use tokio::net::TcpStream;

use super::{ConnectError, ConnectOptions};
use crate::{Connection, ConnectionInfo, Endpoint, addresses::resolve, race::first_to_answer, tcp_io::Io};

/// Frames on the stream itself, which is inside TLS if the protocol says so.
pub(super) async fn connect(
    endpoint: &Endpoint,
    options: &ConnectOptions,
) -> Result<Connection, ConnectError> {
    let opened = open(endpoint).await?;
    #[cfg(feature = "tls")]
    let opened = super::tls::wrap(opened, endpoint, options, &[]).await?;
    let (io, info) = opened;
    Ok(io.into_connection(info, options.framing, options.max_frame, &[]))
}

/// A TCP stream to the first of the host's addresses that answers.
pub(super) async fn open(endpoint: &Endpoint) -> Result<(Io, ConnectionInfo), ConnectError> {
    let connected = first_to_answer(resolve(endpoint).await?, TcpStream::connect).await;
    let stream = connected.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))?;
    stream.set_nodelay(true)?;
    let mut info = ConnectionInfo::new(endpoint.protocol);
    info.peer = stream.peer_addr().ok();
    info.local = stream.local_addr().ok();
    Ok((Io::Plain(stream), info))
}
