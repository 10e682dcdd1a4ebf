//! One frame of every type, with every field of its message set somewhere.

use std::collections::HashMap;

use bytes::Bytes;
use trunkline_proto::wire::{self, stop_request};
use trunkline_proto::{DownBody, DownFrame, UpBody, UpFrame};

pub(crate) const EPOCH: u64 = 1_795_161_600_000_000;

pub(crate) fn at(channel: &str, offset: u64) -> wire::ChannelPosition {
    wire::ChannelPosition { channel: channel.into(), epoch: EPOCH, offset }
}

pub(crate) fn pairs(key: &str, value: &str) -> HashMap<String, String> {
    HashMap::from([(key.to_owned(), value.to_owned())])
}

/// The name, the frame and its bytes as a protobuf message. Those named "seed" use seed 003's fields only.
pub(crate) fn up() -> Vec<(&'static str, UpFrame, &'static str)> {
    let room = || wire::ChannelRequest { channel: "room:1".into(), since: None };
    let mut echo = UpFrame::new(
        2,
        1,
        UpBody::Business(wire::BusinessRequest {
            action: "echo".into(),
            params: pairs("a", "1"),
            data: Bytes::from_static(b"hi"),
        }),
    );
    echo.headers = pairs("x-order", "request");
    let seed_start = wire::StartRequest {
        openid: "alice".into(),
        auth_token: "tok".into(),
        last_acked_seq_id: 17,
        ..wire::StartRequest::default()
    };
    let our_start = wire::StartRequest {
        openid: "alice".into(),
        auth_token: "tok".into(),
        last_acked_seq_id: 0,
        resume_token: "t1.x".into(),
        positions: vec![at("room:1", 41)],
        device_id: "phone-1".into(),
        client: "sdk/1".into(),
        protocol: 1,
        last_sent_client_seq: 9,
        platform: "web".into(),
        instance: 4711,
        attempt: 2,
    };
    let seed_ack = wire::ClientAck { acked_seq_id: 300, ..wire::ClientAck::default() };
    let our_ack = wire::ClientAck {
        positions: vec![at("room:1", 60)],
        replied_client_seq: 1,
        start_fence: 7,
        ..wire::ClientAck::default()
    };
    let publish = wire::PublishRequest {
        channel: "room:1".into(),
        data: Bytes::from_static(b"{}"),
        idempotency_key: "c1-17".into(),
    };
    let history = wire::HistoryRequest {
        channel: "room:1".into(),
        since: Some(at("room:1", 60)),
        limit: 10,
        reverse: true,
    };
    vec![
        (
            "start, seed",
            UpFrame::new(1, 0, UpBody::Start(seed_start.into())),
            "08011801220e0a05616c6963651203746f6b1811",
        ),
        (
            "stop, seed",
            UpFrame::new(
                0,
                0,
                UpBody::Stop(wire::StopRequest { reason: stop_request::Reason::UserLogout as i32 }),
            ),
            "180222020801",
        ),
        (
            "heartbeat, seed",
            UpFrame::new(
                6,
                0,
                UpBody::Heartbeat(wire::HeartbeatRequest { client_timestamp: 1_795_161_603_000 }),
            ),
            "08061803220708b8f7e0bf9f34",
        ),
        (
            "business, seed",
            echo,
            "08021001180422120a046563686f12060a01611201311a0268692a120a07782d6f72646572120772657175657374",
        ),
        ("ack, seed", UpFrame::new(0, 0, UpBody::Ack(seed_ack)), "1805220308ac02"),
        (
            "start",
            UpFrame::new(1, 0, UpBody::Start(our_start.into())),
            "08011801224e0a05616c6963651203746f6b82010474312e788a01130a06726f6f6d3a31108080ee8b8a969803182992\
             010770686f6e652d319a010573646b2f31a00101a80109b20103776562b801e724c00102",
        ),
        (
            "ack",
            UpFrame::new(0, 0, UpBody::Ack(our_ack)),
            "1805221c8201130a06726f6f6d3a31108080ee8b8a969803183c880101900107",
        ),
        (
            "subscribe",
            UpFrame::new(
                3,
                0,
                UpBody::Subscribe(wire::ChannelRequest { since: Some(at("room:1", 41)), ..room() }),
            ),
            "08031810221d0a06726f6f6d3a3112130a06726f6f6d3a31108080ee8b8a9698031829",
        ),
        ("unsubscribe", UpFrame::new(8, 0, UpBody::Unsubscribe(room())), "0808181122080a06726f6f6d3a31"),
        (
            "publish",
            UpFrame::new(7, 0, UpBody::Publish(publish)),
            "0807181222130a06726f6f6d3a3112027b7d1a0563312d3137",
        ),
        (
            "history",
            UpFrame::new(9, 0, UpBody::History(history)),
            "0809181322210a06726f6f6d3a3112130a06726f6f6d3a31108080ee8b8a969803183c180a2001",
        ),
        ("presence", UpFrame::new(10, 0, UpBody::Presence(room())), "080a181422080a06726f6f6d3a31"),
        (
            "refresh",
            UpFrame::new(11, 0, UpBody::Refresh(wire::RefreshRequest { auth_token: "tok2".into() })),
            "080b181522060a04746f6b32",
        ),
    ]
}

