//! Packets over TCP, plain or inside TLS: back to back, told apart by their own header.

use std::net::SocketAddr;

use super::{
    Acceptor, ClientProtocol, Listen, ListenOptions, ServerProtocol,
    dial::Dial,
    network::{bind_first, resolve},
};
use crate::{Accepted, BoxFuture, BuildError, Connection, Framing, Socket, StreamListener, StreamOptions};

/// A TCP listener.
///
/// ```
/// use trunkline_transport::{
///     TcpClientConfig, TcpServerConfig, TransportClientBuilder, TransportServerBuilder,
/// };
/// # use trunkline_transport::{Packet, TransportClient, TransportServer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tcp = TcpServerConfig::new("127.0.0.1:0");
/// let server = TransportServerBuilder::new().with_protocol(tcp).build().await?;
/// let tcp = TcpClientConfig::new(server.local_addrs()[0].to_string());
/// let client = TransportClientBuilder::new().with_protocol(tcp).build().await?;
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
pub struct TcpServerConfig {
    address: String,
    #[cfg(feature = "tls")]
    tls: Option<crate::Tls>,
}

impl TcpServerConfig {
    /// Listens on `host:port`; port 0 takes any free one. The name is resolved when the server is built.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Speaks TLS, and nothing else.
    ///
    /// ```
    /// use trunkline_transport::{
    ///     ClientTls, TcpClientConfig, TcpServerConfig, Tls, TransportClientBuilder, TransportServerBuilder,
    /// };
    /// # use trunkline_transport::{Packet, TransportClient, TransportServer};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // A certificate for trying things out; `Tls::from_pem` takes a real one.
    /// let tls = Tls::self_signed_dev()?;
    /// let trust = ClientTls::pinned(vec![tls.fingerprint()])?;
    /// let server =
    ///     TransportServerBuilder::new().with_protocol(TcpServerConfig::new("127.0.0.1:0").tls(tls)).build().await?;
    /// let tcp = TcpClientConfig::new(server.local_addrs()[0].to_string()).tls(trust);
    /// let client = TransportClientBuilder::new().with_protocol(tcp).build().await?;
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
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(self, tls: crate::Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    async fn bound(self, options: &ListenOptions) -> Result<TcpAcceptor, BuildError> {
        let found = resolve(&self.address).await?;
        let streams = stream_options(options);
        #[cfg(feature = "tls")]
        let streams = with_tls(streams, self.tls.as_ref(), &[])?;
        let listener = bind_first(&self.address, &found, |address: SocketAddr| {
            StreamListener::bind(Socket::Address(address), streams.clone())
        })?;
        Ok(TcpAcceptor { listener, max_message: options.max_message })
    }
}

impl Listen for TcpServerConfig {
    fn bind<'a>(
        self: Box<Self>,
        options: &'a ListenOptions,
    ) -> BoxFuture<'a, Result<Box<dyn Acceptor>, BuildError>> {
        Box::pin(async move { Ok(Box::new(self.bound(options).await?) as Box<dyn Acceptor>) })
    }
}

/// The options of a listener for byte streams, plain.
pub(super) fn stream_options(options: &ListenOptions) -> StreamOptions {
    StreamOptions {
        #[cfg(feature = "tls")]
        policy: crate::TlsPolicy::Off,
        #[cfg(feature = "tls")]
        tls: None,
        handshake_timeout: options.handshake_timeout,
        max_handshakes: options.max_handshakes,
        backlog: options.backlog,
        middleware: options.middleware.clone(),
        cancel: options.cancel.clone(),
    }
}

/// The same, encrypted if there is a certificate.
#[cfg(feature = "tls")]
pub(super) fn with_tls(
    streams: StreamOptions,
    tls: Option<&crate::Tls>,
    alpns: &[&str],
) -> Result<StreamOptions, BuildError> {
    let Some(tls) = tls else { return Ok(streams) };
    let tls = Some(tls.server(alpns)?);
    Ok(StreamOptions { policy: crate::TlsPolicy::Required, tls, ..streams })
}

/// A TCP listener that is bound.
#[derive(Debug)]
struct TcpAcceptor {
    listener: StreamListener,
    max_message: usize,
}

impl Acceptor for TcpAcceptor {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    #[cfg_attr(
        not(feature = "tls"),
        allow(clippy::never_loop, reason = "without TLS there is nobody whom the listener does not let in")
    )]
    fn accept(&mut self) -> BoxFuture<'_, Option<Connection>> {
        Box::pin(async move {
            loop {
                match self.listener.accept().await? {
                    Accepted::Stream(stream) => {
                        return Some(stream.into_framed(Framing::Packet, self.max_message));
                    }
                    #[cfg(feature = "tls")]
                    Accepted::PlainRefused(stream) => {
                        tracing::debug!(peer = %stream.peer(), "a plain peer where TLS is required");
                    }
                }
            }
        })
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
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(self, tls: crate::ClientTls) -> Self {
        Self(self.0.encrypted().trusting(tls))
    }
}

impl From<TcpServerConfig> for ServerProtocol {
    fn from(config: TcpServerConfig) -> Self {
        Self::of(config)
    }
}

impl From<TcpClientConfig> for ClientProtocol {
    fn from(config: TcpClientConfig) -> Self {
        config.0.into()
    }
}
