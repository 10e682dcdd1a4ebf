//! `Publish`, `Subscribe`, `Unsubscribe`, `Presence` and `Disconnect`: what a service may do with channels and sessions.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use trunkline_broker::HistoryLimits;
use trunkline_gateway::Namespace;
use trunkline_gateway::auth::{ChannelPattern, Identity, Rights};
use trunkline_proto::wire::{self, ChannelRequest, DisconnectRequest, MembershipRequest};
use trunkline_proto::{CloseCode, DownBody, DownFrame};
use trunkline_service::{PublishOptions, SessionEvent};

use crate::support::{Node, session_of, within};

fn membership(target_type: &str, target_id: &str, channel: &str) -> MembershipRequest {
    MembershipRequest {
        target_type: target_type.to_owned(),
        target_id: target_id.to_owned(),
        channel: channel.to_owned(),
    }
}

fn publication(channel: &str, data: &str, key: &str) -> wire::ServicePublishRequest {
    wire::ServicePublishRequest {
        channel: channel.to_owned(),
        data: data.to_owned().into(),
        idempotency_key: key.to_owned(),
        ttl_ms: 0,
    }
}

fn told(frame: DownFrame) -> Result<wire::ChannelResponse> {
    match frame.body {
        DownBody::ChannelResp(response) => Ok(response),
        other => bail!("not a ChannelResponse: {other:?}"),
    }
}

fn data(frame: DownFrame) -> Result<String> {
    match frame.body {
        DownBody::Publication(publication) => Ok(String::from_utf8(publication.data.into())?),
        other => bail!("not a publication: {other:?}"),
    }
}

#[tokio::test]
async fn a_service_joins_users_to_a_channel_and_takes_them_off() -> Result<()> {
    let node = Node::start().await?;
    let mut phone = node.client_on("alice", "phone").await?;
    let mut tablet = node.client_on("alice", "tablet").await?;
    let mut service = node.service().await?;
    service.publish(publication("room:1", "before anybody", "")).await?;
    let answer = service.subscribe(membership("openid", "alice", "room:1")).await?.into_inner();
    assert_eq!((answer.success, answer.affected), (true, 2), "{answer:?}");
    let published = service.publish(publication("room:1", "one", "")).await?.into_inner();
    assert_eq!(published.error, None);
    for client in [&mut phone, &mut tablet] {
        let told = told(client.push().await?)?;
        assert_eq!((told.channel.as_str(), told.error), ("room:1", None));
        let frame = client.push().await?;
        let position = frame.position.clone().context("a position")?;
        assert_eq!((position.epoch, position.offset), (published.epoch, published.offset));
        assert_eq!(data(frame)?, "one");
    }
    // One session only, by its id; the other stays.
    let request = membership("session", &session_of(&phone), "room:1");
    assert_eq!(service.unsubscribe(request).await?.into_inner().affected, 1);
    service.publish(publication("room:1", "two", "")).await?;
    let told = told(phone.push().await?)?;
    assert_eq!(told.error.map(|error| error.name).as_deref(), Some("FORBIDDEN"));
    assert_eq!(data(tablet.push().await?)?, "two");
    assert_eq!(phone.drain().await?, []);
    // Who is not on it is not affected.
    let answer = service.unsubscribe(membership("openid", "alice", "room:1")).await?.into_inner();
    assert_eq!((answer.success, answer.affected), (true, 1), "{answer:?}");
    node.stop((phone, tablet, service)).await
}

#[tokio::test]
async fn joining_twice_delivers_once_and_loses_nothing() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client("alice").await?;
    client.subscribe("room:1", None).await?;
    let mut service = node.service().await?;
    for round in 0..20 {
        service.publish(publication("room:1", &format!("{round}"), "")).await?;
        let answer = service.subscribe(membership("openid", "alice", "room:1")).await?.into_inner();
        assert_eq!((answer.success, answer.affected), (true, 1), "{answer:?}");
    }
    let mut got = Vec::new();
    while got.len() < 20 {
        let frame = client.push().await?;
        if let DownBody::Publication(_) = frame.body {
            got.push(data(frame)?);
        }
    }
    assert_eq!(got, (0..20).map(|round| round.to_string()).collect::<Vec<_>>());
    let rest = client.drain().await?;
    assert!(!rest.iter().any(|frame| matches!(frame.body, DownBody::Publication(_))), "{rest:?}");
    node.stop((client, service)).await
}

