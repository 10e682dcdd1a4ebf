//! The write side of plain TCP.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{io::AsyncWrite, net::tcp::OwnedWriteHalf};

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

    fn set_keepalive(&self, idle: Duration) -> io::Result<()> {
        SockRef::from(self.as_ref()).set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))
    }
}
