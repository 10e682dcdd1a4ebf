//! Packets over TCP, plain or inside TLS: back to back, told apart by their own header.

use std::net::SocketAddr;

use super::{
    Bound, ClientProtocol, ListenOptions, ServerKind, ServerProtocol, bind_first, dial::Dial, resolve,
    server_tls,
};
use crate::{
    Accepted, BuildError, ClientTls, Connection, Framing, Socket, StreamListener, StreamOptions, Tls,
    TlsPolicy,
};

/// A TCP listener.
#[derive(Clone, Debug)]
pub struct TcpServerConfig {
    address: String,
    tls: Option<Tls>,
}

impl TcpServerConfig {
    /// Listens on `host:port`; port 0 takes any free one. The name is resolved when the server is built.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), tls: None }
    }

    /// Speaks TLS, and nothing else.
    #[must_use]
    pub fn tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    pub(crate) async fn bind(self, options: &ListenOptions) -> Result<Bound, BuildError> {
        let found = resolve(&self.address).await?;
        let streams = stream_options(server_tls(self.tls.as_ref(), &[])?, options);
        let listener = bind_first(&self.address, &found, |address: SocketAddr| {
            StreamListener::bind(Socket::Address(address), streams.clone())
        })?;
        Ok(Bound::Stream { listener: Box::new(listener), max_message: options.max_message })
    }
}

/// The options of a listener for byte streams.
pub(super) fn stream_options(tls: Option<crate::ServerTls>, options: &ListenOptions) -> StreamOptions {
    StreamOptions {
        policy: if tls.is_some() { TlsPolicy::Required } else { TlsPolicy::Off },
        tls,
        handshake_timeout: options.handshake_timeout,
        max_handshakes: options.max_handshakes,
        middleware: options.middleware.clone(),
        cancel: options.cancel.clone(),
    }
}

pub(super) async fn accept(listener: &mut StreamListener, max_message: usize) -> Option<Connection> {
    loop {
        match listener.accept().await? {
            Accepted::Stream(stream) => return Some(stream.into_framed(Framing::Packet, max_message)),
            Accepted::PlainRefused(stream) => {
                tracing::debug!(peer = %stream.peer(), "a plain peer where TLS is required");
            }
        }
    }
}

/// A TCP client.
#[derive(Clone, Debug)]
pub struct TcpClientConfig(Dial);

impl TcpClientConfig {
    /// Connects to `host:port`. The name is resolved at every attempt.
    #[must_use]
    pub fn new(address: impl AsRef<str>) -> Self {
        Self(Dial::to(&format!("tcp://{}", address.as_ref())))
    }

    /// Speaks TLS, and trusts what this says.
    #[must_use]
    pub fn tls(self, tls: ClientTls) -> Self {
        Self(self.0.encrypted().trusting(tls))
    }
}

impl From<TcpServerConfig> for ServerProtocol {
    fn from(config: TcpServerConfig) -> Self {
        Self(ServerKind::Tcp(config))
    }
}

impl From<TcpClientConfig> for ClientProtocol {
    fn from(config: TcpClientConfig) -> Self {
        config.0.into()
    }
}