/// What a service joined stays joined over a resume, whatever the client lists.
#[tokio::test]
async fn a_joined_session_keeps_the_channel_over_a_cut() -> Result<()> {
    let node = Node::start().await?;
    let identity = Identity { user: "alice".into(), ..Identity::default() };
    for own in [false, true] {
        let channel = format!("room:{own}");
        let mut client = node.client_on("alice", &channel).await?;
        let started = client.started.clone().context("started")?;
        if own {
            client.subscribe(&channel, None).await?;
        }
        let mut service = node.service().await?;
        service.subscribe(membership("session", &started.session_id, &channel)).await?;
        if !own {
            told(client.push().await?)?;
        }
        drop(client);
        node.until_lost(&started.session_id).await?;
        service.publish(publication(&channel, "while away", "")).await?;
        let resume = |start: &mut wire::StartRequest| {
            start.device_id = channel.clone();
            start.resume_token = started.resume_token.clone();
            start.positions = started.positions.clone();
        };
        // The namespace keeps no history, so the loss must be told: either the publication comes, or a gap.
        let mut client = node.client_as(&identity, resume).await?;
        let response = client.started.clone().context("resumed")?;
        assert!(
            response.positions.iter().any(|position| position.channel == channel),
            "own {own}: {response:?}"
        );
        let lost = response.gaps.iter().any(|gap| gap.channel == channel);
        if !lost {
            assert_eq!(data(client.push().await?)?, "while away");
        }
        service.publish(publication(&channel, "back again", "")).await?;
        assert_eq!(data(client.push().await?)?, "back again");
        drop(client);
    }
    node.stop(()).await
}

#[tokio::test]
async fn a_services_publication_happens_once_for_a_key() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client("alice").await?;
    client.subscribe("room:1", None).await?;
    let mut service = node.service().await?;
    let first = service.publish(publication("room:1", "one", "key")).await?.into_inner();
    let again = service.publish(publication("room:1", "other", "key")).await?.into_inner();
    assert_eq!((first.epoch, first.offset), (again.epoch, again.offset));
    service.publish(publication("room:1", "last", "")).await?;
    assert_eq!(data(client.push().await?)?, "one");
    assert_eq!(data(client.push().await?)?, "last");
    node.stop((client, service)).await
}

/// Over gRPC, and in the process: whoever comes back too late is told that something is lost.
#[tokio::test]
async fn a_services_publication_is_not_delivered_after_its_time() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client("alice").await?;
    client.subscribe("room:1", None).await?;
    let mut service = node.service().await?;
    let first = service.publish(publication("room:1", "lasting", "")).await?.into_inner();
    let brief = wire::ServicePublishRequest { ttl_ms: 1, ..publication("room:1", "brief", "") };
    let brief = service.publish(brief).await?.into_inner();
    assert_eq!((brief.error, brief.offset), (None, first.offset + 1));
    let options = PublishOptions { ttl: Some(Duration::from_millis(1)), ..PublishOptions::default() };
    let briefer = node.gateway.context().publish("room:1", "briefer".into(), options).await?;
    assert_eq!(briefer, (first.epoch, first.offset + 2));
    // Real time: a publication ends by the broker's own clock.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut late = node.client("bob").await?;
    let since = |offset| Some(wire::ChannelPosition { channel: "room:1".into(), epoch: first.epoch, offset });
    let answer = told(late.subscribe("room:1", since(first.offset)).await?)?;
    assert_eq!((answer.offset, answer.recovered), (first.offset + 2, false));
    match late.push().await?.body {
        DownBody::Gap(gap) => assert_eq!((gap.offset, gap.next), (first.offset, since(first.offset + 2))),
        other => bail!("not a gap: {other:?}"),
    }
    service.publish(publication("room:1", "last", "")).await?;
    assert_eq!(data(late.push().await?)?, "last");
    node.stop((client, late, service)).await
}

#[tokio::test]
async fn presence_names_who_is_there() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client("alice").await?;
    client.subscribe("room:1", None).await?;
    let other = node.client("bob").await?;
    let mut service = node.service().await?;
    service.subscribe(membership("openid", "bob", "room:1")).await?;
    let presence = || ChannelRequest { channel: "room:1".into(), since: None };
    let mut members = service.presence(presence()).await?.into_inner().members;
    members.sort_by(|a, b| a.user.cmp(&b.user));
    let named: Vec<_> = members.iter().map(|m| (m.user.as_str(), m.session_id.clone())).collect();
    assert_eq!(named, [("alice", session_of(&client)), ("bob", session_of(&other))]);
    let empty = ChannelRequest { channel: "room:nobody".into(), since: None };
    assert_eq!(service.presence(empty).await?.into_inner().members, []);
    node.stop((client, other, service)).await
}

