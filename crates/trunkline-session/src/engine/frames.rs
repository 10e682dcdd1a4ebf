//! What each frame of a client means while the session is live.

use std::collections::BTreeMap;
use std::time::Duration;

use trunkline_proto::wire::{
    ChannelGap, ChannelRequest, ChannelResponse, ClientAck, ErrorMessage, HeartbeatResponse, StartResponse,
};
use trunkline_proto::{CloseCode, DownBody, DownFrame, ErrorCode, UpBody, UpFrame};

use super::calls::Arrival;
use super::io::{Answer, ChannelKind, Operation, OperationId, Output, SentPositions};
use super::refused;
use super::{Engine, Phase};
use crate::Now;
use crate::config::Protocol;
use crate::defaults::{SMALL_OPERATION, UNDECODABLE_FRAMES};
use crate::gate::{CallGate, Place, RequestRefusal};
use crate::ids::{ClientSeq, Fence, Seq};
use crate::position::{Channel, Position, is_implicit_name};

/// The operations of a session that has asked for any.
#[derive(Debug, Default)]
pub(super) struct Operations {
    pending: BTreeMap<OperationId, PendingOperation>,
    /// The number of the next one: none is given twice.
    next: u64,
}

/// An operation that the gateway works on.
#[derive(Debug)]
struct PendingOperation {
    msg_id: u32,
    /// Of the connection that asked.
    fence: Fence,
    kind: Pending,
    /// Given back when it has ended, whatever has become of the session.
    _place: Place,
}

#[derive(Debug)]
enum Pending {
    Subscribe {
        channel: Channel,
        since: Option<Position>,
        /// The client has unsubscribed meanwhile, with this `msg_id`.
        then_leave: Option<u32>,
    },
    Channel(String),
    Refresh,
}

impl Engine {
    pub(super) fn frame(&mut self, now: Now, frame: UpFrame, sent: &dyn SentPositions, gate: &dyn CallGate) {
        let UpFrame { msg_id, seq_id, headers, body } = frame;
        // Acks and heartbeats keep a session in order, and STOP ends it: none is ever refused for load.
        let counted = !matches!(body, UpBody::Ack(_) | UpBody::Heartbeat(_) | UpBody::Stop(_));
        let (rate, burst) = (self.config.frames_per_second, self.config.frame_burst);
        let limited = if counted { self.bucket.take(now.at, rate, burst).err() } else { None };
        if let UpBody::Business(request) = body {
            let arrival = Arrival { seq: ClientSeq(seq_id), msg_id, headers, request, limited };
            self.calls_begun();
            return self.with_calls(|calls, cx| calls.receive(cx, arrival, &|bytes| gate.enter(now, bytes)));
        }
        if let Some(wait) = limited {
            self.outputs.push_back(Output::RequestRefused(RequestRefusal::FrameRate));
            return self.send_error(msg_id, self.refusal(RequestRefusal::FrameRate, wait));
        }
        match body {
            UpBody::Start(_) => self.bad_request(msg_id, "this connection has started"),
            UpBody::Stop(_) => {
                self.close(now, CloseCode::Stopped.notice("stopped"));
                self.end(CloseCode::Stopped.number());
            }
            UpBody::Heartbeat(heartbeat) => {
                let answer = HeartbeatResponse {
                    client_timestamp: heartbeat.client_timestamp,
                    server_timestamp: i64::try_from(now.unix_ms).unwrap_or(i64::MAX),
                };
                self.send(DownFrame::new(msg_id, DownBody::HeartbeatResp(answer)));
            }
            UpBody::Ack(ack) => self.ack(msg_id, &ack, sent),
            UpBody::Subscribe(request) => self.subscribe(msg_id, request, gate),
            UpBody::Unsubscribe(request) => self.unsubscribe(msg_id, &request.channel),
            UpBody::Publish(request) => {
                let channel = request.channel.clone();
                self.operate(msg_id, Pending::Channel(channel), Operation::Publish(request), gate);
            }
            UpBody::History(request) => {
                let channel = request.channel.clone();
                self.operate(msg_id, Pending::Channel(channel), Operation::History(request), gate);
            }
            UpBody::Presence(request) => {
                let operation = Operation::Presence(Channel::from(request.channel.as_str()));
                self.operate(msg_id, Pending::Channel(request.channel), operation, gate);
            }
            UpBody::Refresh(request) => {
                let operation = Operation::Refresh { auth_token: request.auth_token };
                self.operate(msg_id, Pending::Refresh, operation, gate);
            }
            UpBody::Unknown(_) => self.bad_request(msg_id, "this type of frame is not known here"),
            // Taken above.
            UpBody::Business(_) => {}
        }
    }

