//! The first bytes of an HTTP/2 connection, read under a deadline before anything is made for the peer.
//!
//! hyper waits for them for ever; and a peer that speaks something else is found out here, by its first bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// RFC 9113 section 3.4.
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose preface was read, and is read again by whoever serves it.
pub(super) struct Prefaced<S> {
    stream: S,
    given: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Prefaced<S> {
    /// Reads the preface.
    pub(super) async fn read(mut stream: S) -> io::Result<Self> {
        let mut read = [0; PREFACE.len()];
        let mut at = 0;
        while at < read.len() {
            let count = stream.read(&mut read[at..]).await?;
            at += count;
            if count == 0 || read[..at] != PREFACE[..at] {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not speak HTTP/2"));
            }
        }
        Ok(Prefaced { stream, given: 0 })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefaced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given < PREFACE.len() {
            let rest = &PREFACE[self.given..];
            let count = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..count]);
            self.given += count;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefaced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn the_preface_is_read_again_with_what_follows_it() {
        let (mut peer, ours) = tokio::io::duplex(64);
        for byte in PREFACE.iter().chain(b"rest") {
            peer.write_all(&[*byte]).await.unwrap();
        }
        drop(peer);
        let mut prefaced = Prefaced::read(ours).await.unwrap();
        let mut all = Vec::new();
        prefaced.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [PREFACE.as_slice(), b"rest"].concat());
    }

    #[tokio::test]
    async fn another_protocol_is_refused_by_its_first_byte() {
        let (mut peer, ours) = tokio::io::duplex(64);
        peer.write_all(b"GET / HTTP/1.1").await.unwrap();
        assert!(Prefaced::read(ours).await.is_err());
        let (mut peer, ours) = tokio::io::duplex(64);
        peer.write_all(&PREFACE[..23]).await.unwrap();
        drop(peer);
        assert!(Prefaced::read(ours).await.is_err());
    }
}
