//! REFRESH: a new token's rights and groups hold at once, and what nobody can say anything about stays.

use anyhow::{Result, bail};
use trunkline_gateway::auth::{Identity, Rights, sign_hs256};
use trunkline_proto::wire::{self, PushOutcome as Outcome, RefreshRequest};
use trunkline_proto::{DownBody, DownFrame, UpBody};
use trunkline_service::PublishOptions;
use trunkline_testkit::{TestClient, TestUpstream, allowed};

use crate::support::{KEY, Node, next_push, push_to};

fn member_of(groups: &[&str]) -> Identity {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    Identity { user: "alice".into(), groups, ..Identity::default() }
}

async fn refresh(client: &mut TestClient, identity: &Identity) -> Result<wire::StartResponse> {
    let request = RefreshRequest { auth_token: sign_hs256(KEY, identity)? };
    match client.request(UpBody::Refresh(request)).await?.body {
        DownBody::StartResp(response) => Ok(*response),
        other => bail!("not a START_RESP: {other:?}"),
    }
}

fn told(frame: DownFrame) -> Result<(String, u64, i32)> {
    match frame.body {
        DownBody::ChannelResp(told) => {
            Ok((told.channel, told.epoch, told.error.map_or(0, |error| error.error_code)))
        }
        other => bail!("not a ChannelResponse: {other:?}"),
    }
}

#[tokio::test]
async fn an_upstream_that_cannot_answer_withdraws_no_channel() -> Result<()> {
    let node = Node::start_with(|setup| setup.options.default_rights = Rights::default()).await?;
    let upstream = TestUpstream::registered(node.grpc.local_addr()).await?;
    let mut client = node.client("alice").await?;
    client.subscribe("open:1", None).await?;
    upstream.authorize_with(|_| Err(tonic::Status::internal("broken for a moment")));
    assert!(refresh(&mut client, &member_of(&[])).await?.success);
    let context = node.gateway.context();
    context.publish("open:1", "still there".into(), PublishOptions::default()).await?;
    let frame = client.push().await?;
    assert!(matches!(&frame.body, DownBody::Publication(_)), "{frame:?}");
    // A no is a no.
    upstream.authorize_with(|_| Ok(allowed(false)));
    assert!(refresh(&mut client, &member_of(&[])).await?.success);
    assert_eq!(told(client.push().await?)?, ("open:1".into(), 0, 403));
    context.publish("open:1", "not for alice".into(), PublishOptions::default()).await?;
    assert_eq!(client.drain().await?, []);
    node.stop((client, upstream)).await
}

#[tokio::test]
async fn a_new_tokens_groups_hold_at_once() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client_as(&member_of(&["old", "kept"]), |_| {}).await?;
    let mut service = node.service().await?;
    assert!(refresh(&mut client, &member_of(&["kept", "new"])).await?.success);
    let mut changed = [told(client.push().await?)?, told(client.push().await?)?];
    changed.sort();
    assert_eq!((changed[0].0.as_str(), changed[0].1 > 0, changed[0].2), ("group:new", true, 0));
    assert_eq!(changed[1], ("group:old".into(), 0, 403));
    for (group, outcome) in [
        ("old", Outcome::OutcomeNotFound),
        ("kept", Outcome::OutcomeDelivered),
        ("new", Outcome::OutcomeDelivered),
    ] {
        let answer = service.push_to_client(push_to("gid", group, group)).await?.into_inner();
        assert_eq!(answer.outcome(), outcome, "{group}");
    }
    assert_eq!(next_push(&mut client, "group:kept").await?.title, "kept");
    assert_eq!(next_push(&mut client, "group:new").await?.title, "new");
    // A token that is refused changes nothing.
    let other = Identity { user: "mallory".into(), ..member_of(&[]) };
    assert!(!refresh(&mut client, &other).await?.success);
    let unfit = member_of(&["\n"]);
    assert!(!refresh(&mut client, &unfit).await?.success);
    service.push_to_client(push_to("gid", "kept", "again")).await?;
    assert_eq!(next_push(&mut client, "group:kept").await?.title, "again");
    node.stop((client, service)).await
}