    pub(super) fn undecodable(&mut self, now: Now, detail: &str) {
        self.undecodable += 1;
        self.send_error(0, ErrorCode::BadRequest.message(format!("the frame does not decode: {detail}")));
        if self.undecodable >= UNDECODABLE_FRAMES {
            self.close(now, CloseCode::BadFrame.notice("ten frames in a row did not decode"));
        }
    }

    /// Judged whole before any of it counts: an ack that cannot be true changes nothing, and the session lives.
    fn ack(&mut self, msg_id: u32, ack: &ClientAck, sent: &dyn SentPositions) {
        let fence = self.fence.map_or(0, |fence| fence.number());
        if ack.start_fence > fence {
            return self.bad_request(msg_id, "the ack names a START that has not been");
        }
        let seed = self.protocol == Protocol::Seed;
        if seed && Seq(ack.acked_seq_id) > sent.highest_seq() {
            let text = format!("number {} was never sent", ack.acked_seq_id);
            return self.bad_request(msg_id, &text);
        }
        let replied = ClientSeq(ack.replied_client_seq);
        let known = self.calls.as_ref().map_or(replied == ClientSeq(0), |calls| calls.knows_up_to(replied));
        if !known {
            let text = format!("call {} was never received", ack.replied_client_seq);
            return self.bad_request(msg_id, &text);
        }
        let moved = match self.channels.ack(&ack.positions, sent, self.tokens.begin()) {
            Ok(moved) => moved,
            Err(future) => {
                let text = format!("the ack of {} is beyond what was sent", future.channel);
                return self.bad_request(msg_id, &text);
            }
        };
        if ack.start_fence == fence {
            self.tokens.prove();
            self.channels.forget_begin();
        }
        if let Some(calls) = &mut self.calls {
            calls.replied(replied);
        }
        if !moved.is_empty() {
            self.outputs.push_back(Output::Acked(moved));
        }
        if seed && ack.acked_seq_id > 0 {
            self.outputs.push_back(Output::AckedSeq(Seq(ack.acked_seq_id)));
        }
    }

    fn subscribe(&mut self, msg_id: u32, request: ChannelRequest, gate: &dyn CallGate) {
        let subscribing = self.subscription_under_way(&request.channel).is_some();
        let error = if request.channel.is_empty() {
            ErrorCode::BadRequest.message("no channel is named")
        } else if subscribing || self.channels.is_live(&request.channel) {
            ErrorCode::Conflict.message("the session is on this channel")
        } else if is_implicit_name(&request.channel) {
            ErrorCode::Forbidden.message("nobody attaches to another's channel")
        } else if self.channels.len() + self.operations_pending() >= self.config.channels {
            ErrorCode::Full.message("the session is on as many channels as it may")
        } else {
            let channel = Channel::from(request.channel.as_str());
            let since = request.since.as_ref().map(Position::from);
            let pending = Pending::Subscribe { channel: channel.clone(), since, then_leave: None };
            return self.operate(msg_id, pending, Operation::Subscribe { channel, since }, gate);
        };
        self.send_channel_error(msg_id, request.channel, error);
    }

