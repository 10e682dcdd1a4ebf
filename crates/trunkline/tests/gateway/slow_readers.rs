//! Clients that read slowly or not at all: they cost themselves, and nobody else.

use bytes::Bytes;
use trunkline_proto::wire::{BroadcastRequest, ServicePublishRequest, UpstreamResponse, Verdict};
use trunkline_proto::{DownBody, UpBody};
use trunkline_testkit::{TestClient, TestUpstream, Transport, Way};

use crate::common::{business, channel, client, client_by, get, open_server, position, published, server};

/// Publishes as a service.
async fn publish(upstream: &TestUpstream, channel: &str, data: impl Into<Bytes>) -> u64 {
    let request = ServicePublishRequest { channel: channel.into(), data: data.into(), ..Default::default() };
    upstream.gateway().publish(request).await.unwrap().into_inner().offset
}

#[tokio::test]
async fn a_window_that_overruns_a_slow_reader_is_told_as_a_gap_between_whole_frames() {
    let (server, upstream) = open_server().await;
    for way in Way::ALL {
        let user = format!("slow-{:?}-{:?}", way.transport, way.dialect);
        let name = format!("room:{user}");
        let mut slow = client_by(&server, &user, way).await;
        let head = channel(slow.subscribe(&name, None).await.unwrap());
        // 100 are kept. Far more than sockets and windows hold passes while nobody reads.
        let mut offsets = Vec::new();
        for number in 0..400_u32 {
            let mut data = number.to_be_bytes().to_vec();
            data.resize(60_000, b'x');
            offsets.push(publish(&upstream, &name, data).await);
        }
        let (mut at, mut delivered, mut lost) = (head.offset, Vec::new(), 0);
        while delivered.last() != offsets.last() {
            let frame = slow.push().await.unwrap();
            if let DownBody::Gap(gap) = &frame.body {
                assert_eq!(
                    (gap.channel.as_str(), gap.offset),
                    (name.as_str(), at),
                    "{way:?}: a gap in its place"
                );
                let next = gap.next.as_ref().expect("delivery goes on").offset;
                lost += offsets.iter().filter(|offset| **offset > at && **offset <= next).count();
                at = next;
                continue;
            }
            let (place, data) = published(&frame);
            let expected = offsets.iter().find(|offset| **offset > at).expect("nothing is invented");
            assert_eq!(place.offset, *expected, "{way:?}: the next one after {at}");
            let number = u32::from_be_bytes(*data.first_chunk().unwrap());
            assert_eq!(
                (offsets[number as usize], data.len()),
                (place.offset, 60_000),
                "whole and in its place"
            );
            at = place.offset;
            delivered.push(place.offset);
        }
        assert_eq!(delivered.len() + lost, 400, "{way:?}");
        assert!(lost > 0, "{way:?}: 24 MB passed a client that did not read");
        assert_eq!(business(slow.call("echo", "well").await.unwrap()).data, "well");
    }
}

#[tokio::test]
async fn c5_clients_that_never_read_do_not_hold_up_the_others() {
    let (server, upstream) = open_server().await;
    let mut stuck = Vec::new();
    for number in 0..20 {
        let mut client =
            client_by(&server, &format!("stuck{number}"), Way::ALL[number % Way::ALL.len()]).await;
        channel(client.subscribe("room:all", None).await.unwrap());
        stuck.push(client);
    }
    let mut healthy = client(&server, "healthy").await;
    channel(healthy.subscribe("room:all", None).await.unwrap());
    for number in 0..300_u32 {
        let offset = publish(&upstream, "room:all", vec![b'x'; 60_000]).await;
        assert_eq!(published(&healthy.push().await.unwrap()).0.offset, offset, "publication {number}");
        if number % 50 == 0 {
            assert_eq!(business(healthy.call("echo", "x").await.unwrap()).data, "x");
        }
    }
    for mut client in stuck {
        // Each still has a connection, and hears the end of it.
        let answer = client.request(UpBody::Heartbeat(Default::default())).await.unwrap();
        assert!(matches!(answer.body, DownBody::HeartbeatResp(_)));
    }
}

