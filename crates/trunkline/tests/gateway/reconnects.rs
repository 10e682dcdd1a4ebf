//! H10 in small: everybody loses the connection and comes back in the same moment. `./prove storm` cuts at random bytes,
//! again and again, under load.

use std::sync::Arc;

use tokio::sync::Barrier;
use tokio::task::JoinSet;
use trunkline_proto::wire::{BroadcastRequest, StartRequest, StartResponse, Verdict};
use trunkline_testkit::{TestClient, Way};

use crate::common::{again, business, come_back, get, open_server, position, published};

const CLIENTS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h10_everybody_who_comes_back_at_once_resumes_at_the_first_try() {
    let (server, upstream) = open_server().await;
    let ready = Arc::new(server.ready().clone());
    let way = |number: usize| Way::ALL[number % Way::ALL.len()];
    let mut sessions: Vec<(TestClient, StartRequest, StartResponse)> = Vec::new();
    for number in 0..CLIENTS {
        let start = TestClient::start_request(&format!("user{number}"), "");
        let mut client = server.connect(way(number)).await.unwrap();
        let response = client.start(start.clone()).await.unwrap();
        client.prove(response.fence).await.unwrap();
        // Answered behind the proof, so that is taken.
        business(client.call("echo", "x").await.unwrap());
        sessions.push((client, start, response));
    }
    // All are cut, and then something is pushed to all of them.
    let lost: Vec<_> = sessions.into_iter().map(|(_cut, start, response)| (start, response)).collect();
    let request = BroadcastRequest { title: "while away".into(), ..Default::default() };
    upstream.gateway().broadcast_to_clients(request).await.unwrap();
    let together = Arc::new(Barrier::new(CLIENTS));
    let mut coming = JoinSet::new();
    for (number, (start, response)) in lost.into_iter().enumerate() {
        let (ready, together, way) = (Arc::clone(&ready), Arc::clone(&together), way(number));
        coming.spawn(async move {
            let positions = vec![position(&response, "all")];
            let start = again(&start, &response, positions);
            together.wait().await;
            let (mut client, resumed) = come_back(&ready, way, start).await;
            assert_eq!(resumed.verdict(), Verdict::Resumed, "{way:?}: {resumed:?}");
            assert_eq!(published(&client.push().await.unwrap()).1, "while away", "{way:?}");
            client.next_client_seq = 2;
            assert_eq!(business(client.call("echo", "back").await.unwrap()).data, "back", "{way:?}");
            assert!(client.drain().await.unwrap().is_empty(), "{way:?}: something came twice");
            client
        });
    }
    let mut back = Vec::new();
    while let Some(client) = coming.join_next().await {
        back.push(client.unwrap());
    }
    // One START each, and each of them taken: nobody was sent away to come again, and nobody has another's place.
    let metrics = get(server.ready(), "/metrics").await;
    let metric = |sample: &str| -> u64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{sample} is missing")).parse().unwrap()
    };
    let count = CLIENTS as u64;
    assert_eq!(
        (metric("trunkline_sessions_started_total"), metric("trunkline_sessions_resumed_total")),
        (count, count)
    );
    assert_eq!(
        (metric("trunkline_starts_refused_total"), metric("trunkline_connections_refused_total")),
        (0, 0)
    );
    assert_eq!((metric("trunkline_sessions_live"), metric("trunkline_sessions_waiting")), (count, 0));
}
