//! How a call is answered: one frame for the reply with its bound pushes, or for its error, and how large it is.

use std::collections::HashMap;
use std::time::Duration;

use trunkline_proto::wire::{BusinessRequest, ErrorMessage};
use trunkline_proto::{Dialect, DownBody, DownFrame, ErrorCode};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::calls::ReplyTo;
use super::io::{BindHint, BoundPush, CallReply};
use crate::config::SessionConfig;
use crate::ids::{ClientSeq, Fence};

/// What became of a call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fate {
    /// What it has bound is with the [`Answered`].
    Reply(Box<CallReply>),
    Error(ErrorMessage),
}

impl Fate {
    /// Refused before it ran: no final answer.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Fate::Reply(_) => false,
            Fate::Error(error) => matches!(error.error_code, 429 | 503),
        }
    }
}

/// A call's answer, complete or still growing.
#[derive(Debug)]
pub(crate) struct Answered {
    /// Of the last time its number was received, as is `on`.
    pub(crate) msg_id: u32,
    pub(crate) on: Option<Fence>,
    pub(crate) fate: Option<Fate>,
    /// It was put on a connection: what comes later cannot join it.
    pub(crate) left: bool,
    bound: Vec<BoundPush>,
    bound_bytes: usize,
}

impl Answered {
    pub(crate) fn new(msg_id: u32, on: Option<Fence>) -> Self {
        Answered { msg_id, on, fate: None, left: false, bound: Vec::new(), bound_bytes: 0 }
    }

    /// The number was received again.
    pub(crate) fn asked_on(&mut self, to: Option<ReplyTo>, msg_id: u32) {
        self.on = to.map(|to| to.fence);
        self.msg_id = msg_id;
    }

    /// Joins a push, unless the group could become too large with the largest reply beside it: what is answered
    /// `OUTCOME_BOUND` must not depend on how large the reply will be.
    pub(crate) fn bind(&mut self, push: BoundPush, config: &SessionConfig, dialect: Dialect) -> bool {
        let room = config.max_frame_size_down.saturating_sub(config.max_frame_size) as usize;
        let bytes = size(&push_frame(&push), dialect) + NESTING;
        if self.bound_bytes + bytes > room {
            return false;
        }
        self.bound_bytes += bytes;
        self.bound.push(push);
        true
    }

    pub(crate) fn bound_count(&self) -> usize {
        self.bound.len()
    }

    pub(crate) fn unbind_to(&mut self, count: usize) {
        self.bound.truncate(count);
    }

    pub(crate) fn take_bound(&mut self) -> Vec<BoundPush> {
        // Before comes before after, each in the order of its acceptance.
        let (mut before, after): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.bound).into_iter().partition(|bound| bound.hint == BindHint::Before);
        before.extend(after);
        before
    }

    /// The one frame that answers. `None`: `msg_id` 0 and no error. A reply that no frame can carry becomes an
    /// error (the seed's defect c3 wedged the session here).
    pub(crate) fn frame(
        &self,
        seq: ClientSeq,
        config: &SessionConfig,
        dialect: Dialect,
    ) -> Option<DownFrame> {
        let reply = match self.fate.as_ref()? {
            Fate::Reply(_) if self.msg_id == 0 => return None,
            Fate::Reply(reply) => DownFrame {
                headers: reply.headers.clone(),
                ..DownFrame::new(self.msg_id, DownBody::BusinessData(reply.response.clone()))
            },
            Fate::Error(error) => error_frame(self.msg_id, seq, error.clone()),
        };
        let (max, down) = (config.max_frame_size as usize, config.max_frame_size_down as usize);
        if exceeds(&reply, Dialect::Protobuf, max) || exceeds(&reply, dialect, down) {
            return Some(self.group(error_frame(self.msg_id, seq, cannot_be_delivered())));
        }
        let whole = self.group(reply);
        // Only JSON can get here too large: its reply may be longer than what was set aside for it.
        if exceeds(&whole, dialect, down) {
            return Some(self.group(error_frame(self.msg_id, seq, cannot_be_delivered())));
        }
        Some(whole)
    }

    fn group(&self, reply: DownFrame) -> DownFrame {
        if self.bound.is_empty() || self.msg_id == 0 {
            return reply;
        }
        let side = |hint| self.bound.iter().filter(move |bound| bound.hint == hint).map(push_frame);
        let frames = side(BindHint::Before).chain([reply]).chain(side(BindHint::After)).collect();
        DownFrame::new(self.msg_id, DownBody::Group(frames))
    }
}

/// Tag, length and the group's own fields around one frame of a group.
const NESTING: usize = 16;

fn push_frame(bound: &BoundPush) -> DownFrame {
    DownFrame::new(0, DownBody::BusinessData(bound.push.clone()))
}

pub(crate) fn cannot_be_delivered() -> ErrorMessage {
    ErrorCode::UpstreamFailed.message("the reply is larger than a frame may be")
}

