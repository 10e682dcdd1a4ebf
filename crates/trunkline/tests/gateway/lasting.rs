//! What lasts and what does not: idle clients, silent ones, and what thousands that came and went leave behind.

use tokio::time::{Duration, Instant, interval};
use trunkline_proto::wire::{HeartbeatRequest, StopRequest};
use trunkline_proto::{UpBody, UpFrame};
use trunkline_testkit::{DEADLINE, TestServer, Transport, Way};

use crate::common::{business, client_by, open_server, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s10_c11_on_every_way_heartbeats_alone_keep_a_client_and_a_silent_one_is_4002() {
    let server = server().anonymous().config("[session]\nheartbeat = \"1s\"").start().await.unwrap();
    futures_util::future::join_all(Way::ALL.map(|way| lives_on_heartbeats(&server, way))).await;
}

async fn lives_on_heartbeats(server: &TestServer, way: Way) {
    let mut silent = client_by(server, &format!("silent over {way:?}"), way).await;
    let mut idle = client_by(server, &format!("idle over {way:?}"), way).await;
    assert_eq!(idle.started.as_ref().unwrap().heartbeat_interval, 1);
    // The silent one goes after 2.5 of them; the idle one beats on until then, and after.
    let mut beats = interval(Duration::from_secs(1));
    let closing = silent.close_code();
    tokio::pin!(closing);
    let code = loop {
        tokio::select! {
            code = &mut closing => break code.unwrap(),
            _ = beats.tick() => {
                let beat = UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 7 });
                idle.request(beat).await.unwrap_or_else(|error| panic!("{way:?}: {error:#}"));
            }
        }
    };
    assert_eq!(code, 4002, "{way:?}");
    idle.request(UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 8 })).await.unwrap();
}

#[tokio::test]
async fn s9_stop_closes_within_its_second_on_every_way() {
    let (server, _upstream) = open_server().await;
    for way in Way::ALL {
        let mut client = client_by(&server, "alice", way).await;
        client.send(&UpFrame::new(0, 0, UpBody::Stop(StopRequest { reason: 1 }))).await.unwrap();
        assert_eq!(client.close_code().await.unwrap(), 4300, "{way:?}");
    }
}

/// What the node says of itself.
async fn stats(server: &TestServer) -> serde_json::Value {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(server.ready().http().unwrap()).await.unwrap();
    stream.write_all(b"GET /api/status HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let body = answer.split_once("\r\n\r\n").expect("a head").1;
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// Finds a number anywhere in the figures by its name.
fn figure(value: &serde_json::Value, name: &str) -> Option<u64> {
    match value {
        serde_json::Value::Object(members) => members
            .get(name)
            .and_then(serde_json::Value::as_u64)
            .or_else(|| members.values().find_map(|member| figure(member, name))),
        _ => None,
    }
}

#[tokio::test]
async fn c6_sessions_that_came_and_went_leave_nothing_behind() {
    let (server, _upstream) = open_server().await;
    let round = async |count: usize| {
        for number in 0..count {
            let way = Way::ALL[number % Way::ALL.len()];
            let mut client = client_by(&server, &format!("user{number}"), way).await;
            business(client.call("echo", "x").await.unwrap());
            client.send(&UpFrame::new(0, 0, UpBody::Stop(StopRequest { reason: 1 }))).await.unwrap();
            client.close_code().await.unwrap();
        }
    };
    round(50).await;
    let settled = stats(&server).await;
    let (tasks, memory) = (figure(&settled, "tasks").unwrap(), server.resident_bytes().unwrap());
    round(300).await;
    // Connections close behind their clients' backs: what is counted falls back within the deadline.
    let begin = Instant::now();
    let mut ticks = interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        let now = stats(&server).await;
        let (live, waiting) =
            (figure(&now, "sessions_live").unwrap(), figure(&now, "sessions_waiting").unwrap());
        if live + waiting == 0 && figure(&now, "tasks").unwrap() <= tasks + 2 {
            break;
        }
        assert!(begin.elapsed() < DEADLINE, "{now}");
    }
    let after = server.resident_bytes().unwrap();
    assert!(after < memory + (8 << 20), "{memory} bytes before 300 sessions, {after} after");
}

#[tokio::test]
async fn half_open_handshakes_keep_nobody_out() {
    use tokio::io::AsyncWriteExt;
    let (server, _upstream) = open_server().await;
    let mut hanging = Vec::new();
    for address in [server.ready().tcp().unwrap(), server.ready().http().unwrap()] {
        // Nothing; a TLS hello that never ends; an HTTP head that never ends; half a frame.
        for begin in [&b""[..], b"\x16\x03\x01\x02\x00\x01", b"GET /ws HTTP/1.1\r\nhost", b"\x00\x00"] {
            for _ in 0..10 {
                let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                stream.write_all(begin).await.unwrap();
                hanging.push(stream);
            }
        }
    }
    let garbage = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in 1..1200 {
        garbage.send_to(&vec![0xc3; length], server.ready().quic().unwrap()).await.unwrap();
    }
    for way in Way::ALL {
        let mut client = client_by(&server, "alice", way).await;
        assert_eq!(business(client.call("echo", "in").await.unwrap()).data, "in", "{way:?}");
    }
    drop(hanging);
}

#[tokio::test]
async fn s8_numbers_of_one_session_are_not_anothers() {
    let (server, upstream) = open_server().await;
    // Two devices of one user use the same numbers at once.
    let mut phone = server.connect(Way::TCP).await.unwrap();
    let mut laptop = server.connect(Way { transport: Transport::WebSocket, ..Way::TCP }).await.unwrap();
    for (client, device) in [(&mut phone, "phone"), (&mut laptop, "laptop")] {
        let start = trunkline_proto::wire::StartRequest {
            device_id: device.into(),
            ..trunkline_testkit::TestClient::start_request("alice", "")
        };
        assert!(client.start(start).await.unwrap().success);
    }
    let one = phone.call_with("count", &[("key", "phone")], "").await.unwrap();
    let two = laptop.call_with("count", &[("key", "laptop")], "").await.unwrap();
    assert_eq!((business(one).data, business(two).data), ("1".into(), "1".into()));
    assert_eq!((upstream.count("phone"), upstream.count("laptop")), (1, 1));
}
