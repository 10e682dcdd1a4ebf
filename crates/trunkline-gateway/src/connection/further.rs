//! Streams that a client opens beside its frames, on QUIC and WebTransport: before START they are refused, and after
//! it too, as long as no service takes any. It reads nothing of them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use trunkline_proto::{CloseCode, ErrorCode};
use trunkline_transport::Streams;

/// Refuses what comes. It is polled with its connection.
pub(super) struct Further {
    streams: Streams,
    refusing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Further {
    /// Nothing where the transport has no streams.
    pub(super) fn new(streams: Streams) -> Option<Box<Self>> {
        streams.are_supported().then(|| {
            let refusing = Some(refuse(&streams, CloseCode::StartExpected.number()));
            Box::new(Further { streams, refusing })
        })
    }

    /// From here on a stream could be a service's.
    pub(super) fn started(&mut self) {
        self.refusing = Some(refuse(&self.streams, ErrorCode::NotFound.number()));
    }

    pub(super) fn poll_refuse(&mut self, cx: &mut Context<'_>) {
        if let Some(refusing) = &mut self.refusing
            && let Poll::Ready(()) = refusing.as_mut().poll(cx)
        {
            self.refusing = None;
        }
    }
}

fn refuse(streams: &Streams, code: u32) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let streams = streams.clone();
    Box::pin(async move { streams.refuse_all(code).await })
}
