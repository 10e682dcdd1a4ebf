//! Order: of bound pushes and their reply, whoever is late (o1); and of pushes to one user, whoever makes them (o3).
//!
//! The schedules are random and seeded; no clock decides anything. The full sizes are `./prove`'s.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tonic::transport::Channel;
use trunkline_proto::wire::gateway_service_client::GatewayServiceClient;
use trunkline_proto::wire::{self, NotifySyncHint as Hint, PushOutcome as Outcome};
use trunkline_proto::{DownBody, DownFrame};
use trunkline_service::Reply;
use trunkline_testkit::TestClient;

use crate::support::{Node, Scripted, business, push_to, within};

/// A push and what became of it.
type Push = (Hint, String, wire::UnicastPushResponse);

/// The pushes of each call, in the order in which they were made.
type Pushed = Arc<Mutex<HashMap<String, Vec<Push>>>>;

/// The calls whose replies have arrived.
type Answered = watch::Sender<HashSet<String>>;

/// Makes some pushes for a call, with pauses as the seed has them; some wait until the reply is gone for certain.
async fn push_some(
    mut service: GatewayServiceClient<Channel>,
    user: String,
    seq: u64,
    answered: Arc<Answered>,
    pushed: Pushed,
) -> Result<()> {
    let mut random = seeded(&user, seq);
    let call = format!("{user}/{seq}");
    for at in 0..random.random_range(0..5) {
        if random.random_range(0..5) == 0 {
            answered.subscribe().wait_for(|answered| answered.contains(&call)).await?;
        }
        pause(&mut random, 12).await;
        let hint = [Hint::NshBeforeResponse, Hint::NshAfterResponse, Hint::NshImmediately]
            [random.random_range(0..3)];
        let title = format!("{user}/{seq}/{at}");
        let request = wire::UnicastPushRequest {
            sync_hint: hint.into(),
            bind_client_seq_id: seq,
            ..push_to("openid", &user, &title)
        };
        let answer = service.push_to_client(request).await?.into_inner();
        pushed.lock().entry(call.clone()).or_default().push((hint, title, answer));
    }
    Ok(())
}

/// A size that `./prove` may set.
fn size(name: &str, small: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(small)
}

/// A pause of random length: turns of other tasks, or at full size real time, as the check has it.
async fn pause(random: &mut StdRng, turns: u32) {
    match size("O1_DELAY_MS", 0) {
        0 => {
            for _ in 0..random.random_range(0..turns) {
                yield_now().await;
            }
        }
        most => tokio::time::sleep(Duration::from_millis(random.random_range(0..=most))).await,
    }
}

fn seeded(user: &str, seq: u64) -> StdRng {
    StdRng::seed_from_u64(seq + user.bytes().map(u64::from).sum::<u64>() * 1_000)
}

#[tokio::test]
async fn o1_before_reply_after_or_an_explicit_too_late() -> Result<()> {
    const USERS: usize = 4;
    let calls_each = size("O1_CALLS", 60);
    let node = Node::start().await?;
    let service = node.service().await?;
    let (pushed, pushers) = (Pushed::default(), Arc::new(Mutex::new(JoinSet::new())));
    let answered = Arc::new(Answered::default());
    let (kept, running, told) = (Arc::clone(&pushed), Arc::clone(&pushers), Arc::clone(&answered));
    let upstream = node.upstream(Scripted::new(move |caller, call| {
        let mut random = seeded(&caller.user, call.client_seq);
        let (service, told, kept) = (service.clone(), Arc::clone(&told), Arc::clone(&kept));
        running.lock().spawn(push_some(service, caller.user, call.client_seq, told, kept));
        async move {
            pause(&mut random, 12).await;
            Ok(Reply::ok(call.data))
        }
    }));
    let upstream = upstream.await?;
    let mut clients = Vec::new();
    for at in 0..USERS {
        let user = format!("user-{at}");
        clients.push((user.clone(), node.client(&user).await?, HashMap::new()));
    }
    // Seven at once, so that calls overlap and are never queued behind the gateway's limit of eight.
    for first in (1..=calls_each).step_by(7) {
        for (_, client, calls) in &mut clients {
            for seq in first..=calls_each.min(first + 6) {
                calls.insert(client.send_call("any", &[], format!("{seq}")).await?, seq);
            }
        }
        let mut replies = Vec::new();
        for (user, client, calls) in &mut clients {
            for (msg_id, seq) in std::mem::take(calls) {
                let call = format!("{user}/{seq}");
                replies.push((call.clone(), within("a reply", client.reply(msg_id)).await??));
                answered.send_modify(|answered| _ = answered.insert(call));
            }
        }
        // What the pushers were told is complete.
        let mut finishing = std::mem::take(&mut *pushers.lock());
        while let Some(done) = within("the pushers' end", finishing.join_next()).await? {
            done??;
        }
        for (call, reply) in replies {
            check_reply(&call, reply, &pushed)?;
        }
    }
    let counts = check_the_rest(&mut clients, &pushed).await?;
    // The schedule has met every case, so that the test says something.
    ensure!(counts.iter().all(|count| *count > 0), "bound, too late, late after, immediate: {counts:?}");
    let [bound, too_late, late, immediate] = counts;
    println!(
        "reading counts {bound} bound, {too_late} too late, {late} late but sent, {immediate} immediate"
    );
    node.stop((clients, upstream)).await
}

