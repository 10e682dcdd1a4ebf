//! Any frame survives both dialects, and no bytes make a decoder panic.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use trunkline_proto::wire::{self, ChannelPosition};
use trunkline_proto::{Dialect, DownBody, DownFrame, UpBody, UpFrame};

use crate::samples;

// Strategies are boxed: unboxed, their types nest until a debug build's test thread has no stack left.

/// Numbers that both dialects carry.
const EXACT: u64 = (1 << 53) - 1;

fn text() -> BoxedStrategy<String> {
    prop_oneof![Just(String::new()), "[a-z:]{1,8}", "\\PC{0,12}", any::<String>()].boxed()
}

fn map() -> BoxedStrategy<HashMap<String, String>> {
    hash_map(text(), text(), 0..4).boxed()
}

fn data() -> BoxedStrategy<Bytes> {
    let json = prop_oneof![Just("{\"a\":[1.0,null]}"), Just("null"), Just("\"\\ud800\""), Just("[[]]")];
    prop_oneof![
        vec(any::<u8>(), 0..64).prop_map(Bytes::from),
        text().prop_map(Bytes::from),
        json.prop_map(Bytes::from)
    ]
    .boxed()
}

fn position() -> BoxedStrategy<ChannelPosition> {
    (text(), 0..=EXACT, 0..=EXACT)
        .prop_map(|(channel, epoch, offset)| ChannelPosition { channel, epoch, offset })
        .boxed()
}

fn exact() -> BoxedStrategy<u64> {
    (0..=EXACT).boxed()
}

fn time() -> BoxedStrategy<i64> {
    (-(EXACT as i64)..=EXACT as i64).boxed()
}

fn channel_request() -> BoxedStrategy<wire::ChannelRequest> {
    (text(), proptest::option::of(position()))
        .prop_map(|(channel, since)| wire::ChannelRequest { channel, since })
        .boxed()
}

fn start() -> BoxedStrategy<wire::StartRequest> {
    (
        (text(), text(), exact(), text(), vec(position(), 0..3)),
        (text(), text(), any::<u32>(), exact(), text(), exact(), exact()),
    )
        .prop_map(|(one, two)| wire::StartRequest {
            openid: one.0,
            auth_token: one.1,
            last_acked_seq_id: one.2,
            resume_token: one.3,
            positions: one.4,
            device_id: two.0,
            client: two.1,
            protocol: two.2,
            last_sent_client_seq: two.3,
            platform: two.4,
            instance: two.5,
            attempt: two.6,
        })
        .boxed()
}

fn ack() -> BoxedStrategy<wire::ClientAck> {
    (exact(), vec(position(), 0..3), exact(), exact())
        .prop_map(|(acked_seq_id, positions, replied_client_seq, start_fence)| wire::ClientAck {
            acked_seq_id,
            positions,
            replied_client_seq,
            start_fence,
        })
        .boxed()
}

fn up_body() -> BoxedStrategy<UpBody> {
    prop_oneof![
        start().prop_map(|start| UpBody::Start(start.into())),
        (0..4).prop_map(|reason| UpBody::Stop(wire::StopRequest { reason })),
        time().prop_map(|client_timestamp| UpBody::Heartbeat(wire::HeartbeatRequest { client_timestamp })),
        (text(), map(), data()).prop_map(|(action, params, data)| UpBody::Business(wire::BusinessRequest {
            action,
            params,
            data
        })),
        ack().prop_map(UpBody::Ack),
        channel_request().prop_map(UpBody::Subscribe),
        channel_request().prop_map(UpBody::Unsubscribe),
        (text(), data(), text()).prop_map(|(channel, data, idempotency_key)| UpBody::Publish(
            wire::PublishRequest { channel, data, idempotency_key }
        )),
        (text(), proptest::option::of(position()), any::<u32>(), any::<bool>()).prop_map(
            |(channel, since, limit, reverse)| UpBody::History(wire::HistoryRequest {
                channel,
                since,
                limit,
                reverse
            })
        ),
        channel_request().prop_map(UpBody::Presence),
        text().prop_map(|auth_token| UpBody::Refresh(wire::RefreshRequest { auth_token })),
    ]
    .boxed()
}

fn up_frame() -> BoxedStrategy<UpFrame> {
    (any::<u32>(), exact(), map(), up_body())
        .prop_map(|(msg_id, seq_id, headers, body)| UpFrame { msg_id, seq_id, headers, body })
        .boxed()
}

fn error() -> BoxedStrategy<wire::ErrorMessage> {
    (any::<i32>(), text(), text(), any::<u32>(), text(), exact())
        .prop_map(|(error_code, error_message, detail, retry_after_ms, name, client_seq)| {
            wire::ErrorMessage { error_code, error_message, detail, retry_after_ms, name, client_seq }
        })
        .boxed()
}

fn gap() -> BoxedStrategy<wire::ChannelGap> {
    (position(), proptest::option::of(position()))
        .prop_map(|(at, next)| wire::ChannelGap {
            channel: at.channel,
            epoch: at.epoch,
            offset: at.offset,
            next,
        })
        .boxed()
}

fn start_response() -> BoxedStrategy<wire::StartResponse> {
    let refusal = (text(), proptest::option::of(error()))
        .prop_map(|(channel, error)| wire::ChannelRefusal { channel, error });
    (
        (any::<bool>(), proptest::option::of(error()), any::<i32>(), text(), text(), text(), 0..3),
        (vec(gap(), 0..3), exact(), any::<u32>(), any::<u32>(), text()),
        (vec(position(), 0..3), exact(), vec(refusal, 0..3), any::<u32>()),
    )
        .prop_map(|(one, two, three)| wire::StartResponse {
            success: one.0,
            error: one.1,
            heartbeat_interval: one.2,
            connection_id: one.3,
            session_id: one.4,
            resume_token: one.5,
            verdict: one.6,
            gaps: two.0,
            last_client_seq: two.1,
            max_frame_size: two.2,
            resume_window: two.3,
            node: two.4,
            positions: three.0,
            fence: three.1,
            refused: three.2,
            max_frame_size_down: three.3,
        })
        .boxed()
}

