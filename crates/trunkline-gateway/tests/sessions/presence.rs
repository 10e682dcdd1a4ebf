//! Who is on a channel: exactly the sessions that follow it, whatever became of their STARTs and of what was queued.

use anyhow::{Context as _, Result};
use trunkline_gateway::auth::{Identity, Rights};
use trunkline_proto::wire::{ChannelRequest, PublishRequest, StartRequest};
use trunkline_proto::{DownBody, UpBody, UpFrame};
use trunkline_service::Target;
use trunkline_testkit::{TestClient, TestUpstream};

use crate::support::{Node, session_of, within};

fn identity(rights: Option<Rights>) -> Identity {
    Identity { user: "alice".into(), rights, ..Identity::default() }
}

async fn users_on(node: &Node, channel: &str) -> Result<Vec<String>> {
    let members = node.gateway.context().presence(channel).await?;
    Ok(members.into_iter().map(|member| member.user).collect())
}

/// What a session leaves is done in the order of its operations: behind an answered one all earlier are done.
async fn until_left(client: &mut TestClient) -> Result<()> {
    client.request(UpBody::Presence(ChannelRequest { channel: "room:other".into(), since: None })).await?;
    Ok(())
}

fn resuming(client: &TestClient) -> Result<impl FnOnce(&mut StartRequest) + use<>> {
    let started = client.started.clone().context("started")?;
    Ok(move |start: &mut StartRequest| {
        start.resume_token = started.resume_token;
        start.positions = started.positions;
        let head = start.positions.first().cloned().unwrap_or_default();
        start.positions.push(trunkline_proto::wire::ChannelPosition { channel: "room:a".into(), ..head });
    })
}

/// The right was taken away between two STARTs: the member goes with it, not with the node's lease.
#[tokio::test]
async fn a_resume_whose_channel_is_refused_leaves_no_member_behind() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client_as(&identity(None), |_| {}).await?;
    client.subscribe("room:a", None).await?;
    assert_eq!(users_on(&node, "room:a").await?, ["alice"]);
    let resume = resuming(&client)?;
    let mut again = node.client_as(&identity(Some(Rights::default())), resume).await?;
    let started = again.started.clone().context("resumed")?;
    assert_eq!(session_of(&again), session_of(&client), "the same session");
    assert_eq!(
        started.refused.first().map(|refused| refused.channel.as_str()),
        Some("room:a"),
        "{started:?}"
    );
    until_left(&mut again).await?;
    assert_eq!(users_on(&node, "room:a").await?, [""; 0]);
    node.stop((client, again)).await
}

/// A leave that waits in the session's queue must not undo what a service does meanwhile.
#[tokio::test]
async fn a_leave_that_was_overtaken_by_a_join_leaves_nothing() -> Result<()> {
    let node = Node::start_with(|setup| setup.options.default_rights = Rights::default()).await?;
    let upstream = TestUpstream::registered(node.grpc.local_addr()).await?;
    let mut client = node.client("alice").await?;
    client.subscribe("open:a", None).await?;
    assert_eq!(users_on(&node, "open:a").await?, ["alice"]);
    // The session's queue stands still in this question.
    let held = client.msg_id();
    let publish = PublishRequest { channel: "held:1".into(), ..Default::default() };
    client.send(&UpFrame::new(held, 0, UpBody::Publish(publish))).await?;
    upstream.until_authorizes(2).await?;
    let off = ChannelRequest { channel: "open:a".into(), since: None };
    client.request(UpBody::Unsubscribe(off)).await?;
    assert_eq!(node.gateway.context().subscribe(Target::User("alice".into()), "open:a").await?, 1);
    upstream.release(1);
    client.reply(held).await?;
    until_left(&mut client).await?;
    assert_eq!(users_on(&node, "open:a").await?, ["alice"], "a service has put it there again");
    node.stop((client, upstream)).await
}

/// A service takes a session off a channel while its client is away.
#[tokio::test]
async fn a_session_without_a_connection_can_be_taken_off_a_channel() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client("alice").await?;
    client.subscribe("room:a", None).await?;
    let (session, resume) = (session_of(&client), resuming(&client)?);
    drop(client);
    node.until_lost(&session).await?;
    assert_eq!(users_on(&node, "room:a").await?, ["alice"], "it may come back");
    assert_eq!(node.gateway.context().unsubscribe(Target::Session(session), "room:a").await?, 1);
    within("its leave", async {
        while !users_on(&node, "room:a").await?.is_empty() {
            tokio::task::yield_now().await;
        }
        Ok::<_, anyhow::Error>(())
    })
    .await??;
    let drop_room = move |start: &mut StartRequest| {
        resume(start);
        start.positions.retain(|position| position.channel != "room:a");
    };
    let mut again = node.client_as(&identity(None), drop_room).await?;
    // It is off for good, and may come again by itself.
    let answer = again.subscribe("room:a", None).await?;
    assert!(matches!(&answer.body, DownBody::ChannelResp(told) if told.error.is_none()), "{answer:?}");
    node.stop(again).await
}
