//! The limit of a frame, to the byte: what is accepted is a frame within it wherever in its channel it will stand, and
//! one byte more is refused before anything is promised.

use anyhow::Result;
use trunkline_gateway::auth::{Identity, sign_hs256};
use trunkline_proto::wire::{BusinessResponse, ChannelPosition, Publication, PublishRequest, StartRequest};
use trunkline_proto::{Dialect, DownBody, DownFrame, UpBody, UpFrame};
use trunkline_service::{ContextError, PublishOptions, Push, PushOutcome, SyncHint, Target};

use trunkline_testkit::TestClient;

use crate::support::{KEY, Node, next_push, within};

/// Small, so that a client's own frame of that many bytes is no matter.
const MAX_FRAME: u32 = 2_000;
const LIMIT: usize = MAX_FRAME as usize;

/// As large as a number on the wire can be.
const LARGEST: u64 = (1 << 53) - 1;

/// How much data fits a frame of this body on this channel.
fn room(channel: &str, body: impl Fn(Vec<u8>) -> DownBody) -> usize {
    let position = ChannelPosition { channel: channel.into(), epoch: LARGEST, offset: LARGEST };
    let size = |data| {
        let frame = DownFrame::publication(position.clone(), body(vec![7; data]));
        Dialect::Protobuf.encode_down(&frame).len()
    };
    // Of data of this length every length field has two bytes, so what is around the data is the same.
    let room = LIMIT - (size(1_000) - 1_000);
    assert_eq!(size(room), LIMIT);
    room
}

fn by(sender: &str) -> impl Fn(Vec<u8>) -> DownBody {
    let sender = sender.to_owned();
    move |data| {
        let timestamp = i64::try_from(LARGEST).unwrap_or(i64::MAX);
        DownBody::Publication(Publication { offset: 0, data: data.into(), timestamp, sender: sender.clone() })
    }
}

async fn node() -> Result<Node> {
    Node::start_with(|setup| setup.options.session.max_frame_size = MAX_FRAME).await
}

fn is_too_large<T: std::fmt::Debug>(answer: &Result<T, ContextError>) {
    assert!(matches!(answer, Err(error) if error.code == "TOO_LARGE"), "{answer:?}");
}

#[tokio::test]
async fn a_services_publication_is_one_frame_or_refused() -> Result<()> {
    let node = node().await?;
    let mut service = node.service().await?;
    let room = room("room:1", by(""));
    let publish = |size| trunkline_proto::wire::ServicePublishRequest {
        channel: "room:1".into(),
        data: vec![7; size].into(),
        ..Default::default()
    };
    let context = node.gateway.context();
    context.publish("room:1", vec![7; room].into(), PublishOptions::default()).await?;
    is_too_large(&context.publish("room:1", vec![7; room + 1].into(), PublishOptions::default()).await);
    assert_eq!(service.publish(publish(room)).await?.into_inner().error, None);
    let refused = service.publish(publish(room + 1)).await?.into_inner().error;
    assert_eq!(refused.map(|error| (error.error_code, error.name)), Some((413, "TOO_LARGE".into())));
    node.stop(service).await
}

#[tokio::test]
async fn a_clients_publication_is_one_frame_or_refused() -> Result<()> {
    let node = node().await?;
    let mut client = node.client("alice").await?;
    let room = room("room:1", by("alice"));
    for (size, code) in [(room, None), (room + 1, Some(413))] {
        let request =
            PublishRequest { channel: "room:1".into(), data: vec![7; size].into(), ..Default::default() };
        let msg_id = client.msg_id();
        client.send(&UpFrame::new(msg_id, 0, UpBody::Publish(request))).await?;
        let answer = match client.reply(msg_id).await?.body {
            DownBody::ChannelResp(response) => response,
            other => anyhow::bail!("not a ChannelResponse: {other:?}"),
        };
        assert_eq!(answer.error.map(|error| error.error_code), code, "{size}");
    }
    node.stop(client).await
}

