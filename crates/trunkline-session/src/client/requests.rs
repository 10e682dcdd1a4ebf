//! A client's requests on channels, by `msg_id`: what waits, what is under way, and what a cut means for each.

use std::collections::{BTreeMap, VecDeque};

use trunkline_proto::wire::{ChannelRequest, ChannelResponse, ErrorMessage, HistoryRequest, RefreshRequest};
use trunkline_proto::{ErrorCode, UpBody, UpFrame};

use super::io::{ClientOutput, Request, RequestId};

/// The requests of one client.
#[derive(Debug, Default)]
pub(super) struct Requests {
    queue: VecDeque<(RequestId, Request)>,
    open: BTreeMap<u32, (RequestId, Request)>,
    next_id: u64,
}

impl Requests {
    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.open.len()
    }

    pub(super) fn add(&mut self, mut request: Request, instance: u64) -> RequestId {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        if let Request::Publish(publish) = &mut request
            && publish.idempotency_key.is_empty()
        {
            // After a cut it is sent again, and the broker knows it by this.
            publish.idempotency_key = format!("{instance:x}-{}", id.0);
        }
        self.queue.push_back((id, request));
        id
    }

    pub(super) fn send_queued(
        &mut self,
        outputs: &mut VecDeque<ClientOutput>,
        next_msg_id: &mut impl FnMut() -> u32,
    ) {
        for (id, request) in std::mem::take(&mut self.queue) {
            let msg_id = next_msg_id();
            outputs.push_back(ClientOutput::Send(UpFrame::new(msg_id, 0, body(&request))));
            self.open.insert(msg_id, (id, request));
        }
    }

    /// The connection is gone: what was under way waits to be sent again, before what came later.
    pub(super) fn cut(&mut self) {
        while let Some((_, request)) = self.open.pop_last() {
            self.queue.push_front(request);
        }
    }

    /// The token of the latest refresh that has no answer, while there is no session.
    pub(super) fn refreshing(&self) -> Option<&str> {
        self.queue.iter().rev().find_map(|(_, request)| match request {
            Request::Refresh { auth_token } => Some(auth_token.as_str()),
            _ => None,
        })
    }

    /// START went with this token of a refresh, and was refused for it.
    pub(super) fn refuse_refreshes(&mut self, token: &str, why: &str, outputs: &mut VecDeque<ClientOutput>) {
        self.queue.retain(|(id, request)| {
            let refused = matches!(request, Request::Refresh { auth_token } if auth_token == token);
            if refused {
                outputs.push_back(ClientOutput::Answered(*id, Err(ErrorCode::Unauthenticated.message(why))));
            }
            !refused
        });
    }

    /// START_RESP came: a list of channels went with START, and perhaps the token of a refresh (`offered`), so some
    /// requests are answered.
    pub(super) fn started(
        &mut self,
        is_on: impl Fn(&str) -> bool,
        offered: Option<&str>,
        outputs: &mut VecDeque<ClientOutput>,
    ) {
        let mut subscribing: Vec<String> = Vec::new();
        // Earlier ones are overtaken by it; later ones came when START had gone.
        let mut refreshed = offered.is_some();
        self.queue.retain(|(id, request)| {
            let channel = request.channel();
            let pending = subscribing.iter().any(|pending| pending == channel);
            let answered = match request {
                // Not while a subscription before it is still to be made.
                Request::Unsubscribe { .. } => !is_on(channel) && !pending,
                Request::Subscribe { .. } => is_on(channel),
                Request::Refresh { auth_token } => {
                    let answered = refreshed;
                    refreshed &= offered != Some(auth_token.as_str());
                    answered
                }
                _ => false,
            };
            if answered {
                let response = ChannelResponse { channel: channel.to_owned(), ..ChannelResponse::default() };
                outputs.push_back(ClientOutput::Answered(*id, Ok(response)));
            } else if matches!(request, Request::Subscribe { .. }) {
                subscribing.push(channel.to_owned());
            }
            !answered
        });
    }

    /// Channels that wait to be left: START does not list them.
    pub(super) fn leaving(&self) -> impl Iterator<Item = &str> {
        self.queue.iter().filter_map(|(_, request)| match request {
            Request::Unsubscribe { channel } => Some(channel.as_str()),
            _ => None,
        })
    }

    pub(super) fn take(&mut self, msg_id: u32) -> Option<(RequestId, Request)> {
        self.open.remove(&msg_id)
    }

    pub(super) fn end_all(&mut self, why: &str, outputs: &mut VecDeque<ClientOutput>) {
        self.cut();
        for (id, _) in std::mem::take(&mut self.queue) {
            let error: ErrorMessage = ErrorCode::ResultUnknown.message(why);
            outputs.push_back(ClientOutput::Answered(id, Err(error)));
        }
    }
}

impl Request {
    /// The channel it is about; empty for a refresh.
    pub fn channel(&self) -> &str {
        match self {
            Request::Subscribe { channel, .. }
            | Request::Unsubscribe { channel }
            | Request::Presence { channel } => channel,
            Request::Publish(request) => &request.channel,
            Request::History(request) => &request.channel,
            Request::Refresh { .. } => "",
        }
    }
}

fn body(request: &Request) -> UpBody {
    let channel = |channel: &str, since| ChannelRequest { channel: channel.to_owned(), since };
    match request {
        Request::Subscribe { channel: name, since } => {
            UpBody::Subscribe(channel(name, since.map(|since| since.to_wire(name))))
        }
        Request::Unsubscribe { channel: name } => UpBody::Unsubscribe(channel(name, None)),
        Request::Presence { channel: name } => UpBody::Presence(channel(name, None)),
        Request::Publish(request) => UpBody::Publish(request.clone()),
        Request::History(request) => UpBody::History(HistoryRequest { ..request.clone() }),
        Request::Refresh { auth_token } => UpBody::Refresh(RefreshRequest { auth_token: auth_token.clone() }),
    }
}
