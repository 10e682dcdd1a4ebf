//! Carrying out what the engine says: frames to send, events to tell, answers to give.
//!
//! It decides one thing of its own: when to come back after a lost connection.

use std::time::Duration;

use tokio::time::Instant;
use trunkline_proto::codes::Advice;
use trunkline_proto::wire::{self, ChannelResponse, ErrorMessage};
use trunkline_proto::{DownBody, DownFrame, ErrorCode, UpBody, UpFrame};
use trunkline_session::client::{self, CallEnd, CallId, ClientOutput, Lost, Refusal, RequestId};
use trunkline_transport::Endpoint;

use crate::actor::{Actor, Answer, Keeping, State};
use crate::client::{Caller, OnRefusal, Reply};
use crate::defaults;
use crate::error::CallError;
use crate::event::{Closed, Event, Gap, Position, Publication, Push, Started, Verdict};

/// A reply with the pushes that are bound to it, while its group frame is dealt with.
#[derive(Default)]
pub(crate) struct Grouped {
    before: Vec<Push>,
    after: Vec<Push>,
    reply: Option<(Answer<Reply>, Reply)>,
}

impl Actor {
    /// Does all that the engine wants done. `group` is there while a group frame is dealt with.
    pub(crate) fn carry_out(&mut self, mut group: Option<Grouped>) {
        // Their callers are told by the drop, once `ended` says why.
        let mut never_sent = Vec::new();
        while let Some(output) = self.engine.poll_output() {
            match output {
                ClientOutput::Send(frame) => self.send(&frame),
                ClientOutput::Started(started) => self.started(started),
                ClientOutput::Publication { position, frame } => self.publication(position, frame),
                ClientOutput::Push(push) => self.push(push, group.as_mut()),
                ClientOutput::Gap(gap) => self.events.push(Event::Gap(told_gap(gap))),
                ClientOutput::CallEnded(id, CallEnd::NotSent) => never_sent.extend(self.calls.remove(&id)),
                ClientOutput::CallEnded(id, end) => self.call_ended(id, end, group.as_mut()),
                ClientOutput::CallRefused(id, error) => self.call_refused(id, error),
                // All our calls want their reply.
                ClientOutput::LateError(..) => {}
                ClientOutput::Answered(id, result) => self.answered(id, result),
                ClientOutput::Joined(position) => self.events.push(Event::Joined(position.into())),
                ClientOutput::Left { channel, error } => self.events.push(Event::Left { channel, error }),
                ClientOutput::Dropped(dropped) => tracing::debug!(?dropped, "a frame was not delivered"),
                ClientOutput::Close { .. } => self.cut(),
                ClientOutput::Lost(lost) => self.lost(lost),
            }
        }
        if let Some(Grouped { before, after, reply: Some((answer, reply)) }) = group {
            // An error means that the caller no longer waits.
            let _ = answer.send(Ok(Reply { before, after, ..reply }));
        }
    }

    pub(crate) fn cut(&mut self) {
        if let Some(mut link) = self.link.take() {
            link.writer.cut();
        }
    }

    fn send(&mut self, frame: &UpFrame) {
        if let Some(link) = &mut self.link {
            link.must_read |= matches!(frame.body, UpBody::Heartbeat(_));
            link.writer.queue(frame);
        }
    }

    fn started(&mut self, started: client::Started) {
        let verdict = match started.verdict {
            wire::Verdict::Fresh => Verdict::Fresh,
            wire::Verdict::Resumed => Verdict::Resumed,
            wire::Verdict::Gap => Verdict::Gap,
        };
        let client::Started { session_id: session, node, .. } = started;
        self.events.push(Event::Started(Started { verdict, session, node, transport: self.transport }));
    }

    fn publication(&mut self, position: wire::ChannelPosition, frame: DownFrame) {
        let position = Position::from(position);
        let event = match frame.body {
            DownBody::Publication(wire::Publication { data, timestamp, sender, .. }) => {
                Event::Publication(Publication { position, data, timestamp, sender })
            }
            DownBody::BusinessData(push) => Event::Push(Push::new(push, Some(position))),
            other => return tracing::debug!(?other, "a publication of an unknown kind"),
        };
        self.events.push(event);
    }

    fn push(&mut self, push: wire::BusinessResponse, group: Option<&mut Grouped>) {
        let push = Push::new(push, None);
        match group {
            Some(group) if group.reply.is_some() => group.after.push(push),
            Some(group) => group.before.push(push),
            None => self.events.push(Event::Push(push)),
        }
    }

