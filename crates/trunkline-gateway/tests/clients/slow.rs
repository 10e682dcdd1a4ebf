//! A client that reads nothing: its connection ends with 4001, its session waits.

use std::time::Duration;

use anyhow::Result;
use trunkline_gateway::auth::{Identity, sign_hs256};
use trunkline_proto::wire::StartRequest;
use trunkline_service::{PublishOptions, SessionEvent};
use trunkline_testkit::TestClient;

use crate::support::{KEY, Node, session_of};

#[tokio::test]
async fn no_write_progress_for_so_long_is_4001_and_the_session_can_be_resumed() -> Result<()> {
    let node = Node::start_with(|setup| setup.options.write_stall = Duration::from_millis(200)).await?;
    let identity = Identity { user: "alice".into(), ..Identity::default() };
    let start = TestClient::start_request("alice", &sign_hs256(KEY, &identity)?);
    let mut stuck = node.connect().await?;
    let response = stuck.start(start.clone()).await?;
    stuck.prove(response.fence).await?;
    stuck.subscribe("room:1", None).await?;
    let session = session_of(&stuck);
    let context = node.gateway.context();
    let flood = async {
        loop {
            // However much the sockets between them take, at last they take no more.
            if let Err(refused) =
                context.publish("room:1", vec![b'x'; 60_000].into(), PublishOptions::default()).await
            {
                break refused;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        refused = flood => return Err(refused.into()),
        lost = node.events.until(&session, SessionEvent::Lost) => lost?,
    }
    assert_eq!(node.gateway.snapshot().connections_closed_by.get("slow"), Some(&1));
    stuck.closed().await?;
    let again = StartRequest { resume_token: response.resume_token, attempt: start.attempt + 1, ..start };
    let mut back = node.connect().await?;
    let resumed = back.start(again).await?;
    assert!(resumed.success, "{resumed:?}");
    assert_eq!(resumed.session_id, session);
    node.stop(back).await
}
