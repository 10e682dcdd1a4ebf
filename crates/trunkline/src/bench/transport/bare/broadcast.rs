//! One buffer, written to every TCP socket in turn: what reaching all of them costs at the least.

use std::sync::Arc;

use anyhow::ensure;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;

use super::frame::{Answers, Buffer, ONE_WAY, Prefix, RESPONSE, write};

/// All connections.
#[derive(Clone, Default)]
pub(in crate::bench::transport) struct Room(Arc<Mutex<Vec<OwnedWriteHalf>>>);

impl Room {
    /// Answers each connection's first request, and keeps it.
    pub(in crate::bench::transport) async fn serve(self, listener: TcpListener) -> anyhow::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (read, out) = stream.into_split();
            let room = self.clone();
            connections.spawn(async move {
                // A connection that fails is its client's to report.
                let _ = room.connection(read, out).await;
            });
            while connections.try_join_next().is_some() {}
        }
    }

    async fn connection(self, mut read: OwnedReadHalf, out: OwnedWriteHalf) -> anyhow::Result<()> {
        let (mut buffer, mut answer) = (Buffer::new(Prefix::Nothing), Vec::new());
        while answer.is_empty() {
            let count = read.read(buffer.space()).await?;
            ensure!(count > 0, "it has asked nothing");
            buffer.add(count);
            if let Some((header, payload)) = buffer.next()? {
                let payload =
                    Answers::default().to(header, payload, &mut [0; 8]).unwrap_or_default().to_vec();
                write(&mut answer, Prefix::Nothing, RESPONSE, header.id, &payload);
            }
        }
        out.writable().await?;
        {
            // Who has its answer is reached by the next broadcast.
            let mut room = self.0.lock();
            ensure!(out.try_write(&answer)? == answer.len(), "it does not take its answer");
            room.push(out);
        }
        // Until the client has gone.
        while read.read(buffer.space()).await? > 0 {}
        Ok(())
    }

    /// Sends to all; how many have taken it.
    pub(in crate::bench::transport) fn broadcast(&self, body: &Bytes) -> anyhow::Result<u64> {
        let mut frame = Vec::new();
        write(&mut frame, Prefix::Nothing, ONE_WAY, 0, body);
        let mut taken = 0;
        for out in self.0.lock().iter() {
            ensure!(
                out.try_write(&frame)? == frame.len(),
                "a client does not take what is sent: a slower pace"
            );
            taken += 1;
        }
        Ok(taken)
    }
}
