//! A TCP proxy with faults.

use std::{io, net::SocketAddr, ops::Deref, sync::Arc};

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};

use super::{StreamChaos, StreamFaults, stream::Carrier};

/// A listening proxy, which is told what to do as its [`StreamChaos`] is. Dropping it ends its connections.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    chaos: StreamChaos,
}

impl TcpProxy {
    /// Listens on a port of its own and carries connections to `target`.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(target: SocketAddr, seed: u64, faults: StreamFaults) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let target = Arc::new(Mutex::new(target));
        let chaos = StreamChaos::new(seed, faults);
        let to = Arc::clone(&target);
        chaos.accept(|carrier| accept(listener, to, carrier));
        Ok(Self { address, target, chaos })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where connections from now on lead, such as a restarted server.
    pub fn set_target(&self, target: SocketAddr) {
        *self.target.lock() = target;
    }
}

impl Deref for TcpProxy {
    type Target = StreamChaos;

    fn deref(&self) -> &StreamChaos {
        &self.chaos
    }
}

async fn accept(listener: TcpListener, target: Arc<Mutex<SocketAddr>>, carrier: Carrier) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let target = *target.lock();
        let server = async move {
            let server = TcpStream::connect(target).await?;
            server.set_nodelay(true)?;
            Ok(server)
        };
        // A client that is gone already is found out by the first read.
        let _ = client.set_nodelay(true);
        carrier.carry(client, server, |client, server| {
            // Only the manner of the end is at stake: where the option fails, the drop still closes.
            let _ = client.set_zero_linger();
            let _ = server.set_zero_linger();
        });
    }
}
