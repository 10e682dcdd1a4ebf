//! A session's channel operations and pushes: each is answered, and in order, whatever else happens meanwhile.

use std::time::Duration;

use anyhow::{Result, bail};
use trunkline_broker::HistoryLimits;
use trunkline_gateway::Namespace;
use trunkline_gateway::auth::{ChannelPattern, Rights};
use trunkline_proto::wire::{BusinessRequest, HistoryRequest};
use trunkline_proto::{Dialect, DownBody, UpBody, UpFrame};
use trunkline_service::{Push, Reply, Target};

use crate::support::{Node, Scripted, next_push, session_of};

/// Answers so large that two fill the reply queue, and the connection has written one before its actor looks at the
/// queue again: on one thread it looks only when the worker has stopped.
#[tokio::test]
async fn a_reply_queue_that_fills_and_drains_unseen_stops_no_operation() -> Result<()> {
    const ASKED: usize = 12;
    let history = HistoryLimits { count: 64, bytes: 4 << 20, ttl: Duration::from_secs(60) };
    let pattern = ChannelPattern::new("room:*");
    let node = Node::start_with(|setup| {
        let rights = Rights::everything();
        setup.options.namespaces = vec![Namespace { pattern, history, presence: true, rights }];
    })
    .await?;
    let mut client = node.client("alice").await?;
    for _ in 0..2 {
        client.publish("room:1", vec![7; 500 * 1024]).await?;
    }
    let (mut asked, mut together) = (Vec::new(), Vec::new());
    for _ in 0..ASKED {
        let msg_id = client.msg_id();
        let request = HistoryRequest { channel: "room:1".into(), limit: 10, ..Default::default() };
        together.extend(framed(&UpFrame::new(msg_id, 0, UpBody::History(request)))?);
        asked.push(msg_id);
    }
    client.send_raw(&together).await?;
    for msg_id in asked {
        match client.reply(msg_id).await?.body {
            DownBody::ChannelResp(page) => assert_eq!(page.publications.len(), 2, "{:?}", page.error),
            other => bail!("{other:?}"),
        }
    }
    node.stop(client).await
}

/// As it goes over TCP.
fn framed(frame: &UpFrame) -> Result<Vec<u8>> {
    let frame = Dialect::Protobuf.encode_up(frame);
    let mut bytes = u32::try_from(frame.len())?.to_be_bytes().to_vec();
    bytes.extend(frame);
    Ok(bytes)
}

/// Two calls that begin together: the first keeps its thread for longer than the second may take.
#[tokio::test]
async fn a_call_s_time_counts_from_itself_and_not_from_what_came_with_it() -> Result<()> {
    const MAY_TAKE: Duration = Duration::from_secs(1);
    let node = Node::start().await?;
    node.gateway.mount(std::sync::Arc::new(Scripted::new(|_, call| async move {
        if call.action == "block" {
            // Nobody sends: it is a wait that keeps the thread.
            let (_sender, nothing) = std::sync::mpsc::channel::<()>();
            let _nothing = nothing.recv_timeout(MAY_TAKE * 3 / 2);
        } else {
            // Far less than it may take, and long enough for a time-out that has passed already to be seen.
            tokio::time::sleep(MAY_TAKE / 10).await;
        }
        Ok(Reply::ok(""))
    })));
    let mut client = node.client("alice").await?;
    let (mut asked, mut together) = (Vec::new(), Vec::new());
    for (seq, action) in [(1, "block"), (2, "wait")] {
        let msg_id = client.msg_id();
        let request = BusinessRequest { action: action.into(), ..Default::default() };
        let mut frame = UpFrame::new(msg_id, seq, UpBody::Business(request));
        frame.headers.insert("x-timeout-ms".into(), MAY_TAKE.as_millis().to_string());
        together.extend(framed(&frame)?);
        asked.push(msg_id);
    }
    client.send_raw(&together).await?;
    for msg_id in asked {
        match client.reply(msg_id).await?.body {
            DownBody::BusinessData(reply) => assert_eq!(reply.code, 200, "{reply:?}"),
            other => bail!("{other:?}"),
        }
    }
    node.stop(client).await
}

/// Each push of a reply that goes its own way is accepted before the next is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replys_immediate_pushes_keep_the_order_of_the_reply() -> Result<()> {
    const PUSHES: usize = 50;
    let node = Node::start().await?;
    let mut bob = node.client("bob").await?;
    let to = session_of(&bob);
    node.gateway.mount(std::sync::Arc::new(Scripted::new(move |_, _| {
        let push = |at: usize| Push { title: at.to_string(), ..Push::default() };
        let pushes = (0..PUSHES).map(|at| (Target::Session(to.clone()), push(at))).collect();
        async move { Ok(Reply { pushes, ..Reply::ok("") }) }
    })));
    let mut alice = node.client("alice").await?;
    alice.call("any", "").await?;
    let channel = format!("session:{}", session_of(&bob));
    for at in 0..PUSHES {
        assert_eq!(next_push(&mut bob, &channel).await?.title, at.to_string());
    }
    node.stop((alice, bob)).await
}
