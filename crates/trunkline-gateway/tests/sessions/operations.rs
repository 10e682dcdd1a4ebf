//! A session's channel operations: each is answered, whatever else happens meanwhile.

use std::time::Duration;

use anyhow::{Result, bail};
use trunkline_broker::HistoryLimits;
use trunkline_gateway::Namespace;
use trunkline_gateway::auth::{ChannelPattern, Rights};
use trunkline_proto::wire::HistoryRequest;
use trunkline_proto::{Dialect, DownBody, UpBody, UpFrame};

use crate::support::Node;

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
