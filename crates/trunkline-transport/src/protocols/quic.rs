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
    session::driver::frame_limit, tls::EarlyData,
};

/// A QUIC listener.
///
/// ```
/// use trunkline_transport::{
///     ClientTls, QuicClientConfig, QuicServerConfig, Tls, TransportClientBuilder, TransportServerBuilder,
/// };
/// # use trunkline_transport::{Packet, TransportClient, TransportServer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A certificate for trying things out; `Tls::from_pem` takes a real one.
/// let tls = Tls::self_signed_dev()?;
/// let trust = ClientTls::pinned(vec![tls.fingerprint()])?;
/// let quic = QuicServerConfig::new("127.0.0.1:0").tls(tls);
/// let server = TransportServerBuilder::new().with_protocol(quic).build().await?;
/// let quic = QuicClientConfig::new(server.local_addrs()[0].to_string()).tls(trust);
/// let client = TransportClientBuilder::new().with_protocol(quic).build().await?;
/// # talk(server, client).await
/// # }
/// # async fn talk(server: TransportServer, client: TransportClient) -> Result<(), Box<dyn std::error::Error>> {
/// #     let serving = server.clone();
/// #     let mut tasks = tokio::task::JoinSet::new();
/// #     tasks.spawn(async move {
/// #         let answer = |_, request: Packet| async move { request.reply(request.payload.clone()) };
/// #         serving.serve_with(move |mut session| async move { session.serve_requests(answer).await }).await
/// #     });
/// #     client.connect().await?;
/// #     assert_eq!(client.request("hello").await?.payload, "hello");
/// #     Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct QuicServerConfig {
    address: String,
    tls: Option<Tls>,
    early: EarlyData,
    #[cfg(feature = "qlog")]
    qlog: Option<crate::Qlog>,
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
            early: EarlyData::Refused,
            #[cfg(feature = "qlog")]
            qlog: None,
            #[cfg(feature = "webtransport")]
            has_web_transport: false,
        }
    }

    /// What the server presents. For trying things out there is [`Tls::self_signed_dev`].
    #[must_use]
    pub fn tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Takes idempotent requests of clients that come back before their handshake is complete (0-RTT), if they say so too
    /// ([`QuicClientConfig::early_data`]); everything else waits for it. Each client's early packets are taken once by this
    /// listener, but whoever has recorded them may be the one who sends them, later and from elsewhere: what a handler does
    /// for such a request must do no harm then. It goes with no client certificates ([`Tls::client_authority`]).
    #[must_use]
    pub fn accept_early_data(self) -> Self {
        Self { early: EarlyData::Taken, ..self }
    }

    /// Records each connection, also one whose handshake fails: whoever can send a datagram here uses up a file.
    #[cfg(feature = "qlog")]
    #[must_use]
    pub fn qlog(self, qlog: crate::Qlog) -> Self {
        Self { qlog: Some(qlog), ..self }
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
        #[cfg(feature = "qlog")]
        {
            quic.qlog = self.qlog;
        }
        #[cfg(feature = "webtransport")]
        if self.has_web_transport {
            quic.alpns.push(crate::quic::H3.to_owned());
        }
        listen(&self.address, &quic, self.early).await
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
pub(super) async fn listen(
    address: &str,
    options: &QuicOptions,
    early: EarlyData,
) -> Result<QuicListener, BuildError> {
    let found = resolve(address).await?;
    let bind = |address| QuicListener::bind_with(Socket::Address(address), options.clone(), early);
    bind_first(address, &found, bind)
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

    /// Sends idempotent requests ([`crate::Request::idempotent`]) that are asked while a connection is made with the first
    /// packets of it (0-RTT), where a connection before has agreed with the server on that: a round trip sooner, and not safe
    /// from being sent again by whoever records them. Nothing else leaves before the handshake is complete. What the server
    /// does not take is sent again behind the handshake.
    ///
    /// What was agreed is remembered by this value and its clones, and by [`QuicClientConfig::tls`].
    #[must_use]
    pub fn early_data(self) -> Self {
        Self(self.0.early())
    }

    /// Records each attempt to connect and what becomes of it.
    #[cfg(feature = "qlog")]
    #[must_use]
    pub fn qlog(self, qlog: crate::Qlog) -> Self {
        Self(self.0.recorded(qlog))
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
