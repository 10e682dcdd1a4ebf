//! `PushToClient` is honest: what it answers is what became of the push, and everything that was pushed arrives.

use anyhow::Result;
use trunkline_gateway::auth::Identity;
use trunkline_proto::wire::{self, PushOutcome as Outcome};
use trunkline_service::grpc::{GatewayAddress, GrpcContext};
use trunkline_service::{Context, ContextError, PublishOptions, Push, PushOutcome, Target};

use crate::support::{Node, next_push, push_to, seen, session_of, within};

async fn push(node: &Node, request: wire::UnicastPushRequest) -> Result<wire::UnicastPushResponse> {
    Ok(node.service().await?.push_to_client(request).await?.into_inner())
}

fn assert_outcome(answer: &wire::UnicastPushResponse, outcome: Outcome, error_code: &str) {
    assert_eq!(answer.outcome(), outcome, "{answer:?}");
    assert_eq!(answer.error_code, error_code, "{answer:?}");
    assert_eq!(answer.success, error_code.is_empty(), "{answer:?}");
    assert!(!answer.message.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn c9_content_and_metadata_arrive_for_every_kind_of_target() -> Result<()> {
    let node = Node::start().await?;
    let alice = Identity { user: "alice".into(), groups: vec!["crew".into()], ..Identity::default() };
    let mut client = node.client_as(&alice, |start| start.device_id = "phone".into()).await?;
    let session = session_of(&client);
    let own = format!("session:{session}");
    for (target_type, target_id, channel) in [
        ("session", session.as_str(), own.as_str()),
        ("openid", "alice", "user:alice"),
        ("gid", "crew", "group:crew"),
        ("device", "phone", own.as_str()),
    ] {
        let answer = push(&node, push_to(target_type, target_id, target_type)).await?;
        assert_outcome(&answer, Outcome::OutcomeDelivered, "");
        assert_eq!(next_push(&mut client, channel).await?, seen(target_type));
    }
    node.stop(client).await
}

#[tokio::test]
async fn c9_a_push_to_nobody_is_no_success_and_is_history() -> Result<()> {
    let node = Node::start().await?;
    let answer = push(&node, push_to("openid", "alice", "early")).await?;
    assert_outcome(&answer, Outcome::OutcomeOffline, "OFFLINE");
    for target_type in ["session", "device", "gid"] {
        let answer = push(&node, push_to(target_type, "nobody", "lost")).await?;
        assert_outcome(&answer, Outcome::OutcomeNotFound, "NOT_FOUND");
    }
    // The honest answer was right: a session that begins later does not get it, but can ask for it from the start of
    // the channel's history.
    let mut client = node.client("alice").await?;
    let answer = push(&node, push_to("openid", "alice", "now")).await?;
    assert_outcome(&answer, Outcome::OutcomeDelivered, "");
    assert_eq!(next_push(&mut client, "user:alice").await?, seen("now"));
    node.stop(client).await
}

#[tokio::test]
async fn a_push_to_a_session_that_waits_is_queued_and_comes_with_the_resume() -> Result<()> {
    let node = Node::start().await?;
    let alice = Identity { user: "alice".into(), groups: vec!["crew".into()], ..Identity::default() };
    let client = node.client_as(&alice, |start| start.device_id = "phone".into()).await?;
    let started = client.started.clone().unwrap_or_default();
    let session = started.session_id.clone();
    drop(client);
    node.until_lost(&session).await?;
    let targets = [("session", session.as_str()), ("openid", "alice"), ("gid", "crew"), ("device", "phone")];
    for (target_type, target_id) in targets {
        let answer = push(&node, push_to(target_type, target_id, target_type)).await?;
        assert_outcome(&answer, Outcome::OutcomeQueued, "");
    }
    let resume = |start: &mut wire::StartRequest| {
        start.device_id = "phone".into();
        start.resume_token = started.resume_token.clone();
        start.positions = started.positions.clone();
    };
    let mut client = node.client_as(&alice, resume).await?;
    let verdict = client.started.as_ref().map(wire::StartResponse::verdict);
    assert_eq!(verdict, Some(wire::Verdict::Resumed));
    let mut titles = Vec::new();
    for _ in targets {
        let frame = client.push().await?;
        titles.push(crate::support::business(&frame)?.title.clone());
    }
    // Order is promised within a channel: the session's own has two of them.
    let place = |title: &str| titles.iter().position(|seen| seen == title);
    assert!(place("session") < place("device"), "{titles:?}");
    titles.sort();
    assert_eq!(titles, ["device", "gid", "openid", "session"]);
    node.stop(client).await
}

#[tokio::test]
async fn one_live_session_of_several_is_delivered() -> Result<()> {
    let node = Node::start().await?;
    let away = node.client_on("alice", "tablet").await?;
    let mut here = node.client_on("alice", "phone").await?;
    let session = session_of(&away);
    drop(away);
    node.until_lost(&session).await?;
    let answer = push(&node, push_to("openid", "alice", "both")).await?;
    assert_outcome(&answer, Outcome::OutcomeDelivered, "");
    assert_eq!(next_push(&mut here, "user:alice").await?, seen("both"));
    node.stop(here).await
}

#[tokio::test]
async fn acked_means_that_a_client_has_said_so() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client("alice").await?;
    let request = wire::UnicastPushRequest { wait_ack_ms: 60_000, ..push_to("openid", "alice", "ack me") };
    let mut service = node.service().await?;
    let answer = async { Ok::<_, anyhow::Error>(service.push_to_client(request).await?.into_inner()) };
    let acking = async {
        let frame = client.push().await?;
        client.ack_position(frame.position.unwrap_or_default()).await
    };
    let (answer, acked) = tokio::join!(answer, acking);
    acked?;
    assert_outcome(&answer?, Outcome::OutcomeAcked, "");
    // Who does not ack in time was still delivered to, and that is what is said.
    let request = wire::UnicastPushRequest { wait_ack_ms: 1, ..push_to("openid", "alice", "no ack") };
    assert_outcome(&push(&node, request).await?, Outcome::OutcomeDelivered, "");
    node.stop(client).await
}

/// Whoever asks again for a push that was acknowledged meanwhile is told so, at once.
#[tokio::test]
async fn an_ack_that_came_before_the_wait_counts() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client("alice").await?;
    let request =
        wire::UnicastPushRequest { idempotency_key: "once".into(), ..push_to("openid", "alice", "early") };
    assert_outcome(&push(&node, request.clone()).await?, Outcome::OutcomeDelivered, "");
    let frame = client.push().await?;
    client.ack_position(frame.position.unwrap_or_default()).await?;
    assert_eq!(client.drain().await?, [], "the ack has been read");
    let again = wire::UnicastPushRequest { wait_ack_ms: 60_000, ..request };
    let answer = within("the answer to what was acked", push(&node, again)).await??;
    assert_outcome(&answer, Outcome::OutcomeAcked, "");
    node.stop(client).await
}

