//! Packets over QUIC and WebTransport: on one bidirectional stream, each behind a `u32` length. QUIC agrees on the
//! wire by ALPN, `msgtrans/2` or `msgtrans/1`; WebTransport leaves it to the first packet.

use std::net::SocketAddr;

use super::{
    Bound, ClientProtocol, ListenOptions, ServerKind, ServerProtocol, bind_first, dial::Dial, resolve,
};
use crate::{
    BuildError, ClientTls, Framing, Protocol, QuicListener, QuicOptions, Socket, Tls,
    session::driver::frame_limit,
};

/// A QUIC listener.
#[derive(Clone, Debug)]
pub struct QuicServerConfig {
    address: String,
    tls: Option<Tls>,
    /// WebTransport is spoken on the same port.
    has_web_transport: bool,
}

impl QuicServerConfig {
    /// Listens on `host:port`; port 0 takes any free one. It needs [`QuicServerConfig::tls`].
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), tls: None, has_web_transport: false }
    }

    /// What the server presents. For trying things out there is [`Tls::self_signed_dev`].
    #[must_use]
    pub fn tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Speaks WebTransport on the same port, at any path.
    #[must_use]
    pub fn with_web_transport(self) -> Self {
        Self { has_web_transport: true, ..self }
    }

    pub(super) async fn bind(self, options: &ListenOptions) -> Result<Bound, BuildError> {
        let mut alpns = vec!["msgtrans/2", "msgtrans/1"];
        if self.has_web_transport {
            alpns.push("h3");
        }
        bind(&self.address, self.tls, "a QUIC server", &alpns, None, options).await
    }
}

/// A WebTransport listener on a port of its own.
#[derive(Clone, Debug)]
pub struct WebTransportServerConfig {
    address: String,
    path: Option<String>,
    tls: Option<Tls>,
}

impl WebTransportServerConfig {
    /// Listens on `host:port`, at any path; port 0 takes any free one. It needs [`WebTransportServerConfig::tls`].
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), path: None, tls: None }
    }

    /// Serves this path; any other is answered 404.
    #[must_use]
    pub fn path(self, path: impl Into<String>) -> Self {
        Self { path: Some(path.into()), ..self }
    }

    /// What the server presents.
    #[must_use]
    pub fn tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    pub(super) async fn bind(self, options: &ListenOptions) -> Result<Bound, BuildError> {
        bind(&self.address, self.tls, "a WebTransport server", &["h3"], self.path, options).await
    }
}

async fn bind(
    address: &str,
    tls: Option<Tls>,
    who: &'static str,
    alpns: &[&str],
    path: Option<String>,
    options: &ListenOptions,
) -> Result<Bound, BuildError> {
    let tls = tls.ok_or(BuildError::NoCertificate(who))?;
    let found = resolve(address).await?;
    let quic = QuicOptions {
        alpns: alpns.iter().map(|alpn| (*alpn).to_owned()).collect(),
        handshake_timeout: options.handshake_timeout,
        // A v1 client opens its stream with its first packet, which may be a while.
        first_stream_timeout: options.first_packet,
        max_handshakes: options.max_handshakes,
        max_frame: frame_limit(Framing::Length, options.max_message),
        // All packets share the one stream: nobody here would take another.
        max_streams: 0,
        path,
        is_full: Some(options.is_full.clone()),
        middleware: options.middleware.clone(),
        client_authority: tls.client_authority.clone(),
        cancel: options.cancel.clone(),
        ..QuicOptions::new(tls.certificate)
    };
    let listener = bind_first(address, &found, |address: SocketAddr| {
        QuicListener::bind(Socket::Address(address), quic.clone())
    })?;
    Ok(Bound::Quic(Box::new(listener)))
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

/// A WebTransport client.
#[derive(Clone, Debug)]
pub struct WebTransportClientConfig(Dial);

impl WebTransportClientConfig {
    /// Connects to `https://host:port/path`, whose certificate is verified by the machine's own roots unless
    /// [`WebTransportClientConfig::tls`] says otherwise.
    #[must_use]
    pub fn new(url: impl AsRef<str>) -> Self {
        Self(Dial::to(url.as_ref()).must_be(&[Protocol::WebTransport], "https"))
    }

    /// What to trust.
    #[must_use]
    pub fn tls(self, tls: ClientTls) -> Self {
        Self(self.0.trusting(tls))
    }

    /// A further header of the request, such as `Origin`.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }
}

impl From<QuicServerConfig> for ServerProtocol {
    fn from(config: QuicServerConfig) -> Self {
        Self(ServerKind::Quic(config))
    }
}

impl From<WebTransportServerConfig> for ServerProtocol {
    fn from(config: WebTransportServerConfig) -> Self {
        Self(ServerKind::WebTransport(config))
    }
}

impl From<QuicClientConfig> for ClientProtocol {
    fn from(config: QuicClientConfig) -> Self {
        config.0.into()
    }
}

impl From<WebTransportClientConfig> for ClientProtocol {
    fn from(config: WebTransportClientConfig) -> Self {
        config.0.into()
    }
}
