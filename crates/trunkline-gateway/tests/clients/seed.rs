//! Protocol 0: what a client is told of a loss, and what its acks free.

use anyhow::{Context as _, Result, ensure};
use trunkline_broker::HistoryLimits;
use trunkline_gateway::auth::{Identity, sign_hs256};
use trunkline_proto::wire::{self, StartRequest, StartResponse};
use trunkline_proto::{DownBody, DownFrame, UpBody, UpFrame};
use trunkline_service::{PublishOptions, Push, SessionEvent, Target};
use trunkline_testkit::{Received, TestClient};

use crate::support::{KEY, Node, Scripted, business, within};

/// A START in the seed's words.
pub(crate) fn seed_start(user: &str, acked: u64) -> Result<StartRequest> {
    let identity = Identity { user: user.into(), ..Identity::default() };
    let auth_token = sign_hs256(KEY, &identity)?;
    Ok(StartRequest { openid: user.into(), auth_token, last_acked_seq_id: acked, ..Default::default() })
}

/// A seed client that has started; the number and content of its START_RESP.
async fn started(node: &Node, user: &str, acked: u64) -> Result<(TestClient, u64, StartResponse)> {
    let mut client = node.connect().await?;
    client.send(&UpFrame::new(1, 0, UpBody::Start(seed_start(user, acked)?.into()))).await?;
    let frame = client.frame().await?;
    let DownBody::StartResp(response) = frame.body else { anyhow::bail!("no START_RESP: {frame:?}") };
    ensure!(response.success, "refused: {response:?}");
    Ok((client, frame.seq_id, *response))
}

