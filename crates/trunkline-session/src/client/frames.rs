//! What each frame of the gateway means to a client.

use std::time::Duration;

use trunkline_proto::wire::{ChannelResponse, ErrorMessage, StartResponse, Verdict};
use trunkline_proto::{DownBody, DownFrame, ErrorCode};

use super::calls::Matched;
use super::io::{CallEnd, ClientOutput, Dropped, Request, Started};
use super::{ClientEngine, Phase};
use crate::Now;
use crate::ids::ClientSeq;
use crate::position::Position;

impl ClientEngine {
    pub(super) fn frame(&mut self, now: Now, frame: DownFrame) {
        self.heard_at = now.at;
        match self.phase {
            Phase::Starting { msg_id, .. } => match frame.body {
                DownBody::StartResp(response) if frame.msg_id == msg_id => {
                    self.start_response(now, *response)
                }
                DownBody::Close(notice) => self.notice = Some(notice),
                _ => self.dropped(Dropped::Unexpected),
            },
            Phase::Live => self.live_frame(now, frame),
            Phase::Apart | Phase::Closed => {}
        }
    }

    fn start_response(&mut self, now: Now, response: StartResponse) {
        if !response.success {
            // The close follows and says what to do; without one, the error is all there is.
            let notice = self.notice.get_or_insert_default();
            notice.reason = response.error.map(|error| error.error_message).unwrap_or_default();
            return;
        }
        self.phase = Phase::Live;
        self.beat_at = now.at;
        let seconds = u64::try_from(response.heartbeat_interval).unwrap_or(0).max(1);
        self.heartbeat = Duration::from_secs(seconds);
        self.resume_token.clone_from(&response.resume_token);
        self.session_id.clone_from(&response.session_id);
        self.outputs.push_back(ClientOutput::Started(Started {
            verdict: Verdict::try_from(response.verdict).unwrap_or_default(),
            session_id: response.session_id.clone(),
            fence: response.fence,
            node: response.node.clone(),
            heartbeat: self.heartbeat,
            resume_window: Duration::from_secs(u64::from(response.resume_window)),
        }));
        let leaving: Vec<String> = self.requests.leaving().map(str::to_owned).collect();
        self.channels.started(&response, &leaving, &mut self.outputs);
        let channels = &self.channels;
        let offered = self.offered.take();
        self.requests.started(|channel| channels.has(channel), offered.as_deref(), &mut self.outputs);
        if let Some(token) = offered {
            self.config.auth_token = token;
        }
        // The proof goes first: until it arrives the old token must stay good.
        self.send_ack(response.fence);
        self.calls.send_again(ClientSeq(response.last_client_seq), &mut self.outputs);
    }

    fn live_frame(&mut self, now: Now, frame: DownFrame) {
        let DownFrame { msg_id, headers, position, body, .. } = frame;
        if let Some(at) = position {
            let frame = DownFrame { msg_id, seq_id: 0, headers, position: Some(at.clone()), body };
            return self.channels.publication(now.at, at, frame, &mut self.outputs);
        }
        let matched = match body {
            DownBody::BusinessData(response) if msg_id == 0 => {
                self.outputs.push_back(ClientOutput::Push(response));
                Matched::Yes
            }
            DownBody::BusinessData(response) => {
                self.calls.reply(msg_id, CallEnd::Reply { response, headers }, &mut self.outputs)
            }
            DownBody::Group(frames) => self.group(now, msg_id, frames),
            DownBody::Error(error) => self.error(now, msg_id, error),
            DownBody::HeartbeatResp(_) => {
                self.calls.heartbeat_answered(&mut self.outputs);
                Matched::Yes
            }
            DownBody::Gap(gap) => {
                self.channels.gap(now.at, gap, &mut self.outputs);
                Matched::Yes
            }
            DownBody::ChannelResp(response) => self.channel_response(msg_id, response),
            DownBody::StartResp(response) => self.refreshed(msg_id, *response),
            DownBody::Close(notice) => {
                self.notice = Some(notice);
                Matched::Yes
            }
            DownBody::Publication(_) | DownBody::Unknown(_) => Matched::No,
        };
        if matched == Matched::No {
            self.dropped(Dropped::Unexpected);
        }
    }

    /// All or none: where the reply answers nothing that is open, its pushes have been delivered before.
    fn group(&mut self, now: Now, msg_id: u32, frames: Vec<DownFrame>) -> Matched {
        let reply = frames.iter().map(|frame| frame.msg_id).find(|inner| *inner != 0).unwrap_or(msg_id);
        if !self.calls.expects(reply) {
            return Matched::No;
        }
        for frame in frames {
            self.live_frame(now, frame);
        }
        Matched::Yes
    }

    fn error(&mut self, now: Now, msg_id: u32, error: ErrorMessage) -> Matched {
        if let Some((id, _)) = self.requests.take(msg_id) {
            self.outputs.push_back(ClientOutput::Answered(id, Err(error)));
            return Matched::Yes;
        }
        self.calls.error(now.at, msg_id, error, &mut self.outputs)
    }

    fn channel_response(&mut self, msg_id: u32, response: ChannelResponse) -> Matched {
        if msg_id == 0 {
            return self.told(response);
        }
        let Some((id, request)) = self.requests.take(msg_id) else { return Matched::No };
        let result = match response.error.clone() {
            Some(error) => Err(error),
            None => Ok(response),
        };
        let answered = result.as_ref().ok().map(position);
        self.outputs.push_back(ClientOutput::Answered(id, result));
        match (request, answered) {
            (Request::Subscribe { channel, since }, Some(position)) => {
                self.channels.subscribed(&channel, since, position, &mut self.outputs);
            }
            (Request::Unsubscribe { channel }, Some(_)) => {
                self.channels.remove(&channel);
            }
            _ => {}
        }
        Matched::Yes
    }

    /// Without having been asked: a service joined the session to a channel, or it was taken off.
    fn told(&mut self, response: ChannelResponse) -> Matched {
        match response.error {
            None => {
                let at = position(&response);
                self.channels.put(&response.channel, at);
                self.outputs.push_back(ClientOutput::Joined(at.to_wire(&response.channel)));
            }
            Some(error) => {
                self.channels.remove(&response.channel);
                self.outputs.push_back(ClientOutput::Left { channel: response.channel, error });
            }
        }
        Matched::Yes
    }

    fn refreshed(&mut self, msg_id: u32, response: StartResponse) -> Matched {
        let Some((id, request)) = self.requests.take(msg_id) else { return Matched::No };
        let result = if response.success {
            // Not before: with a refused one the next START would be the last.
            if let Request::Refresh { auth_token } = request {
                self.config.auth_token = auth_token;
            }
            Ok(ChannelResponse::default())
        } else {
            Err(response.error.unwrap_or_else(|| ErrorCode::Unauthenticated.message("the token was refused")))
        };
        self.outputs.push_back(ClientOutput::Answered(id, result));
        Matched::Yes
    }

    fn dropped(&mut self, dropped: Dropped) {
        self.outputs.push_back(ClientOutput::Dropped(dropped));
    }
}

fn position(response: &ChannelResponse) -> Position {
    Position { epoch: response.epoch, offset: response.offset }
}