/// A push that waits for its ack over a cut has it from the positions of the resume.
#[tokio::test]
async fn the_positions_of_a_resume_are_acks() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client("alice").await?;
    let started = client.started.clone().unwrap_or_default();
    let request = wire::UnicastPushRequest { wait_ack_ms: 60_000, ..push_to("openid", "alice", "cut") };
    let resuming = async {
        let position = client.push().await?.position.unwrap_or_default();
        drop(client);
        node.until_lost(&started.session_id).await?;
        let alice = Identity { user: "alice".into(), ..Identity::default() };
        let resume = |start: &mut wire::StartRequest| {
            start.resume_token = started.resume_token.clone();
            start.positions = vec![position];
        };
        node.client_as(&alice, resume).await
    };
    let (answer, client) = tokio::join!(within("the ack", push(&node, request)), resuming);
    assert_outcome(&answer??, Outcome::OutcomeAcked, "");
    node.stop(client?).await
}

#[tokio::test]
async fn an_idempotency_key_pushes_once_for_each_target() -> Result<()> {
    let node = Node::start().await?;
    let (mut alice, mut bob) = (node.client("alice").await?, node.client("bob").await?);
    let once = |target: &str, title: &str| wire::UnicastPushRequest {
        idempotency_key: "order-17".into(),
        ..push_to("openid", target, title)
    };
    for title in ["first", "again"] {
        assert_outcome(&push(&node, once("alice", title)).await?, Outcome::OutcomeDelivered, "");
    }
    assert_outcome(&push(&node, once("bob", "to bob")).await?, Outcome::OutcomeDelivered, "");
    push(&node, push_to("openid", "alice", "last")).await?;
    assert_eq!(next_push(&mut alice, "user:alice").await?, seen("first"));
    assert_eq!(next_push(&mut alice, "user:alice").await?, seen("last"));
    assert_eq!(next_push(&mut bob, "user:bob").await?, seen("to bob"));
    node.stop((alice, bob)).await
}

#[tokio::test]
async fn what_makes_no_sense_is_a_typed_error_inside_ok() -> Result<()> {
    let node = Node::start().await?;
    let client = node.client("alice").await?;
    for (target_type, target_id) in [("planet", "earth"), ("", "alice"), ("OPENID", "alice"), ("openid", "")]
    {
        let answer = push(&node, push_to(target_type, target_id, "x")).await?;
        assert_outcome(&answer, Outcome::OutcomeUnspecified, "BAD_REQUEST");
    }
    let answer =
        push(&node, wire::UnicastPushRequest { sync_hint: 9, ..push_to("openid", "alice", "x") }).await?;
    assert_outcome(&answer, Outcome::OutcomeUnspecified, "BAD_REQUEST");
    let long = "a".repeat(5_000);
    assert_outcome(
        &push(&node, push_to("openid", &long, "x")).await?,
        Outcome::OutcomeUnspecified,
        "BAD_REQUEST",
    );
    node.stop(client).await
}

