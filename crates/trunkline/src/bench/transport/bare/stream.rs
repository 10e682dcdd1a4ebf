//! Frames on a stream of bytes: TCP, and the one stream of a QUIC connection.

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{Answers, Buffer, ONE_WAY, Prefix, REQUEST, RESPONSE, write};
use crate::bench::transport::load::{Link, answered};

/// Answers until the peer has ended.
pub(in crate::bench::transport) async fn serve(
    mut read: impl AsyncRead + Unpin,
    mut out: impl AsyncWrite + Unpin,
    prefix: Prefix,
) -> anyhow::Result<()> {
    let (mut buffer, mut answers, mut bytes) = (Buffer::new(prefix), Answers::default(), Vec::new());
    loop {
        let count = read.read(buffer.space()).await?;
        if count == 0 {
            return Ok(());
        }
        buffer.add(count);
        while let Some((header, payload)) = buffer.next()? {
            if let Some(answer) = answers.to(header, payload, &mut [0; 8]) {
                let kind = if header.kind == ONE_WAY { ONE_WAY } else { RESPONSE };
                write(&mut bytes, prefix, kind, header.id, answer);
            }
        }
        if !bytes.is_empty() {
            out.write_all(&bytes).await?;
            bytes.clear();
        }
    }
}

/// A client's connection.
pub(in crate::bench::transport) struct StreamLink<R, W> {
    read: R,
    out: W,
    prefix: Prefix,
    buffer: Buffer,
    bytes: Vec<u8>,
    /// Messages in one write, and how many wait for it.
    batch: usize,
    waiting: usize,
    last_id: u32,
}

impl<R, W> StreamLink<R, W>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    pub(in crate::bench::transport) fn new(read: R, out: W, prefix: Prefix, batch: usize) -> Self {
        let buffer = Buffer::new(prefix);
        StreamLink { read, out, prefix, buffer, bytes: Vec::new(), batch, waiting: 0, last_id: 0 }
    }

    async fn write_out(&mut self) -> anyhow::Result<()> {
        self.out.write_all(&self.bytes).await?;
        self.bytes.clear();
        self.waiting = 0;
        Ok(())
    }
}

impl<R, W> Link for StreamLink<R, W>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    async fn request(&mut self, body: &Bytes) -> anyhow::Result<u64> {
        self.last_id = self.last_id.wrapping_add(1);
        write(&mut self.bytes, self.prefix, REQUEST, self.last_id, body);
        self.write_out().await?;
        loop {
            if let Some((header, payload)) = self.buffer.next()? {
                ensure!(
                    (header.kind, header.id) == (RESPONSE, self.last_id),
                    "an answer to nothing: {header:?}"
                );
                return answered(body, payload);
            }
            let count = self.read.read(self.buffer.space()).await?;
            ensure!(count > 0, "the server has closed the connection");
            self.buffer.add(count);
        }
    }

    async fn send(&mut self, body: &Bytes) -> anyhow::Result<()> {
        write(&mut self.bytes, self.prefix, ONE_WAY, 0, body);
        self.waiting += 1;
        if self.waiting < self.batch { Ok(()) } else { self.write_out().await }
    }

    async fn receive(&mut self) -> anyhow::Result<usize> {
        loop {
            match self.buffer.next()? {
                Some((header, _)) if header.kind == ONE_WAY => return Ok(header.length),
                Some((header, _)) => bail!("an answer to nothing: {header:?}"),
                None => {}
            }
            let count = self.read.read(self.buffer.space()).await.context("the server is gone")?;
            ensure!(count > 0, "the server has closed the connection");
            self.buffer.add(count);
        }
    }
}
