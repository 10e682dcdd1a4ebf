//! Protocol 0: what a START that is refused must not do to the session that the user has.

use anyhow::{Result, ensure};
use trunkline_gateway::auth::{Identity, LoginPolicy, sign_hs256};
use trunkline_proto::wire::StartRequest;
use trunkline_proto::{DownBody, UpBody, UpFrame};
use trunkline_testkit::TestClient;

use crate::support::{KEY, Node, business, push_to};

async fn started(node: &Node, acked: u64) -> Result<(TestClient, bool)> {
    let identity = Identity { user: "alice".into(), ..Identity::default() };
    let start = StartRequest {
        openid: "alice".into(),
        auth_token: sign_hs256(KEY, &identity)?,
        last_acked_seq_id: acked,
        ..StartRequest::default()
    };
    let mut client = node.connect().await?;
    client.send(&UpFrame::new(1, 0, UpBody::Start(start.into()))).await?;
    let frame = client.frame().await?;
    match frame.body {
        DownBody::StartResp(response) => Ok((client, response.success)),
        other => anyhow::bail!("not a START_RESP: {other:?}"),
    }
}

#[tokio::test]
async fn a_refused_start_leaves_the_live_connection_as_it_was() -> Result<()> {
    let node = Node::start_with(|setup| setup.options.login_policy = LoginPolicy::Refuse).await?;
    let (mut client, accepted) = started(&node, 0).await?;
    ensure!(accepted, "the first START");
    let mut service = node.service().await?;
    for (at, title) in ["one", "two"].into_iter().enumerate() {
        let (second, accepted) = started(&node, 0).await?;
        ensure!(!accepted, "the user has a live session, and one is the most");
        service.push_to_client(push_to("openid", "alice", title)).await?;
        let frame = client.frame().await?;
        assert_eq!((frame.seq_id, business(&frame)?.title.as_str()), (at as u64 + 2, title));
        drop(second);
    }
    node.stop((client, service)).await
}