    /// Its caller is told, at once or if there is never another word.
    fn call_refused(&mut self, id: CallId, error: ErrorMessage) {
        match self.calls.get(&id).map(|caller| caller.on_refusal) {
            Some(OnRefusal::Repeat) => {
                if let Some(caller) = self.calls.get(&id) {
                    *caller.refused.lock() = Some(error);
                }
            }
            Some(OnRefusal::Tell) => {
                self.engine.abandon(id);
                if let Some(caller) = self.calls.remove(&id) {
                    // An error means that the caller no longer waits.
                    let _ = caller.answer.send(Err(CallError::from_message(error)));
                }
            }
            None => {}
        }
    }

    fn call_ended(&mut self, id: CallId, end: CallEnd, group: Option<&mut Grouped>) {
        let Some(Caller { answer, .. }) = self.calls.remove(&id) else { return };
        let result = match end {
            CallEnd::Reply { response, headers } => {
                let wire::BusinessResponse { code, message, data, .. } = response;
                let reply = Reply { code, message, data, headers, before: Vec::new(), after: Vec::new() };
                if let Some(group) = group {
                    group.reply = Some((answer, reply));
                    return;
                }
                Ok(reply)
            }
            CallEnd::Error(error) => Err(CallError::from_message(error)),
            CallEnd::ResultUnknown(error) => Err(CallError::ResultUnknown(error.error_message)),
            // Only calls that want no reply end so, and ours do; a dropped answer says that the client has ended.
            CallEnd::Received | CallEnd::NotSent => return,
        };
        // An error means that the caller no longer waits.
        let _ = answer.send(result);
    }

    fn answered(&mut self, id: RequestId, result: Result<ChannelResponse, ErrorMessage>) {
        let Some(answer) = self.answers.remove(&id) else { return };
        let result = result.map_err(CallError::from_message).map(|mut response| {
            // A subscription that a START answered: START_RESP said where it goes on.
            if (response.epoch, response.offset) == (0, 0) {
                let at = self.engine.positions().into_iter().find(|at| at.channel == response.channel);
                (response.epoch, response.offset) = at.map_or((0, 0), |at| (at.epoch, at.offset));
            }
            response
        });
        // An error means that nobody waits any more.
        let _ = answer.send(result);
    }

    fn lost(&mut self, lost: Lost) {
        self.cut();
        let Lost { advice, code, reason, reconnect_after, redirect } = lost;
        let reason = if reason.is_empty() { std::mem::take(&mut self.end) } else { reason };
        if self.keeping == Keeping::Nothing && code.is_none() {
            // The client's own doing, and nothing was lost.
            self.keeping = Keeping::All;
            self.state = State::Running;
            return;
        }
        self.refusal = Closed { code, reason: reason.clone() };
        match advice {
            Advice::StayAway | Advice::FixRequest => self.state = State::Ended(self.refusal.clone()),
            Advice::Resume | Advice::Fresh => {
                self.redirect = redirect.and_then(|to| redirected(&to));
                let retry_in = self.retry_in(reconnect_after);
                self.state = State::Waiting(Instant::now() + retry_in);
                self.events.push(Event::Lost { code, reason, retry_in });
            }
        }
    }

    /// How long to wait before the next attempt: full jitter, unless the gateway has said.
    pub(crate) fn retry_in(&mut self, told: Option<Duration>) -> Duration {
        if self.live_since.take().is_some_and(|since| since.elapsed() >= defaults::LIVED) {
            self.attempt = 0;
        }
        let wait = self.options.backoff.wait(self.attempt, rand::random());
        self.attempt = self.attempt.saturating_add(1);
        told.unwrap_or(wait)
    }
}

/// Tells why the engine did not take something.
pub(crate) fn refuse<T>(answer: Answer<T>, refusal: Refusal) {
    let error = match refusal {
        Refusal::Closed => CallError::Closed(Closed { code: None, reason: refusal.to_string() }),
        Refusal::QueueFull => CallError::Refused(ErrorCode::Overloaded.message(refusal.to_string())),
    };
    // An error means that nobody waits any more.
    let _ = answer.send(Err(error));
}

/// A redirection that is no endpoint's URL is not followed: the client has endpoints of its own.
fn redirected(to: &str) -> Option<Endpoint> {
    to.parse().inspect_err(|error| tracing::warn!(%error, "the gateway's redirection is not followed")).ok()
}

fn told_gap(gap: wire::ChannelGap) -> Gap {
    let from = Position { channel: gap.channel, epoch: gap.epoch, offset: gap.offset };
    Gap { from, next: gap.next.map(Into::into) }
}