/// The reply's group has exactly what was bound, each side in the order in which it was accepted.
fn check_reply(call: &str, reply: DownFrame, pushed: &Pushed) -> Result<()> {
    let got: Vec<String> = match reply.body {
        DownBody::Group(frames) => frames
            .iter()
            .map(|frame| business(frame).map(|response| response.title.clone()))
            .collect::<Result<_>>()?,
        _ => vec![business(&reply)?.title.clone()],
    };
    let all = pushed.lock();
    let made = all.get(call).map(Vec::as_slice).unwrap_or_default();
    let bound = |wanted: Hint| {
        let of_side = made
            .iter()
            .filter(move |(hint, _, answer)| *hint == wanted && answer.outcome() == Outcome::OutcomeBound);
        of_side.map(|(_, title, _)| title.clone())
    };
    let reply = std::iter::once(String::new());
    let expected: Vec<String> =
        bound(Hint::NshBeforeResponse).chain(reply).chain(bound(Hint::NshAfterResponse)).collect();
    ensure!(got == expected, "{call}: got {got:?}, made {made:?}");
    Ok(())
}

/// Everything else: what went out by itself arrived, in its order; what was refused did not. Answers how many were bound,
/// too late, late but sent, and immediate.
async fn check_the_rest(
    clients: &mut [(String, TestClient, HashMap<u32, u64>)],
    pushed: &Pushed,
) -> Result<[usize; 4]> {
    let mut counts = [0; 4];
    for (user, client, _) in clients {
        let alone = |(call, made): (&String, &Vec<Push>)| match call.starts_with(&format!("{user}/")) {
            true => made.iter().filter(|(_, _, push)| push.outcome() == Outcome::OutcomeDelivered).count(),
            false => 0,
        };
        let expected: usize = pushed.lock().iter().map(alone).sum();
        let mut got = Vec::new();
        while got.len() < expected {
            got.push(business(&client.push().await?)?.title.clone());
        }
        ensure!(client.drain().await?.is_empty(), "{user} got something else");
        let place: HashMap<&String, usize> = got.iter().zip(0..).collect();
        ensure!(place.len() == got.len(), "something came twice: {got:?}");
        let all = pushed.lock();
        for (_, made) in all.iter().filter(|(call, _)| call.starts_with(&format!("{user}/"))) {
            let mut last = None;
            for (hint, title, answer) in made {
                match (answer.outcome(), answer.error_code.as_str()) {
                    (Outcome::OutcomeBound, "") => counts[0] += 1,
                    (Outcome::OutcomeUnspecified, "BIND_TOO_LATE") => {
                        ensure!(*hint == Hint::NshBeforeResponse, "{title}: {answer:?}");
                        ensure!(!place.contains_key(title), "{title} was refused and came");
                        counts[1] += 1;
                    }
                    (Outcome::OutcomeDelivered, "") => {
                        ensure!(*hint != Hint::NshBeforeResponse, "{title}: {answer:?}");
                        counts[if *hint == Hint::NshAfterResponse { 2 } else { 3 }] += 1;
                        let at = Some(*place.get(title).with_context(|| format!("{title} is lost"))?);
                        ensure!(last < at, "{title} came before an earlier one of its pusher");
                        last = at;
                    }
                    other => anyhow::bail!("{title}: {other:?}"),
                }
            }
        }
    }
    Ok(counts)
}

/// One push, between the ticks at which it was begun and answered.
struct Made {
    title: String,
    begun: u64,
    answered: u64,
}

#[tokio::test]
async fn o3_two_sessions_and_eight_pushers_see_the_order_of_acceptance() -> Result<()> {
    const PUSHERS: u64 = 8;
    let each = size("O3_EACH", 40);
    let node = Node::start().await?;
    let mut sessions = [node.client_on("alice", "phone").await?, node.client_on("alice", "tablet").await?];
    let ticks = Arc::new(AtomicU64::new(0));
    let mut pushers = JoinSet::new();
    for pusher in 0..PUSHERS {
        // A connection each: nothing orders them but the gateway.
        let (mut service, ticks) = (node.service().await?, Arc::clone(&ticks));
        pushers.spawn(async move {
            let mut made = Vec::new();
            let mut random = StdRng::seed_from_u64(pusher);
            for at in 0..each {
                for _ in 0..random.random_range(0..4) {
                    yield_now().await;
                }
                let title = format!("{pusher}/{at}");
                let begun = ticks.fetch_add(1, SeqCst);
                let answer = service.push_to_client(push_to("openid", "alice", &title)).await?.into_inner();
                ensure!(answer.outcome() == Outcome::OutcomeDelivered, "{answer:?}");
                made.push(Made { title, begun, answered: ticks.fetch_add(1, SeqCst) });
            }
            Ok(made)
        });
    }
    let mut made = Vec::new();
    while let Some(done) = within("the pushers' end", pushers.join_next()).await? {
        made.extend(done??);
    }
    let mut orders = Vec::new();
    for client in &mut sessions {
        let mut order = Vec::new();
        let mut last = 0;
        for _ in 0..PUSHERS * each {
            let frame = client.push().await?;
            let offset = frame.position.as_ref().map(|position| position.offset);
            ensure!(offset > Some(last), "offsets rise");
            last = offset.unwrap_or_default();
            order.push(business(&frame)?.title.clone());
        }
        ensure!(client.drain().await?.is_empty(), "nothing else comes");
        orders.push(order);
    }
    assert_eq!(orders[0], orders[1], "every session of the user sees one order");
    let place: HashMap<&String, usize> = orders[0].iter().zip(0..).collect();
    assert_eq!(place.len(), made.len(), "every push once");
    // Whatever was answered before another was begun comes before it.
    for one in &made {
        for other in made.iter().filter(|other| one.answered < other.begun) {
            assert!(place[&one.title] < place[&other.title], "{} after {}", one.title, other.title);
        }
    }
    println!("reading counts {} pushes, each on both sessions", made.len());
    node.stop(sessions).await
}
