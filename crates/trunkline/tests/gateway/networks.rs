//! Bad networks: lost, late, reordered and doubled datagrams, slow and jittery streams, paths that go dark.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::timeout;
use trunkline_client::{Backoff, Client, ClientTls, Event, Options, Pushes};
use trunkline_proto::wire::Verdict;
use trunkline_testkit::{DEADLINE, Ready, TestClient, Transport, Way};
use trunkline_transport::chaos::{StreamFaults, TcpProxy, UdpFaults, UdpProxy};

use crate::common::{again, business, come_back, open_server, position, published, server};

/// Calls, pushes, a cut and a resume over a network.
async fn story(upstream: &trunkline_testkit::TestUpstream, ready: &Ready, way: Way, user: &str) {
    let mut client = TestClient::connect(ready, way).await.unwrap();
    let start = TestClient::start_request(user, "");
    let started = client.start(start.clone()).await.unwrap();
    client.prove(started.fence).await.unwrap();
    for number in 0..10 {
        let data = vec![number; 5_000];
        assert_eq!(business(client.call("echo", data.clone()).await.unwrap()).data, data, "{way:?}");
    }
    for number in 0..40 {
        upstream.push_to_user(user, &number.to_string()).await.unwrap();
    }
    let mut at = position(&started, &format!("user:{user}"));
    for number in 0..20 {
        let title;
        (at, title) = published(&client.push().await.unwrap());
        assert_eq!(title, number.to_string(), "{way:?}");
    }
    drop(client);
    let (mut client, resumed) = come_back(ready, way, again(&start, &started, vec![at])).await;
    assert_eq!(resumed.verdict(), Verdict::Resumed, "{way:?}");
    for number in 20..40 {
        assert_eq!(published(&client.push().await.unwrap()).1, number.to_string(), "{way:?}");
    }
}

#[tokio::test]
async fn lossy_datagrams_lose_no_frame() {
    let (server, upstream) = open_server().await;
    let faults = UdpFaults {
        loss: 0.05,
        duplicates: 0.05,
        latency: Duration::from_millis(2),
        jitter: Duration::from_millis(5),
        ..UdpFaults::default()
    };
    let proxy = UdpProxy::start(server.ready().quic().unwrap(), 11, faults).await.unwrap();
    let ready = server.ready().with_quic(proxy.address());
    for way in
        Way::ALL.into_iter().filter(|way| matches!(way.transport, Transport::Quic | Transport::WebTransport))
    {
        story(&upstream, &ready, way, &format!("{way:?}")).await;
    }
    let (carried, lost) = proxy.counts();
    assert!(lost > 10, "only {lost} of {carried} datagrams were lost: this tested nothing");
}

#[tokio::test]
async fn slow_and_jittery_streams_lose_no_frame() {
    let (server, upstream) = open_server().await;
    let faults = StreamFaults {
        latency: Duration::from_millis(5),
        jitter: Duration::from_millis(10),
        down_bytes_per_second: NonZeroU32::new(1 << 20),
        ..StreamFaults::default()
    };
    let tcp = TcpProxy::start(server.ready().tcp().unwrap(), 5, faults.clone()).await.unwrap();
    let http = TcpProxy::start(server.ready().http().unwrap(), 6, faults).await.unwrap();
    let ready = server.ready().with_tcp(tcp.address()).with_http(http.address());
    for way in
        Way::ALL.into_iter().filter(|way| !matches!(way.transport, Transport::Quic | Transport::WebTransport))
    {
        story(&upstream, &ready, way, &format!("{way:?}")).await;
    }
}

async fn next(pushes: &mut Pushes) -> Event {
    timeout(DEADLINE, pushes.next()).await.expect("no event").expect("the events have ended")
}

#[tokio::test]
async fn a_path_that_goes_dark_is_left_for_another() {
    let server = server().anonymous().config("[session]\nheartbeat = \"1s\"").start().await.unwrap();
    let proxy = UdpProxy::start(server.ready().quic().unwrap(), 1, UdpFaults::default()).await.unwrap();
    let mut options = Options::new("alice", "");
    options.endpoints = vec![
        format!("quic://{}", proxy.address()).parse().unwrap(),
        format!("tcp://{}", server.ready().tcp().unwrap()).parse().unwrap(),
    ];
    options.tls = Some(ClientTls::pinned(vec![server.ready().certificate().unwrap()]).unwrap());
    options.backoff = Backoff { first: Duration::from_millis(5), longest: Duration::from_millis(50) };
    let client = Client::connect(options).await.unwrap();
    let mut pushes = client.pushes();
    let Event::Started(started) = next(&mut pushes).await else { panic!("not started") };
    assert_eq!(started.transport, "quic");
    client.subscribe("room:dark", None).await.unwrap();
    proxy.set_faults(UdpFaults { black_hole: true, ..UdpFaults::default() });
    let Event::Lost { code, .. } = next(&mut pushes).await else { panic!("not noticed") };
    assert_eq!(code, Some(4002), "nothing was heard for 2.5 heartbeats");
    let Event::Started(started) = next(&mut pushes).await else { panic!("not back") };
    assert_eq!((started.transport, started.verdict), ("tcp", trunkline_client::Verdict::Resumed));
    let placed = client.publish("room:dark", "light").await.unwrap();
    let Event::Publication(publication) = next(&mut pushes).await else { panic!("no publication") };
    assert_eq!((publication.position, publication.data), (placed, "light".into()));
}
