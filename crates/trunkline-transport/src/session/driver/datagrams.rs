//! Datagrams of a QUIC or WebTransport connection: each is one packet of an unreliable lane.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use super::{Driver, intake::Raw, signal::Signal};
use crate::{
    BoxFuture, CloseReason, PacketType, ReadError, StreamError, Streams, Wire,
    packet::{Kind, encode, stream},
};

/// Datagrams that are read in one turn.
const READS: usize = 16;

/// Where they come from.
pub(super) struct Datagrams {
    streams: Streams,
    next: Option<BoxFuture<'static, Result<Bytes, StreamError>>>,
    /// The connection's task.
    driver: Arc<AtomicWaker>,
    /// One has come, or the end. Asking each time would take the lock that the connection's packets need.
    has_come: Arc<Signal>,
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("streams", &self.streams).finish_non_exhaustive()
    }
}

impl Datagrams {
    /// None where the protocol has none.
    pub(super) fn of(streams: &Streams) -> Option<Self> {
        streams.are_supported().then(|| {
            let driver = Arc::new(AtomicWaker::new());
            let has_come = Signal::new(&driver);
            Self { streams: streams.clone(), next: None, driver, has_come }
        })
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, StreamError>> {
        self.driver.register(cx.waker());
        if !self.has_come.take() && self.next.is_some() {
            return Poll::Pending;
        }
        let streams = &self.streams;
        let next = self.next.get_or_insert_with(|| {
            let streams = streams.clone();
            Box::pin(async move { streams.read_datagram().await })
        });
        let waker = Waker::from(Arc::clone(&self.has_come));
        let read = std::task::ready!(next.as_mut().poll(&mut Context::from_waker(&waker)));
        self.next = None;
        Poll::Ready(read)
    }
}

impl Driver {
    /// Reads what is there, unless a packet is held up: what does not fit meanwhile is lost, as datagrams are.
    pub(super) fn read_datagrams(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let mut moved = false;
        // A v1 peer has no lanes, and who has not completed its handshake is not believed anything but requests.
        if self.core.wire() == Wire::V1 || self.unproven.is_some() {
            return Ok(false);
        }
        for _ in 0..READS {
            if self.stage.is_some() {
                break;
            }
            let Some(datagrams) = &mut self.datagrams else { break };
            match datagrams.poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(bytes)) => {
                    moved = true;
                    self.heart.was_heard = true;
                    self.datagram(bytes, cx)?;
                }
                // The connection is gone: its stream says why.
                Poll::Ready(Err(_)) => self.datagrams = None,
            }
        }
        Ok(moved)
    }

    fn datagram(&mut self, bytes: Bytes, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let size = bytes.len();
        match encode::split(bytes, self.limit) {
            Ok((header, ext, payload)) if header.kind == Kind::Data(PacketType::OneWay) => {
                let packet_type = PacketType::OneWay;
                self.arrived(Raw { header, packet_type, ext, payload, size }, cx)
            }
            Ok(_) => {
                let reason = "a datagram is a one-way packet";
                self.broke_protocol(&ReadError::Protocol { close_code: 1002, reason });
                Ok(())
            }
            Err(error) => {
                self.broke_protocol(&stream::refused(&error));
                Ok(())
            }
        }
    }
}