    fn unsubscribe(&mut self, msg_id: u32, channel: &str) {
        let pending = self.subscription_under_way(channel);
        if let Some(PendingOperation { kind: Pending::Subscribe { then_leave, .. }, .. }) = pending {
            // It takes effect when the subscription is there, so that the answers keep their order.
            *then_leave = Some(msg_id);
            return;
        }
        let error = match self.channels.get(channel).map(|known| known.kind) {
            Some(ChannelKind::Own) => {
                self.channels.remove(channel);
                self.outputs.push_back(Output::Detach(Channel::from(channel)));
                let left = ChannelResponse { channel: channel.to_owned(), ..Default::default() };
                return self.send(DownFrame::new(msg_id, DownBody::ChannelResp(left)));
            }
            Some(_) => ErrorCode::Forbidden.message("the session is on this channel by what it is"),
            None => ErrorCode::NotFound.message("the session is not on this channel"),
        };
        self.send_channel_error(msg_id, channel.to_owned(), error);
    }

    fn operate(&mut self, msg_id: u32, kind: Pending, mut operation: Operation, gate: &dyn CallGate) {
        if self.operations_pending() >= self.config.operations {
            self.outputs.push_back(Output::RequestRefused(RequestRefusal::Session));
            let error = self.refusal(RequestRefusal::Session, self.config.retry_after);
            return self.answer_error(msg_id, kind, error);
        }
        let place = match operation.bytes() {
            ..=SMALL_OPERATION => {
                operation.detach();
                Place::default()
            }
            bytes => match gate.hold(bytes) {
                Ok(place) => place,
                Err(turned) => {
                    self.outputs.push_back(Output::RequestRefused(turned.why));
                    return self.answer_error(msg_id, kind, refused::message(turned.why, turned.retry_after));
                }
            },
        };
        // Frames are read from a connection only, so there is one.
        let Some((_, fence)) = self.connection() else { return };
        let operations = self.operations.get_or_insert_default();
        let id = OperationId(operations.next);
        operations.next += 1;
        operations.pending.insert(id, PendingOperation { msg_id, fence, kind, _place: place });
        self.outputs.push_back(Output::Operation { id, operation });
    }

    fn operations_pending(&self) -> usize {
        self.operations.as_ref().map_or(0, |operations| operations.pending.len())
    }

    /// What this connection has asked for, and is not on yet.
    fn subscription_under_way(&mut self, name: &str) -> Option<&mut PendingOperation> {
        let fence = self.fence;
        let pending = &mut self.operations.as_mut()?.pending;
        pending.values_mut().find(|pending| pending.subscribes(name) && Some(pending.fence) == fence)
    }

    /// An operation has ended.
    pub(super) fn answer(&mut self, now: Now, id: OperationId, result: Result<Answer, ErrorMessage>) {
        let pending = self.operations.as_mut().and_then(|operations| operations.pending.remove(&id));
        let Some(PendingOperation { msg_id, fence, kind, .. }) = pending else { return };
        if !matches!(self.phase, Phase::Live) || !self.is_owner(fence) {
            return self.answer_to_nobody(&kind, &result);
        }
        match (kind, result) {
            (Pending::Subscribe { channel, since, then_leave }, Ok(Answer::Subscribed { position, gap })) => {
                let subscribed = self.subscribed(msg_id, &channel, position, since, gap);
                match then_leave {
                    Some(msg_id) => self.unsubscribe(msg_id, &channel),
                    None if subscribed => self.outputs.push_back(Output::Deliver(vec![(channel, position)])),
                    None => {}
                }
            }
            (Pending::Channel(_), Ok(Answer::Channel(response))) => {
                self.send(DownFrame::new(msg_id, DownBody::ChannelResp(response)));
            }
            (Pending::Refresh, Ok(Answer::Refreshed { expires_at })) => {
                self.expires_at(now, expires_at);
                let told = StartResponse { success: true, ..StartResponse::default() };
                self.send(DownFrame::new(msg_id, DownBody::StartResp(told.into())));
            }
            (kind, Err(error)) => self.answer_error(msg_id, kind, error),
            (kind, Ok(_)) => {
                let error = ErrorCode::Internal.message("the operation was answered with another's answer");
                self.answer_error(msg_id, kind, error);
            }
        }
    }

