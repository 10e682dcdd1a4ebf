//! Many subscribers of one channel: they are written to together, and each as if it were alone.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use trunkline_proto::DownBody;
use trunkline_service::{PublishOptions, Reply, SessionEvent};
use trunkline_testkit::TestClient;

use crate::support::{Node, Scripted, session_of, within};

const ROOM: &str = "room:1";

async fn crowd(node: &Node, size: usize) -> Result<Vec<TestClient>> {
    let mut crowd = Vec::new();
    for at in 0..size {
        let mut client = node.client(&format!("user{at}")).await?;
        client.subscribe(ROOM, None).await?;
        crowd.push(client);
    }
    Ok(crowd)
}

/// Reads these publications, and nothing else between them.
async fn heard(client: &mut TestClient, offsets: Range<u64>) -> Result<()> {
    for offset in offsets {
        let frame = client.push().await?;
        ensure!(matches!(frame.body, DownBody::Publication(_)), "{frame:?}");
        let at = frame.position.context("a position")?.offset;
        ensure!(at == offset, "{at} instead of {offset}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_a_crowd_that_reads_nothing_ends_alone() -> Result<()> {
    let node = Node::start_with(|setup| setup.options.write_stall = Duration::from_millis(300)).await?;
    let mut crowd = crowd(&node, 20).await?;
    let stuck = crowd.pop().context("it has twenty")?;
    let session = session_of(&stuck);
    let context = node.gateway.context();
    let flood = async {
        let mut lost = std::pin::pin!(node.events.until(&session, SessionEvent::Lost));
        loop {
            let data = vec![b'x'; 60_000];
            let (_, last) = context.publish(ROOM, data.into(), PublishOptions::default()).await?;
            // The others keep up: what they have not read yet is kept.
            try_join_all(crowd.iter_mut().map(|client| heard(client, last..last + 1))).await?;
            if let Ok(lost) = tokio::time::timeout(Duration::ZERO, &mut lost).await {
                return lost;
            }
        }
    };
    within("the end of who reads nothing", flood).await??;
    assert_eq!(node.gateway.snapshot().connections_closed_by.get("slow"), Some(&1));
    node.stop((crowd, stuck)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_hears_everything_in_order_however_fast_it_comes() -> Result<()> {
    /// More than a flusher writes to at once.
    const CROWD: usize = 300;
    const PUBLICATIONS: u64 = 400;
    /// Fewer than are kept for who is behind.
    const AHEAD: u64 = 50;
    let node = Node::start().await?;
    let mut crowd = crowd(&node, CROWD).await?;
    let context = node.gateway.context();
    for first in (1..=PUBLICATIONS).step_by(usize::try_from(AHEAD)?) {
        let publishing = async {
            for at in 0..AHEAD {
                context.publish(ROOM, vec![b'x'; 20].into(), PublishOptions::default()).await?;
                // Now one by one, now several before anybody has looked.
                if at % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            anyhow::Ok(())
        };
        let hearing = try_join_all(crowd.iter_mut().map(|client| heard(client, first..first + AHEAD)));
        let (published, heard) =
            within("the publications", async { tokio::join!(publishing, hearing) }).await?;
        published?;
        heard?;
    }
    assert_eq!(node.gateway.snapshot().counters.deliveries, CROWD as u64 * PUBLICATIONS);
    node.stop(crowd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_with_calls_under_way_is_still_written_to_while_the_node_drains() -> Result<()> {
    let node = Node::start().await?;
    let (begun, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (tell, held) = (Arc::clone(&begun), Arc::clone(&gate));
    node.gateway.mount(Arc::new(Scripted::new(move |_, _| {
        let (tell, held) = (Arc::clone(&tell), Arc::clone(&held));
        async move {
            tell.add_permits(1);
            // It is never closed.
            drop(held.acquire().await);
            Ok(Reply::ok(""))
        }
    })));
    let mut crowd = crowd(&node, 10).await?;
    let mut calls = Vec::new();
    for client in &mut crowd {
        calls.push(client.send_call("wait", &[], "").await?);
    }
    let all = u32::try_from(crowd.len())?;
    within("the calls", begun.acquire_many(all)).await??.forget();
    let gateway = node.gateway.clone();
    let mut draining = JoinSet::new();
    draining.spawn(async move { gateway.drain(Instant::now() + Duration::from_secs(20)).await });
    within("the beginning of the drain", async {
        while node.client("late").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    node.gateway.context().publish(ROOM, vec![b'x'].into(), PublishOptions::default()).await?;
    for client in &mut crowd {
        heard(client, 1..2).await?;
    }
    gate.add_permits(crowd.len());
    for (client, call) in crowd.iter_mut().zip(calls) {
        client.reply(call).await?;
        assert_eq!(client.close_code().await?, 4000);
    }
    drop(crowd);
    let cut = within("the drain", draining.join_next()).await?.context("it drains")??;
    assert_eq!(cut, trunkline_gateway::Cut::default());
    Ok(())
}
