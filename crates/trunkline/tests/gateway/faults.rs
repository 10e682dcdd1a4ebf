//! Everything that clients can do wrong, at once, while healthy clients work: none of them may notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use trunkline_client::{Client, Event, Options};
use trunkline_proto::wire::{ChannelPosition, ClientAck, StartRequest};
use trunkline_proto::{UpBody, UpFrame};
use trunkline_testkit::{DEADLINE, TestClient, TestServer, TestUpstream, Way};

use crate::common::{call_frame, client, client_by, open_server};

const HEALTHY: usize = 40;

/// Calls and listens until it is told to stop; how many calls it made.
async fn healthy(client: Client, stop: Arc<AtomicBool>) -> u64 {
    let mut pushes = client.pushes();
    assert!(matches!(pushes.next().await, Some(Event::Started(_))));
    let mut calls = 0;
    while !stop.load(Relaxed) {
        let data = format!("{calls}");
        let reply =
            client.call("echo").data(data.clone()).send().await.expect("a healthy client's call failed");
        assert_eq!((reply.code, reply.data), (200, data.into()));
        calls += 1;
    }
    client.stop().await;
    while let Some(event) = pushes.next().await {
        assert!(
            !matches!(event, Event::Lost { .. } | Event::Gap(_)),
            "a healthy client was disturbed: {event:?}"
        );
    }
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_clients_notice_nothing_of_those_who_misbehave() {
    let (server, upstream) = open_server().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut working = JoinSet::new();
    for number in 0..HEALTHY {
        let endpoint = format!("tcp://{}", server.ready().tcp().unwrap()).parse().unwrap();
        let options = Options::new(format!("healthy{number}"), "").endpoint(endpoint);
        working.spawn(healthy(Client::connect(options).await.unwrap(), Arc::clone(&stop)));
    }
    let memory = server.resident_bytes().unwrap();
    for round in 0..3 {
        garbage(&server).await;
        starts(&server, round).await;
        sessions(&server, round).await;
        stuck(&server, &upstream, round).await;
    }
    stop.store(true, Relaxed);
    let calls = AtomicU64::new(0);
    let finished = async {
        while let Some(done) = working.join_next().await {
            calls.fetch_add(done.expect("a healthy client has failed"), Relaxed);
        }
    };
    tokio::time::timeout(DEADLINE, finished).await.expect("a healthy client hangs");
    assert!(calls.load(Relaxed) > HEALTHY as u64, "the healthy clients did nothing");
    let after = server.resident_bytes().unwrap();
    // The allocator keeps some of it; what matters is that it does not grow with every attack.
    assert!(after < memory + (64 << 20), "{memory} bytes before, {after} after");
}

/// Bytes that are no frames, on every surface.
async fn garbage(server: &TestServer) {
    for address in
        [server.ready().tcp().unwrap(), server.ready().http().unwrap(), server.ready().grpc().unwrap()]
    {
        for bytes in [
            &b"\0\0\0\0"[..],
            b"\xff\xff\xff\xff",
            b"\0\x10\0\x01",
            b"\x16\x03\x01",
            b"GET / HTTP/1.1\r\n\r\n",
            &[0x80; 5000],
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The server may have closed already.
            let _ = stream.write_all(bytes).await;
        }
    }
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in (1..1400).step_by(7) {
        let datagram: Vec<u8> = (0..length).map(|_| rand::random()).collect();
        socket.send_to(&datagram, server.ready().quic().unwrap()).await.unwrap();
    }
}

/// STARTs that are wrong, early, late, repeated and of others.
async fn starts(server: &TestServer, round: u64) {
    for way in Way::ALL {
        let forged = StartRequest {
            resume_token: "t1.AAAA".into(),
            positions: vec![ChannelPosition {
                channel: "user:healthy0".into(),
                epoch: 1,
                offset: u64::MAX >> 12,
            }],
            attempt: round,
            ..TestClient::start_request("mallory", "")
        };
        let mut client = server.connect(way).await.unwrap();
        let response = client.start(forged).await.unwrap();
        assert!(!response.success, "{way:?}: a forged token was taken");
        assert_eq!(client.close_code().await.unwrap(), 4101, "{way:?}");
        let mut client = server.connect(way).await.unwrap();
        let beat = UpBody::Heartbeat(Default::default());
        client.send(&UpFrame::new(1, 0, beat)).await.unwrap();
        drop(client);
    }
}

/// Sessions that break every rule they can.
async fn sessions(server: &TestServer, round: u64) {
    for (number, way) in Way::ALL.into_iter().enumerate() {
        let mut client = client_by(server, &format!("rude{number}"), way).await;
        for seq in [1, 900, 5, 1, 2, u64::MAX >> 12, 0] {
            client.send(&call_frame(7, seq, "echo", &[], "")).await.unwrap();
        }
        let positions =
            vec![ChannelPosition { channel: "all".into(), epoch: u64::MAX >> 12, offset: 1 + round }];
        let ack = ClientAck { positions, acked_seq_id: 9, replied_client_seq: 1 << 40, start_fence: 3 };
        client.send(&UpFrame::new(0, 0, UpBody::Ack(ack))).await.unwrap();
        for channel in ["", "user:healthy0", "a\0b", &"x".repeat(5000)] {
            drop(client.subscribe(channel, None).await.unwrap());
        }
        for _ in 0..12 {
            // Ten in a row are the end.
            let _ = client.send_payload(b"{\"type\": \xff").await;
        }
        drop(client);
    }
}

/// Clients that want much and read nothing.
async fn stuck(server: &TestServer, upstream: &TestUpstream, round: u64) {
    let name = format!("room:stuck{round}");
    let mut clients = Vec::new();
    for number in 0..10 {
        let mut client = client(server, &format!("stuck{number}")).await;
        client.subscribe(&name, None).await.unwrap();
        for seq in 1..=20 {
            client.send(&call_frame(seq, u64::from(seq), "echo", &[], "want")).await.unwrap();
        }
        clients.push(client);
    }
    for _ in 0..100 {
        let request = trunkline_proto::wire::ServicePublishRequest {
            channel: name.clone(),
            data: vec![b'x'; 50_000].into(),
            ..Default::default()
        };
        upstream.gateway().publish(request).await.unwrap();
    }
    drop(clients);
}