#[tokio::test]
async fn l3_64_clients_that_read_nothing_hold_up_no_broadcast_and_no_call() {
    const STUCK: u32 = 64;
    const ROUNDS: u32 = 100;
    let (server, upstream) = open_server().await;
    let mut stuck = Vec::new();
    for number in 0..STUCK {
        let way = Way::ALL[number as usize % Way::ALL.len()];
        let mut client = TestClient::connect_narrow(server.ready(), way).await.unwrap();
        assert!(client.start_as(&format!("stuck{number}"), "").await.unwrap().success);
        stuck.push(client);
    }
    let mut healthy = client(&server, "healthy").await;
    for round in 0..ROUNDS {
        let title = round.to_string();
        let request =
            BroadcastRequest { title: title.clone(), data: vec![b'x'; 60_000].into(), ..Default::default() };
        let answer = upstream.gateway().broadcast_to_clients(request).await.unwrap().into_inner();
        assert_eq!(answer.sent_count, STUCK as i32 + 1);
        // In order and whole, before the next one: what waits for the others waits for them alone.
        assert_eq!(published(&healthy.push().await.unwrap()).1, title);
        assert_eq!(business(healthy.call("echo", title.clone()).await.unwrap()).data, title);
    }
    let metrics = get(server.ready(), "/metrics").await;
    let metric = |sample: &str| -> u64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{sample} is missing")).parse().unwrap()
    };
    assert!(metric("trunkline_deliveries_total") < u64::from(ROUNDS * STUCK), "they do read");
    assert_eq!(metric("trunkline_connections_closed_total{code=\"slow\"}"), 0);
    for mut client in stuck {
        // Reading slowly closes nothing: each is still there, and is answered behind what waited.
        let answer = client.request(UpBody::Heartbeat(Default::default())).await.unwrap();
        assert!(matches!(answer.body, DownBody::HeartbeatResp(_)), "{answer:?}");
    }
}

#[tokio::test]
async fn a_client_that_asks_and_does_not_read_is_not_given_more_memory() {
    const REPLIES: usize = 60;
    const SIZE: usize = 500_000;
    let server = server().anonymous().start().await.unwrap();
    let upstream = TestUpstream::start_with(server.ready().grpc().unwrap(), |request| {
        (request.action == "page").then(|| {
            let data = vec![b'x'; SIZE].into();
            Ok(UpstreamResponse { code: 200, data, ..UpstreamResponse::default() })
        })
    });
    let upstream = upstream.await.unwrap();
    upstream.register("*", "").await.unwrap();
    for transport in [Transport::Tcp, Transport::Tls, Transport::WebSocket, Transport::Quic] {
        let way = Way { transport, ..Way::TCP };
        let mut greedy = TestClient::connect_narrow(server.ready(), way).await.unwrap();
        assert!(greedy.start_as(&format!("{transport:?}"), "").await.unwrap().success);
        let (before, asked_before) = (server.resident_bytes().unwrap(), upstream.requests().len());
        let mut asked = Vec::new();
        for _ in 0..REPLIES {
            asked.push(greedy.send_call("page", &[], "").await.unwrap());
        }
        // Eight run at once. While nobody reads, what is full holds up the start of the others: the reply queue of
        // 1 MiB and what is between the two, far less than 30 MB.
        upstream.until_requests(asked_before as u64 + 8).await.unwrap();
        let mut most = 0;
        for (read, msg_id) in asked.into_iter().enumerate() {
            let ahead = upstream.requests().len() - asked_before - read;
            assert!(ahead < REPLIES / 2, "{transport:?}: {ahead} replies wait for who does not read");
            most = most.max(server.resident_bytes().unwrap());
            assert_eq!(business(greedy.reply(msg_id).await.unwrap()).data.len(), SIZE);
        }
        let more = most.saturating_sub(before);
        // Eight replies on their way, each in the form that came and the one that goes, beside the queue; all that was
        // asked for would be twice 30 MB.
        assert!(more < (REPLIES * SIZE) as u64, "{transport:?}: {more} bytes more than {before}");
    }
}

#[tokio::test]
async fn a_cut_in_the_middle_of_a_backlog_resumes_where_the_client_was() {
    let (server, upstream) = open_server().await;
    let way = Way { transport: Transport::Quic, dialect: trunkline_proto::Dialect::Protobuf };
    let mut reader = server.connect(way).await.unwrap();
    let start = TestClient::start_request("reader", "");
    let started = reader.start(start.clone()).await.unwrap();
    reader.prove(started.fence).await.unwrap();
    channel(reader.subscribe("room:cut", None).await.unwrap());
    let mut offsets = Vec::new();
    for number in 0..50_u32 {
        offsets.push(publish(&upstream, "room:cut", vec![number as u8; 10_000]).await);
    }
    let mut at = None;
    for expected in &offsets[..20] {
        let (place, _) = published(&reader.push().await.unwrap());
        assert_eq!(place.offset, *expected);
        at = Some(place);
    }
    drop(reader);
    let request =
        crate::common::again(&start, &started, vec![at.unwrap(), position(&started, "user:reader")]);
    let (mut reader, resumed) = crate::common::come_back(server.ready(), way, request).await;
    assert_eq!(resumed.verdict(), Verdict::Resumed, "{resumed:?}");
    for expected in &offsets[20..] {
        assert_eq!(published(&reader.push().await.unwrap()).0.offset, *expected);
    }
}
