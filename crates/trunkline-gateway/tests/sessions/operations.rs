//! A session's channel operations and pushes: each is answered, and in order, whatever else happens meanwhile.

use std::time::Duration;

use anyhow::{Result, bail};
use trunkline_broker::HistoryLimits;
use trunkline_gateway::Namespace;
use trunkline_gateway::auth::{ChannelPattern, Rights};
use trunkline_proto::wire::HistoryRequest;
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
        let frame = Dialect::Protobuf.encode_up(&UpFrame::new(msg_id, 0, UpBody::History(request)));
        together.extend(u32::try_from(frame.len())?.to_be_bytes());
        together.extend(frame);
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
