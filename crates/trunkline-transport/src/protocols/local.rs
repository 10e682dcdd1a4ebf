//! Packets within one machine: over Unix sockets, and within one process.

use std::{io, os::unix::fs::FileTypeExt as _, path::PathBuf};

use tokio::{
    net::UnixListener,
    sync::mpsc::{Receiver, Sender, channel},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    Bound, ClientKind, ClientProtocol, DialOptions, ListenOptions, ServerKind, ServerProtocol, dial::Dial,
};
use crate::{
    BuildError, ConnectError, Connection, Endpoint, Framing, MiddlewareStack, defaults::ACCEPT_BACKOFF,
    memory, unix,
};

/// A listener on a Unix socket.
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

    pub(super) async fn bind(self, options: &ListenOptions) -> Result<Bound, BuildError> {
        let fail = |error| BuildError::Bind { address: self.path.display().to_string(), error };
        let is_socket =
            std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.file_type().is_socket());
        if is_socket {
            if tokio::net::UnixStream::connect(&self.path).await.is_ok() {
                return Err(fail(io::ErrorKind::AddrInUse.into()));
            }
            std::fs::remove_file(&self.path).map_err(fail)?;
        }
        let listener = UnixListener::bind(&self.path).map_err(fail)?;
        let (cancel, max_message) = (options.cancel.clone(), options.max_message);
        let middleware = options.middleware.clone();
        Ok(Bound::Unix(UnixAcceptor { listener, path: self.path, cancel, middleware, max_message }))
    }
}

/// A bound Unix socket; the path goes with it.
#[derive(Debug)]
pub(crate) struct UnixAcceptor {
    listener: UnixListener,
    path: PathBuf,
    cancel: CancellationToken,
    middleware: MiddlewareStack,
    max_message: usize,
}

impl UnixAcceptor {
    pub(super) async fn accept(&mut self) -> Option<Connection> {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return None,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok(_) if !self.middleware.accepts(None) => {}
                Ok((stream, _)) => return Some(unix::connection(stream, Framing::Packet, self.max_message)),
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
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

/// Connections that wait for a memory listener: as a kernel's backlog, bounded.
const WAITING: usize = 128;

/// A listener within the process.
#[derive(Debug)]
pub struct MemoryServerConfig {
    newcomers: Receiver<Connection>,
}

/// Connects to a [`MemoryServerConfig`] of the same process. Clones reach the same server.
#[derive(Clone, Debug)]
pub struct MemoryClientConfig {
    server: Sender<Connection>,
}

impl MemoryServerConfig {
    /// A server's end, and the clients' end.
    #[must_use]
    pub fn new() -> (Self, MemoryClientConfig) {
        let (server, newcomers) = channel(WAITING);
        (Self { newcomers }, MemoryClientConfig { server })
    }

    pub(super) fn bind(self, options: &ListenOptions) -> Bound {
        let (cancel, max_message) = (options.cancel.clone(), options.max_message);
        let middleware = options.middleware.clone();
        Bound::Memory(MemoryAcceptor { newcomers: self.newcomers, cancel, middleware, max_message })
    }
}

/// A memory listener.
#[derive(Debug)]
pub(crate) struct MemoryAcceptor {
    newcomers: Receiver<Connection>,
    cancel: CancellationToken,
    middleware: MiddlewareStack,
    max_message: usize,
}

impl MemoryAcceptor {
    pub(super) async fn accept(&mut self) -> Option<Connection> {
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
    }
}

impl MemoryClientConfig {
    pub(super) async fn connect(&self, options: &DialOptions) -> Result<Connection, ConnectError> {
        let (ours, theirs) = memory::pair(Framing::Packet, options.max_message);
        let sent = tokio::time::timeout(options.timeout, self.server.send(theirs)).await;
        match sent {
            Ok(Ok(())) => Ok(ours),
            Ok(Err(_)) => Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
            Err(_) => Err(ConnectError::TimedOut(options.timeout)),
        }
    }
}

impl From<UnixServerConfig> for ServerProtocol {
    fn from(config: UnixServerConfig) -> Self {
        Self(ServerKind::Unix(config))
    }
}

impl From<MemoryServerConfig> for ServerProtocol {
    fn from(config: MemoryServerConfig) -> Self {
        Self(ServerKind::Memory(config))
    }
}

impl From<UnixClientConfig> for ClientProtocol {
    fn from(config: UnixClientConfig) -> Self {
        config.0.into()
    }
}

impl From<MemoryClientConfig> for ClientProtocol {
    fn from(config: MemoryClientConfig) -> Self {
        Self(ClientKind::Memory(config))
    }
}
