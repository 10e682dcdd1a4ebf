//! Packets within one process.

use std::io;

use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Acceptor, ClientKind, ClientProtocol, DialOptions, Listen, ListenOptions, ServerProtocol};
use crate::{BoxFuture, BuildError, ConnectError, Connection, Framing, MiddlewareStack, memory};

/// Connections that wait for a memory listener: as a kernel's backlog, bounded.
const WAITING: usize = 128;

/// A listener within the process.
///
/// ```
/// use trunkline_transport::{MemoryServerConfig, TransportClientBuilder, TransportServerBuilder};
/// # use trunkline_transport::{Packet, TransportClient, TransportServer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (memory, memory_client) = MemoryServerConfig::new();
/// let server = TransportServerBuilder::new().with_protocol(memory).build().await?;
/// let client = TransportClientBuilder::new().with_protocol(memory_client).build().await?;
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
#[derive(Debug)]
pub struct MemoryServerConfig {
    newcomers: Receiver<Connection>,
}

/// Connects to a [`MemoryServerConfig`] of the same process. Clones reach the same server.
#[derive(Clone, Debug)]
pub struct MemoryClientConfig {
    server: Sender<Connection>,
    #[cfg(feature = "chaos")]
    chaos: Option<crate::chaos::StreamChaos>,
}

impl MemoryServerConfig {
    /// A server's end, and the clients' end.
    #[must_use]
    pub fn new() -> (Self, MemoryClientConfig) {
        let (server, newcomers) = channel(WAITING);
        let client = MemoryClientConfig {
            server,
            #[cfg(feature = "chaos")]
            chaos: None,
        };
        (Self { newcomers }, client)
    }
}

impl Listen for MemoryServerConfig {
    fn bind<'a>(
        self: Box<Self>,
        options: &'a ListenOptions,
    ) -> BoxFuture<'a, Result<Box<dyn Acceptor>, BuildError>> {
        let (cancel, max_message) = (options.cancel.clone(), options.max_message);
        let middleware = options.middleware.clone();
        let acceptor = MemoryAcceptor { newcomers: self.newcomers, cancel, middleware, max_message };
        Box::pin(std::future::ready(Ok(Box::new(acceptor) as Box<dyn Acceptor>)))
    }
}

/// A memory listener.
#[derive(Debug)]
struct MemoryAcceptor {
    newcomers: Receiver<Connection>,
    cancel: CancellationToken,
    middleware: MiddlewareStack,
    max_message: usize,
}

impl Acceptor for MemoryAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, Option<Connection>> {
        Box::pin(async move {
            loop {
                let mut connection = tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => return None,
                    newcomer = self.newcomers.recv() => newcomer?,
                };
                if self.middleware.accepts(None) {
                    connection.reader.set_max_frame(self.max_message);
                    return Some(connection);
                }
            }
        })
    }
}

impl MemoryClientConfig {
    /// The same, with faults on the way; see [`crate::chaos`].
    #[cfg(feature = "chaos")]
    #[must_use]
    pub fn through(self, chaos: &crate::chaos::StreamChaos) -> Self {
        Self { chaos: Some(chaos.clone()), ..self }
    }

    fn pair(&self, max_message: usize) -> (Connection, Connection) {
        #[cfg(feature = "chaos")]
        if let Some(chaos) = &self.chaos {
            return memory::disturbed_pair(chaos, Framing::Packet, max_message);
        }
        memory::pair(Framing::Packet, max_message)
    }

    pub(super) async fn connect(&self, options: &DialOptions) -> Result<Connection, ConnectError> {
        let (ours, theirs) = self.pair(options.max_message);
        let sent = timeout(options.timeout, self.server.send(theirs)).await;
        match sent {
            Ok(Ok(())) => Ok(ours),
            Ok(Err(_)) => Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
            Err(_) => Err(ConnectError::TimedOut(options.timeout)),
        }
    }
}

impl From<MemoryServerConfig> for ServerProtocol {
    fn from(config: MemoryServerConfig) -> Self {
        Self::of(config)
    }
}

impl From<MemoryClientConfig> for ClientProtocol {
    fn from(config: MemoryClientConfig) -> Self {
        Self(ClientKind::Memory(config))
    }
}