fn publication() -> BoxedStrategy<wire::Publication> {
    (exact(), data(), time(), text())
        .prop_map(|(offset, data, timestamp, sender)| wire::Publication { offset, data, timestamp, sender })
        .boxed()
}

fn channel_response() -> BoxedStrategy<wire::ChannelResponse> {
    let member =
        (text(), text(), data()).prop_map(|(user, session_id, info)| wire::Member { user, session_id, info });
    (position(), vec(publication(), 0..3), vec(member, 0..3), any::<bool>(), proptest::option::of(error()))
        .prop_map(|(at, publications, members, recovered, error)| wire::ChannelResponse {
            channel: at.channel,
            epoch: at.epoch,
            offset: at.offset,
            publications,
            members,
            recovered,
            error,
        })
        .boxed()
}

fn reply() -> BoxedStrategy<wire::BusinessResponse> {
    (any::<i32>(), text(), data(), text(), text(), text(), map())
        .prop_map(|(code, message, data, msg_type, title, content, metadata)| wire::BusinessResponse {
            code,
            message,
            data,
            msg_type,
            title,
            content,
            metadata,
        })
        .boxed()
}

fn down_body() -> BoxedStrategy<DownBody> {
    prop_oneof![
        start_response().prop_map(|start| DownBody::StartResp(start.into())),
        (time(), time()).prop_map(|(client_timestamp, server_timestamp)| DownBody::HeartbeatResp(
            wire::HeartbeatResponse { client_timestamp, server_timestamp }
        )),
        reply().prop_map(DownBody::BusinessData),
        error().prop_map(DownBody::Error),
        channel_response().prop_map(DownBody::ChannelResp),
        publication().prop_map(DownBody::Publication),
        (any::<u32>(), text(), any::<u32>(), text()).prop_map(
            |(code, reason, reconnect_after_ms, redirect)| DownBody::Close(wire::CloseNotice {
                code,
                reason,
                reconnect_after_ms,
                redirect
            })
        ),
        gap().prop_map(DownBody::Gap),
    ]
    .boxed()
}

fn down_single() -> BoxedStrategy<DownFrame> {
    let place = proptest::option::of(
        position().prop_filter("a publication has a channel", |at| !at.channel.is_empty()),
    );
    (any::<u32>(), exact(), map(), place, down_body())
        .prop_map(|(msg_id, seq_id, headers, position, body)| DownFrame {
            msg_id,
            seq_id,
            headers,
            position,
            body,
        })
        .boxed()
}

fn down_frame() -> BoxedStrategy<DownFrame> {
    prop_oneof![
        4 => down_single(),
        1 => vec(down_single(), 0..4).prop_map(|frames| DownFrame::new(1, DownBody::Group(frames))),
    ]
    .boxed()
}

/// Reads the bytes in every way; only the absence of a panic counts.
fn read_all(bytes: &Bytes) {
    for dialect in [Dialect::Protobuf, Dialect::Json] {
        let _ = dialect.decode_up(bytes);
        let _ = dialect.decode_down(bytes);
    }
}

/// Every frame of `samples`, in both dialects.
fn sample_bytes() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for dialect in [Dialect::Protobuf, Dialect::Json] {
        all.extend(samples::up().iter().map(|(_, frame, _)| dialect.encode_up(frame)));
        all.extend(samples::down().iter().map(|(_, frame, _)| dialect.encode_down(frame)));
    }
    all
}

proptest! {
    #[test]
    fn any_frame_up_survives_both_dialects(frame in up_frame()) {
        for dialect in [Dialect::Protobuf, Dialect::Json] {
            let bytes = Bytes::from(dialect.encode_up(&frame));
            prop_assert_eq!(dialect.decode_up(&bytes), Ok(frame.clone()), "{:?} {:?}", dialect, bytes);
        }
    }

    #[test]
    fn any_frame_down_survives_both_dialects(frame in down_frame()) {
        for dialect in [Dialect::Protobuf, Dialect::Json] {
            let bytes = Bytes::from(dialect.encode_down(&frame));
            prop_assert_eq!(dialect.decode_down(&bytes), Ok(frame.clone()), "{:?} {:?}", dialect, bytes);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..256)) {
        read_all(&bytes.into());
    }

    #[test]
    fn flipped_bytes_never_panic(
        sample in 0..sample_bytes().len(),
        flips in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = sample_bytes().swap_remove(sample);
        for (at, with) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= with;
        }
        read_all(&bytes.into());
    }
}

#[test]
fn truncated_frames_never_panic_and_truncated_json_is_refused() {
    for bytes in sample_bytes() {
        let whole = Bytes::from(bytes);
        for length in 0..whole.len() {
            let part = whole.slice(..length);
            read_all(&part);
            if whole.first() == Some(&b'{') {
                assert!(Dialect::Json.decode_up(&part).is_err());
            }
        }
    }
}

#[test]
fn deeply_nested_bytes_end_no_stack() {
    for unit in
        [&b"["[..], b"{\"a\":", b"{\"payload\":", b"\x0b", b"{\"type\":\"group\",\"payload\":{\"frames\":["]
    {
        read_all(&Bytes::from(unit.repeat(200_000)));
    }
}
