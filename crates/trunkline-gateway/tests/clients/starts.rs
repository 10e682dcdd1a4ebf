//! Many STARTs at once: on one connection, and as one device.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use trunkline_gateway::auth::{Identity, LoginPolicy, sign_hs256};
use trunkline_proto::wire::StartRequest;
use trunkline_proto::{Dialect, DownBody, UpBody, UpFrame};
use trunkline_testkit::{Received, TestClient};

use crate::seed::seed_start;
use crate::support::{KEY, Node, within};

fn start(user: &str) -> Result<StartRequest> {
    let identity = Identity { user: user.into(), ..Identity::default() };
    Ok(TestClient::start_request(user, &sign_hs256(KEY, &identity)?))
}

#[tokio::test]
async fn eight_starts_on_one_connection_are_one_session_and_seven_errors() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.connect().await?;
    let start = start("alice")?;
    let mut bytes = Vec::new();
    for msg_id in 1..=8 {
        let frame = UpFrame::new(msg_id, 0, UpBody::Start(start.clone().into()));
        let frame = Dialect::Protobuf.encode_up(&frame);
        bytes.extend(u32::try_from(frame.len())?.to_be_bytes());
        bytes.extend(frame);
    }
    // All of them have arrived before the first is answered.
    client.send_raw(&bytes).await?;
    let first = client.frame().await?;
    let DownBody::StartResp(response) = first.body else { bail!("no START_RESP: {first:?}") };
    ensure!(first.msg_id == 1 && response.success, "{response:?}");
    for msg_id in 2..=8 {
        let frame = client.frame().await?;
        let DownBody::Error(error) = frame.body else { bail!("no error: {frame:?}") };
        assert_eq!((frame.msg_id, error.error_code), (msg_id, 400));
    }
    client.drain().await?;
    assert_eq!(node.gateway.snapshot().sessions_live, 1);
    node.stop(client).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_seed_clients_that_start_at_once_as_one_device_leave_one() -> Result<()> {
    let node = Node::start().await?;
    for acked in [0, 0, 5] {
        let last = Arc::new(Notify::new());
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let mut client = node.connect().await?;
            let (start, last) = (seed_start("alice", acked)?, Arc::clone(&last));
            clients.spawn(async move {
                client.send(&UpFrame::new(1, 0, UpBody::Start(start.into()))).await?;
                loop {
                    tokio::select! {
                        received = client.recv() => if let Received::Closed(_) = received? {
                            return Ok(None);
                        },
                        () = last.notified() => return Ok::<_, anyhow::Error>(Some(client)),
                    }
                }
            });
        }
        for _ in 0..7 {
            let Some(ended) = within("the end of seven", clients.join_next()).await? else { bail!("gone") };
            ensure!(ended??.is_none(), "more than one is left");
        }
        last.notify_one();
        let Some(left) = within("the one that is left", clients.join_next()).await? else { bail!("gone") };
        let Some(mut client) = left?? else { bail!("none is left") };
        client.drain().await?;
        let snapshot = node.gateway.snapshot();
        assert_eq!((snapshot.sessions_live, snapshot.sessions_waiting), (1, 0));
    }
    node.stop(()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_logins_at_once_the_policy_refuse_refuses_one() -> Result<()> {
    let node = Node::start_with(|setup| setup.options.login_policy = LoginPolicy::Refuse).await?;
    for round in 0..20 {
        let user = format!("user{round}");
        let login = |device: &'static str| {
            let start = start(&user).map(|start| StartRequest { device_id: device.into(), ..start });
            let connecting = node.connect();
            async move {
                let mut client = connecting.await?;
                let response = client.start(start?).await?;
                Ok::<_, anyhow::Error>((client, response))
            }
        };
        let (one, two) = tokio::join!(login("one"), login("two"));
        let ((mut one, first), (mut two, second)) = (one?, two?);
        ensure!(first.success != second.success, "{first:?} {second:?}");
        let (stays, refused) = if first.success { (&mut one, &mut two) } else { (&mut two, &mut one) };
        assert_eq!(refused.close_code().await?, 4306);
        stays.drain().await?;
    }
    node.stop(()).await
}
