//! Packets over WebSocket: one binary message each, by the subprotocols `msgtrans.v2` and `msgtrans.v1`.

use std::net::SocketAddr;

use super::{
    Acceptor, ClientProtocol, Listen, ListenOptions, ServerProtocol,
    dial::Dial,
    network::{bind_first, resolve},
    tcp::stream_options,
};
use crate::{
    BoxFuture, BuildError, Connection, Framing, Protocol, Role, Socket, WebSocketListener, WebSocketOptions,
    session::driver::frame_limit,
};

/// A WebSocket listener on a port of its own.
///
/// ```
/// use trunkline_transport::{
///     TransportClientBuilder, TransportServerBuilder, WebSocketClientConfig, WebSocketServerConfig,
/// };
/// # use trunkline_transport::{Packet, TransportClient, TransportServer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let websocket = WebSocketServerConfig::new("127.0.0.1:0").path("/chat");
/// let server = TransportServerBuilder::new().with_protocol(websocket).build().await?;
/// let websocket = WebSocketClientConfig::new(format!("ws://{}/chat", server.local_addrs()[0]));
/// let client = TransportClientBuilder::new().with_protocol(websocket).build().await?;
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
pub struct WebSocketServerConfig {
    address: String,
    path: Option<String>,
    #[cfg(feature = "tls")]
    tls: Option<crate::Tls>,
}

impl WebSocketServerConfig {
    /// Listens on `host:port`, at any path; port 0 takes any free one.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            path: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Serves this path; any other is answered 404.
    #[must_use]
    pub fn path(self, path: impl Into<String>) -> Self {
        Self { path: Some(path.into()), ..self }
    }

    /// Serves `wss`; plain requests are sent there.
    ///
    /// ```
    /// use trunkline_transport::{
    ///     ClientTls, Tls, TransportClientBuilder, TransportServerBuilder, WebSocketClientConfig,
    ///     WebSocketServerConfig,
    /// };
    /// # use trunkline_transport::{Packet, TransportClient, TransportServer};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // A certificate for trying things out; `Tls::from_pem` takes a real one.
    /// let tls = Tls::self_signed_dev()?;
    /// let trust = ClientTls::pinned(vec![tls.fingerprint()])?;
    /// let websocket = WebSocketServerConfig::new("127.0.0.1:0").tls(tls);
    /// let server = TransportServerBuilder::new().with_protocol(websocket).build().await?;
    /// let websocket = WebSocketClientConfig::new(format!("wss://{}", server.local_addrs()[0])).tls(trust);
    /// let client = TransportClientBuilder::new().with_protocol(websocket).build().await?;
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

    async fn bound(self, options: &ListenOptions) -> Result<WebSocketListener, BuildError> {
        let found = resolve(&self.address).await?;
        let streams = stream_options(options);
        #[cfg(feature = "tls")]
        let streams = super::tcp::with_tls(streams, self.tls.as_ref(), &["http/1.1"])?;
        let websocket = WebSocketOptions {
            max_frame: frame_limit(Framing::WebSocket { role: Role::Server }, options.max_message),
            subprotocols: vec!["msgtrans.v2".to_owned(), "msgtrans.v1".to_owned()],
            path: self.path,
            is_full: Some(options.is_full.clone()),
            middleware: options.middleware.clone(),
        };
        bind_first(&self.address, &found, |address: SocketAddr| {
            WebSocketListener::bind(Socket::Address(address), streams.clone(), websocket.clone())
        })
    }
}

impl Listen for WebSocketServerConfig {
    fn bind<'a>(
        self: Box<Self>,
        options: &'a ListenOptions,
    ) -> BoxFuture<'a, Result<Box<dyn Acceptor>, BuildError>> {
        Box::pin(async move { Ok(Box::new(self.bound(options).await?) as Box<dyn Acceptor>) })
    }
}

impl Acceptor for WebSocketListener {
    fn local_addr(&self) -> Option<SocketAddr> {
        WebSocketListener::local_addr(self).ok()
    }

    fn accept(&mut self) -> BoxFuture<'_, Option<Connection>> {
        Box::pin(WebSocketListener::accept(self))
    }
}

/// A WebSocket client.
#[derive(Clone, Debug)]
pub struct WebSocketClientConfig(Dial);

impl WebSocketClientConfig {
    /// Connects to `ws://host:port/path` or `wss://…`, whose certificate is verified by the machine's own roots unless
    /// `tls` says otherwise.
    #[must_use]
    pub fn new(url: impl AsRef<str>) -> Self {
        Self(Dial::to(url.as_ref()).must_be(&[Protocol::WebSocket, Protocol::WebSocketTls], "ws or wss"))
    }

    /// What to trust.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(self, tls: crate::ClientTls) -> Self {
        Self(self.0.trusting(tls))
    }

    /// A further header of the request, such as `Authorization`.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }
}

impl From<WebSocketServerConfig> for ServerProtocol {
    fn from(config: WebSocketServerConfig) -> Self {
        Self::of(config)
    }
}

impl From<WebSocketClientConfig> for ClientProtocol {
    fn from(config: WebSocketClientConfig) -> Self {
        config.0.into()
    }
}
