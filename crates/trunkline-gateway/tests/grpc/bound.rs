//! Bound pushes: before or after the reply, in one atomic frame with it, or an answer that says why not.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use trunkline_proto::wire::{self, NotifySyncHint as Hint, PushOutcome as Outcome};
use trunkline_proto::{DownBody, DownFrame, UpBody, UpFrame};
use trunkline_service::{Call, Caller, Reply, Status};
use trunkline_testkit::TestClient;

use crate::support::{Node, Scripted, business, next_push, push_to, seen, session_of, within};

/// A push that is bound to a call's number.
fn bound(hint: Hint, seq: u64, target: (&str, &str), title: &str) -> wire::UnicastPushRequest {
    wire::UnicastPushRequest {
        sync_hint: hint.into(),
        bind_client_seq_id: seq,
        ..push_to(target.0, target.1, title)
    }
}

fn is(answer: &wire::UnicastPushResponse, outcome: Outcome, error_code: &str) {
    assert_eq!((answer.outcome(), answer.error_code.as_str()), (outcome, error_code), "{answer:?}");
}

/// The frames of a group, each as its response.
fn group(frame: DownFrame) -> Result<Vec<wire::BusinessResponse>> {
    match frame.body {
        DownBody::Group(frames) => frames.iter().map(|frame| business(frame).cloned()).collect(),
        other => bail!("not a group: {other:?}"),
    }
}

/// An upstream whose calls begin, tell so, and end when they are let.
struct Gate {
    begun: Semaphore,
    go: Semaphore,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Gate { begun: Semaphore::new(0), go: Semaphore::new(0) })
    }

    fn service(self: &Arc<Self>) -> Scripted {
        let gate = Arc::clone(self);
        Scripted::new(move |_, call| {
            let gate = Arc::clone(&gate);
            async move {
                gate.begun.add_permits(1);
                if let Ok(go) = gate.go.acquire().await {
                    go.forget();
                }
                Ok(Reply::ok(call.data))
            }
        })
    }

    /// Waits until one more call runs.
    async fn begun(&self) -> Result<()> {
        within("the call's begin", self.begun.acquire()).await??.forget();
        Ok(())
    }

    fn let_one_end(&self) {
        self.go.add_permits(1);
    }
}

#[tokio::test]
async fn o2_one_format_before_after_and_immediately() -> Result<()> {
    let node = Node::start().await?;
    let gate = Gate::new();
    let upstream = node.upstream(gate.service()).await?;
    let mut client = node.client("alice").await?;
    let session = session_of(&client);
    let mut service = node.service().await?;
    let msg_id = client.send_call("echo", &[], "reply").await?;
    gate.begun().await?;
    for (hint, target, title, outcome) in [
        (Hint::NshAfterResponse, ("openid", "alice"), "a1", Outcome::OutcomeBound),
        (Hint::NshBeforeResponse, ("session", session.as_str()), "b1", Outcome::OutcomeBound),
        (Hint::NshImmediately, ("openid", "alice"), "now", Outcome::OutcomeDelivered),
        (Hint::NshBeforeResponse, ("openid", "alice"), "b2", Outcome::OutcomeBound),
        (Hint::NshAfterResponse, ("session", session.as_str()), "a2", Outcome::OutcomeBound),
    ] {
        is(&service.push_to_client(bound(hint, 1, target, title)).await?.into_inner(), outcome, "");
    }
    // The immediate one comes while the call still runs; the others are not here yet.
    assert_eq!(next_push(&mut client, "user:alice").await?, seen("now"));
    assert_eq!(client.drain().await?, []);
    gate.let_one_end();
    let frames = group(client.reply(msg_id).await?)?;
    assert_eq!(frames.len(), 5);
    assert_eq!(frames[..2], [seen("b1"), seen("b2")]);
    assert_eq!((frames[2].code, &frames[2].data[..]), (200, &b"reply"[..]));
    assert_eq!(frames[3..], [seen("a1"), seen("a2")]);
    node.stop((client, service, upstream)).await
}