#[tokio::test]
async fn a_push_is_one_frame_or_refused_whatever_its_hint() -> Result<()> {
    let node = node().await?;
    let mut client = node.client("alice").await?;
    let room = room("user:alice", |data| {
        let message = "[notice] t".to_owned();
        let (msg_type, title) = ("notice".to_owned(), "t".to_owned());
        let response =
            BusinessResponse { code: 200, message, msg_type, title, data: data.into(), ..Default::default() };
        DownBody::BusinessData(response)
    });
    let context = node.gateway.context();
    let push = |size: usize, hint| Push {
        msg_type: "notice".into(),
        title: "t".into(),
        data: vec![7; size].into(),
        hint,
        ..Push::default()
    };
    let user = || Target::User("alice".into());
    for hint in [SyncHint::Immediately, SyncHint::AfterResponse] {
        is_too_large(&context.push(user(), push(room + 1, hint)).await);
    }
    let answer = within("a push", context.push(user(), push(room, SyncHint::Immediately))).await?;
    assert_eq!(answer, Ok(PushOutcome::Delivered));
    assert_eq!(next_push(&mut client, "user:alice").await?.data.len(), room);
    node.stop(client).await
}

#[tokio::test]
async fn a_push_that_is_too_long_as_json_is_refused() -> Result<()> {
    let node = Node::start().await?;
    let client = node.client("alice").await?;
    let context = node.gateway.context();
    let push = |content: &str, hint| Push { content: content.into(), hint, ..Push::default() };
    let user = || Target::User("alice".into());
    // Six bytes each as JSON, one as protobuf.
    let escaped = "\u{1}".repeat(400 << 10);
    for hint in [SyncHint::Immediately, SyncHint::AfterResponse] {
        is_too_large(&context.push(user(), push(&escaped, hint)).await);
    }
    is_too_large(&context.broadcast(None, push(&escaped, SyncHint::Immediately)).await);
    let plain = "x".repeat(400 << 10);
    let answer = context.push(user(), push(&plain, SyncHint::Immediately)).await;
    assert_eq!(answer, Ok(PushOutcome::Delivered));
    node.stop(client).await
}

#[tokio::test]
async fn what_a_service_has_to_say_of_a_disconnection_is_cut() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client("alice").await?;
    let context = node.gateway.context();
    assert_eq!(context.disconnect(Target::User("alice".into()), 0, &"x".repeat(1 << 20)).await, Ok(1));
    let (notice, _) = client.closed().await?;
    assert_eq!(notice.map(|notice| (notice.code, notice.reason.len())), Some((4304, 1024)));
    node.stop(client).await
}

#[tokio::test]
async fn a_start_lists_no_more_channels_than_its_answer_can_carry() -> Result<()> {
    let node = Node::start().await?;
    let start = |count: usize, length: usize| {
        let positions = (0..count).map(|n| {
            let n = n.to_string();
            // As JSON each quote is two bytes.
            let channel = format!("{n}{}", "\"".repeat(length - n.len()));
            ChannelPosition { channel, epoch: LARGEST, offset: 1 }
        });
        let positions = positions.collect();
        let identity = Identity { user: "alice".into(), ..Identity::default() };
        let token = sign_hs256(KEY, &identity);
        token.map(|token| StartRequest { positions, ..TestClient::start_request("alice", &token) })
    };
    for (count, length) in [(20_000, 5), (1_281, 5), (1_280, 250), (1, 300_000)] {
        let mut client = node.connect().await?;
        let response = client.start(start(count, length)?).await?;
        assert_eq!(response.error.map(|error| error.error_code), Some(400), "{count} of {length}");
        client.closed().await?;
    }
    for dialect in [Dialect::Protobuf, Dialect::Json] {
        for (count, length) in [(1_280, 200), (1_020, 255), (1_280, 5)] {
            let mut client = TestClient::connect_tcp(node.tcp, dialect).await?;
            let response = client.start(start(count, length)?).await?;
            assert!(response.success, "{count} of {length}: {:?}", response.error);
            assert_eq!(response.positions.len() + response.refused.len(), count + 4, "each is answered");
            assert!(client.bytes_received <= 2 << 20, "{} bytes", client.bytes_received);
        }
    }
    node.stop(()).await
}
