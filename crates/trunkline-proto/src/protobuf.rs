//! The `protobuf` dialect: the schema's binary form, with the payload decoded by the frame's type.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::dialect::DecodeError;
use crate::frame::{DownBody, DownFrame, UpBody, UpFrame};
use crate::wire::{self, ClientRequest, PushType, RequestType, ServerPush};

/// Groups hold frames, and a frame that holds itself a million times over must not end the stack.
const MAX_GROUP_DEPTH: u32 = 1;

pub(crate) fn decode_up(frame: &Bytes) -> Result<UpFrame, DecodeError> {
    if let Some(call) = plain_call(frame) {
        return Ok(call);
    }
    decode_by_schema(frame)
}

/// Bytes in a frame beside its data that are no more than numbers, names and headers.
const USUAL_REST: usize = 1024;

/// Data is a part of its frame and keeps all of it in memory. Where the frame is mostly something else, which whoever
/// counts the data would not see, it is copied.
fn freed(data: Bytes, frame: &Bytes) -> Bytes {
    if frame.len() > 2 * data.len() + USUAL_REST { Bytes::copy_from_slice(&data) } else { data }
}

fn decode_by_schema(frame: &Bytes) -> Result<UpFrame, DecodeError> {
    let mut decoded = decode_all(frame)?;
    match &mut decoded.body {
        UpBody::Business(call) => call.data = freed(std::mem::take(&mut call.data), frame),
        UpBody::Publish(publication) => {
            publication.data = freed(std::mem::take(&mut publication.data), frame);
        }
        _ => {}
    }
    Ok(decoded)
}