#[tokio::test]
async fn a_late_before_is_too_late_and_a_late_after_goes_out() -> Result<()> {
    let node = Node::start().await?;
    let upstream = node.upstream(Scripted::echo()).await?;
    let mut client = node.client("alice").await?;
    client.call("echo", "reply").await?;
    let mut service = node.service().await?;
    for target in [("openid", "alice"), ("session", &*session_of(&client))] {
        let answer = service.push_to_client(bound(Hint::NshBeforeResponse, 1, target, "late")).await?;
        is(&answer.into_inner(), Outcome::OutcomeUnspecified, "BIND_TOO_LATE");
        let answer = service.push_to_client(bound(Hint::NshAfterResponse, 1, target, "after")).await?;
        is(&answer.into_inner(), Outcome::OutcomeDelivered, "");
        let channel = match target.0 {
            "openid" => "user:alice".to_owned(),
            _ => format!("session:{}", target.1),
        };
        assert_eq!(next_push(&mut client, &channel).await?, seen("after"));
    }
    node.stop((client, service, upstream)).await
}

#[tokio::test]
async fn a_bind_to_nothing_or_to_another_is_refused() -> Result<()> {
    let node = Node::start().await?;
    let gate = Gate::new();
    let upstream = node.upstream(gate.service()).await?;
    let mut client = node.client("alice").await?;
    let other = node.client("bob").await?;
    let msg_id = client.send_call("echo", &[], "reply").await?;
    gate.begun().await?;
    let mut service = node.service().await?;
    let device = "alice-device";
    for (target, seq) in [
        (("openid", "alice"), 2),
        (("openid", "bob"), 1),
        (("openid", "carol"), 1),
        (("session", "no such session"), 1),
        (("session", &*session_of(&other)), 1),
        (("device", device), 1),
        (("gid", "crew"), 1),
    ] {
        for hint in [Hint::NshBeforeResponse, Hint::NshAfterResponse] {
            let answer = service.push_to_client(bound(hint, seq, target, "x")).await?.into_inner();
            is(&answer, Outcome::OutcomeUnspecified, "BIND_REFUSED");
        }
    }
    gate.let_one_end();
    // Nothing of it is with the reply.
    assert_eq!(&business(&client.reply(msg_id).await?)?.data[..], b"reply");
    node.stop((client, other, service, upstream)).await
}

#[tokio::test]
async fn with_two_sessions_that_run_the_number_the_user_is_ambiguous() -> Result<()> {
    let node = Node::start().await?;
    let gate = Gate::new();
    let upstream = node.upstream(gate.service()).await?;
    let mut phone = node.client_on("alice", "phone").await?;
    let mut tablet = node.client_on("alice", "tablet").await?;
    let on_phone = phone.send_call("echo", &[], "phone").await?;
    let on_tablet = tablet.send_call("echo", &[], "tablet").await?;
    gate.begun().await?;
    gate.begun().await?;
    let mut service = node.service().await?;
    let push = |target| bound(Hint::NshBeforeResponse, 1, target, "bound");
    let answer = service.push_to_client(push(("openid", "alice"))).await?.into_inner();
    is(&answer, Outcome::OutcomeUnspecified, "BIND_AMBIGUOUS");
    let session = session_of(&tablet);
    let answer = service.push_to_client(push(("session", &session))).await?.into_inner();
    is(&answer, Outcome::OutcomeBound, "");
    gate.let_one_end();
    gate.let_one_end();
    assert_eq!(&business(&phone.reply(on_phone).await?)?.data[..], b"phone");
    let frames = group(tablet.reply(on_tablet).await?)?;
    assert_eq!((&frames[0], &frames[1].data[..]), (&seen("bound"), &b"tablet"[..]));
    // Only one session runs this number: the user is enough.
    tablet.next_client_seq = 2;
    let msg_id = tablet.send_call("echo", &[], "again").await?;
    gate.begun().await?;
    let request = bound(Hint::NshAfterResponse, 2, ("openid", "alice"), "one");
    is(&service.push_to_client(request).await?.into_inner(), Outcome::OutcomeBound, "");
    gate.let_one_end();
    let frames = group(tablet.reply(msg_id).await?)?;
    assert_eq!((&frames[0].data[..], &frames[1]), (&b"again"[..], &seen("one")));
    node.stop((phone, tablet, service, upstream)).await
}

