//! Packets over Unix sockets: back to back, as over TCP.

use std::{
    io,
    os::{fd::OwnedFd, unix::fs::FileTypeExt as _},
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Type};
use tokio::{net::UnixListener, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Acceptor, ClientProtocol, Listen, ListenOptions, ServerProtocol, dial::Dial};
use crate::{
    BoxFuture, BuildError, Connection, Endpoint, Framing, MiddlewareStack, defaults::ACCEPT_BACKOFF, unix,
};

/// A listener on a Unix socket.
///
/// ```
/// use trunkline_transport::{
///     TransportClientBuilder, TransportServerBuilder, UnixClientConfig, UnixServerConfig,
/// };
/// # use trunkline_transport::{Packet, TransportClient, TransportServer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let path = std::env::temp_dir().join(format!("chat-{}.sock", std::process::id()));
/// let unix = UnixServerConfig::new(&path);
/// let server = TransportServerBuilder::new().with_protocol(unix).build().await?;
/// let unix = UnixClientConfig::new(path.display().to_string());
/// let client = TransportClientBuilder::new().with_protocol(unix).build().await?;
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
pub struct UnixServerConfig {
    path: PathBuf,
}

impl UnixServerConfig {
    /// Listens on this path. A socket that lies there and that nobody listens on is replaced; any other file is an
    /// error. The path is removed when the server ends.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    async fn bound(self, options: &ListenOptions) -> Result<UnixAcceptor, BuildError> {
        let fail = |error| BuildError::Bind { address: self.path.display().to_string(), error };
        let is_socket =
            std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.file_type().is_socket());
        if is_socket {
            if tokio::net::UnixStream::connect(&self.path).await.is_ok() {
                return Err(fail(io::ErrorKind::AddrInUse.into()));
            }
            std::fs::remove_file(&self.path).map_err(fail)?;
        }
        let listener = listen(&self.path, options.backlog).map_err(fail)?;
        let (cancel, max_message) = (options.cancel.clone(), options.max_message);
        let middleware = options.middleware.clone();
        Ok(UnixAcceptor { listener, path: self.path, cancel, middleware, max_message })
    }
}

fn listen(path: &Path, backlog: u32) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    UnixListener::from_std(OwnedFd::from(socket).into())
}

impl Listen for UnixServerConfig {
    fn bind<'a>(
        self: Box<Self>,
        options: &'a ListenOptions,
    ) -> BoxFuture<'a, Result<Box<dyn Acceptor>, BuildError>> {
        Box::pin(async move { Ok(Box::new(self.bound(options).await?) as Box<dyn Acceptor>) })
    }
}

/// A bound Unix socket; the path goes with it.
#[derive(Debug)]
struct UnixAcceptor {
    listener: UnixListener,
    path: PathBuf,
    cancel: CancellationToken,
    middleware: MiddlewareStack,
    max_message: usize,
}

impl Acceptor for UnixAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, Option<Connection>> {
        Box::pin(async move {
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => return None,
                    accepted = self.listener.accept() => accepted,
                };
                match accepted {
                    Ok(_) if !self.middleware.accepts(None) => {}
                    Ok((stream, _)) => {
                        return Some(unix::connection(stream, Framing::Packet, self.max_message));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept failed");
                        sleep(ACCEPT_BACKOFF).await;
                    }
                }
            }
        })
    }
}

impl Drop for UnixAcceptor {
    fn drop(&mut self) {
        // Somebody may have removed it before; then there is nothing to do.
        drop(std::fs::remove_file(&self.path));
    }
}

/// A client over a Unix socket.
#[derive(Clone, Debug)]
pub struct UnixClientConfig(Dial);

impl UnixClientConfig {
    /// Connects to the socket at this path.
    #[must_use]
    pub fn new(path: impl AsRef<str>) -> Self {
        Self(Dial::endpoint(Endpoint::unix(path.as_ref())))
    }
}

impl From<UnixServerConfig> for ServerProtocol {
    fn from(config: UnixServerConfig) -> Self {
        Self::of(config)
    }
}

impl From<UnixClientConfig> for ClientProtocol {
    fn from(config: UnixClientConfig) -> Self {
        config.0.into()
    }
}
