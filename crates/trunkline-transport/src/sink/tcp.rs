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
    let [one] = bufs else { return half.try_write_vectored(bufs) };
    match send(stream(half), one) {
        // Now the runtime has to find it out too, or it would not wait for the socket.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => half.try_write(one),
        sent => sent,
    }
}

/// As the runtime would, without a look at what it knows of the socket: of one among many that is a walk through cold memory.
#[cfg(target_os = "linux")]
fn send(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    use rustix::net::SendFlags;

    Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?)
}

#[cfg(not(target_os = "linux"))]
fn send(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    stream.try_write(bytes)
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
