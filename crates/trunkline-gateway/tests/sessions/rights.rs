//! Rights that token and configuration do not give: an upstream may, and where none can be asked the answer is no.

use anyhow::{Result, bail};
use trunkline_gateway::auth::Rights;
use trunkline_gateway::upstream::Route;
use trunkline_proto::DownBody;
use trunkline_testkit::{TestClient, TestUpstream};

use crate::support::{Node, within};

async fn subscribed(client: &mut TestClient, channel: &str) -> Result<i32> {
    match client.subscribe(channel, None).await?.body {
        DownBody::ChannelResp(told) => Ok(told.error.map_or(0, |error| error.error_code)),
        other => bail!("not a ChannelResponse: {other:?}"),
    }
}

/// Coming back later would help nobody: 403, not 503.
#[tokio::test]
async fn where_no_upstream_authorizes_a_right_is_denied_for_good() -> Result<()> {
    let node = Node::start_with(|setup| {
        setup.options.default_rights = Rights::default();
        setup.upstreams.routes = vec![Route { prefix: "game.".into(), service: "game".into() }];
    })
    .await?;
    let mut client = node.client("alice").await?;
    let own = node.upstreams.zone_of("alice");
    let other = if own.as_str() == "001" { "002" } else { "001" };
    let upstream = TestUpstream::start(node.grpc.local_addr()).await?;
    // An authenticator, a routed service, another zone: all of them are there, and none is asked.
    for (zone, service) in [("*", "auth"), ("*", "game"), (other, "")] {
        upstream.register(zone, service).await?;
    }
    within("three registrations", node.upstreams.until(|all| all.len() == 3)).await?;
    assert_eq!(subscribed(&mut client, "open:1").await?, 403);
    upstream.register("*", "").await?;
    within(
        "its zone's",
        node.upstreams.until(|all| all.iter().any(|one| one.zone == "*" && one.service.is_empty())),
    )
    .await?;
    assert_eq!(subscribed(&mut client, "open:1").await?, 0);
    drop(upstream);
    node.stop(client).await
}
