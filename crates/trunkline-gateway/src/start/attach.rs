//! The channels of a START: attached side by side, under one deadline.
//!
//! The connection reads nothing meanwhile, so neither a slow upstream nor a long list of channels may hold it: what
//! is not attached in time is answered in `refused`, and the client may subscribe to it afterwards.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use trunkline_proto::ErrorCode;
use trunkline_proto::wire::{ChannelRefusal, ErrorMessage};
use trunkline_session::Channel;
use trunkline_session::engine::{AttachRequest, ChannelKind, ChannelStart, Input, StartAccepted};

use super::StartRefusal;
use crate::auth::May;
use crate::channels;
use crate::connection::Handle;
use crate::defaults::RETRY_AFTER;
use crate::gateway::Node;
use crate::limits::jittered_ms;
use crate::session::{Arriving, Session, to_broker};

/// All channels together; one question to an upstream may take as long.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// How many channels of one START are asked for at once.
const AT_ONCE: usize = 16;

type Answer = Result<(Arriving, ChannelStart), ErrorMessage>;

/// Attaches what the engine asks for. What the client may not follow is refused by itself; a broker that is away
/// refuses the START.
pub(super) async fn attach(
    node: &Arc<Node>,
    handle: &Handle,
    session: &Arc<Session>,
    accepted: StartAccepted,
) {
    let StartAccepted { fence, attach, .. } = accepted;
    let answers = attach_all(node, handle, session, &attach).await;
    let (mut attached, mut starts, mut refused, mut failed) = (Vec::new(), Vec::new(), Vec::new(), None);
    for (request, answer) in attach.into_iter().zip(answers) {
        match answer {
            Ok((channel, start)) => {
                attached.push(channel);
                starts.push(start);
            }
            Err(error) if request.kind != ChannelKind::Implicit => {
                refused.push(ChannelRefusal { channel: request.channel.to_string(), error: Some(error) });
            }
            Err(error) => failed = Some(error),
        }
    }
    let input = match failed {
        None => Input::Attached { fence, channels: starts, refused },
        Some(error) => {
            let mut close = trunkline_proto::CloseCode::Overloaded.notice(error.error_message.clone());
            node.stats.starts_refused_by.one(&StartRefusal::ALL, &StartRefusal::Broker);
            close.reconnect_after_ms = jittered_ms(RETRY_AFTER);
            Input::StartFailed { fence, error, close }
        }
    };
    // Also what a failed START has attached: the session's end takes its members off the channels.
    session.attached(node, fence, attached, input);
}

/// One answer for each request, in their order.
async fn attach_all(
    node: &Arc<Node>,
    handle: &Handle,
    session: &Arc<Session>,
    requests: &[AttachRequest],
) -> Vec<Answer> {
    let stop = CancellationToken::new();
    // Boxed by hand: the compiler cannot prove a closure's borrowing futures `Send`.
    let mut attaching: Vec<BoxFuture<'_, Answer>> = Vec::with_capacity(requests.len());
    for request in requests {
        attaching.push(Box::pin(attach_one(node, session, request, &stop)));
    }
    let answers = stream::iter(attaching).buffered(AT_ONCE).collect::<Vec<_>>();
    tokio::pin!(answers);
    tokio::select! {
        answers = &mut answers => return answers,
        () = tokio::time::sleep(DEADLINE) => {}
        () = ending(handle) => {}
    }
    stop.cancel();
    answers.await
}

async fn attach_one(
    node: &Arc<Node>,
    session: &Arc<Session>,
    request: &AttachRequest,
    stop: &CancellationToken,
) -> Answer {
    let AttachRequest { channel, from, kind } = request;
    let attach = async {
        if *kind == ChannelKind::Own {
            channels::check_right(node, session, channel, May::Subscribe).await?;
        }
        channels::attach(node, channel, from.map(to_broker)).await
    };
    let Some(answer) = stop.run_until_cancelled(attach).await else { return Err(late()) };
    let (attached, position, gap) = answer?;
    let joining = match kind {
        ChannelKind::Implicit => None,
        ChannelKind::Own | ChannelKind::Joined => session.join(node, channel).await?,
    };
    // Under the name that everything on this node shares.
    let channel = Channel::clone(attached.name());
    Ok((Arriving { attached, joining }, ChannelStart { channel, kind: *kind, position, gap }))
}

fn late() -> ErrorMessage {
    let mut error = ErrorCode::Overloaded.message("the channel was not attached in time: subscribe again");
    error.retry_after_ms = jittered_ms(RETRY_AFTER);
    error
}

/// Resolves when the connection is told to end. Only its own actor, which waits for START, may await this: a
/// connection wakes one task.
async fn ending(handle: &Handle) {
    poll_fn(|cx| {
        handle.waker().register(cx.waker());
        if handle.is_ending() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
