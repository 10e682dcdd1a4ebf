//! The node's budget for cached replies: clients that never say what they have cost others no call.

use anyhow::{Result, ensure};
use trunkline_proto::DownBody;

use crate::support::{Node, Scripted};

const BUDGET: u64 = 64 << 10;

#[tokio::test]
async fn replies_that_nobody_acks_give_way_before_a_call_is_refused() -> Result<()> {
    let node = Node::start_with(|setup| setup.options.reply_cache_bytes = BUDGET).await?;
    let _upstream = node.upstream(Scripted::echo()).await?;
    let mut clients = Vec::new();
    for user in 0..20 {
        let mut client = node.client(&format!("user{user}")).await?;
        for number in 0..10 {
            let answer = client.call("echo", vec![7; 1_000]).await?;
            ensure!(
                matches!(answer.body, DownBody::BusinessData(_)),
                "call {number} of user{user}: {:?}",
                answer.body
            );
        }
        clients.push(client);
    }
    let cached = node.gateway.snapshot().reply_cache_bytes;
    assert!(cached > 0 && cached <= BUDGET, "{cached} bytes are cached");
    node.stop(clients).await
}
