//! Answering requests side by side in the connection's own task.
//!
//! An answer that cannot be sent costs its request and nothing else, and one that waits for room holds up no other work.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{Session, core::Core, send::Sending};
use crate::{Packet, PacketType, SendError, TransportError, Wire, codes};

struct Running {
    request: Packet,
    answer: Pin<Box<dyn Future<Output = Packet> + Send>>,
}

/// Answers on their way out, in the order in which they were ready: the first takes the room that the next would.
struct Answers(VecDeque<(Packet, Sending)>);

enum Next {
    Received(Result<Option<Packet>, crate::RecvError>),
    Closed(SendError),
}

impl Session {
    /// Answers the peer's packets until it ends: `answer` is called for each, in order, and what it returns runs side
    /// by side with the others, at most [`crate::Limits::requests`] at once; the rest waits unread, and so do all that come
    /// while an answer waits to be sent. The packet that it returns is sent for a request (usually `request.reply(..)`), and dropped for a
    /// one-way packet. Where it cannot be sent (it is over the limit, a middleware refuses it), the request is refused, with
    /// 1009, the middleware's code or 1011, and the others go on. A request that a v2 peer gives up is dropped at its next
    /// await.
    ///
    /// # Errors
    /// The connection did not end cleanly.
    pub async fn serve_requests<F, Fut>(&mut self, answer: F) -> Result<(), TransportError>
    where
        F: Fn(Self, Packet) -> Fut + Send,
        Fut: Future<Output = Packet> + Send + 'static,
    {
        let core = Arc::clone(&self.core);
        let limit = core.shared.limits.requests;
        let mut running: Vec<Running> = Vec::new();
        let mut answers = Answers(VecDeque::new());
        loop {
            let next = {
                let mut recv = std::pin::pin!(self.recv());
                poll_fn(|cx| {
                    poll_running(&core, &mut running, &mut answers, cx);
                    match answers.poll(&core, cx) {
                        Poll::Ready(Err(error)) => Poll::Ready(Next::Closed(error)),
                        Poll::Ready(Ok(())) if running.len() < limit => {
                            recv.as_mut().poll(cx).map(Next::Received)
                        }
                        // Nothing new is begun for a peer that does not take its answers.
                        _ => Poll::Pending,
                    }
                })
                .await
            };
            match next {
                Next::Received(Ok(Some(packet))) => {
                    let request = Packet { payload: bytes::Bytes::new(), ..packet.clone() };
                    let answer = Box::pin(answer(self.clone(), packet));
                    running.push(Running { request, answer });
                }
                Next::Received(Ok(None)) => {
                    // The peer may read on after its own end. If it does not, or we have closed, that is the end too.
                    drop(poll_fn(|cx| answers.poll(&core, cx)).await);
                    return Ok(());
                }
                Next::Received(Err(crate::RecvError::Lagged(_))) => {}
                Next::Received(Err(error)) => return Err(error.into()),
                Next::Closed(error) => return Err(error.into()),
            }
        }
    }
}

/// Polls everything that runs; what is not wanted any more is dropped.
fn poll_running(core: &Arc<Core>, running: &mut Vec<Running>, answers: &mut Answers, cx: &mut Context<'_>) {
    running.retain_mut(|one| {
        let is_request = one.request.packet_type == PacketType::Request;
        match one.answer.as_mut().poll(cx) {
            Poll::Ready(answer) => {
                if is_request {
                    answers.0.push_back((one.request.clone(), Sending::new(Arc::clone(core), answer)));
                }
                false
            }
            Poll::Pending if is_request => {
                let is_given_up = core.open.lock().poll_cancelled(one.request.message_id, cx.waker());
                if is_given_up {
                    core.answered(one.request.message_id);
                }
                !is_given_up
            }
            Poll::Pending => true,
        }
    });
}

impl Answers {
    /// Sends them as far as there is room: ready when nothing waits, or when the connection takes nothing any more.
    fn poll(&mut self, core: &Arc<Core>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        while let Some((request, sending)) = self.0.front_mut() {
            match std::task::ready!(Pin::new(&mut *sending).poll(cx)) {
                Ok(()) => {}
                Err(error @ (SendError::Closed(_) | SendError::NotConnected)) => {
                    return Poll::Ready(Err(error));
                }
                Err(error) => {
                    if let Some(refusal) = refusal(core, request, &error) {
                        *sending = refusal;
                        continue;
                    }
                }
            }
            self.0.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

/// What is sent in the place of an answer that cannot be. Nothing for a v1 peer, which has no word for it: its request times
/// out, and nobody waits for the answer any more. No middleware is asked about it.
fn refusal(core: &Arc<Core>, request: &Packet, error: &SendError) -> Option<Sending> {
    if core.wire() == Wire::V1 {
        core.answered(request.message_id);
        return None;
    }
    let refusal = match error {
        SendError::Refused(refusal) => request.reply_error(refusal.code, &refusal.reason),
        SendError::TooLarge { .. } => request.reply_error(codes::TOO_LARGE, &error.to_string()),
        _ => request.reply_error(codes::INTERNAL, &error.to_string()),
    };
    Some(Sending::prepared(Arc::clone(core), refusal))
}