/// Pushes of the numbers to alice.
async fn push_all(node: &Node, numbers: std::ops::Range<u32>) -> Result<()> {
    let context = node.gateway.context();
    for number in numbers {
        let push = Push { title: number.to_string(), ..Push::default() };
        context.push(Target::User("alice".into()), push).await?;
        // The connection's turn, or its window would be overrun by pushes that take no time.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Everything up to the end of the connection.
async fn until_closed(client: &mut TestClient) -> Result<Vec<DownFrame>> {
    let mut frames = Vec::new();
    loop {
        match client.recv().await? {
            Received::Frame(frame) => frames.push(frame),
            Received::Closed(_) => return Ok(frames),
        }
    }
}

/// The text of an error 410.
fn lost(frame: &DownFrame) -> Option<&str> {
    match &frame.body {
        DownBody::Error(error) if error.error_code == 410 => Some(&error.error_message),
        _ => None,
    }
}

#[tokio::test]
async fn an_ack_frees_the_cached_replies_that_it_covers() -> Result<()> {
    let node = Node::start().await?;
    let _upstream = node.upstream(Scripted::echo()).await?;
    let (mut client, _, response) = started(&node, "alice", 0).await?;
    let call = |msg_id, seq| {
        let request = wire::BusinessRequest {
            action: "echo".into(),
            data: vec![7; 10_000].into(),
            ..Default::default()
        };
        UpFrame::new(msg_id, seq, UpBody::Business(request))
    };
    for (msg_id, seq) in [(2, 1), (3, 2)] {
        client.send(&call(msg_id, seq)).await?;
        assert_eq!(client.frame().await?.seq_id, seq + 1);
    }
    let kept = node.gateway.snapshot().reply_cache_bytes;
    assert!(kept > 20_000, "{kept}");
    for (acked, cached) in [(1, kept), (2, kept / 2)] {
        client.ack(wire::ClientAck { acked_seq_id: acked, ..Default::default() }).await?;
        client.drain().await?;
        assert_eq!(node.gateway.snapshot().reply_cache_bytes, cached, "acked up to {acked}");
    }
    // A START acks as well.
    drop(client);
    node.until_lost(&response.session_id).await?;
    let (mut client, number, _) = started(&node, "alice", 3).await?;
    assert_eq!((number, node.gateway.snapshot().reply_cache_bytes), (0, 0));
    client.send(&call(9, 1)).await?;
    let DownBody::Error(error) = client.reply(9).await?.body else { anyhow::bail!("it was answered again") };
    assert_eq!(error.name, "RESULT_UNKNOWN", "and it did not run again");
    node.stop(client).await
}

#[tokio::test]
async fn a_thousand_unacked_frames_are_4001_and_nothing_is_lost() -> Result<()> {
    let node = Node::start().await?;
    let (mut client, _, response) = started(&node, "alice", 0).await?;
    push_all(&node, 0..1_100).await?;
    let frames = until_closed(&mut client).await?;
    let numbers: Vec<u64> = frames.iter().map(|frame| frame.seq_id).collect();
    assert_eq!(numbers, (2..=1_000).collect::<Vec<_>>());
    node.until_lost(&response.session_id).await?;
    assert_eq!(node.gateway.snapshot().connections_closed_by.get("slow"), Some(&1));
    let (mut client, number, response) = started(&node, "alice", 1_000).await?;
    assert_eq!((number, response.error), (0, None), "it is the session of before, and nothing is lost");
    for number in 1_001..=1_101_u64 {
        let frame = client.frame().await?;
        assert_eq!((frame.seq_id, &business(&frame)?.title), (number, &(number - 2).to_string()));
    }
    node.stop(client).await
}

#[tokio::test]
async fn a_gap_while_connected_has_a_number_like_every_frame() -> Result<()> {
    const COUNT: u32 = 400;
    let node = Node::start().await?;
    let (mut client, _, _) = started(&node, "alice", 0).await?;
    let request = wire::ChannelRequest { channel: "room:1".into(), since: None };
    client.send(&UpFrame::new(2, 0, UpBody::Subscribe(request))).await?;
    assert_eq!(client.frame().await?.seq_id, 2);
    // More than two sockets take, while the client does not read.
    let context = node.gateway.context();
    for number in 0..COUNT {
        context.publish("room:1", format!("{number:<60000}").into(), PublishOptions::default()).await?;
    }
    let (mut expected, mut gaps, mut delivered) = (3, 0, 0);
    loop {
        let frame = client.frame().await?;
        assert_eq!(frame.seq_id, expected, "no hole");
        expected += 1;
        if let Some(text) = lost(&frame) {
            assert!(text.starts_with("room:1: lost after "), "{text}");
            gaps += 1;
            continue;
        }
        delivered += 1;
        if business(&frame)?.data.starts_with(format!("{} ", COUNT - 1).as_bytes()) {
            break;
        }
    }
    assert!(gaps > 0 && delivered + 1 < COUNT, "{gaps} gaps, {delivered} delivered: nothing was overrun");
    node.stop(client).await
}

#[tokio::test]
async fn what_a_living_session_lost_meanwhile_is_named_in_start_resp() -> Result<()> {
    let node = Node::start_with(|setup| {
        setup.options.implicit_history = HistoryLimits { count: 5, ..setup.options.implicit_history };
    })
    .await?;
    let (mut client, _, response) = started(&node, "alice", 0).await?;
    push_all(&node, 0..1).await?;
    assert_eq!(client.frame().await?.seq_id, 2);
    client.ack(wire::ClientAck { acked_seq_id: 2, ..Default::default() }).await?;
    client.drain().await?;
    drop(client);
    node.until_lost(&response.session_id).await?;
    // The heartbeat's answer was number 3. More pushes than history and window keep.
    push_all(&node, 1..600).await?;
    let (mut client, number, response) = started(&node, "alice", 3).await?;
    assert_eq!(number, 0);
    let error = response.error.context("no error")?;
    assert_eq!((error.error_code, response.success), (410, true));
    let text = &error.error_message;
    assert!(text.starts_with("user:alice: lost after ") && text.contains(", up to "), "{text}");
    let first = client.frame().await?;
    let missed: u32 = business(&first)?.title.parse()?;
    assert!(missed > 1, "{missed} was kept");
    for (number, title) in (4..).zip(missed..600) {
        let frame = if number == 4 { first.clone() } else { client.frame().await? };
        assert_eq!((frame.seq_id, &business(&frame)?.title), (number, &title.to_string()));
    }
    assert_eq!(node.events.of(&response.session_id).last(), Some(&SessionEvent::Resumed));
    within("a call", client.drain()).await??;
    node.stop(client).await
}
