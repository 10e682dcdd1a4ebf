//! The write side of a Unix socket.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{io::AsyncWrite, net::unix::OwnedWriteHalf};

use super::Outgoing;

impl Outgoing for OwnedWriteHalf {
    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write_vectored(Pin::new(self), cx, bufs)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }

    fn abort(&mut self, _: u32, _: &str) {
        // A socket that is gone already cannot be shut down; there is nobody to tell.
        drop(SockRef::from((*self).as_ref()).shutdown(Shutdown::Both));
    }
}
