//! Packets over WebTransport: as over QUIC, but the first packet says which wire is spoken.

use super::{
    Acceptor, ClientProtocol, Listen, ListenOptions, ServerProtocol,
    dial::Dial,
    quic::{listen, quic_options},
};
use crate::{BoxFuture, BuildError, ClientTls, Protocol, QuicListener, Tls, quic::H3, tls::EarlyData};

/// A WebTransport listener on a port of its own.
///
/// ```
/// use trunkline_transport::{
///     ClientTls, Tls, TransportClientBuilder, TransportServerBuilder, WebTransportClientConfig,
///     WebTransportServerConfig,
/// };
/// # use trunkline_transport::{Packet, TransportClient, TransportServer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A certificate for trying things out; browsers are given its fingerprint as `serverCertificateHashes`.
/// let tls = Tls::self_signed_dev()?;
/// let trust = ClientTls::pinned(vec![tls.fingerprint()])?;
/// let web_transport = WebTransportServerConfig::new("127.0.0.1:0").path("/chat").tls(tls);
/// let server = TransportServerBuilder::new().with_protocol(web_transport).build().await?;
/// let web_transport =
///     WebTransportClientConfig::new(format!("https://{}/chat", server.local_addrs()[0])).tls(trust);
/// let client = TransportClientBuilder::new().with_protocol(web_transport).build().await?;
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
pub struct WebTransportServerConfig {
    address: String,
    path: Option<String>,
    tls: Option<Tls>,
    #[cfg(feature = "qlog")]
    qlog: Option<crate::Qlog>,
}

impl WebTransportServerConfig {
    /// Listens on `host:port`, at any path; port 0 takes any free one. It needs [`WebTransportServerConfig::tls`].
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            path: None,
            tls: None,
            #[cfg(feature = "qlog")]
            qlog: None,
        }
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

    /// As [`crate::QuicServerConfig::qlog`].
    #[cfg(feature = "qlog")]
    #[must_use]
    pub fn qlog(self, qlog: crate::Qlog) -> Self {
        Self { qlog: Some(qlog), ..self }
    }

    async fn bound(self, options: &ListenOptions) -> Result<QuicListener, BuildError> {
        let tls = self.tls.ok_or(BuildError::NoCertificate("a WebTransport server"))?;
        let mut quic = quic_options(tls, options);
        quic.alpns = vec![H3.to_owned()];
        quic.path = self.path;
        #[cfg(feature = "qlog")]
        {
            quic.qlog = self.qlog;
        }
        listen(&self.address, &quic, EarlyData::Refused).await
    }
}

impl Listen for WebTransportServerConfig {
    fn bind<'a>(
        self: Box<Self>,
        options: &'a ListenOptions,
    ) -> BoxFuture<'a, Result<Box<dyn Acceptor>, BuildError>> {
        Box::pin(async move { Ok(Box::new(self.bound(options).await?) as Box<dyn Acceptor>) })
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

    /// As [`crate::QuicClientConfig::qlog`].
    #[cfg(feature = "qlog")]
    #[must_use]
    pub fn qlog(self, qlog: crate::Qlog) -> Self {
        Self(self.0.recorded(qlog))
    }
}

impl From<WebTransportServerConfig> for ServerProtocol {
    fn from(config: WebTransportServerConfig) -> Self {
        Self::of(config)
    }
}

impl From<WebTransportClientConfig> for ClientProtocol {
    fn from(config: WebTransportClientConfig) -> Self {
        config.0.into()
    }
}
