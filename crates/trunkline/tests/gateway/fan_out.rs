//! One publication and very many subscribers: what it costs to make its bytes, and what those cost who stop reading.

use std::sync::Arc;

use tokio::task::JoinSet;
use trunkline_proto::wire::ServicePublishRequest;
use trunkline_testkit::{Ready, TestClient, TestServer, TestUpstream, Way};

use crate::common::{channel, find, get, open_server, published, reading, size};

/// Two dialects in two framings: four forms of each publication.
const WAYS: [Way; 4] = [Way::ALL[0], Way::ALL[1], Way::ALL[3], Way::ALL[4]];

async fn publish(upstream: &TestUpstream, data: Vec<u8>) {
    let request =
        ServicePublishRequest { channel: "room:all".into(), data: data.into(), ..Default::default() };
    let answer = upstream.gateway().publish(request).await.unwrap().into_inner();
    assert_eq!(answer.error, None);
}

/// Clients that subscribe, as many on each way.
async fn subscribers(server: &TestServer, count: u64) -> Vec<TestClient> {
    let ready = Arc::new(server.ready().clone());
    let mut starting = JoinSet::new();
    for (at, way) in WAYS.into_iter().enumerate() {
        let ready = Arc::clone(&ready);
        starting.spawn(async move {
            let mut clients = Vec::new();
            for number in 0..count / WAYS.len() as u64 {
                clients.push(subscriber(&ready, way, format!("user-{at}-{number}")).await);
            }
            clients
        });
    }
    starting.join_all().await.into_iter().flatten().collect()
}

async fn subscriber(ready: &Ready, way: Way, user: String) -> TestClient {
    let mut client = TestClient::connect_narrow(ready, way).await.unwrap();
    let response = client.start_as(&user, "").await.unwrap();
    assert!(response.success, "{user} was refused: {response:?}");
    channel(client.subscribe("room:all", None).await.unwrap());
    client
}

async fn figure(server: &TestServer, name: &str) -> u64 {
    let status = get(server.ready(), "/api/status").await;
    find(&serde_json::from_str(&status).unwrap(), name).unwrap_or_else(|| panic!("no {name} in {status}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_to_1000_subscribers_is_encoded_once_for_each_form() {
    const PUBLICATIONS: u64 = 10;
    let (server, upstream) = open_server().await;
    let mut clients = subscribers(&server, 1_000).await;
    assert_eq!(clients.len(), 1_000);
    let before = figure(&server, "publications_encoded").await;
    for number in 0..PUBLICATIONS {
        publish(&upstream, vec![number as u8; 100]).await;
    }
    for client in &mut clients {
        for number in 0..PUBLICATIONS {
            assert_eq!(published(&client.push().await.unwrap()).1, vec![number as u8; 100]);
        }
    }
    assert_eq!(figure(&server, "deliveries").await, 1_000 * PUBLICATIONS);
    let encoded = figure(&server, "publications_encoded").await - before;
    assert_eq!(encoded, PUBLICATIONS * WAYS.len() as u64);
}

/// Beyond what the kernel's buffers hold, a reader that has stopped costs the rest of the one frame that it has the
/// beginning of, and a cursor: for small publications under 1 KB. With publications of 1 MB the rest of one may be
/// that large, since it is copied so that it pins nothing of the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r9_readers_that_stop_cost_under_1_kb_each() {
    const PUBLICATIONS: usize = 1_000;
    const EACH: usize = 900;
    let readers = size("STALLED_READERS", 200);
    let (server, upstream) = open_server().await;
    let clients = subscribers(&server, readers).await;
    // Once through everything that is made at the first use.
    publish(&upstream, vec![b'x'; EACH]).await;
    let before = server.resident_bytes().unwrap();
    for _ in 0..PUBLICATIONS {
        publish(&upstream, vec![b'x'; EACH]).await;
    }
    let all = readers * PUBLICATIONS as u64;
    let delivered = figure(&server, "deliveries").await;
    assert!(delivered < all, "the kernel took everything: {delivered} of {all}");
    let (queued, kept) = (figure(&server, "queued_bytes").await, figure(&server, "publication_bytes").await);
    assert!(queued <= readers * 1_024, "{queued} bytes wait in the node for {readers} readers");
    // The log's windows bound what is kept for all of them together: 256 KiB, in itself and in four forms.
    assert!(kept <= 4 << 20, "{kept} bytes are kept");
    // What no counter sees: an allocator keeps some of what passed through it, but no queue for each reader, which
    // would hold the greater part of 900 KB for each.
    let grown = server.resident_bytes().unwrap().saturating_sub(before);
    let undelivered = (all - delivered) * EACH as u64;
    reading("queued_bytes_per_reader", queued / readers);
    reading("resident_growth_per_reader", grown / readers);
    assert!(grown < undelivered / 4, "{grown} bytes more for {undelivered} that nobody has read");
    drop(clients);
}