#[tokio::test]
async fn a_push_of_2_mib_is_too_large_and_the_next_one_arrives() -> Result<()> {
    let node = Node::start().await?;
    let mut client = node.client("alice").await?;
    let large = |size: usize| wire::UnicastPushRequest {
        data: vec![b'x'; size].into(),
        ..push_to("openid", "alice", "large")
    };
    assert_outcome(&push(&node, large(2 << 20)).await?, Outcome::OutcomeDropped, "TOO_LARGE");
    // Over what is read at all: gRPC itself says so, and the connection lives.
    let mut service = node.service().await?;
    let refused = service.push_to_client(large(5 << 20)).await;
    assert_eq!(refused.map_err(|status| status.code()).err(), Some(tonic::Code::OutOfRange));
    // Just under the limit of a frame goes through whole.
    let fits = (1 << 20) - 1_024;
    assert_outcome(&service.push_to_client(large(fits)).await?.into_inner(), Outcome::OutcomeDelivered, "");
    assert_eq!(next_push(&mut client, "user:alice").await?.data.len(), fits);
    push(&node, push_to("openid", "alice", "after")).await?;
    assert_eq!(next_push(&mut client, "user:alice").await?, seen("after"));
    node.stop(client).await
}

/// One body for both forms: what a service in the process is told, one behind gRPC is told.
#[tokio::test]
async fn the_process_and_grpc_are_told_the_same() -> Result<()> {
    let node = Node::start().await?;
    let here = node.client("alice").await?;
    let away = node.client("bob").await?;
    let lost = session_of(&away);
    drop(away);
    node.until_lost(&lost).await?;
    let address = GatewayAddress::new(&node.grpc.local_addr().to_string(), None)?;
    let forms: [std::sync::Arc<dyn Context>; 2] =
        [node.gateway.context(), std::sync::Arc::new(GrpcContext::new(&address))];
    let mut refusals = Vec::new();
    for context in forms {
        let push = |target| context.push(target, Push { title: "t".into(), ..Push::default() });
        let user = |name: &str| Target::User(name.to_owned());
        assert_eq!(push(user("alice")).await, Ok(PushOutcome::Delivered));
        assert_eq!(push(user("bob")).await, Ok(PushOutcome::Queued));
        assert_eq!(push(user("carol")).await, Ok(PushOutcome::Offline));
        assert_eq!(push(Target::Session(lost.clone())).await, Ok(PushOutcome::Queued));
        assert_eq!(push(Target::Group("none".into())).await, Ok(PushOutcome::NotFound));
        let large = Push { data: vec![0; 2 << 20].into(), ..Push::default() };
        assert_eq!(code(context.push(user("alice"), large).await), "TOO_LARGE");
        refusals.push(context.broadcast(Some("nowhere".into()), Push::default()).await.unwrap_err());
        assert_eq!(
            code(context.publish("user:alice", "x".into(), PublishOptions::default()).await),
            "FORBIDDEN"
        );
        assert_eq!(code(context.subscribe(user("alice"), "all").await), "FORBIDDEN");
        assert_eq!(code(context.disconnect(user("alice"), 77, "").await), "BAD_REQUEST");
        assert_eq!(context.subscribe(user("carol"), "room:1").await, Ok(0));
        assert_eq!(context.subscribe(user("alice"), "room:1").await, Ok(1));
        let members = within("presence", context.presence("room:1")).await??;
        assert_eq!(members.iter().map(|member| member.user.as_str()).collect::<Vec<_>>(), ["alice"]);
        assert_eq!(context.unsubscribe(user("alice"), "room:1").await, Ok(1));
        let (epoch, offset) = context.publish("room:1", "x".into(), PublishOptions::keyed("key")).await?;
        assert_eq!(
            context.publish("room:1", "y".into(), PublishOptions::keyed("key")).await?,
            (epoch, offset)
        );
    }
    assert_eq!(refusals[0].code, "INVALID_ZONE_ID");
    assert_eq!(refusals[0], refusals[1], "the code is not in the text as well");
    node.stop(here).await
}

fn code<T: std::fmt::Debug>(answer: Result<T, ContextError>) -> String {
    match answer {
        Ok(answer) => panic!("not refused: {answer:?}"),
        Err(error) => error.code,
    }
}
