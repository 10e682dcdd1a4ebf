//! S1: a client that loses its connection with k unacked pushes gets exactly the missing ones, in order, in both
//! protocols. Every k up to the 1,000 that are kept is `./prove S1`, which also judges how long a resume takes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use trunkline_proto::wire::{ClientAck, StartRequest, Verdict};
use trunkline_proto::{DownBody, UpBody, UpFrame};
use trunkline_testkit::{DEADLINE, TestClient, TestServer, TestUpstream, Way};

use crate::common::{again, business, millis, open_server, percentile, position, published, reading, size};

/// As much as is kept for a client that is away: protocol.md section 10.
const MOST: usize = 1_000;

/// Pushes before those that stay unacked.
const ACKED: usize = 3;

/// Clients at once: enough to keep a machine of two cores busy.
const AT_ONCE: usize = 4;

struct World {
    server: TestServer,
    upstream: TestUpstream,
}

impl World {
    async fn push(&self, user: &str, numbers: std::ops::Range<usize>) {
        for number in numbers {
            assert!(self.upstream.push_to_user(user, &number.to_string()).await.unwrap().success);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_after_a_cut_with_k_unacked_pushes_exactly_the_missing_ones_come() {
    let (server, upstream) = open_server().await;
    let world = Arc::new(World { server, upstream });
    let (most, step) = (size("S1_MOST", 100) as usize, size("S1_STEP", 25) as usize);
    assert!(most <= MOST, "more than {MOST} are a gap");
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut cases = JoinSet::new();
    for k in (0..=most).step_by(step) {
        for protocol in [0, 1] {
            let place = Arc::clone(&places).acquire_owned().await.unwrap();
            let world = Arc::clone(&world);
            cases.spawn(async move {
                let case = async {
                    match protocol {
                        0 => protocol_0(&world, k).await,
                        _ => protocol_1(&world, k).await,
                    }
                };
                let took = tokio::time::timeout(DEADLINE * 2, case).await;
                drop(place);
                (protocol, took.unwrap_or_else(|_| panic!("protocol {protocol}, k = {k}: somebody hangs")))
            });
        }
    }
    let mut times = [Vec::new(), Vec::new()];
    while let Some(case) = cases.join_next().await {
        let (protocol, took): (usize, Duration) = case.unwrap();
        times[protocol].push(took);
    }
    reading("resumes", times.iter().map(Vec::len).sum::<usize>());
    for (protocol, times) in times.iter_mut().enumerate() {
        assert_eq!(times.len(), most / step + 1);
        reading(&format!("protocol_{protocol}_median_ms"), millis(percentile(times, 50)));
        reading(&format!("protocol_{protocol}_p99_ms"), millis(percentile(times, 99)));
        reading(&format!("protocol_{protocol}_most_ms"), millis(percentile(times, 100)));
    }
}

/// Positions: one half of the clients say in START what they have read, the others leave it to their last ack. Answers
/// how long it takes from the new connection to the last of what was missing.
async fn protocol_1(world: &World, k: usize) -> Duration {
    let user = format!("one{k}");
    let mut client = world.server.connect(Way::TCP).await.unwrap();
    let start = TestClient::start_request(&user, "");
    let started = client.start(start.clone()).await.unwrap();
    client.prove(started.fence).await.unwrap();
    world.push(&user, 0..ACKED + k).await;
    let mut at = position(&started, &format!("user:{user}"));
    let (mut read, says_position) = (0, k.is_multiple_of(2));
    let reads = if says_position { ACKED + k / 2 } else { ACKED + k };
    while read < reads {
        let (next, title) = published(&client.push().await.unwrap());
        assert_eq!(title, read.to_string(), "k = {k}, before the cut");
        (at, read) = (next, read + 1);
        if read == ACKED {
            client.ack_position(at.clone()).await.unwrap();
            // Its answer says that the ack before it has been taken; what comes meanwhile waits in the client.
            let beat = UpBody::Heartbeat(Default::default());
            client.request(beat).await.unwrap();
        }
    }
    drop(client);
    let missing = if says_position { reads } else { ACKED };
    let positions = if says_position { vec![at] } else { Vec::new() };
    let begin = Instant::now();
    let mut client = world.server.connect(Way::TCP).await.unwrap();
    let resumed = client.start(again(&start, &started, positions)).await.unwrap();
    assert_eq!((resumed.verdict(), resumed.gaps.len()), (Verdict::Resumed, 0), "k = {k}: {resumed:?}");
    for number in missing..ACKED + k {
        assert_eq!(published(&client.push().await.unwrap()).1, number.to_string(), "k = {k}");
    }
    let took = begin.elapsed();
    assert!(client.drain().await.unwrap().is_empty(), "k = {k}: something came twice");
    took
}

/// Numbers: everything that was not acked comes again under the number that it had.
async fn protocol_0(world: &World, k: usize) -> Duration {
    let user = format!("zero{k}");
    let (mut client, first) = seed_client(world, &user, 0).await;
    assert_eq!(first, 1);
    client.ack(ClientAck { acked_seq_id: 1, ..ClientAck::default() }).await.unwrap();
    world.push(&user, 0..k).await;
    for number in 0..k {
        assert_eq!(client.frame().await.unwrap().seq_id, number as u64 + 2, "k = {k}, before the cut");
    }
    drop(client);
    let begin = Instant::now();
    let (mut client, first) = seed_client(world, &user, 1).await;
    assert_eq!(first, 0, "k = {k}: a resume's START_RESP has no number");
    for number in 0..k {
        let frame = client.frame().await.unwrap();
        assert_eq!(frame.seq_id, number as u64 + 2, "k = {k}");
        assert_eq!(business(frame).message, format!("[test] {number}"), "k = {k}");
    }
    let took = begin.elapsed();
    client.ack(ClientAck { acked_seq_id: k as u64 + 1, ..ClientAck::default() }).await.unwrap();
    assert!(client.drain().await.unwrap().is_empty(), "k = {k}: something came twice");
    took
}

/// A seed's client, started; the number of its START_RESP.
async fn seed_client(world: &World, user: &str, acked: u64) -> (TestClient, u64) {
    let start = StartRequest {
        openid: user.into(),
        auth_token: "default-token".into(),
        last_acked_seq_id: acked,
        ..StartRequest::default()
    };
    let mut client = world.server.connect(Way::TCP).await.unwrap();
    client.send(&UpFrame::new(1, 0, UpBody::Start(start.into()))).await.unwrap();
    let frame = client.frame().await.unwrap();
    let DownBody::StartResp(response) = &frame.body else { panic!("no START_RESP: {frame:?}") };
    assert!(response.success && response.error.is_none(), "{response:?}");
    (client, frame.seq_id)
}
