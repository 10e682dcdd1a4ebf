//! The write side of plain TCP.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, tcp::OwnedWriteHalf};

use super::Outgoing;

/// Who writes, and those who may in its place: see [`super::Direct`].
pub(crate) type SharedTcp = Arc<OwnedWriteHalf>;

fn stream(half: &SharedTcp) -> &TcpStream {
    OwnedWriteHalf::as_ref(half)
}

/// What the socket takes at once. One piece goes by `send`, which costs less than `writev`: most of what is written is one
/// frame, and then the call is most of the cost.
pub(super) fn try_write(half: &SharedTcp, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    match bufs {
        [one] => half.try_write(one),
        many => half.try_write_vectored(many),
    }
}

impl Outgoing for SharedTcp {
    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(stream(self).poll_write_ready(cx))?;
            match try_write(self, bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = SockRef::from(stream(self)).shutdown(Shutdown::Write);
        // A peer that is gone needs no word.
        Poll::Ready(done.or_else(|error| match error.kind() {
            io::ErrorKind::NotConnected => Ok(()),
            _ => Err(error),
        }))
    }

    fn abort(&mut self, _: u32, _: &str) {
        // A socket that is gone already cannot be shut down; there is nobody to tell.
        drop(SockRef::from(stream(self)).shutdown(Shutdown::Both));
    }

    fn set_keepalive(&self, idle: Duration) -> io::Result<()> {
        SockRef::from(stream(self)).set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))
    }
}
