//! The `json` dialect: the schema's names as members of JSON objects, what a browser speaks.
//!
//! Rules (protocol.md section 1): enums are their names in lower case without prefix, the payload is a nested
//! object, `data` is any JSON value and is spliced verbatim in both directions, defaults are left out, unknown
//! members are ignored, and `null` is a default as in protobuf's own JSON mapping. It never re-formats what it
//! carries: `1.0` stays `1.0`.
//!
//! This file has the frames; `message` writes and reads one message, `table` lists the schema's messages.

mod message;
mod table;

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::dialect::DecodeError;
use crate::frame::{DownBody, DownFrame, UpBody, UpFrame};
use crate::wire;
use message::{Exact, JsonMessage, Object, parse};

/// What a frame without a type is called: the schema's zero value in this dialect's spelling.
const NO_TYPE: &str = "unknown";

#[derive(Deserialize)]
struct UpEnvelope<'a> {
    msg_id: Option<u32>,
    seq_id: Option<Exact<u64>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    headers: Option<HashMap<String, String>>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct DownEnvelope<'a> {
    msg_id: Option<u32>,
    seq_id: Option<Exact<u64>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    headers: Option<HashMap<String, String>>,
    channel: Option<String>,
    epoch: Option<Exact<u64>>,
    offset: Option<Exact<u64>>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct GroupPayload<'a> {
    #[serde(borrow)]
    frames: Option<Vec<&'a RawValue>>,
}

/// Whether a `group` may stand here: the schema has groups of frames, not of groups.
#[derive(Clone, Copy)]
enum Place {
    Outside,
    InGroup,
}

pub(crate) fn decode_up(frame: &Bytes) -> Result<UpFrame, DecodeError> {
    let envelope: UpEnvelope<'_> = serde_json::from_str(utf8(frame)?).map_err(malformed)?;
    let payload = envelope.payload.map(RawValue::get);
    let kind = envelope.kind.unwrap_or(Cow::Borrowed(NO_TYPE));
    let body = match kind.as_ref() {
        "start" => UpBody::Start(Box::new(read(payload)?)),
        "stop" => UpBody::Stop(read(payload)?),
        "heartbeat" => UpBody::Heartbeat(read(payload)?),
        "business" => UpBody::Business(read(payload)?),
        "ack" => UpBody::Ack(read(payload)?),
        "subscribe" => UpBody::Subscribe(read(payload)?),
        "unsubscribe" => UpBody::Unsubscribe(read(payload)?),
        "publish" => UpBody::Publish(read(payload)?),
        "history" => UpBody::History(read(payload)?),
        "presence" => UpBody::Presence(read(payload)?),
        "refresh" => UpBody::Refresh(read(payload)?),
        _ => UpBody::Unknown(kind.into_owned()),
    };
    Ok(UpFrame {
        msg_id: envelope.msg_id.unwrap_or_default(),
        seq_id: envelope.seq_id.unwrap_or_default().0,
        headers: envelope.headers.unwrap_or_default(),
        body,
    })
}

pub(crate) fn encode_up(frame: &UpFrame, out: &mut Vec<u8>) {
    let (kind, message): (&str, Option<&dyn JsonMessage>) = match &frame.body {
        UpBody::Start(m) => ("start", Some(&**m)),
        UpBody::Stop(m) => ("stop", Some(m)),
        UpBody::Heartbeat(m) => ("heartbeat", Some(m)),
        UpBody::Business(m) => ("business", Some(m)),
        UpBody::Ack(m) => ("ack", Some(m)),
        UpBody::Subscribe(m) => ("subscribe", Some(m)),
        UpBody::Unsubscribe(m) => ("unsubscribe", Some(m)),
        UpBody::Publish(m) => ("publish", Some(m)),
        UpBody::History(m) => ("history", Some(m)),
        UpBody::Presence(m) => ("presence", Some(m)),
        UpBody::Refresh(m) => ("refresh", Some(m)),
        UpBody::Unknown(name) => (name, None),
    };
    let mut object = Object::begin(out);
    write_head(&mut object, frame.msg_id, frame.seq_id, kind, &frame.headers);
    if let Some(message) = message {
        object.message("payload", message);
    }
    object.end();
}

pub(crate) fn decode_down(frame: &Bytes) -> Result<DownFrame, DecodeError> {
    read_down(utf8(frame)?, Place::Outside)
}