/// The same for what a gateway sends.
pub(crate) fn down() -> Vec<(&'static str, DownFrame, &'static str)> {
    let mut all = down_seed();
    all.extend(down_ours());
    all
}

fn down_seed() -> Vec<(&'static str, DownFrame, &'static str)> {
    let numbered = |msg_id, seq_id, body| DownFrame { seq_id, ..DownFrame::new(msg_id, body) };
    let start = wire::StartResponse {
        success: true,
        heartbeat_interval: 30,
        connection_id: "c1".into(),
        ..wire::StartResponse::default()
    };
    let reply = wire::BusinessResponse {
        code: 200,
        message: "ok".into(),
        data: Bytes::from_static(b"\x00\xff"),
        ..wire::BusinessResponse::default()
    };
    let error = wire::ErrorMessage {
        error_code: 404,
        error_message: "no such action".into(),
        detail: "x".into(),
        ..wire::ErrorMessage::default()
    };
    let heartbeat = wire::HeartbeatResponse { client_timestamp: 5, server_timestamp: -1 };
    vec![
        (
            "start_resp, seed",
            numbered(1, 1, DownBody::StartResp(start.into())),
            "08011001180122080801181e22026331",
        ),
        (
            "heartbeat_resp, seed",
            numbered(6, 2, DownBody::HeartbeatResp(heartbeat)),
            "080610021802220d080510ffffffffffffffffff01",
        ),
        (
            "business_data, seed",
            DownFrame { headers: pairs("k", "v"), ..numbered(2, 3, DownBody::BusinessData(reply)) },
            "080210031803220b08c80112026f6b1a0200ff2a060a016b120176",
        ),
        (
            "error, seed",
            numbered(5, 4, DownBody::Error(error)),
            "0805100418042216089403120e6e6f207375636820616374696f6e1a0178",
        ),
    ]
}

