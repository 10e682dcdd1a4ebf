//! Packets over QUIC: on one bidirectional stream, each behind a `u32` length. The wire is agreed on by ALPN,
//! `msgtrans/2` or `msgtrans/1`.

use std::net::SocketAddr;

use super::{
    Acceptor, ClientProtocol, Listen, ListenOptions, ServerProtocol,
    dial::Dial,
    network::{bind_first, resolve},
};
use crate::{
    BoxFuture, BuildError, ClientTls, Connection, Framing, QuicListener, QuicOptions, Socket, Tls,
    session::driver::frame_limit,
};

/// A QUIC listener.
#[derive(Clone, Debug)]
pub struct QuicServerConfig {
    address: String,
    tls: Option<Tls>,
    /// WebTransport is spoken on the same port.
    #[cfg(feature = "webtransport")]
    has_web_transport: bool,
}

impl QuicServerConfig {
    /// Listens on `host:port`; port 0 takes any free one. It needs [`QuicServerConfig::tls`].
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            tls: None,
            #[cfg(feature = "webtransport")]
            has_web_transport: false,
        }
    }

    /// What the server presents. For trying things out there is [`Tls::self_signed_dev`].
    #[must_use]
    pub fn tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Speaks WebTransport on the same port, at any path.
    #[cfg(feature = "webtransport")]
    #[must_use]
    pub fn with_web_transport(self) -> Self {
        Self { has_web_transport: true, ..self }
    }

    async fn bound(self, options: &ListenOptions) -> Result<QuicListener, BuildError> {
        let tls = self.tls.ok_or(BuildError::NoCertificate("a QUIC server"))?;
        let mut quic = quic_options(tls, options);
        quic.alpns = vec!["msgtrans/2".to_owned(), "msgtrans/1".to_owned()];
        #[cfg(feature = "webtransport")]
        if self.has_web_transport {
            quic.alpns.push(crate::quic::H3.to_owned());
        }
        listen(&self.address, &quic).await
    }
}

impl Listen for QuicServerConfig {
    fn bind<'a>(
        self: Box<Self>,
        options: &'a ListenOptions,
    ) -> BoxFuture<'a, Result<Box<dyn Acceptor>, BuildError>> {
        Box::pin(async move { Ok(Box::new(self.bound(options).await?) as Box<dyn Acceptor>) })
    }
}

impl Acceptor for QuicListener {
    fn local_addr(&self) -> Option<SocketAddr> {
        Some(QuicListener::local_addr(self))
    }

    fn accept(&mut self) -> BoxFuture<'_, Option<Connection>> {
        Box::pin(QuicListener::accept(self))
    }
}

/// The options of a listener on UDP; its application protocols have yet to be said.
pub(super) fn quic_options(tls: Tls, options: &ListenOptions) -> QuicOptions {
    QuicOptions {
        handshake_timeout: options.handshake_timeout,
        // A v1 client opens its stream with its first packet, which may be a while.
        first_stream_timeout: options.first_packet,
        max_handshakes: options.max_handshakes,
        max_frame: frame_limit(Framing::Length, options.max_message),
        // The packet level has a use for the streams of lanes alone, and allows them itself.
        max_streams: 0,
        is_full: Some(options.is_full.clone()),
        middleware: options.middleware.clone(),
        client_authority: tls.client_authority.clone(),
        cancel: options.cancel.clone(),
        ..QuicOptions::new(tls.certificate)
    }
}

/// Resolves the name and binds.
pub(super) async fn listen(address: &str, options: &QuicOptions) -> Result<QuicListener, BuildError> {
    let found = resolve(address).await?;
    bind_first(address, &found, |address| QuicListener::bind(Socket::Address(address), options.clone()))
}

/// A QUIC client.
#[derive(Clone, Debug)]
pub struct QuicClientConfig(Dial);

impl QuicClientConfig {
    /// Connects to `host:port`, whose certificate is verified by the machine's own roots unless
    /// [`QuicClientConfig::tls`] says otherwise.
    #[must_use]
    pub fn new(address: impl AsRef<str>) -> Self {
        Self(Dial::to(&format!("quic://{}", address.as_ref())))
    }

    /// What to trust.
    #[must_use]
    pub fn tls(self, tls: ClientTls) -> Self {
        Self(self.0.trusting(tls))
    }
}

impl From<QuicServerConfig> for ServerProtocol {
    fn from(config: QuicServerConfig) -> Self {
        Self::of(config)
    }
}

impl From<QuicClientConfig> for ClientProtocol {
    fn from(config: QuicClientConfig) -> Self {
        config.0.into()
    }
}
