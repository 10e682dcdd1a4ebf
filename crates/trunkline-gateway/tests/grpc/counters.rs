//! What the counters of calls count: what ran, what failed, and what was refused without running.

use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::Semaphore;
use trunkline_gateway::CallLimit;
use trunkline_proto::DownBody;
use trunkline_service::{Code, Reply, Status};

use crate::support::{Node, Scripted, business};

/// Calls that ran, those of them that failed, and those that were refused.
fn counted(node: &Node) -> [u64; 3] {
    let counters = node.gateway.snapshot().counters;
    [counters.calls, counters.calls_failed, counters.calls_refused]
}

#[tokio::test]
async fn a_call_that_the_node_refuses_has_not_run() -> Result<()> {
    let limit = CallLimit { per_second: NonZeroU32::MIN, burst: NonZeroU32::MIN };
    let node = Node::start_with(|setup| setup.options.calls = Some(limit)).await?;
    let upstream = node.upstream(Scripted::echo()).await?;
    let mut client = node.client("alice").await?;
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(client.send_call("echo", &[], "").await?);
    }
    let (mut ran, mut refused) = (0, 0);
    for msg_id in sent {
        match client.reply(msg_id).await?.body {
            DownBody::Error(error) if error.error_code == 503 => refused += 1,
            _ => ran += 1,
        }
    }
    assert!(ran > 0 && refused > 0, "{ran} ran, {refused} were refused");
    assert_eq!(counted(&node), [ran, 0, refused]);
    node.stop((client, upstream)).await
}

#[tokio::test]
async fn so_has_one_that_its_session_refuses_and_one_that_ran_may_fail() -> Result<()> {
    let node = Node::start_with(|setup| setup.options.session.outstanding_calls = 1).await?;
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let upstream = node.upstream(Scripted::new(move |_, call| {
        let gate = Arc::clone(&gate);
        async move {
            if call.action == "fail" {
                return Err(Status::new(Code::Internal, "as the test wants"));
            }
            gate.acquire().await.expect("it is never closed").forget();
            Ok(Reply::ok(call.data))
        }
    }));
    let upstream = upstream.await?;
    let mut client = node.client("alice").await?;
    let first = client.send_call("wait", &[], "").await?;
    let second = client.send_call("wait", &[], "").await?;
    let DownBody::Error(error) = client.reply(second).await?.body else {
        panic!("two calls are outstanding")
    };
    assert_eq!(error.error_code, 503, "{error:?}");
    opened.add_permits(1);
    business(&client.reply(first).await?)?;
    assert_eq!(counted(&node), [1, 0, 1]);
    let DownBody::Error(error) = client.call("fail", "").await?.body else { panic!("it was told to fail") };
    assert_eq!(error.error_code, 500, "{error:?}");
    assert_eq!(counted(&node), [2, 1, 1]);
    node.stop((client, upstream)).await
}