#[tokio::test]
async fn a_group_that_no_frame_can_hold_is_refused_and_the_rest_arrives() -> Result<()> {
    let node = Node::start().await?;
    let gate = Gate::new();
    let upstream = node.upstream(gate.service()).await?;
    let mut client = node.client("alice").await?;
    let msg_id = client.send_call("echo", &[], "reply").await?;
    gate.begun().await?;
    let mut service = node.service().await?;
    let large = |title| wire::UnicastPushRequest {
        data: vec![b'x'; 900 << 10].into(),
        ..bound(Hint::NshBeforeResponse, 1, ("openid", "alice"), title)
    };
    is(&service.push_to_client(large("one")).await?.into_inner(), Outcome::OutcomeBound, "");
    let mut answers = Vec::new();
    for title in ["two", "three"] {
        answers.push(service.push_to_client(large(title)).await?.into_inner());
    }
    // 2 MiB hold one or two of them beside the room for the reply itself, never three.
    let refused = answers.last().context("answers")?;
    is(refused, Outcome::OutcomeDropped, "TOO_LARGE");
    let accepted = 1 + answers.iter().filter(|answer| answer.success).count();
    gate.let_one_end();
    let frames = group(client.reply(msg_id).await?)?;
    assert_eq!(frames.len(), accepted + 1);
    assert_eq!(&frames[accepted].data[..], b"reply");
    node.stop((client, service, upstream)).await
}

/// Who binds again with the same key, because the answer was lost, has its push once.
#[tokio::test]
async fn a_key_binds_once_and_what_no_frame_holds_is_not_bound() -> Result<()> {
    let node = Node::start().await?;
    let gate = Gate::new();
    let upstream = node.upstream(gate.service()).await?;
    let mut client = node.client("alice").await?;
    let msg_id = client.send_call("echo", &[], "reply").await?;
    gate.begun().await?;
    let mut service = node.service().await?;
    let push = |key: &str| wire::UnicastPushRequest {
        idempotency_key: key.to_owned(),
        ..bound(Hint::NshAfterResponse, 1, ("openid", "alice"), "once")
    };
    for _ in 0..3 {
        is(&service.push_to_client(push("key")).await?.into_inner(), Outcome::OutcomeBound, "");
    }
    let long = service.push_to_client(push(&"k".repeat(255))).await?.into_inner();
    is(&long, Outcome::OutcomeUnspecified, "BAD_REQUEST");
    let large = wire::UnicastPushRequest { data: vec![b'x'; 3 << 19].into(), ..push("large") };
    is(&service.push_to_client(large).await?.into_inner(), Outcome::OutcomeDropped, "TOO_LARGE");
    gate.let_one_end();
    let frames = group(client.reply(msg_id).await?)?;
    assert_eq!((&frames[0].data[..], &frames[1..]), (&b"reply"[..], &[seen("once")][..]));
    // The call has ended; the same push again is still the one that went with it.
    is(&service.push_to_client(push("key")).await?.into_inner(), Outcome::OutcomeBound, "");
    assert_eq!(client.drain().await?, []);
    node.stop((client, service, upstream)).await
}

#[tokio::test]
async fn a_call_that_wants_no_reply_has_its_bound_pushes_when_it_ends() -> Result<()> {
    let node = Node::start().await?;
    let gate = Gate::new();
    let upstream = node.upstream(gate.service()).await?;
    let mut client = node.client("alice").await?;
    let body = UpBody::Business(wire::BusinessRequest { action: "echo".into(), ..Default::default() });
    client.send(&UpFrame::new(0, 1, body)).await?;
    gate.begun().await?;
    let mut service = node.service().await?;
    for (hint, title) in [(Hint::NshAfterResponse, "after"), (Hint::NshBeforeResponse, "before")] {
        let request = bound(hint, 1, ("openid", "alice"), title);
        is(&service.push_to_client(request).await?.into_inner(), Outcome::OutcomeBound, "");
    }
    assert_eq!(client.drain().await?, []);
    gate.let_one_end();
    let titles = [
        next_push(&mut client, "user:alice").await?.title,
        next_push(&mut client, "user:alice").await?.title,
    ];
    assert_eq!(titles, ["before", "after"], "in the order that the hints ask for");
    node.stop((client, service, upstream)).await
}

