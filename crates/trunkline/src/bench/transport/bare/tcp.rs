//! tokio's TCP as it is.

use std::net::SocketAddr;

use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::frame::Prefix;
use super::stream::{self, StreamLink};

pub(in crate::bench::transport) async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        connections.spawn(async move {
            let (read, out) = stream.into_split();
            // A connection that fails is its client's to report.
            let _ = stream::serve(read, out, Prefix::Nothing).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

pub(in crate::bench::transport) async fn connect(
    address: SocketAddr,
    batch: usize,
) -> anyhow::Result<StreamLink<OwnedReadHalf, OwnedWriteHalf>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (read, out) = stream.into_split();
    Ok(StreamLink::new(read, out, Prefix::Nothing, batch))
}
