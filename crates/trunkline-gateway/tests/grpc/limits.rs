//! What a node takes on, and what it tells those whom it does not: limits of calls, bytes, memory, sessions and frames.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use trunkline_gateway::{CallLimit, Level, LimitFigures};
use trunkline_proto::wire::{self, ErrorMessage, HeartbeatRequest, StartRequest};
use trunkline_proto::{Dialect, DownBody, UpBody, UpFrame};
use trunkline_service::Reply;
use trunkline_testkit::TestClient;
use trunkline_transport::{Accepted, Socket, StreamListener, StreamOptions};

use crate::support::{KEY, Node, Scripted, any_port, business, session_of};

/// An upstream that holds every call until it is let go, and knows how many it held at once.
#[derive(Clone)]
struct Holding {
    gate: Arc<Semaphore>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Holding {
    fn new() -> Self {
        Holding { gate: Arc::new(Semaphore::new(0)), now: Arc::default(), most: Arc::default() }
    }

    fn service(&self) -> Scripted {
        let held = self.clone();
        Scripted::new(move |_, call| {
            let held = held.clone();
            async move {
                held.most.fetch_max(held.now.fetch_add(1, SeqCst) + 1, SeqCst);
                // It is never closed.
                held.gate.acquire().await.map_or_else(|_closed| (), |permit| permit.forget());
                held.now.fetch_sub(1, SeqCst);
                Ok(Reply::ok(call.data))
            }
        })
    }

    fn release(&self, calls: usize) {
        self.gate.add_permits(calls);
    }
}

/// The error of a refusal for load, which says when to come back.
fn refusal(body: DownBody) -> ErrorMessage {
    let DownBody::Error(error) = body else { panic!("it was not refused: {body:?}") };
    assert!(matches!(error.error_code, 429 | 503), "{error:?}");
    assert!(error.retry_after_ms > 0, "when to come back: {error:?}");
    error
}

/// Sends so many calls; how many were refused before a heartbeat was answered.
async fn refused(client: &mut TestClient, calls: usize) -> Result<usize> {
    for _ in 0..calls {
        client.send_call("hold", &[], "x").await?;
    }
    let told: Vec<_> = client.drain().await?.into_iter().map(|frame| refusal(frame.body)).collect();
    Ok(told.len())
}

fn limit(node: &Node, name: &str) -> LimitFigures {
    node.gateway.snapshot().limits[name]
}

#[tokio::test]
async fn l2_no_more_calls_are_in_flight_than_may_be_and_one_user_leaves_room_for_the_next() -> Result<()> {
    let node = Node::start_with(|setup| setup.options.calls_in_flight = 12).await?;
    let held = Holding::new();
    let upstream = node.upstream(held.service()).await?;
    // One user in four sessions wants all of it, and gets half.
    let mut greedy = Vec::new();
    let mut turned_away = 0;
    for device in ["a", "b", "c", "d"] {
        let mut client = node.client_on("greedy", device).await?;
        turned_away += refused(&mut client, 3).await?;
        greedy.push(client);
    }
    assert_eq!(turned_away, 6);
    let mut next = node.client("next").await?;
    assert_eq!(refused(&mut next, 4).await?, 1, "three of the six that are free");
    let snapshot = node.gateway.snapshot();
    assert_eq!(snapshot.calls_refused_by["user_in_flight"], 7);
    assert_eq!(snapshot.counters.calls_refused, 7);
    let figures = LimitFigures { used: 9, limit: 12, level: Level::Normal };
    assert_eq!(limit(&node, "calls_in_flight"), figures);
    // Far more come than may be, from as many users.
    let mut others = Vec::new();
    for number in 0..6 {
        let mut client = node.client(&format!("user{number}")).await?;
        refused(&mut client, 3).await?;
        others.push(client);
    }
    assert!(held.most.load(SeqCst) <= 12, "{} at once", held.most.load(SeqCst));
    held.release(100);
    for _ in 0..3 {
        next.frame_where(|frame| matches!(frame.body, DownBody::BusinessData(_))).await?;
    }
    // The places of these are free again.
    let answer = next.call("hold", "again").await?;
    assert_eq!(business(&answer)?.data, "again");
    node.stop((greedy, next, others, upstream)).await
}

#[tokio::test]
async fn what_goes_on_is_never_refused_while_memory_is_short() -> Result<()> {
    let node = Node::start().await?;
    let upstream = node.upstream(Scripted::echo()).await?;
    let mut alice = node.client("alice").await?;
    business(&alice.call("echo", "x").await?)?;
    node.gateway.memory(2_000, 1_000);
    let told = refusal(alice.call("echo", "x").await?.body);
    assert_eq!(told.error_code, 503);
    // A heartbeat and an ack go on, and so does the session on another connection.
    assert!(alice.drain().await?.is_empty());
    let started = alice.started.clone().context("it has started")?;
    drop(alice);
    node.until_lost(&started.session_id).await?;
    let mut alice = node.connect().await?;
    let again = StartRequest { resume_token: started.resume_token.clone(), ..start_of("alice")? };
    let resumed = alice.start(again).await?;
    assert!(resumed.success && resumed.session_id == started.session_id, "{resumed:?}");
    // Nobody new comes in, and is told when to come.
    let mut bob = node.connect().await?;
    let response = bob.start(start_of("bob")?).await?;
    let error = response.error.context("a refusal says why")?;
    assert!(!response.success && error.error_code == 503 && error.retry_after_ms > 0, "{error:?}");
    let (notice, _) = bob.closed().await?;
    let notice = notice.context("a close says why")?;
    assert!(notice.code == 4005 && notice.reconnect_after_ms >= 1_000, "{notice:?}");
    let snapshot = node.gateway.snapshot();
    assert_eq!((snapshot.calls_refused_by["memory"], snapshot.starts_refused_by["memory"]), (1, 1));
    assert_eq!(snapshot.limits["memory_bytes"].level, Level::Reached);
    // Until it is well below the limit.
    node.gateway.memory(970, 1_000);
    assert_eq!(node.gateway.snapshot().limits["memory_bytes"].level, Level::Reached);
    node.gateway.memory(900, 1_000);
    assert_eq!(node.gateway.snapshot().limits["memory_bytes"].level, Level::Warning);
    business(&alice.call("echo", "x").await?)?;
    let bob = node.client("bob").await?;
    node.stop((alice, bob, upstream)).await
}

#[tokio::test]
async fn sessions_have_a_limit_that_resumes_and_second_logins_do_not_meet() -> Result<()> {
    let node = Node::start_with(|setup| setup.options.max_sessions = 2).await?;
    let (one, two) = (node.client("one").await?, node.client("two").await?);
    let mut three = node.connect().await?;
    let response = three.start(start_of("three")?).await?;
    assert_eq!(response.error.context("a refusal says why")?.error_code, 503);
    assert_eq!(three.close_code().await?, 4005);
    assert_eq!(node.gateway.snapshot().starts_refused_by["sessions"], 1);
    // The same device again takes the place that it has.
    let first = session_of(&one);
    let one_again = node.client("one").await?;
    assert_ne!(session_of(&one_again), first);
    node.stop((one, one_again, two)).await
}

#[tokio::test]
async fn replies_that_nobody_reads_keep_calls_from_starting() -> Result<()> {
    let node = Node::start_with(|setup| setup.options.reply_queue_bytes = 64 * 1024).await?;
    let upstream = node.upstream(Scripted::new(|_, _| async { Ok(Reply::ok(vec![b'x'; 500_000])) })).await?;
    let mut greedy = node.client("greedy").await?;
    // More than sockets take, from a client that reads nothing.
    for _ in 0..60 {
        greedy.send_call("large", &[], "").await?;
    }
    let mut other = node.client("other").await?;
    let told = loop {
        if let DownBody::Error(error) = other.call("large", "").await?.body {
            break error;
        }
    };
    assert_eq!((told.error_code, told.retry_after_ms > 0), (503, true), "{told:?}");
    assert!(node.gateway.snapshot().calls_refused_by["reply_queue"] > 0);
    assert!(other.drain().await?.is_empty(), "a heartbeat is answered");
    // Once it reads, everybody goes on.
    drop(greedy);
    loop {
        match other.call("large", "").await?.body {
            DownBody::BusinessData(_) => break,
            DownBody::Error(error) => assert_eq!(error.error_code, 503),
            body => panic!("{body:?}"),
        }
    }
    node.stop((other, upstream)).await
}

#[tokio::test]
async fn a_rate_is_shared_among_users_and_each_is_told_when_to_come() -> Result<()> {
    let burst = NonZeroU32::new(20).context("not 0")?;
    let limit = CallLimit { per_second: NonZeroU32::MIN, burst };
    let node = Node::start_with(|setup| setup.options.calls = Some(limit)).await?;
    let upstream = node.upstream(Scripted::echo()).await?;
    let mut greedy = node.client("greedy").await?;
    let mut told = Vec::new();
    for _ in 0..40 {
        if let DownBody::Error(_) = &greedy.call("echo", "x").await?.body {
            told.push(());
        }
    }
    // Ten from above the reserve, and perhaps one or two that time has brought.
    assert!((25..=30).contains(&told.len()), "{} of 40 were refused", told.len());
    let mut modest = node.client("modest").await?;
    for _ in 0..3 {
        business(&modest.call("echo", "x").await?)?;
    }
    let snapshot = node.gateway.snapshot();
    assert_eq!(snapshot.calls_refused_by["user_call_rate"], told.len() as u64);
    assert_eq!(snapshot.limits["calls_per_second"].limit, 1);
    node.stop((greedy, modest, upstream)).await
}

#[tokio::test]
async fn a_surplus_of_frames_is_read_later_and_nothing_of_it_is_refused() -> Result<()> {
    let node = Node::start_with(|setup| {
        setup.options.frames_per_address = 300;
        setup.options.session.frames_per_second = 200;
        setup.options.session.frame_burst = 200;
    })
    .await?;
    // Loopback is nobody's address, so its connections have the pace of a connection only.
    let mut here = node.client("here").await?;
    beat(&mut here, 500).await?;
    let paused = node.gateway.snapshot().reads_paused_by;
    assert!(paused["connection"] > 0 && paused["address"] == 0, "{paused:?}");
    // Two customers behind one IPv6 network, and one who is not.
    let mut near = client_from(&node, "near", "2001:db8::1").await?;
    let mut neighbour = client_from(&node, "neighbour", "2001:db8::2").await?;
    let mut far = client_from(&node, "far", "192.0.2.1").await?;
    beat(&mut near, 390).await?;
    beat(&mut neighbour, 390).await?;
    let paused = node.gateway.snapshot().reads_paused_by;
    assert!(paused["address"] > 0, "{paused:?}");
    beat(&mut far, 390).await?;
    assert_eq!(node.gateway.snapshot().reads_paused_by, paused, "another address has its own");
    node.stop((here, near, neighbour, far)).await
}

/// Sends so many heartbeats at once; every one is answered.
async fn beat(client: &mut TestClient, count: u32) -> Result<()> {
    let mut last = 0;
    for _ in 0..count {
        last = client.msg_id();
        let beat = UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 1 });
        client.send(&UpFrame::new(last, 0, beat)).await?;
    }
    for msg_id in last + 1 - count..=last {
        let answer = client.reply(msg_id).await?;
        assert!(matches!(answer.body, DownBody::HeartbeatResp(_)), "{answer:?}");
    }
    Ok(())
}

/// A started client that seems to come from this address.
async fn client_from(node: &Node, user: &str, address: &str) -> Result<TestClient> {
    let listener = TcpListener::bind(any_port()).await?.into_std()?;
    let mut listener = StreamListener::bind(Socket::Bound(listener), StreamOptions::default())?;
    let client = TestClient::connect_tcp(listener.local_addr()?, Dialect::Protobuf);
    let (client, accepted) = tokio::join!(client, listener.accept());
    let Some(Accepted::Stream(stream)) = accepted else { anyhow::bail!("nothing was accepted") };
    let mut connection = stream.into_connection(1 << 20);
    connection.info.peer = Some(SocketAddr::new(address.parse::<IpAddr>()?, 1));
    node.gateway.serve(connection);
    let mut client = client?;
    let response = client.start(start_of(user)?).await?;
    anyhow::ensure!(response.success, "START was refused: {response:?}");
    Ok(client)
}

fn start_of(user: &str) -> Result<wire::StartRequest> {
    let identity = trunkline_gateway::auth::Identity { user: user.to_owned(), ..Default::default() };
    Ok(TestClient::start_request(user, &trunkline_gateway::auth::sign_hs256(KEY, &identity)?))
}
