//! The schema's client messages, as this dialect writes them: one line a message, both directions from it.
//!
//! A field in brackets is written even with its default value where the condition holds.

use serde_json::value::RawValue;

use super::message::{
    Base64, Data, JsonMessage, Kind, List, Named, Nested, Number, Object, Pairs, Plain, Presence, Word,
};
use crate::wire;

macro_rules! messages {
    ($($type:ident { $($field:ident: $kind:ty $([$always:expr])?,)* })+) => {$(
        impl JsonMessage for wire::$type {
            fn write_members(&self, object: &mut Object<'_>) {
                $(
                    let presence = Presence::UnlessDefault;
                    $(let presence = if $always(self) { Presence::Always } else { presence };)?
                    <$kind>::write(object, stringify!($field), &self.$field, presence);
                )*
            }

            fn read_member(&mut self, name: &str, value: &RawValue) -> serde_json::Result<()> {
                $(
                    if <$kind>::read(stringify!($field), name, value, &mut self.$field)? {
                        return Ok(());
                    }
                )*
                Ok(())
            }
        }
    )+};
}

messages! {
    StartRequest {
        openid: Plain, auth_token: Plain, last_acked_seq_id: Number, resume_token: Plain, positions: List,
        device_id: Plain, client: Plain, protocol: Plain, last_sent_client_seq: Number, platform: Plain,
        instance: Number, attempt: Number,
    }
    ChannelPosition { channel: Plain, epoch: Number [|_: &Self| true], offset: Number [|_: &Self| true], }
    StopRequest { reason: Word<wire::stop_request::Reason>, }
    HeartbeatRequest { client_timestamp: Number, }
    BusinessRequest { action: Plain, params: Pairs, data: Data, }
    ClientAck { acked_seq_id: Number, positions: List, replied_client_seq: Number, start_fence: Number, }
    ChannelRequest { channel: Plain, since: Nested, }
    PublishRequest { channel: Plain, data: Data, idempotency_key: Plain, }
    HistoryRequest { channel: Plain, since: Nested, limit: Plain, reverse: Plain, }
    RefreshRequest { auth_token: Plain, }
    StartResponse {
        success: Plain [|_: &Self| true], error: Nested, heartbeat_interval: Plain, connection_id: Plain,
        session_id: Plain, resume_token: Plain,
        // A refusal and the answer to a REFRESH have no session, so there is no verdict on one.
        verdict: Word<wire::Verdict> [|response: &Self| !response.session_id.is_empty()],
        gaps: List, last_client_seq: Number, max_frame_size: Plain, resume_window: Plain, node: Plain,
        fence: Number, positions: List, refused: List, max_frame_size_down: Plain,
    }
    ChannelRefusal { channel: Plain, error: Nested, }
    ChannelGap {
        channel: Plain, epoch: Number [|_: &Self| true], offset: Number [|_: &Self| true], next: Nested,
    }
    HeartbeatResponse { client_timestamp: Number, server_timestamp: Number, }
    BusinessResponse {
        code: Plain, message: Plain, data: Data, msg_type: Plain, title: Plain, content: Plain, metadata: Pairs,
    }
    ErrorMessage {
        error_code: Plain, name: Plain, error_message: Plain, detail: Plain, retry_after_ms: Plain,
        client_seq: Number,
    }
    ChannelResponse {
        channel: Plain,
        // Either both or none: (epoch, 0) is a position, (0, 0) is the absence of one.
        epoch: Number [|response: &Self| response.offset != 0],
        offset: Number [|response: &Self| response.epoch != 0],
        recovered: Plain, publications: List, members: List, error: Nested,
    }
    Publication { offset: Number, data: Data, timestamp: Number, sender: Plain, }
    Member { user: Plain, session_id: Plain, info: Base64, }
    CloseNotice { code: Plain, reason: Plain, reconnect_after_ms: Plain, redirect: Plain, }
}

macro_rules! named {
    ($($type:ty),+) => {$(
        impl Named for $type {
            fn name(number: i32) -> Option<&'static str> {
                <$type>::try_from(number).ok().map(|named| named.as_str_name())
            }
            fn parse(upper: &str) -> Option<Self> {
                <$type>::from_str_name(upper)
            }
        }
    )+};
}

named!(wire::stop_request::Reason, wire::Verdict);