    /// Tells that a channel is attached. False: there is nothing new to deliver.
    fn subscribed(
        &mut self,
        msg_id: u32,
        channel: &Channel,
        position: Position,
        since: Option<Position>,
        gap: Option<ChannelGap>,
    ) -> bool {
        if self.channels.is_live(channel) {
            // A service has joined the session meanwhile, and delivery goes on from where that was told.
            let error = ErrorCode::Conflict.message("the session is on this channel");
            self.send_channel_error(msg_id, channel.to_string(), error);
            return false;
        }
        let told = ChannelResponse {
            channel: channel.to_string(),
            epoch: position.epoch,
            offset: position.offset,
            recovered: since.is_some() && gap.is_none(),
            ..Default::default()
        };
        // What a service joined and the START could not attach stays a service's; it begins anew all the same.
        let kind = self.channels.remove(channel).map_or(ChannelKind::Own, |known| known.kind);
        self.channels.attached(channel.clone(), kind, position, true);
        self.send(DownFrame::new(msg_id, DownBody::ChannelResp(told)));
        if let Some(gap) = gap {
            self.send(DownFrame::new(0, DownBody::Gap(gap)));
        }
        true
    }

    /// The connection that asked is gone. What was attached for it alone must not stay.
    fn answer_to_nobody(&mut self, kind: &Pending, result: &Result<Answer, ErrorMessage>) {
        let (Pending::Subscribe { channel, .. }, Ok(_)) = (kind, result) else { return };
        let joined = matches!(&self.phase, Phase::Starting(starting) if starting.joins(channel));
        let ended = matches!(self.phase, Phase::Ended(_));
        let live = matches!(self.phase, Phase::Live);
        let wanted = self.subscription_under_way(channel).is_some()
            || self.channels.get(channel).is_some_and(|known| known.live || !live);
        if ended || !(joined || wanted) {
            self.outputs.push_back(Output::Detach(channel.clone()));
        }
    }

    fn answer_error(&mut self, msg_id: u32, kind: Pending, error: ErrorMessage) {
        match kind {
            Pending::Refresh => {
                let told = StartResponse { success: false, error: Some(error), ..StartResponse::default() };
                self.send(DownFrame::new(msg_id, DownBody::StartResp(told.into())));
            }
            Pending::Channel(channel) => self.send_channel_error(msg_id, channel, error),
            Pending::Subscribe { channel, then_leave, .. } => {
                self.send_channel_error(msg_id, channel.to_string(), error);
                if let Some(msg_id) = then_leave {
                    self.unsubscribe(msg_id, &channel);
                }
            }
        }
    }

    fn send_channel_error(&mut self, msg_id: u32, channel: String, error: ErrorMessage) {
        // With msg_id 0 it would read as a right withdrawn; who asks so gets a plain error.
        if msg_id == 0 {
            return self.send_error(0, error);
        }
        let told = ChannelResponse { channel, error: Some(error), ..Default::default() };
        self.send(DownFrame::new(msg_id, DownBody::ChannelResp(told)));
    }

    fn refusal(&self, why: RequestRefusal, after: Duration) -> ErrorMessage {
        let salt = self.operations.as_ref().map_or(0, |operations| operations.next);
        refused::message(why, refused::spread(after, self.session, salt))
    }

    fn bad_request(&mut self, msg_id: u32, text: &str) {
        self.send_error(msg_id, ErrorCode::BadRequest.message(text));
    }

    fn send_error(&mut self, msg_id: u32, error: ErrorMessage) {
        self.send(DownFrame::new(msg_id, DownBody::Error(error)));
    }
}

impl PendingOperation {
    fn subscribes(&self, name: &str) -> bool {
        matches!(&self.kind, Pending::Subscribe { channel, .. } if &**channel == name)
    }
}