fn down_ours() -> Vec<(&'static str, DownFrame, &'static str)> {
    let error = wire::ErrorMessage {
        error_code: 503,
        error_message: "64 calls are outstanding".into(),
        retry_after_ms: 120,
        name: "OVERLOADED".into(),
        client_seq: 65,
        ..wire::ErrorMessage::default()
    };
    let publication = wire::Publication {
        offset: 0,
        data: Bytes::from_static(b"x"),
        timestamp: 1_795_161_601_000,
        sender: "bob".into(),
    };
    let close = wire::CloseNotice {
        code: 4003,
        reason: "moved".into(),
        reconnect_after_ms: 1500,
        redirect: "n2:8090".into(),
    };
    let reply = |message: &str| {
        DownBody::BusinessData(wire::BusinessResponse {
            code: 200,
            message: message.into(),
            ..wire::BusinessResponse::default()
        })
    };
    let group = vec![DownFrame::new(0, reply("before")), DownFrame::new(4, reply("ok"))];
    vec![
        (
            "start_resp",
            DownFrame::new(1, DownBody::StartResp(start_response().into())),
            "08011801229401080118192202633182010273318a010474312e789001029a01280a06726f6f6d3a31108080ee8b8a96\
             9803182922130a06726f6f6d3a31108080ee8b8a969803183ca00109a801808040b00178ba01046b336639c2010e0a03\
             616c6c108080ee8b8a969803c80107d201230a06726f6f6d3a32121908930312086e6f2072696768748a0109464f5242\
             494444454ed80180808001",
        ),
        (
            "business_data, a push",
            DownFrame::publication(at("user:alice", 1), DownBody::BusinessData(push())),
            "1803224308c801120c5b6d61696c5d2048656c6c6f1a087b226964223a397d8201046d61696c8a010548656c6c6f9201\
             0d596f752068617665206d61696c9a01060a016b12017682010a757365723a616c69636588010190018080ee8b8a9698\
             03",
        ),
        (
            "error",
            DownFrame::new(0, DownBody::Error(error)),
            "1804223008f703121836342063616c6c7320617265206f75747374616e64696e678001788a010a4f5645524c4f414445\
             44900141",
        ),
        (
            "channel_resp",
            DownFrame::new(9, DownBody::ChannelResp(channel_response())),
            "08091810223b0a06726f6f6d3a31108080ee8b8a969803183d220e083d12017818052205616c6963652a0e0a05616c69\
             6365120273311a01693001820103089303",
        ),
        (
            "publication",
            DownFrame::publication(at("room:1", 42), DownBody::Publication(publication)),
            "1811220f12017818e8e7e0bf9f342203626f62820106726f6f6d3a3188012a90018080ee8b8a969803",
        ),
        (
            "close",
            DownFrame::new(0, DownBody::Close(close)),
            "1812221608a31f12056d6f76656418dc0b22076e323a38303930",
        ),
        (
            "gap",
            DownFrame::new(0, DownBody::Gap(gap())),
            "181322280a06726f6f6d3a31108080ee8b8a969803182b22130a06726f6f6d3a31108080ee8b8a969803183c",
        ),
        (
            "group",
            DownFrame::new(4, DownBody::Group(group)),
            "0804181422200a0f1803220b08c80112066265666f72650a0d08041803220708c80112026f6b",
        ),
    ]
}

fn gap() -> wire::ChannelGap {
    wire::ChannelGap { channel: "room:1".into(), epoch: EPOCH, offset: 43, next: Some(at("room:1", 60)) }
}

fn push() -> wire::BusinessResponse {
    wire::BusinessResponse {
        code: 200,
        message: "[mail] Hello".into(),
        data: Bytes::from_static(b"{\"id\":9}"),
        msg_type: "mail".into(),
        title: "Hello".into(),
        content: "You have mail".into(),
        metadata: pairs("k", "v"),
    }
}

fn start_response() -> wire::StartResponse {
    wire::StartResponse {
        success: true,
        error: None,
        heartbeat_interval: 25,
        connection_id: "c1".into(),
        session_id: "s1".into(),
        resume_token: "t1.x".into(),
        verdict: wire::Verdict::Gap as i32,
        gaps: vec![wire::ChannelGap { offset: 41, ..gap() }],
        last_client_seq: 9,
        max_frame_size: 1 << 20,
        resume_window: 120,
        node: "k3f9".into(),
        positions: vec![at("all", 0)],
        fence: 7,
        refused: vec![wire::ChannelRefusal {
            channel: "room:2".into(),
            error: Some(wire::ErrorMessage {
                error_code: 403,
                error_message: "no right".into(),
                name: "FORBIDDEN".into(),
                ..wire::ErrorMessage::default()
            }),
        }],
        max_frame_size_down: 2 << 20,
    }
}

fn channel_response() -> wire::ChannelResponse {
    wire::ChannelResponse {
        channel: "room:1".into(),
        epoch: EPOCH,
        offset: 61,
        publications: vec![wire::Publication {
            offset: 61,
            data: Bytes::from_static(b"x"),
            timestamp: 5,
            sender: "alice".into(),
        }],
        members: vec![wire::Member {
            user: "alice".into(),
            session_id: "s1".into(),
            info: Bytes::from_static(b"i"),
        }],
        recovered: true,
        error: Some(wire::ErrorMessage { error_code: 403, ..wire::ErrorMessage::default() }),
    }
}