#[tokio::test]
async fn disconnect_closes_what_the_target_has_with_the_code() -> Result<()> {
    let node = Node::start().await?;
    let mut service = node.service().await?;
    for (code, expected) in [(0, 4304), (4305, 4305), (4000, 4000)] {
        let mut phone = node.client_on("alice", "phone").await?;
        let mut tablet = node.client_on("alice", "tablet").await?;
        let session = session_of(&phone);
        let request = DisconnectRequest {
            target_type: "openid".into(),
            target_id: "alice".into(),
            code,
            reason: "the reason".into(),
        };
        let answer = service.disconnect(request).await?.into_inner();
        assert_eq!((answer.success, answer.affected), (true, 2), "{answer:?}");
        for client in [&mut phone, &mut tablet] {
            let (notice, _) = client.closed().await?;
            let notice = notice.context("a notice")?;
            assert_eq!((notice.code, notice.reason.as_str()), (expected, "the reason"));
        }
        drop((phone, tablet));
        // From 4100 on the session is over; below, its client comes back.
        let event = if expected >= 4100 { SessionEvent::Ended(expected) } else { SessionEvent::Lost };
        node.events.until(&session, event).await?;
    }
    node.stop(service).await
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_inside_ok() -> Result<()> {
    let node = Node::start().await?;
    let client = node.client("alice").await?;
    let mut service = node.service().await?;
    for (request, code) in [
        (membership("planet", "alice", "room:1"), "BAD_REQUEST"),
        (membership("openid", "", "room:1"), "BAD_REQUEST"),
        (membership("openid", "alice", ""), "BAD_REQUEST"),
        (membership("openid", "alice", "user:bob"), "FORBIDDEN"),
        (membership("openid", "alice", "all"), "FORBIDDEN"),
    ] {
        let answer = service.subscribe(request.clone()).await?.into_inner();
        assert_eq!((answer.success, answer.error_code.as_str()), (false, code), "{request:?}: {answer:?}");
    }
    for (channel, code) in [("user:alice", "FORBIDDEN"), ("", "BAD_REQUEST")] {
        let answer = service.publish(publication(channel, "x", "")).await?.into_inner();
        assert_eq!(answer.error.map(|error| error.name).as_deref(), Some(code), "{channel:?}");
    }
    let large =
        wire::ServicePublishRequest { data: vec![0; 2 << 20].into(), ..publication("room:1", "", "") };
    let answer = service.publish(large).await?.into_inner();
    assert_eq!(answer.error.map(|error| error.name).as_deref(), Some("TOO_LARGE"));
    let request = DisconnectRequest {
        target_type: "openid".into(),
        target_id: "alice".into(),
        code: 7,
        ..Default::default()
    };
    let answer = service.disconnect(request).await?.into_inner();
    assert_eq!((answer.success, answer.error_code.as_str()), (false, "BAD_REQUEST"));
    assert_eq!(CloseCode::from_number(7), None);
    let request =
        DisconnectRequest { target_type: "openid".into(), target_id: "nobody".into(), ..Default::default() };
    let answer = service.disconnect(request).await?.into_inner();
    assert_eq!((answer.success, answer.affected), (true, 0));
    node.stop((client, service)).await
}

#[tokio::test]
async fn who_publishes_more_than_is_kept_is_told_when_to_come_back() -> Result<()> {
    let history = HistoryLimits { count: 1_000, bytes: 1 << 20, ttl: Duration::from_secs(60) };
    let node = Node::start_with(|setup| {
        let (pattern, rights) = (ChannelPattern::new("room:*"), Rights::everything());
        setup.options.namespaces = vec![Namespace { pattern, history, presence: false, rights }];
        setup.broker.max_log_bytes = 256 << 10;
    })
    .await?;
    let mut service = node.service().await?;
    let full = async {
        loop {
            let answer = service.publish(publication("room:1", &"x".repeat(10_000), "")).await?.into_inner();
            if let Some(error) = answer.error {
                return anyhow::Ok(error);
            }
        }
    };
    let error = within("an end to what is kept", full).await??;
    assert_eq!((error.error_code, error.name.as_str()), (507, "FULL"), "{error:?}");
    assert!(error.retry_after_ms >= 1_000, "{error:?}");
    node.stop(service).await
}
