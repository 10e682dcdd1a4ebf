//! TLS on a listener for byte streams.
//!
//! It tells TLS from plain by the first byte (0x16 begins a TLS record, and no HTTP request nor any frame
//! under our limit), and performs the handshake in a task of its own.

use std::{future::Future, io, net::SocketAddr};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{Accepted, StreamOptions};
use crate::{ServerStream, ServerTls, defaults::LONGEST, tcp_io::Io};

/// Whether a port speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsPolicy {
    /// Never: bytes are handed over as they come.
    Off,
    /// The peer's first byte decides.
    Optional,
    /// A plain peer is handed over as [`Accepted::PlainRefused`].
    Required,
}

/// Whether the options can be kept.
pub(super) fn judge(options: &StreamOptions) -> io::Result<()> {
    if options.policy != TlsPolicy::Off && options.tls.is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "TLS needs a certificate"));
    }
    Ok(())
}

/// Finds out by the policy what a peer speaks; gives the stream back where that is plain anyway.
pub(super) fn begin(
    stream: TcpStream,
    peer: SocketAddr,
    options: &StreamOptions,
) -> Result<impl Future<Output = Option<Accepted>> + Send + use<>, TcpStream> {
    let policy = options.policy;
    let Some(tls) = options.tls.clone().filter(|_| policy != TlsPolicy::Off) else { return Err(stream) };
    let deadline = Instant::now() + options.handshake_timeout.min(LONGEST);
    Ok(async move {
        match timeout_at(deadline, handshake(stream, peer, tls, policy)).await {
            Ok(Ok(accepted)) => Some(accepted),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!(%peer, "handshake timed out");
                None
            }
        }
    })
}

async fn handshake(
    stream: TcpStream,
    peer: SocketAddr,
    tls: ServerTls,
    policy: TlsPolicy,
) -> io::Result<Accepted> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first[0] == TLS_HANDSHAKE {
        let stream = TlsAcceptor::from(tls.into_config()).accept(stream).await?;
        let io = Io::Tls(Box::new(tokio_rustls::TlsStream::Server(stream)));
        return Ok(Accepted::Stream(ServerStream::new(io, peer)));
    }
    let stream = ServerStream::new(Io::Plain(stream), peer);
    Ok(match policy {
        TlsPolicy::Required => Accepted::PlainRefused(stream),
        TlsPolicy::Off | TlsPolicy::Optional => Accepted::Stream(stream),
    })
}

/// The content type of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