/// A cut takes reply and pushes together; whoever asks again gets all of them, once.
#[tokio::test]
async fn after_a_cut_the_reply_comes_again_with_its_pushes() -> Result<()> {
    let node = Node::start().await?;
    let gate = Gate::new();
    let upstream = node.upstream(gate.service()).await?;
    let mut client = node.client("alice").await?;
    let started = client.started.clone().context("started")?;
    client.send_call("echo", &[], "reply").await?;
    gate.begun().await?;
    let mut service = node.service().await?;
    let push = |title| bound(Hint::NshBeforeResponse, 1, ("openid", "alice"), title);
    is(&service.push_to_client(push("early")).await?.into_inner(), Outcome::OutcomeBound, "");
    drop(client);
    node.until_lost(&started.session_id).await?;
    is(&service.push_to_client(push("away")).await?.into_inner(), Outcome::OutcomeBound, "");
    gate.let_one_end();
    let mut client = node.connect().await?;
    let identity = trunkline_gateway::auth::Identity { user: "alice".into(), ..Default::default() };
    let token = trunkline_gateway::auth::sign_hs256(crate::support::KEY, &identity)?;
    let start = wire::StartRequest {
        resume_token: started.resume_token.clone(),
        positions: started.positions.clone(),
        last_sent_client_seq: 1,
        ..TestClient::start_request("alice", &token)
    };
    assert_eq!(client.start(start).await?.verdict(), wire::Verdict::Resumed);
    let msg_id = client.send_call("echo", &[], "reply").await?;
    let frames = group(client.reply(msg_id).await?)?;
    assert_eq!(frames[..2], [seen("early"), seen("away")]);
    assert_eq!(&frames[2].data[..], b"reply");
    assert_eq!(client.drain().await?, [], "nothing of it comes twice");
    node.stop((client, service, upstream)).await
}

/// Pushes in the upstream's own answer are bound as those that come by `PushToClient` are.
#[tokio::test]
async fn pushes_within_the_upstreams_answer_share_its_reply() -> Result<()> {
    let node = Node::start().await?;
    let upstream = node.upstream(Scripted::new(answer_with_pushes)).await?;
    let mut client = node.client("alice").await?;
    let mut other = node.client("bob").await?;
    let reply = client.call("any", "reply").await?;
    let frames = group(reply)?;
    let titles: Vec<_> = frames.iter().map(|frame| frame.title.as_str()).collect();
    assert_eq!(titles, ["before", "", "after"]);
    assert_eq!(frames[1].data, "reply");
    assert_eq!(next_push(&mut client, "user:alice").await?.title, "now");
    assert_eq!(next_push(&mut other, "user:bob").await?.title, "to bob");
    node.stop((client, other, upstream)).await
}

async fn answer_with_pushes(caller: Caller, call: Call) -> Result<Reply, Status> {
    use trunkline_service::{Push, SyncHint, Target};
    let push = |title: &str, hint| Push { title: title.to_owned(), hint, ..Push::default() };
    let own = || Target::User(caller.user.clone());
    Ok(Reply {
        pushes: vec![
            (own(), push("after", SyncHint::AfterResponse)),
            (own(), push("now", SyncHint::Immediately)),
            (Target::User("bob".into()), push("to bob", SyncHint::Immediately)),
            (own(), push("before", SyncHint::BeforeResponse)),
        ],
        ..Reply::ok(call.data)
    })
}

/// What an upstream of the seed's does: it pushes from inside the call that the gateway waits for.
#[tokio::test]
async fn an_upstream_pushes_from_inside_the_running_call() -> Result<()> {
    let node = Node::start().await?;
    let service = node.service().await?;
    let answers: Arc<Mutex<Vec<wire::UnicastPushResponse>>> = Arc::default();
    let kept = Arc::clone(&answers);
    let upstream = node.upstream(Scripted::new(move |caller, call| {
        let (mut service, kept) = (service.clone(), Arc::clone(&kept));
        async move {
            for hint in [Hint::NshBeforeResponse, Hint::NshAfterResponse, Hint::NshImmediately] {
                let request = bound(hint, call.client_seq, ("openid", &caller.user), hint.as_str_name());
                match service.push_to_client(request).await {
                    Ok(answer) => kept.lock().push(answer.into_inner()),
                    Err(status) => {
                        return Err(Status::new(trunkline_service::Code::Internal, status.to_string()));
                    }
                }
            }
            Ok(Reply::ok(call.data))
        }
    }));
    let upstream = upstream.await?;
    let mut client = node.client("alice").await?;
    let frames = group(client.call("before", "reply").await?)?;
    assert_eq!(frames[0], seen("NSH_BEFORE_RESPONSE"));
    assert_eq!(&frames[1].data[..], b"reply");
    assert_eq!(frames[2], seen("NSH_AFTER_RESPONSE"));
    assert_eq!(next_push(&mut client, "user:alice").await?, seen("NSH_IMMEDIATELY"));
    let outcomes: Vec<_> = answers.lock().iter().map(wire::UnicastPushResponse::outcome).collect();
    assert_eq!(outcomes, [Outcome::OutcomeBound, Outcome::OutcomeBound, Outcome::OutcomeDelivered]);
    node.stop((client, upstream)).await
}