fn decode_all(frame: &Bytes) -> Result<UpFrame, DecodeError> {
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

/// A call as nearly every client writes it: each field at most once and in its order, no headers and no params. It is
/// what the schema's decoder would make of it, at a third of the cost; anything else is left to that.
fn plain_call(frame: &Bytes) -> Option<UpFrame> {
    const BUSINESS: u64 = RequestType::RequestBusiness as u64;
    let mut rest = &frame[..];
    let msg_id = number(&mut rest, 1)?;
    let seq_id = number(&mut rest, 2)?;
    if number(&mut rest, 3)? != BUSINESS {
        return None;
    }
    let mut payload = field(&mut rest, 4)?;
    let action = field(&mut payload, 1)?;
    let data = field(&mut payload, 3)?;
    if !rest.is_empty() || !payload.is_empty() {
        return None;
    }
    let request = wire::BusinessRequest {
        action: std::str::from_utf8(action).ok()?.to_owned(),
        data: if data.is_empty() { Bytes::new() } else { frame.slice_ref(data) },
        ..wire::BusinessRequest::default()
    };
    Some(UpFrame::new(u32::try_from(msg_id).ok()?, seq_id, UpBody::Business(request)))
}

/// The number in this field, if it comes next; 0 where another one does. `None`: it is broken.
fn number(rest: &mut &[u8], tag: u8) -> Option<u64> {
    match rest.split_first() {
        Some((key, value)) if *key == tag << 3 => {
            *rest = value;
            decode_varint(rest).ok()
        }
        _ => Some(0),
    }
}

/// The bytes in this field, if it comes next; none where another one does. `None`: it is broken.
fn field<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    match rest.split_first() {
        Some((key, value)) if *key == (tag << 3) | 2 => {
            *rest = value;
            let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
            let (bytes, behind) = rest.split_at_checked(length)?;
            *rest = behind;
            Some(bytes)
        }
        _ => Some(&[]),
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Fields as some client may write them: in any order, twice, of any kind, and cut anywhere.
    fn fields() -> impl Strategy<Value = Vec<u8>> {
        let number = |tag: u8| {
            (Just(tag << 3), prop_oneof![0_u64..6, any::<u64>()]).prop_map(|(key, value)| {
                let mut out = vec![key];
                prost::encoding::encode_varint(value, &mut out);
                out
            })
        };
        let bytes = |tag: u8| {
            (Just((tag << 3) | 2), prop::collection::vec(any::<u8>(), 0..4)).prop_map(|(key, value)| {
                let mut out = vec![key];
                prost::encoding::encode_varint(value.len() as u64, &mut out);
                out.extend(value);
                out
            })
        };
        let payload = prop::collection::vec(prop_oneof![2 => bytes(1), 1 => bytes(2), 2 => bytes(3)], 0..3);
        let nested = payload.prop_map(|payload| {
            let payload = payload.concat();
            let mut out = vec![0x22];
            prost::encoding::encode_varint(payload.len() as u64, &mut out);
            out.extend(payload);
            out
        });
        let field =
            prop_oneof![number(1), number(2), number(3), nested.clone(), bytes(5), bytes(6), number(7)];
        let plain = (number(1), number(2), Just(vec![3 << 3, 4]), nested)
            .prop_map(|(a, b, c, d)| [a, b, c, d].concat());
        let whole = prop_oneof![prop::collection::vec(field, 0..6).prop_map(|fields| fields.concat()), plain];
        (whole, any::<prop::sample::Index>(), 0..8).prop_map(|(mut whole, at, cut)| {
            if cut == 0 && !whole.is_empty() {
                whole.truncate(at.index(whole.len()));
            }
            whole
        })
    }

    proptest! {
        #[test]
        fn a_plain_call_is_what_the_schema_makes_of_it(bytes in fields()) {
            let frame = Bytes::from(bytes);
            if let Some(call) = plain_call(&frame) {
                prop_assert_eq!(Ok(call), decode_by_schema(&frame));
            }
        }
    }

    /// A frame's data, and whether it lies in the frame.
    fn data_of(frame: &Bytes) -> (Bytes, bool) {
        let data = match decode_up(frame).unwrap().body {
            UpBody::Publish(publication) => publication.data,
            UpBody::Business(call) => call.data,
            other => panic!("{other:?}"),
        };
        let is_part = frame.as_ptr_range().contains(&data.as_ptr());
        (data, is_part)
    }

    #[test]
    fn data_keeps_its_frame_only_where_it_is_most_of_it() {
        for padding in [0, 100_000] {
            let data = Bytes::from_static(&[7; 2_000]);
            let publication = wire::PublishRequest { data: data.clone(), ..Default::default() };
            let call = wire::BusinessRequest { data: data.clone(), ..Default::default() };
            for body in [UpBody::Publish(publication), UpBody::Business(call)] {
                let mut frame = UpFrame::new(1, 1, body);
                frame.headers.insert("x".into(), "y".repeat(padding));
                let mut encoded = Vec::new();
                encode_up(&frame, &mut encoded);
                assert_eq!(data_of(&encoded.into()), (data.clone(), padding == 0));
            }
        }
    }

    #[test]
    fn calls_are_plain_as_they_are_written_here_unless_they_have_headers_or_params() {
        let call = |action: &str, data: &'static [u8]| wire::BusinessRequest {
            action: action.to_owned(),
            data: Bytes::from_static(data),
            ..wire::BusinessRequest::default()
        };
        let encoded = |frame: &UpFrame| {
            let mut out = Vec::new();
            encode_up(frame, &mut out);
            Bytes::from(out)
        };
        for (msg_id, seq_id, action, data) in [
            (0, 1, "echo", &b"x"[..]),
            (u32::MAX, u64::MAX, "\u{e9}", b""),
            (0, 0, "", b"y"),
            (7, 0, "", b""),
        ] {
            let frame = UpFrame::new(msg_id, seq_id, UpBody::Business(call(action, data)));
            assert_eq!(plain_call(&encoded(&frame)), Some(frame));
        }
        let mut with_headers = UpFrame::new(1, 1, UpBody::Business(call("echo", b"x")));
        with_headers.headers.insert("x-order".into(), "request".into());
        assert_eq!(plain_call(&encoded(&with_headers)), None);
        let mut params = call("echo", b"x");
        params.params.insert("a".into(), "b".into());
        assert_eq!(plain_call(&encoded(&UpFrame::new(1, 1, UpBody::Business(params)))), None);
        let ack = UpFrame::new(1, 1, UpBody::Ack(wire::ClientAck::default()));
        assert_eq!(plain_call(&encoded(&ack)), None);
    }
}
