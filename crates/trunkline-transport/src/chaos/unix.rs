//! A proxy with faults between Unix sockets.

use std::{
    io,
    ops::Deref,
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

use super::{StreamChaos, StreamFaults, stream::Carrier};

/// A listening proxy, which is told what to do as its [`StreamChaos`] is. A Unix socket has no reset: it just ends.
/// Dropping it ends its connections and removes its path.
#[derive(Debug)]
pub struct UnixProxy {
    path: PathBuf,
    chaos: StreamChaos,
}

impl UnixProxy {
    /// Listens at `path`, where nothing may lie yet, and carries connections to the socket at `target`. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// It cannot listen there.
    pub fn start(
        path: impl Into<PathBuf>,
        target: impl Into<PathBuf>,
        seed: u64,
        faults: StreamFaults,
    ) -> io::Result<Self> {
        let (path, target) = (path.into(), target.into());
        let listener = UnixListener::bind(&path)?;
        let chaos = StreamChaos::new(seed, faults);
        chaos.accept(|carrier| accept(listener, target, carrier));
        Ok(Self { path, chaos })
    }

    /// Where clients connect.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for UnixProxy {
    type Target = StreamChaos;

    fn deref(&self) -> &StreamChaos {
        &self.chaos
    }
}

impl Drop for UnixProxy {
    fn drop(&mut self) {
        // Somebody may have removed it before; then there is nothing to do.
        drop(std::fs::remove_file(&self.path));
    }
}

async fn accept(listener: UnixListener, target: PathBuf, carrier: Carrier) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let target = target.clone();
        carrier.carry(client, async move { UnixStream::connect(target).await }, |_, _| {});
    }
}
