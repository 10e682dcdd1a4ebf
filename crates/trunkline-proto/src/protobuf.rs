//! The `protobuf` dialect: the schema's binary form, with the payload decoded by the frame's type.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};

use crate::dialect::DecodeError;
use crate::frame::{DownBody, DownFrame, UpBody, UpFrame};
use crate::wire::{self, ClientRequest, PushType, RequestType, ServerPush};

/// Groups hold frames, and a frame that holds itself a million times over must not end the stack.
const MAX_GROUP_DEPTH: u32 = 1;

pub(crate) fn decode_up(frame: &Bytes) -> Result<UpFrame, DecodeError> {
    let request = ClientRequest::decode(frame.clone()).map_err(malformed)?;
    let payload = request.payload;
    let body = match RequestType::try_from(request.r#type) {
        Ok(RequestType::RequestStart) => UpBody::Start(decode_start(payload)?.into()),
        Ok(RequestType::RequestStop) => UpBody::Stop(decode(payload)?),
        Ok(RequestType::RequestHeartbeat) => UpBody::Heartbeat(decode(payload)?),
        Ok(RequestType::RequestBusiness) => UpBody::Business(decode(payload)?),
        Ok(RequestType::RequestAck) => UpBody::Ack(decode(payload)?),
        Ok(RequestType::RequestSubscribe) => UpBody::Subscribe(decode(payload)?),
        Ok(RequestType::RequestUnsubscribe) => UpBody::Unsubscribe(decode(payload)?),
        Ok(RequestType::RequestPublish) => UpBody::Publish(decode(payload)?),
        Ok(RequestType::RequestHistory) => UpBody::History(decode(payload)?),
        Ok(RequestType::RequestPresence) => UpBody::Presence(decode(payload)?),
        Ok(RequestType::RequestRefresh) => UpBody::Refresh(decode(payload)?),
        Ok(RequestType::RequestUnknown) | Err(_) => UpBody::Unknown(request.r#type.to_string()),
    };
    Ok(UpFrame { msg_id: request.msg_id, seq_id: request.seq_id, headers: request.headers, body })
}

pub(crate) fn encode_up(frame: &UpFrame, out: &mut Vec<u8>) {
    let (r#type, payload) = match &frame.body {
        UpBody::Start(m) => (RequestType::RequestStart as i32, m.encode_to_vec()),
        UpBody::Stop(m) => (RequestType::RequestStop as i32, m.encode_to_vec()),
        UpBody::Heartbeat(m) => (RequestType::RequestHeartbeat as i32, m.encode_to_vec()),
        UpBody::Business(m) => (RequestType::RequestBusiness as i32, m.encode_to_vec()),
        UpBody::Ack(m) => (RequestType::RequestAck as i32, m.encode_to_vec()),
        UpBody::Subscribe(m) => (RequestType::RequestSubscribe as i32, m.encode_to_vec()),
        UpBody::Unsubscribe(m) => (RequestType::RequestUnsubscribe as i32, m.encode_to_vec()),
        UpBody::Publish(m) => (RequestType::RequestPublish as i32, m.encode_to_vec()),
        UpBody::History(m) => (RequestType::RequestHistory as i32, m.encode_to_vec()),
        UpBody::Presence(m) => (RequestType::RequestPresence as i32, m.encode_to_vec()),
        UpBody::Refresh(m) => (RequestType::RequestRefresh as i32, m.encode_to_vec()),
        UpBody::Unknown(name) => (name.parse().unwrap_or_default(), Vec::new()),
    };
    let request = ClientRequest {
        msg_id: frame.msg_id,
        seq_id: frame.seq_id,
        r#type,
        payload: payload.into(),
        headers: frame.headers.clone(),
        openid: String::new(),
    };
    write(&request, out);
}

pub(crate) fn decode_down(frame: &Bytes) -> Result<DownFrame, DecodeError> {
    let push = ServerPush::decode(frame.clone()).map_err(malformed)?;
    down_from_wire(push, MAX_GROUP_DEPTH)
}

pub(crate) fn encode_down(frame: &DownFrame, out: &mut Vec<u8>) {
    write(&down_to_wire(frame), out);
}

fn down_from_wire(push: ServerPush, depth: u32) -> Result<DownFrame, DecodeError> {
    let payload = push.payload;
    let body = match PushType::try_from(push.r#type) {
        Ok(PushType::PushStartResp) => DownBody::StartResp(Box::new(decode(payload)?)),
        Ok(PushType::PushHeartbeatResp) => DownBody::HeartbeatResp(decode(payload)?),
        Ok(PushType::PushBusinessData) => DownBody::BusinessData(decode(payload)?),
        Ok(PushType::PushError) => DownBody::Error(decode(payload)?),
        Ok(PushType::PushChannelResp) => DownBody::ChannelResp(decode(payload)?),
        Ok(PushType::PushPublication) => DownBody::Publication(decode(payload)?),
        Ok(PushType::PushClose) => DownBody::Close(decode(payload)?),
        Ok(PushType::PushGap) => DownBody::Gap(decode(payload)?),
        Ok(PushType::PushGroup) if depth == 0 => {
            return Err(DecodeError::Malformed("a group inside a group".into()));
        }
        Ok(PushType::PushGroup) => {
            let group: wire::PushGroup = decode(payload)?;
            let frames = group.frames.into_iter().map(|frame| down_from_wire(frame, depth - 1));
            DownBody::Group(frames.collect::<Result<_, _>>()?)
        }
        Ok(PushType::PushUnknown) | Err(_) => DownBody::Unknown(push.r#type.to_string()),
    };
    let position = (!push.channel.is_empty()).then_some(wire::ChannelPosition {
        channel: push.channel,
        epoch: push.epoch,
        offset: push.offset,
    });
    Ok(DownFrame { msg_id: push.msg_id, seq_id: push.seq_id, headers: push.headers, position, body })
}

fn down_to_wire(frame: &DownFrame) -> ServerPush {
    let (r#type, payload) = match &frame.body {
        DownBody::StartResp(m) => (PushType::PushStartResp as i32, m.encode_to_vec()),
        DownBody::HeartbeatResp(m) => (PushType::PushHeartbeatResp as i32, m.encode_to_vec()),
        DownBody::BusinessData(m) => (PushType::PushBusinessData as i32, m.encode_to_vec()),
        DownBody::Error(m) => (PushType::PushError as i32, m.encode_to_vec()),
        DownBody::ChannelResp(m) => (PushType::PushChannelResp as i32, m.encode_to_vec()),
        DownBody::Publication(m) => (PushType::PushPublication as i32, m.encode_to_vec()),
        DownBody::Close(m) => (PushType::PushClose as i32, m.encode_to_vec()),
        DownBody::Gap(m) => (PushType::PushGap as i32, m.encode_to_vec()),
        DownBody::Group(frames) => {
            let group = wire::PushGroup { frames: frames.iter().map(down_to_wire).collect() };
            (PushType::PushGroup as i32, group.encode_to_vec())
        }
        DownBody::Unknown(name) => (name.parse().unwrap_or_default(), Vec::new()),
    };
    let position = frame.position.clone().unwrap_or_default();
    ServerPush {
        msg_id: frame.msg_id,
        seq_id: frame.seq_id,
        r#type,
        payload: payload.into(),
        headers: frame.headers.clone(),
        channel: position.channel,
        offset: position.offset,
        epoch: position.epoch,
    }
}

/// The second layout of StartRequest, which the seed's own binaries speak. Our extensions (fields 16 and up) are
/// the same in both.
#[derive(Clone, PartialEq, prost::Message)]
struct LegacyStart {
    #[prost(string, tag = "1")]
    openid: String,
    #[prost(string, tag = "2")]
    client_id: String,
    #[prost(string, tag = "3")]
    auth_token: String,
    #[prost(uint64, tag = "4")]
    last_acked_seq_id: u64,
}

fn decode_start(payload: Bytes) -> Result<wire::StartRequest, DecodeError> {
    let Some(extensions) = legacy_extensions(&payload)? else { return decode(payload) };
    let legacy: LegacyStart = decode(payload)?;
    let start: wire::StartRequest = decode(extensions.into())?;
    let device_id = if start.device_id.is_empty() { legacy.client_id } else { start.device_id };
    Ok(wire::StartRequest {
        openid: legacy.openid,
        auth_token: legacy.auth_token,
        last_acked_seq_id: legacy.last_acked_seq_id,
        device_id,
        ..start
    })
}

/// Field 3 as bytes, or a field 4 of any kind, says the second layout; then the fields from 16 up are returned.
/// The tags are looked at before any decoding, because a generated decoder refuses a field of the other type.
fn legacy_extensions(payload: &Bytes) -> Result<Option<Vec<u8>>, DecodeError> {
    let (mut legacy, mut extensions) = (false, Vec::new());
    let mut rest = payload.clone();
    while !rest.is_empty() {
        let field = rest.clone();
        let (tag, kind) = decode_key(&mut rest).map_err(malformed)?;
        skip_field(kind, tag, &mut rest, DecodeContext::default()).map_err(malformed)?;
        legacy |= tag == 4 || (tag == 3 && kind == WireType::LengthDelimited);
        if tag >= 16 {
            extensions.extend_from_slice(&field[..field.len() - rest.len()]);
        }
    }
    Ok(legacy.then_some(extensions))
}

fn decode<M: Message + Default>(payload: Bytes) -> Result<M, DecodeError> {
    M::decode(payload).map_err(malformed)
}

fn write(message: &impl Message, out: &mut Vec<u8>) {
    out.reserve(message.encoded_len());
    let written = message.encode(out);
    debug_assert!(written.is_ok(), "a vector has room for everything");
}

#[allow(clippy::needless_pass_by_value, reason = "it is the shape that map_err calls")]
fn malformed(error: prost::DecodeError) -> DecodeError {
    DecodeError::Malformed(error.to_string())
}
