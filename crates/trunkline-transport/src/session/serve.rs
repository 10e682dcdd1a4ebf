//! Answering requests side by side in the connection's own task.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{Session, core::Core};
use crate::{Packet, PacketType, TransportError};

struct Running {
    request: Packet,
    answer: Pin<Box<dyn Future<Output = Packet> + Send>>,
}

impl Session {
    /// Answers the peer's packets until it ends: `answer` is called for each, in order, and what it returns runs side
    /// by side with the others, at most [`crate::Limits::requests`] at once; the rest waits unread. The packet that it
    /// returns is sent for a request (usually `request.reply(..)`), and dropped for a one-way packet. A request that a
    /// v2 peer gives up is dropped at its next await.
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
        loop {
            let is_full = running.len() >= limit;
            let next = {
                let mut recv = std::pin::pin!(self.recv());
                poll_fn(|cx| {
                    let finished = poll_running(&core, &mut running, cx);
                    if !finished.is_empty() {
                        return Poll::Ready(Next::Finished(finished));
                    }
                    if is_full {
                        return Poll::Pending;
                    }
                    recv.as_mut().poll(cx).map(Next::Received)
                })
                .await
            };
            match next {
                Next::Finished(answers) => {
                    for answer in answers {
                        self.send(answer).await?;
                    }
                }
                Next::Received(Ok(Some(packet))) => {
                    let request = Packet { payload: bytes::Bytes::new(), ..packet.clone() };
                    let answer = Box::pin(answer(self.clone(), packet));
                    running.push(Running { request, answer });
                }
                Next::Received(Ok(None)) => return Ok(()),
                Next::Received(Err(crate::RecvError::Lagged(_))) => {}
                Next::Received(Err(error)) => return Err(error.into()),
            }
        }
    }
}

enum Next {
    Finished(Vec<Packet>),
    Received(Result<Option<Packet>, crate::RecvError>),
}

/// Polls everything that runs; what is not wanted any more is dropped.
fn poll_running(core: &Core, running: &mut Vec<Running>, cx: &mut Context<'_>) -> Vec<Packet> {
    let mut answers = Vec::new();
    running.retain_mut(|one| {
        let is_request = one.request.packet_type == PacketType::Request;
        match one.answer.as_mut().poll(cx) {
            Poll::Ready(answer) => {
                if is_request {
                    answers.push(answer);
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
    answers
}