pub(crate) fn encode_down(frame: &DownFrame, out: &mut Vec<u8>) {
    let (kind, message): (&str, Option<&dyn JsonMessage>) = match &frame.body {
        DownBody::StartResp(m) => ("start_resp", Some(&**m)),
        DownBody::HeartbeatResp(m) => ("heartbeat_resp", Some(m)),
        DownBody::BusinessData(m) => ("business_data", Some(m)),
        DownBody::Error(m) => ("error", Some(m)),
        DownBody::ChannelResp(m) => ("channel_resp", Some(m)),
        DownBody::Publication(m) => ("publication", Some(m)),
        DownBody::Close(m) => ("close", Some(m)),
        DownBody::Gap(m) => ("gap", Some(m)),
        DownBody::Group(_) => ("group", None),
        DownBody::Unknown(name) => (name, None),
    };
    let mut object = Object::begin(out);
    write_head(&mut object, frame.msg_id, frame.seq_id, kind, &frame.headers);
    if let Some(position) = frame.position.as_ref().filter(|position| !position.channel.is_empty()) {
        object.text("channel", &position.channel);
        object.number("epoch", position.epoch);
        object.number("offset", position.offset);
    }
    if let Some(message) = message {
        object.message("payload", message);
    }
    if let DownBody::Group(frames) = &frame.body {
        write_group(object.value("payload"), frames);
    }
    object.end();
}

fn write_group(out: &mut Vec<u8>, frames: &[DownFrame]) {
    let mut payload = Object::begin(out);
    let list = payload.value("frames");
    list.push(b'[');
    for (at, frame) in frames.iter().enumerate() {
        if at > 0 {
            list.push(b',');
        }
        encode_down(frame, list);
    }
    list.push(b']');
    payload.end();
}

fn write_head(
    object: &mut Object<'_>,
    msg_id: u32,
    seq_id: u64,
    kind: &str,
    headers: &HashMap<String, String>,
) {
    if msg_id != 0 {
        object.number("msg_id", u64::from(msg_id));
    }
    if seq_id != 0 {
        object.number("seq_id", seq_id);
    }
    object.text("type", kind);
    if !headers.is_empty() {
        object.map("headers", headers);
    }
}

fn read_down(text: &str, place: Place) -> Result<DownFrame, DecodeError> {
    let envelope: DownEnvelope<'_> = serde_json::from_str(text).map_err(malformed)?;
    let payload = envelope.payload.map(RawValue::get);
    let kind = envelope.kind.unwrap_or(Cow::Borrowed(NO_TYPE));
    let body = match (kind.as_ref(), place) {
        ("start_resp", _) => DownBody::StartResp(Box::new(read(payload)?)),
        ("heartbeat_resp", _) => DownBody::HeartbeatResp(read(payload)?),
        ("business_data", _) => DownBody::BusinessData(read(payload)?),
        ("error", _) => DownBody::Error(read(payload)?),
        ("channel_resp", _) => DownBody::ChannelResp(read(payload)?),
        ("publication", _) => DownBody::Publication(read(payload)?),
        ("close", _) => DownBody::Close(read(payload)?),
        ("gap", _) => DownBody::Gap(read(payload)?),
        ("group", Place::Outside) => DownBody::Group(read_group(payload)?),
        ("group", Place::InGroup) => return Err(DecodeError::Malformed("a group inside a group".into())),
        _ => DownBody::Unknown(kind.into_owned()),
    };
    let position =
        envelope.channel.filter(|channel| !channel.is_empty()).map(|channel| wire::ChannelPosition {
            channel,
            epoch: envelope.epoch.unwrap_or_default().0,
            offset: envelope.offset.unwrap_or_default().0,
        });
    Ok(DownFrame {
        msg_id: envelope.msg_id.unwrap_or_default(),
        seq_id: envelope.seq_id.unwrap_or_default().0,
        headers: envelope.headers.unwrap_or_default(),
        position,
        body,
    })
}

fn read_group(payload: Option<&str>) -> Result<Vec<DownFrame>, DecodeError> {
    let Some(payload) = payload else { return Ok(Vec::new()) };
    let group: GroupPayload<'_> = serde_json::from_str(payload).map_err(malformed)?;
    let frames = group.frames.unwrap_or_default();
    frames.into_iter().map(|frame| read_down(frame.get(), Place::InGroup)).collect()
}

fn read<M: JsonMessage + Default>(payload: Option<&str>) -> Result<M, DecodeError> {
    payload.map_or_else(|| Ok(M::default()), |text| parse(text).map_err(malformed))
}

fn utf8(frame: &Bytes) -> Result<&str, DecodeError> {
    std::str::from_utf8(frame).map_err(|error| DecodeError::Malformed(error.to_string()))
}

/// Serde's messages quote values of the input; a frame can hold a token, so only the place is told.
#[allow(clippy::needless_pass_by_value, reason = "it is the shape that map_err calls")]
fn malformed(error: serde_json::Error) -> DecodeError {
    let what = match error.classify() {
        serde_json::error::Category::Data => "a member has the wrong type",
        _ => "not JSON",
    };
    DecodeError::Malformed(format!("{what} (line {}, column {})", error.line(), error.column()))
}
