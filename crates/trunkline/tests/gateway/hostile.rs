//! H11 in small: bytes, frames and STARTs at random over every way, from a fixed seed. The decoders and the engines have
//! random tests of their own; here the whole node has to go on, and no task of it may panic.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use trunkline_proto::wire::{self, ChannelPosition, ChannelRequest, ClientAck, StopRequest};
use trunkline_proto::{Dialect, UpBody, UpFrame};
use trunkline_testkit::{TestClient, TestServer, Way};

use crate::common::{business, client, open_server};

/// Connections over each way.
const ROUNDS: usize = 12;

/// What a connection says at most.
const WORDS: usize = 30;

/// Numbers at the edges, and others.
fn number(random: &mut StdRng) -> u64 {
    match random.random_range(0..6) {
        0 => 0,
        1 => u64::MAX >> 11,
        2 => random.random::<u64>() >> 11,
        _ => random.random_range(1..70),
    }
}

fn bytes(random: &mut StdRng) -> Vec<u8> {
    let length = random.random_range(0..200);
    (0..length).map(|_| random.random()).collect()
}

fn text(random: &mut StdRng) -> String {
    let known = ["", "all", "user:mallory", "user:healthy", "room:a", "session:x", "a\0b", "echo", "hold"];
    match random.random_range(0..10) {
        0 => String::from_utf8_lossy(&bytes(random)).into_owned(),
        at => known[at - 1].to_owned(),
    }
}

fn position(random: &mut StdRng) -> ChannelPosition {
    ChannelPosition { channel: text(random), epoch: number(random), offset: number(random) }
}

fn start(random: &mut StdRng) -> wire::StartRequest {
    let mut start = TestClient::start_request("mallory", "");
    if random.random() {
        start.openid = text(random);
    }
    if random.random() {
        start.resume_token = text(random);
    }
    if random.random() {
        start.protocol = random.random_range(0..3);
    }
    start.positions = (0..random.random_range(0..3)).map(|_| position(random)).collect();
    start.last_acked_seq_id = random.random_range(0..2) * number(random);
    start.last_sent_client_seq = random.random_range(0..2) * number(random);
    start
}

fn body(random: &mut StdRng) -> UpBody {
    let channel = |random: &mut StdRng| ChannelRequest { channel: text(random), since: None };
    match random.random_range(0..12) {
        0 | 1 => UpBody::Start(start(random).into()),
        2 => UpBody::Stop(StopRequest { reason: random.random() }),
        3 => UpBody::Heartbeat(wire::HeartbeatRequest { client_timestamp: random.random() }),
        4 | 5 => UpBody::Ack(ClientAck {
            acked_seq_id: number(random),
            positions: vec![position(random)],
            replied_client_seq: number(random),
            start_fence: number(random),
        }),
        6 => UpBody::Subscribe(ChannelRequest { since: Some(position(random)), ..channel(random) }),
        7 => UpBody::Unsubscribe(channel(random)),
        8 => UpBody::Presence(channel(random)),
        9 => UpBody::Publish(wire::PublishRequest {
            channel: text(random),
            data: bytes(random).into(),
            ..Default::default()
        }),
        _ => UpBody::Business(wire::BusinessRequest {
            action: text(random),
            data: bytes(random).into(),
            ..Default::default()
        }),
    }
}

/// One frame, whole, damaged, cut or none at all. False: the connection is over, which is an answer too.
async fn say(client: &mut TestClient, dialect: Dialect, random: &mut StdRng) -> bool {
    let frame = UpFrame::new(random.random_range(0..5), number(random), body(random));
    let mut encoded = dialect.encode_up(&frame);
    let sent = match random.random_range(0..10) {
        0 => client.send_raw(&bytes(random)).await,
        1 => client.send_payload(&bytes(random)).await,
        2 | 3 if !encoded.is_empty() => {
            let at = random.random_range(0..encoded.len());
            encoded[at] ^= 1 << random.random_range(0..8);
            client.send_payload(&encoded).await
        }
        4 => {
            encoded.truncate(random.random_range(0..=encoded.len()));
            client.send_payload(&encoded).await
        }
        _ => client.send_payload(&encoded).await,
    };
    sent.is_ok()
}

async fn connection(server: &TestServer, way: Way, random: &mut StdRng) {
    let mut client = server.connect(way).await.unwrap();
    // Half of them say something right first.
    if random.random() {
        let started = client.start_as("mallory", "").await.unwrap();
        assert!(started.success, "{way:?}: {started:?}");
    }
    for _ in 0..random.random_range(1..=WORDS) {
        if !say(&mut client, way.dialect, random).await {
            return;
        }
    }
}

#[tokio::test]
async fn h11_whatever_clients_send_the_node_goes_on_and_no_task_panics() {
    let (server, _upstream) = open_server().await;
    let mut healthy = client(&server, "healthy").await;
    let mut random = StdRng::seed_from_u64(11);
    for round in 0..ROUNDS {
        for way in Way::ALL {
            connection(&server, way, &mut random).await;
            let said = format!("{round} {way:?}");
            assert_eq!(business(healthy.call("echo", said.clone()).await.unwrap()).data, said);
        }
    }
    assert!(healthy.drain().await.unwrap().is_empty(), "somebody else's frames came");
    // A task that panics ends one connection, and says so in the log.
    let log = server.output();
    assert!(!log.contains("panicked"), "{log}");
    client(&server, "late").await;
}