/// An error that answers a call. Where `msg_id` is 0, `client_seq` says which.
pub(crate) fn error_frame(msg_id: u32, seq: ClientSeq, mut error: ErrorMessage) -> DownFrame {
    error.client_seq = if msg_id == 0 { seq.0 } else { 0 };
    DownFrame::new(msg_id, DownBody::Error(error))
}

/// How many bytes the frame has on the wire, without the connection's framing.
fn size(frame: &DownFrame, dialect: Dialect) -> usize {
    dialect.encode_down(frame).len()
}

/// Does the frame pass `limit`? Nearly all are far below it, which is seen without encoding them.
fn exceeds(frame: &DownFrame, dialect: Dialect, limit: usize) -> bool {
    // JSON writes a control character as six (\u0001), and that is the worst; protobuf adds only tags and lengths.
    let factor = match dialect {
        Dialect::Protobuf => 1,
        Dialect::Json => 6,
    };
    cost(frame).saturating_mul(factor) > limit && size(frame, dialect) > limit
}

/// About what a cached frame costs in memory, and no less than its size as protobuf: every field with the longest
/// tags and lengths it can have.
pub(crate) fn cost(frame: &DownFrame) -> usize {
    const FIELD: usize = 16;
    let map = |map: &HashMap<String, String>| -> usize {
        map.iter().map(|(key, value)| key.len() + value.len() + 3 * FIELD).sum()
    };
    let body = match &frame.body {
        DownBody::BusinessData(m) => {
            m.message.len()
                + m.data.len()
                + m.msg_type.len()
                + m.title.len()
                + m.content.len()
                + map(&m.metadata)
        }
        DownBody::Error(m) => m.error_message.len() + m.detail.len() + m.name.len(),
        DownBody::Group(frames) => frames.iter().map(|frame| cost(frame) + FIELD).sum(),
        // Not a reply: let it be encoded.
        _ => usize::MAX / 16,
    };
    body + map(&frame.headers) + 16 * FIELD
}

/// The client may ask for less time than the node gives, not for more. What is no number is the upstream's to read.
pub(crate) fn timeout(headers: &HashMap<String, String>, longest: Duration) -> Duration {
    let asked = headers.get("x-timeout-ms").and_then(|text| text.parse().ok()).map(Duration::from_millis);
    asked.filter(|asked| !asked.is_zero()).map_or(longest, |asked| asked.min(longest))
}

/// Of action, params and data: the same number with another hash is another call.
pub(crate) fn content_hash(request: &BusinessRequest) -> u64 {
    // Each field's hash, which knows the field's length, seeds the next one's, so that fields cannot run into each other;
    // params sorted, since a map has no order.
    let mut hash = xxh3_64(request.action.as_bytes());
    let mut params: Vec<_> = request.params.iter().collect();
    params.sort();
    for (name, value) in params {
        hash = xxh3_64_with_seed(name.as_bytes(), hash);
        hash = xxh3_64_with_seed(value.as_bytes(), hash);
    }
    xxh3_64_with_seed(&request.data, hash)
}

#[cfg(test)]
mod tests {
    use trunkline_proto::wire::BusinessResponse;

    use super::*;

    #[test]
    fn the_rough_size_is_never_below_the_true_one() {
        let mut response = BusinessResponse { code: -1, message: "m".repeat(300), ..Default::default() };
        response.data = vec![1; 70_000].into();
        response.metadata = (0..50).map(|n| (format!("key-{n}"), "v".repeat(n))).collect();
        let mut frame = DownFrame::new(u32::MAX, DownBody::BusinessData(response));
        frame.headers = (0..50).map(|n| (format!("x-{n}"), "w".repeat(n))).collect();
        let group = DownFrame::new(7, DownBody::Group(vec![frame.clone(); 5]));
        for frame in [frame, group, error_frame(0, ClientSeq(u64::MAX), cannot_be_delivered())] {
            assert!(cost(&frame) >= size(&frame, Dialect::Protobuf));
        }
    }

    #[test]
    fn a_hash_tells_contents_apart_and_params_have_no_order() {
        let request = |action: &str, params: &[(&str, &str)], data: &str| BusinessRequest {
            action: action.into(),
            params: params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            data: data.to_owned().into(),
        };
        let base = content_hash(&request("a", &[("k", "v"), ("l", "w")], "d"));
        assert_eq!(base, content_hash(&request("a", &[("l", "w"), ("k", "v")], "d")));
        for other in [
            request("ak", &[("", "v"), ("l", "w")], "d"),
            request("a", &[("k", "v")], "lwd"),
            request("a", &[("k", "w"), ("l", "v")], "d"),
            request("a", &[("k", "v"), ("l", "w")], ""),
        ] {
            assert_ne!(base, content_hash(&other), "{other:?}");
        }
    }

    #[test]
    fn a_client_may_shorten_its_time_out_only() {
        let of = |text: &str| {
            timeout(&HashMap::from([("x-timeout-ms".into(), text.into())]), Duration::from_secs(30))
        };
        assert_eq!(of("250"), Duration::from_millis(250));
        assert_eq!(of("99999999"), Duration::from_secs(30));
        assert_eq!((of("0"), of("soon")), (Duration::from_secs(30), Duration::from_secs(30)));
    }
}
