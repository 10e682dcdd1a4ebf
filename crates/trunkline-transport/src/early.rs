//! Idempotent requests that leave with the first packets of a QUIC connection that is made again (0-RTT, RFC 9001 section
//! 4.6). Whoever records such packets may send them again, so nothing else ever leaves before the handshake is complete.
//!
//! A request that finds no connection is offered here. An attempt to connect that may send early takes what is offered until
//! its handshake is complete; then the connection's own session waits for the answers. What the server has not taken is sent
//! again behind the handshake; if there is no connection after all, whoever asked is told, and asks again.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Compression, Flags, Packet, PacketType, Wire,
    defaults::EARLY_BYTES,
    packet::encode,
    session::{
        core::{Core, Shared},
        request::Exchange,
    },
};

/// The early requests of one client. One attempt at a time takes them.
#[derive(Debug)]
pub(crate) struct Early {
    shared: Arc<Shared>,
    offered: Mutex<Option<Offered>>,
}

#[derive(Debug, Default)]
struct Offered {
    /// What is sent: framed, one behind the other.
    frames: BytesMut,
    /// Who waits for the answers, in their order: the first has number 1, as a new connection's first request has.
    asked: Vec<Asked>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct Asked {
    deadline: Instant,
    timeout: Duration,
    size: usize,
    begun: oneshot::Sender<Exchange>,
}

impl Early {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { shared, offered: Mutex::new(None) })
    }

    /// Offers a request. None: it is not idempotent, or no attempt takes it now; otherwise the request under way, once there is
    /// a connection. It is an error if there is none.
    pub(crate) fn offer(
        &self,
        packet: &Packet,
        deadline: Instant,
        timeout: Duration,
    ) -> Option<oneshot::Receiver<Exchange>> {
        if !packet.flags.contains(Flags::IDEMPOTENT) || packet.payload.len() > self.shared.limits.message {
            return None;
        }
        let mut offered = self.offered.lock();
        let offered = offered.as_mut()?;
        if offered.asked.len() >= self.shared.limits.requests {
            return None;
        }
        let packet = Packet {
            packet_type: PacketType::Request,
            message_id: u32::try_from(offered.asked.len() + 1).ok()?,
            // What the server inflates it has yet to say.
            compression: Compression::None,
            is_echo: false,
            ..packet.clone()
        };
        let header = encode::header(&packet, Wire::V2).ok()?;
        let total = u32::try_from(header.total()).ok()?;
        if offered.frames.len() + 4 + header.total() > EARLY_BYTES {
            return None;
        }
        offered.frames.put_u32(total);
        offered.frames.put_slice(&header.to_bytes());
        offered.frames.put_slice(&packet.ext_header);
        offered.frames.put_slice(&packet.payload);
        let (begun, waits) = oneshot::channel();
        offered.asked.push(Asked { deadline, timeout, size: 4 + header.total(), begun });
        let writer = offered.writer.take();
        writer.into_iter().for_each(Waker::wake);
        Some(waits)
    }

    /// An attempt that may send early begins; none while another one does.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Attempt> {
        {
            let mut offered = self.offered.lock();
            if offered.is_some() {
                return None;
            }
            *offered = Some(Offered::default());
        }
        // Who waits for a connection may offer now.
        self.shared.changed.notify_waiters();
        Some(Attempt { early: Arc::clone(self), written: 0, is_over: false })
    }
}

/// Takes what is offered, until it ends or is dropped.
#[derive(Debug)]
pub(crate) struct Attempt {
    early: Arc<Early>,
    written: usize,
    /// What was offered is out of its hands.
    is_over: bool,
}

impl Attempt {
    /// What is offered and not written yet.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let mut offered = self.early.offered.lock();
        let Some(offered) = offered.as_mut() else { return Poll::Pending };
        if offered.frames.len() > self.written {
            return Poll::Ready(Bytes::copy_from_slice(&offered.frames[self.written..]));
        }
        offered.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// So much of it is.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
    }

    /// The handshake is complete: nothing more is offered. `is_taken`: the server has what was written.
    pub(crate) fn end(mut self, is_taken: bool) -> Begun {
        self.is_over = true;
        let offered = self.early.offered.lock().take().unwrap_or_default();
        let rest = offered.frames.freeze().slice(if is_taken { self.written } else { 0 }..);
        Begun { rest, asked: offered.asked, written: self.written, is_taken }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.is_over {
            let offered = self.early.offered.lock().take();
            // Whoever asked is woken when the lock is gone.
            drop(offered);
        }
    }
}

/// Requests that were sent, or are yet to be, on a connection that has no session yet.
#[derive(Debug)]
pub(crate) struct Begun {
    rest: Bytes,
    asked: Vec<Asked>,
    /// What was sent early.
    written: usize,
    is_taken: bool,
}

impl Begun {
    /// What has to be written before anything else.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.rest
    }

    /// Gives the requests their places in a new connection, before any other has one.
    pub(crate) fn enter(self, core: &Arc<Core>) -> Entered {
        let counter = if self.is_taken { &core.stats.early_requests } else { &core.stats.early_resent };
        let mut entered = Vec::new();
        let mut end = 0;
        for asked in self.asked {
            end += asked.size;
            let begun = {
                let mut pending = core.pending.lock();
                let begun = pending.begin(asked.deadline, asked.timeout, None, Waker::noop());
                pending.arms(asked.deadline);
                begun
            };
            // There are as many places as were offered.
            let Some(Ok(id)) = begun else { break };
            core.stats.sent(PacketType::Request, asked.size);
            if end <= self.written {
                counter.fetch_add(1, Relaxed);
            }
            let exchange = Exchange::begun(Arc::clone(core), id, asked.timeout, asked.deadline);
            entered.push((asked.begun, exchange));
        }
        Entered(entered)
    }
}

/// Requests of a connection that has yet to live.
#[derive(Debug)]
pub(crate) struct Entered(Vec<(oneshot::Sender<Exchange>, Exchange)>);

impl Entered {
    /// Whoever asked waits for the answer from now on. Who does not any more has given up, and the server is told.
    pub(crate) fn go_on(self) {
        for (begun, exchange) in self.0 {
            drop(begun.send(exchange));
        }
    }
}
