//! REFRESH: what a new token withdraws, and the end of one that was not renewed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};
use trunkline_gateway::auth::{Identity, Rights, sign_hs256};
use trunkline_proto::wire::{RefreshRequest, StartResponse};
use trunkline_proto::{DownBody, UpBody};
use trunkline_service::PublishOptions;
use trunkline_testkit::TestClient;

use crate::support::{KEY, Node};

fn identity(rights: Option<Rights>, expires_at_ms: Option<u64>) -> Identity {
    Identity { user: "alice".into(), rights, expires_at_ms, ..Identity::default() }
}

async fn refresh(client: &mut TestClient, auth_token: String) -> Result<StartResponse> {
    let answer = client.request(UpBody::Refresh(RefreshRequest { auth_token })).await?;
    match answer.body {
        DownBody::StartResp(response) => Ok(*response),
        other => bail!("not the answer to REFRESH: {other:?}"),
    }
}

#[tokio::test]
async fn a_right_that_the_new_token_lacks_ends_at_once() -> Result<()> {
    let node = Node::start_with(|setup| setup.options.default_rights = Rights::default()).await?;
    let mut client = node.client_as(&identity(Some(Rights::everything()), None), |_| {}).await?;
    for channel in ["room:1", "room:2"] {
        let answer = client.subscribe(channel, None).await?;
        ensure!(matches!(&answer.body, DownBody::ChannelResp(told) if told.error.is_none()), "{answer:?}");
    }
    let context = node.gateway.context();
    context.publish("room:1", "before".into(), PublishOptions::default()).await?;
    ensure!(matches!(client.push().await?.body, DownBody::Publication(_)));
    let refused = refresh(&mut client, sign_hs256(b"another key", &identity(None, None))?).await?;
    assert_eq!((refused.success, refused.error.map(|error| error.error_code)), (false, Some(401)));
    context.publish("room:1", "still".into(), PublishOptions::default()).await?;
    ensure!(matches!(client.push().await?.body, DownBody::Publication(_)), "a refused one changes nothing");
    let good = refresh(&mut client, sign_hs256(KEY, &identity(None, None))?).await?;
    ensure!(good.success, "{good:?}");
    let mut left = Vec::new();
    for _ in 0..2 {
        let frame = client.push().await?;
        let DownBody::ChannelResp(told) = frame.body else { bail!("not told: {frame:?}") };
        assert_eq!(told.error.map(|error| error.error_code), Some(403), "{}", told.channel);
        left.push(told.channel);
    }
    left.sort_unstable();
    assert_eq!(left, ["room:1", "room:2"]);
    context.publish("room:1", "after".into(), PublishOptions::default()).await?;
    assert_eq!(client.drain().await?, [], "nothing is delivered any more");
    let answer = client.subscribe("room:1", None).await?;
    ensure!(
        matches!(&answer.body, DownBody::ChannelResp(told) if told.error.as_ref().is_some_and(|e| e.error_code == 403)),
        "{answer:?}"
    );
    node.stop(client).await
}

#[tokio::test]
async fn a_token_that_is_not_renewed_within_its_grace_is_4303() -> Result<()> {
    let node =
        Node::start_with(|setup| setup.options.session.expiry_grace = Duration::from_millis(100)).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    // Whole seconds: between one and two from now.
    let soon = Some((now + 2) * 1_000);
    let mut lapses = node.client_as(&identity(None, soon), |start| start.device_id = "1".into()).await?;
    let mut renews = node.client_as(&identity(None, soon), |start| start.device_id = "2".into()).await?;
    let refused = refresh(&mut lapses, "no token".into()).await?;
    ensure!(!refused.success);
    let later = identity(None, Some((now + 3_600) * 1_000));
    ensure!(refresh(&mut renews, sign_hs256(KEY, &later)?).await?.success);
    assert_eq!(lapses.close_code().await?, 4303);
    renews.drain().await?;
    node.stop((lapses, renews)).await
}
