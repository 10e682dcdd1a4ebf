//! Replies in many parts, on v2: both ends, within a window that the asking side opens.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;

use super::{
    core::Core,
    request::Exchange,
    requests::{Credit, part_cost},
    send::Sending,
};
use crate::{CloseReason, Flags, Packet, RequestError, SendError, Wire, codes};

/// The parts of a streamed reply. Dropping it tells the peer to give up.
#[derive(Debug)]
pub struct ReplyStream {
    exchange: Exchange,
    is_over: bool,
}

impl ReplyStream {
    pub(crate) async fn open(core: Arc<Core>, packet: Packet) -> Result<Self, RequestError> {
        if core.wire() == Wire::V1 {
            return Err(SendError::NeedsV2("streamed replies").into());
        }
        let window = core.shared.limits.stream_window as usize;
        let timeout = core.shared.request_timeout;
        let mut exchange = Exchange::new(core, packet, timeout, Some(window));
        poll_fn(|cx| exchange.poll_sent(cx)).await?;
        Ok(Self { exchange, is_over: false })
    }

    /// The next part; `None` behind the last one. Cancel-safe. Between two parts there may be as much time as a
    /// request has for its response.
    ///
    /// # Errors
    /// The peer refused to go on, was too slow, or is gone. Nothing follows an error.
    pub async fn next(&mut self) -> Option<Result<Packet, RequestError>> {
        poll_fn(|cx| self.poll_part(cx)).await
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Packet, RequestError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let part = std::task::ready!(self.exchange.poll_answer(cx)).transpose();
        self.is_over = !matches!(part, Some(Ok(_)));
        Poll::Ready(part)
    }
}

impl Stream for ReplyStream {
    type Item = Result<Packet, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_part(cx)
    }
}

/// The answering end of a streamed reply. Dropped unfinished, it refuses the rest.
#[derive(Debug)]
pub struct ReplySender {
    core: Arc<Core>,
    request: Packet,
    is_finished: bool,
}

impl ReplySender {
    pub(crate) fn new(core: Arc<Core>, request: &Packet) -> Self {
        let request = Packet { payload: Bytes::new(), ext_header: Bytes::new(), ..request.clone() };
        Self { core, request, is_finished: false }
    }

    /// Sends a part; waits while the peer's window is closed.
    ///
    /// # Errors
    /// The peer has given up, or is gone; or it speaks v1. Stop then.
    pub async fn send(&mut self, payload: impl Into<Bytes>) -> Result<(), SendError> {
        let mut part = self.request.reply(payload);
        part.flags |= Flags::MORE;
        if self.core.wire() == Wire::V1 {
            return Err(SendError::NeedsV2("streamed replies"));
        }
        let cost = part_cost(&part);
        let credit = poll_fn(|cx| {
            let credit = self.core.open.lock().spend(part.message_id, cost, cx.waker());
            credit.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        match credit {
            Credit::Granted => Sending::new(Arc::clone(&self.core), part).await,
            Credit::Cancelled | Credit::Gone => Err(SendError::Closed(CloseReason::Peer {
                code: codes::NORMAL,
                reason: "the request was given up".to_owned(),
            })),
        }
    }

    /// Ends the reply.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn finish(mut self) -> Result<(), SendError> {
        self.is_finished = true;
        Sending::new(Arc::clone(&self.core), self.request.reply(Bytes::new())).await
    }
}

impl Drop for ReplySender {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let refusal = self.request.reply_error(codes::INTERNAL, "the reply was not finished");
        // Without room there is no way to say it: then the peer's own time-out ends it.
        if super::send::send_if_room(&self.core, refusal).is_err() {
            self.core.answered(self.request.message_id);
        }
    }
}
