//! The peer of `trunkline bench transport`: the same work and the same words as its own peers have.
//!
//! It says its address and answers until its input ends, or it connects, says `ready`, begins at `go`, and tells as JSON
//! what came of it. A request is answered by its payload; an empty one by the number of one-way messages so far.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use msgtrans::{
    Packet, Responder, SessionHandler, SessionId, SessionSender, TransportClient, TransportServerBuilder,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Stdin},
    task::JoinSet,
};

/// Requests on each connection before anything is measured.
const WARM_UP: usize = 10;
/// Handshakes under way at once.
const CONNECTING: usize = 16;
/// How long a server may take to listen.
const STARTING: Duration = Duration::from_secs(10);
/// Messages between two looks at the clock.
const BETWEEN_LOOKS: u64 = 64;

struct Echo(AtomicU64);

#[async_trait::async_trait]
impl SessionHandler for Echo {
    async fn on_message(&self, _: SessionId, _: Packet, _: SessionSender) {
        self.0.fetch_add(1, Relaxed);
    }

    async fn on_request(&self, _: SessionId, request: Packet, responder: Responder) {
        let answer = match request.payload_len() {
            0 => Bytes::copy_from_slice(&self.0.load(Relaxed).to_be_bytes()),
            _ => request.into_payload(),
        };
        responder.respond(answer).await.expect("the answer is sent");
    }
}

/// `bench-serve KIND FOLDER`, whose certificate and key QUIC presents.
pub async fn serve(kind: &str, folder: &str) {
    let file = |name| std::fs::read_to_string(Path::new(folder).join(name)).expect("a PEM file");
    let tls = [file("certificate.pem"), file("key.pem")];
    let (builder, address) = super::listen_on(TransportServerBuilder::new(), kind, Some(tls));
    let server = builder.build(Arc::new(Echo(AtomicU64::new(0)))).await.expect("it is built");
    let serving = server.clone();
    let task = tokio::spawn(async move { serving.serve().await });
    println!("{address}");
    let mut told = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = told.next_line().await.expect("words") {
        assert_eq!(line, "tasks");
        println!("{}", tokio::runtime::Handle::current().metrics().num_alive_tasks());
    }
    task.abort();
}

/// `bench-load KIND ADDRESS PATTERN CONNECTIONS SIZE SECONDS`.
pub async fn load(kind: &str, address: &str, pattern: &str, numbers: [&str; 3]) {
    let [connections, size, seconds] = numbers.map(|number| number.parse::<usize>().expect("a number"));
    let body = Bytes::from(vec![b'x'; size]);
    let mut clients = Vec::new();
    while clients.len() < connections {
        let some = CONNECTING.min(connections - clients.len());
        let mut tasks = JoinSet::new();
        for _ in 0..some {
            let (kind, address, body) = (kind.to_owned(), address.to_owned(), body.clone());
            let warm_up = if pattern == "idle" { 1 } else { WARM_UP };
            tasks.spawn(async move { connect(&kind, &address, body, warm_up).await });
        }
        clients.extend(tasks.join_all().await);
    }
    let mut told = BufReader::new(tokio::io::stdin()).lines();
    println!("ready");
    let Some("go") = until_told(&mut told).await.as_deref() else { return };
    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds as u64);
    let mut tasks = JoinSet::new();
    for client in clients.clone() {
        let body = body.clone();
        match pattern {
            "request" => tasks.spawn(async move { ask(&client, body, end).await }),
            "oneway" => tasks.spawn(async move { pour(&client, body, end).await }),
            other => panic!("no pattern {other}"),
        };
    }
    let (mut count, mut times) = (0, BTreeMap::new());
    for (done, some) in tasks.join_all().await {
        count += done;
        for nanos in some {
            // To some 0.1 %.
            let step = (nanos / 1024).max(1);
            *times.entry(nanos / step * step).or_insert(0_u64) += 1;
        }
    }
    let elapsed = begun.elapsed().as_secs_f64();
    if pattern == "oneway" {
        assert_eq!(counted(&clients[0]).await, count, "messages are lost");
    }
    let times: Vec<String> = times.iter().map(|(nanos, times)| format!("[{nanos},{times}]")).collect();
    println!(r#"{{"count":{count},"seconds":{elapsed},"times":[{}]}}"#, times.join(","));
    while until_told(&mut told).await.is_some() {}
}

async fn connect(kind: &str, address: &str, body: Bytes, warm_up: usize) -> Arc<TransportClient> {
    let mut client = super::client(kind, address).await;
    let deadline = Instant::now() + STARTING;
    while let Err(error) = client.connect().await {
        // A server may begin to listen a little after it has said so.
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let client = Arc::new(client);
    // A client whose events nobody takes fails after 16,384 requests.
    let mut events = client.events().await.expect("its events");
    tokio::spawn(async move { while events.next().await.is_some() {} });
    for _ in 0..warm_up {
        client.request(&body).await.expect("an answer");
    }
    client
}

/// One request after the other, and how long each took.
async fn ask(client: &TransportClient, body: Bytes, end: Instant) -> (u64, Vec<u64>) {
    let (mut before, mut times) = (Instant::now(), Vec::new());
    while before < end {
        let answer = client.request(&body).await.expect("an answer");
        assert_eq!(answer.len(), body.len());
        let now = Instant::now();
        times.push((now - before).as_nanos() as u64);
        before = now;
    }
    (times.len() as u64, times)
}

/// As fast as they are taken, until the server has all.
async fn pour(client: &TransportClient, body: Bytes, end: Instant) -> (u64, Vec<u64>) {
    let mut sent = 0;
    while Instant::now() < end {
        for _ in 0..BETWEEN_LOOKS {
            client.send_detached(&body).await.expect("it is queued");
        }
        sent += BETWEEN_LOOKS;
    }
    counted(client).await;
    (sent, Vec::new())
}

/// How many one-way messages the server has, from everybody; this client's are then among them.
async fn counted(client: &TransportClient) -> u64 {
    let answer = client.request(&[]).await.expect("an answer");
    u64::from_be_bytes(answer[..].try_into().expect("a number"))
}

async fn until_told(told: &mut tokio::io::Lines<BufReader<Stdin>>) -> Option<String> {
    told.next_line().await.expect("words")
}
