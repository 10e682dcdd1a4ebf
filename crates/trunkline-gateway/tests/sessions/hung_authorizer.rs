//! What waits behind an upstream that does not answer `Authorize`: bounded in a session, for a user, on a node and in
//! time, and each of it answered.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use trunkline_gateway::auth::Rights;
use trunkline_proto::wire::{ChannelResponse, ErrorMessage, HeartbeatRequest, PublishRequest};
use trunkline_proto::{DownBody, DownFrame, UpBody, UpFrame};
use trunkline_testkit::{DEADLINE, TestClient, TestUpstream};

use crate::support::{Node, Setup, within};

/// About which the test's upstream answers when it is told to.
const ROOM: &str = "held:room";

/// A node whose clients may what the upstream allows.
async fn node(change: impl FnOnce(&mut Setup)) -> Result<(Node, TestUpstream)> {
    let node = Node::start_with(|setup| {
        setup.options.default_rights = Rights::default();
        change(setup);
    })
    .await?;
    let upstream = TestUpstream::registered(node.grpc.local_addr()).await?;
    within("its being up", node.upstreams.until(|all| all.iter().all(|one| one.state == "up"))).await?;
    Ok((node, upstream))
}

async fn send_publish(client: &mut TestClient, bytes: usize) -> Result<u32> {
    let request = PublishRequest { channel: ROOM.into(), data: vec![7; bytes].into(), ..Default::default() };
    let msg_id = client.msg_id();
    client.send(&UpFrame::new(msg_id, 0, UpBody::Publish(request))).await?;
    Ok(msg_id)
}

fn channel_response(frame: DownFrame) -> Result<ChannelResponse> {
    match frame.body {
        DownBody::ChannelResp(response) => Ok(response),
        other => bail!("not a ChannelResponse: {other:?}"),
    }
}

/// What has been refused by now, of everything sent.
async fn refused(client: &mut TestClient) -> Result<Vec<(u32, ErrorMessage)>> {
    let told = client.drain().await?.into_iter().map(|frame| {
        let msg_id = frame.msg_id;
        Ok((msg_id, channel_response(frame)?.error.context("it was published")?))
    });
    told.collect()
}

async fn accepted(client: &mut TestClient, msg_id: u32) -> Result<u64> {
    let response = channel_response(client.reply(msg_id).await?)?;
    match response.error {
        None => Ok(response.offset),
        Some(error) => bail!("{error:?}"),
    }
}

#[tokio::test]
async fn publishes_that_wait_are_bounded_in_bytes_and_each_user_has_its_share() -> Result<()> {
    const LARGE: usize = 100 << 10;
    let (node, upstream) = node(|setup| {
        setup.options.call_bytes = 1 << 20;
        setup.upstreams.authorize_timeout = DEADLINE;
    })
    .await?;
    let bytes = || node.gateway.snapshot().limits["call_bytes"].used;
    let mut alice = node.client("alice").await?;
    let mut asked = Vec::new();
    for _ in 0..12 {
        asked.push(send_publish(&mut alice, LARGE).await?);
    }
    let told = refused(&mut alice).await?;
    assert_eq!(told.len(), 7, "five of them are half of what may be");
    for (_, error) in &told {
        assert_eq!((error.error_code, error.name.as_str()), (503, "OVERLOADED"), "{error:?}");
        assert!(error.retry_after_ms > 0, "{error:?}");
    }
    assert_eq!(node.gateway.snapshot().requests_refused_by["call_bytes"], 7);
    assert!((5 * LARGE as u64..(5 * LARGE as u64) + 1_000).contains(&bytes()), "{}", bytes());
    // What is small is bounded by the session alone, and another user has a share of the rest.
    let small = send_publish(&mut alice, 100).await?;
    assert!(refused(&mut alice).await?.is_empty());
    let mut bob = node.client("bob").await?;
    let from_bob = [send_publish(&mut bob, LARGE).await?, send_publish(&mut bob, LARGE).await?];
    assert!(refused(&mut bob).await?.is_empty());
    assert_eq!(node.gateway.snapshot().limits["calls_in_flight"].used, 0, "nobody has called");
    upstream.release(100);
    let mut offsets = Vec::new();
    asked.retain(|msg_id| told.iter().all(|(refused, _)| refused != msg_id));
    for msg_id in asked.iter().copied().chain([small]) {
        offsets.push(accepted(&mut alice, msg_id).await?);
    }
    assert!(offsets.is_sorted(), "in the order of the client: {offsets:?}");
    for msg_id in from_bob {
        accepted(&mut bob, msg_id).await?;
    }
    // What was refused can come again.
    let again = send_publish(&mut alice, LARGE).await?;
    accepted(&mut alice, again).await?;
    within("the places' being free", async {
        while bytes() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    drop(upstream);
    node.stop((alice, bob)).await
}

#[tokio::test]
async fn publishes_that_wait_are_bounded_in_number_and_in_time_and_each_is_answered() -> Result<()> {
    const PENDING: usize = 64;
    let (node, upstream) = node(|setup| {
        setup.upstreams.authorize_timeout = Duration::from_millis(100);
        setup.options.session.call_timeout = Duration::from_millis(250);
    })
    .await?;
    let mut alice = node.client("alice").await?;
    for _ in 0..PENDING {
        send_publish(&mut alice, 10).await?;
    }
    let beyond = send_publish(&mut alice, 10).await?;
    let error = channel_response(alice.reply(beyond).await?)?.error.context("the 65th waits too")?;
    assert_eq!((error.error_code, error.retry_after_ms > 0), (503, true), "{error:?}");
    // The session is alive meanwhile, and what else it asks for is not held up.
    let beat = HeartbeatRequest::default();
    let beat = alice.request(UpBody::Heartbeat(beat)).await?;
    assert!(matches!(beat.body, DownBody::HeartbeatResp(_)), "{beat:?}");
    alice.call("echo", "x").await?;
    let (mut unanswered, mut too_long) = (0, 0);
    while unanswered + too_long < PENDING {
        let frame = alice.frame_where(|frame| matches!(frame.body, DownBody::ChannelResp(_))).await?;
        let error = channel_response(frame)?.error.context("nobody allowed it")?;
        match (error.error_code, error.retry_after_ms > 0) {
            (504, _) => unanswered += 1,
            (503, true) if error.error_message.contains("waited too long") => too_long += 1,
            _ => bail!("neither the upstream's silence nor the wait for it: {error:?}"),
        }
    }
    assert!(unanswered > 0 && too_long > 0, "{unanswered} and {too_long}");
    upstream.release(1_000);
    let last = send_publish(&mut alice, 10).await?;
    accepted(&mut alice, last).await?;
    drop(upstream);
    node.stop(alice).await
}
