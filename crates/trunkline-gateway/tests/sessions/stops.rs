//! STOP behind calls in one write: what was accepted before it runs, and is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use anyhow::Result;
use tokio_util::sync::CancellationToken;
use trunkline_proto::wire::{BusinessRequest, StopRequest};
use trunkline_proto::{Dialect, UpBody, UpFrame};
use trunkline_service::Reply;
use trunkline_testkit::TestClient;

use crate::support::{Node, Scripted, business, within};

/// The session's next call; with a message id of 0 nobody waits for its reply.
fn call(client: &mut TestClient, msg_id: u32, action: &str) -> UpFrame {
    let number = client.next_client_seq;
    client.next_client_seq += 1;
    let request = BusinessRequest { action: action.into(), ..BusinessRequest::default() };
    UpFrame::new(msg_id, number, UpBody::Business(request))
}

fn in_one_write(frames: &[UpFrame]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for frame in frames {
        let frame = Dialect::Protobuf.encode_up(frame);
        bytes.extend(u32::try_from(frame.len())?.to_be_bytes());
        bytes.extend(frame);
    }
    Ok(bytes)
}

fn stop() -> UpFrame {
    UpFrame::new(0, 0, UpBody::Stop(StopRequest { reason: 1 }))
}

#[tokio::test]
async fn calls_before_stop_run_though_few_may_run_at_once() -> Result<()> {
    const HANGING: usize = 5;
    const SHORT: usize = 7;
    let (ran, hang, hanging) =
        (Arc::new(AtomicUsize::new(0)), CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let node = Node::start().await?;
    let (theirs, until, waiting) = (Arc::clone(&ran), hang.clone(), Arc::clone(&hanging));
    node.gateway.mount(Arc::new(Scripted::new(move |_, call| {
        let (ran, until, waiting) = (Arc::clone(&theirs), until.clone(), Arc::clone(&waiting));
        async move {
            if call.action == "hang" {
                waiting.fetch_add(1, SeqCst);
                until.cancelled().await;
            } else {
                ran.fetch_add(1, SeqCst);
            }
            Ok(Reply::ok(""))
        }
    })));
    let mut alice = node.client("alice").await?;
    for _ in 0..HANGING {
        let frame = call(&mut alice, 0, "hang");
        alice.send(&frame).await?;
    }
    within("the calls that hang", async {
        while hanging.load(SeqCst) < HANGING {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    let mut frames: Vec<_> = (0..SHORT).map(|_| call(&mut alice, 0, "count")).collect();
    frames.push(stop());
    alice.send_raw(&in_one_write(&frames)?).await?;
    assert_eq!(alice.close_code().await?, 4300);
    assert_eq!(ran.load(SeqCst), SHORT);
    hang.cancel();
    node.stop(alice).await
}

#[tokio::test]
async fn a_call_before_stop_is_answered() -> Result<()> {
    let node = Node::start().await?;
    node.gateway.mount(Arc::new(Scripted::echo()));
    let mut alice = node.client("alice").await?;
    let msg_id = alice.msg_id();
    let frames = [call(&mut alice, msg_id, "any"), stop()];
    alice.send_raw(&in_one_write(&frames)?).await?;
    let reply = alice.reply(msg_id).await?;
    assert_eq!(business(&reply)?.code, 200);
    assert_eq!(alice.close_code().await?, 4300);
    node.stop(alice).await
}
