//! The write side of a TLS stream: what is written becomes records whose size depends on how old the connection is.
//!
//! A record can be read only when all of it is there. With full records of 16 KiB a client that comes back to a long
//! backlog over a network that breaks every few kilobytes would never read one of them, and would never get on. So a
//! connection begins with records that fit a packet and changes to full ones once it has carried some, as common
//! servers do ("dynamic TLS record sizing").

use std::{
    io::{self, IoSlice, Write},
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::{io::AsyncWrite, net::TcpStream};
use tokio_rustls::TlsStream;

use super::{Outgoing, gather};
use crate::defaults::{EARLY_RECORD, EARLY_RECORDS};

/// Both halves of a TLS connection: rustls keeps one state for both directions.
pub(crate) type SharedTls = Arc<Mutex<TlsStream<TcpStream>>>;

/// See the module.
pub(crate) struct TlsSink {
    stream: SharedTls,
    /// Bytes that still go into small records.
    early: usize,
}

impl TlsSink {
    pub(crate) fn new(stream: SharedTls) -> Self {
        Self { stream, early: EARLY_RECORD * EARLY_RECORDS }
    }

    /// Takes what the session has room for and hands as much of it to the socket as that takes at once. `Pending`
    /// only when nothing was taken.
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.lock();
        if self.early == 0 {
            return Pin::new(&mut *stream).poll_write(cx, buf);
        }
        loop {
            let mut taken = 0;
            let mut session = match &mut *stream {
                TlsStream::Client(stream) => stream.get_mut().1.writer(),
                TlsStream::Server(stream) => stream.get_mut().1.writer(),
            };
            for record in buf.chunks(EARLY_RECORD) {
                // A session that is full takes a part of the record, or nothing.
                let n = session.write(record)?;
                taken += n;
                if n < record.len() {
                    break;
                }
            }
            self.early = self.early.saturating_sub(taken);
            let flushed = Pin::new(&mut *stream).poll_flush(cx)?;
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
            ready!(flushed);
        }
    }
}

impl Outgoing for TlsSink {
    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        gather(bufs, |buf| self.poll_write(cx, buf))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.lock()).poll_flush(cx)
    }

    /// Says `close_notify` and ends the write side.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.lock()).poll_shutdown(cx)
    }

    fn abort(&mut self, _: u32, _: &str) {
        // A socket that is gone already cannot be shut down; there is nobody to tell.
        let _ = SockRef::from(self.stream.lock().get_ref().0).shutdown(Shutdown::Both);
    }

    fn set_keepalive(&self, idle: Duration) -> io::Result<()> {
        let keepalive = TcpKeepalive::new().with_time(idle);
        SockRef::from(self.stream.lock().get_ref().0).set_tcp_keepalive(&keepalive)
    }
}
