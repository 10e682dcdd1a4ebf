//! `trunkline trace`: where a call or a publication is, and what became of it, from a node in a process of its own.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trunkline_proto::DownBody;
use trunkline_proto::wire::{ClientAck, ServicePublishRequest};
use trunkline_testkit::{TestClient, TestServer, TestUpstream};

use crate::common::{
    CONFIG, business, call_frame, channel, client, error, get, open_server, published, server,
};

/// A node that keeps a trace from its start, and an upstream.
async fn traced(trace: &str) -> (TestServer, TestUpstream) {
    let config = format!("{CONFIG}\n[trace]\non = true\n{trace}");
    let server = server().anonymous().config(config).start().await.unwrap();
    let upstream = TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap();
    (server, upstream)
}

fn session(client: &TestClient) -> String {
    client.started.as_ref().unwrap().session_id.clone()
}

/// What the command says of a message of this client's session.
async fn trace(server: &TestServer, client: &TestClient, message: &[&str]) -> Value {
    let session = session(client);
    let mut arguments = vec!["trace", "--json", "--session", &session];
    arguments.extend(message);
    serde_json::from_str(&server.run(&arguments).await.unwrap()).unwrap()
}

async fn trace_call(server: &TestServer, client: &TestClient, call: u64) -> Value {
    trace(server, client, &["--call", &call.to_string()]).await
}

async fn trace_publication(server: &TestServer, client: &TestClient, channel: &str, offset: u64) -> Value {
    trace(server, client, &["--channel", channel, "--offset", &offset.to_string()]).await
}

fn steps(answer: &Value) -> Vec<&str> {
    answer["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect()
}

fn text<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer[name].as_str().unwrap_or_else(|| panic!("{name} is no text: {answer}"))
}

#[tokio::test]
async fn a_call_is_followed_from_its_frame_to_its_ack() {
    let (server, upstream) = traced("").await;
    let mut alice = client(&server, "alice").await;
    alice.send(&call_frame(41, 1, "hold", &[], "a secret")).await.unwrap();
    upstream.until_requests(1).await.unwrap();
    let running = trace_call(&server, &alice, 1).await;
    assert_eq!(text(&running, "state"), "running", "{running}");
    assert_eq!(steps(&running), ["connected", "received", "started"], "{running}");
    upstream.release(1);
    business(alice.reply(41).await.unwrap());
    let written = trace_call(&server, &alice, 1).await;
    assert_eq!(text(&written, "state"), "written", "{written}");
    let all = ["connected", "received", "started", "ended", "queued", "written"];
    assert_eq!((steps(&written), &written["note"]), (all.to_vec(), &Value::Null), "{written}");
    assert!(!written.to_string().contains("secret"), "what a frame says is not kept: {written}");
    alice.ack(ClientAck { replied_client_seq: 1, ..Default::default() }).await.unwrap();
    assert!(alice.drain().await.unwrap().is_empty());
    let acked = trace_call(&server, &alice, 1).await;
    assert_eq!((text(&acked, "state"), steps(&acked).last()), ("acked", Some(&"replies_acked")), "{acked}");
    // For people, line by line.
    let session = session(&alice);
    let lines = server.run(&["trace", "--session", &session, "--call", "1"]).await.unwrap();
    assert!(lines.starts_with("acked: ") && lines.contains(" ms  received action=hold"), "{lines}");
    // A number that jumps is no call, and the trace says what became of its frame.
    alice.send(&call_frame(42, 9, "echo", &[], "x")).await.unwrap();
    assert_eq!(error(alice.reply(42).await.unwrap()).error_code, 400);
    let jumped = trace_call(&server, &alice, 9).await;
    assert_eq!(text(&jumped, "state"), "rejected", "{jumped}");
    assert!(text(&jumped, "says").contains("BAD_REQUEST"), "{jumped}");
    assert_eq!(text(&trace_call(&server, &alice, 10).await, "state"), "unknown");
}

#[tokio::test]
async fn a_call_that_was_refused_says_why() {
    let limits = "[limits]\ncalls_per_second = 1\ncall_burst = 1";
    let (server, _upstream) = traced(limits).await;
    let mut alice = client(&server, "alice").await;
    let mut refused = None;
    for number in 1..=5 {
        alice.send(&call_frame(number, number.into(), "echo", &[], "x")).await.unwrap();
        if let DownBody::Error(_) = &alice.reply(number).await.unwrap().body {
            refused = Some(number);
        }
    }
    let refused = refused.expect("five calls at once passed a limit of one a second");
    let told = trace_call(&server, &alice, refused.into()).await;
    assert_eq!(text(&told, "state"), "refused", "{told}");
    assert!(text(&told, "says").contains("call_rate"), "{told}");
    assert_eq!(steps(&told), ["connected", "received", "refused", "queued", "written"], "{told}");
}

#[tokio::test]
async fn a_publication_is_followed_from_its_acceptance_to_its_ack() {
    let (server, _upstream) = traced("").await;
    let mut alice = client(&server, "alice").await;
    channel(alice.publish("room:a", "before").await.unwrap());
    let head = channel(alice.subscribe("room:a", None).await.unwrap());
    channel(alice.publish("room:a", "hello").await.unwrap());
    let (place, _) = published(&alice.push().await.unwrap());
    let written = trace_publication(&server, &alice, "room:a", place.offset).await;
    assert_eq!(text(&written, "state"), "written", "{written}");
    let all = ["connected", "followed", "published", "delivered"];
    assert_eq!((steps(&written), &written["note"]), (all.to_vec(), &Value::Null), "{written}");
    assert!(!written.to_string().contains("hello"), "{written}");
    alice.ack_position(place.clone()).await.unwrap();
    assert!(alice.drain().await.unwrap().is_empty());
    let acked = trace_publication(&server, &alice, "room:a", place.offset).await;
    assert_eq!((text(&acked, "state"), steps(&acked).last()), ("acked", Some(&"acked")), "{acked}");
    // What was there before the session came was not delivered to it, whatever its position and its ack cover.
    let before = trace_publication(&server, &alice, "room:a", head.offset).await;
    assert_eq!(text(&before, "state"), "passed", "{before}");
    let future = trace_publication(&server, &alice, "room:a", place.offset + 1).await;
    assert_eq!(text(&future, "state"), "unknown", "{future}");
    let elsewhere = trace_publication(&server, &alice, "room:b", 1).await;
    assert_eq!(text(&elsewhere, "state"), "not_subscribed", "{elsewhere}");
}

#[tokio::test]
async fn a_publication_that_was_dropped_is_told_as_the_gap_that_it_is() {
    let (server, upstream) = traced("").await;
    let mut slow = client(&server, "slow").await;
    channel(slow.subscribe("room:a", None).await.unwrap());
    // The channel keeps 100: a reader that stands still loses what lies before them.
    let mut last = 0;
    for _ in 0..400 {
        let data = vec![b'x'; 60_000].into();
        let request = ServicePublishRequest { channel: "room:a".into(), data, ..Default::default() };
        last = upstream.gateway().publish(request).await.unwrap().into_inner().offset;
    }
    let waiting = trace_publication(&server, &slow, "room:a", last).await;
    assert_eq!(text(&waiting, "state"), "queued", "{waiting}");
    assert_eq!(steps(&waiting), ["connected", "followed", "published"], "{waiting}");
    let gap = loop {
        if let DownBody::Gap(gap) = slow.push().await.unwrap().body {
            break gap;
        }
    };
    let lost = trace_publication(&server, &slow, "room:a", gap.offset + 1).await;
    assert_eq!(text(&lost, "state"), "dropped", "{lost}");
    assert!(text(&lost, "says").contains("told a gap"), "{lost}");
    assert_eq!(steps(&lost), ["connected", "followed", "published", "gap"], "{lost}");
    assert_eq!(lost["steps"][3]["offset"], gap.next.unwrap().offset, "{lost}");
}

#[tokio::test]
async fn a_full_ring_forgets_the_oldest_and_says_so() {
    let (server, _upstream) = traced("bytes = \"64 KiB\"").await;
    let mut alice = client(&server, "alice").await;
    for number in 1..=200 {
        business(alice.call("echo", number.to_string()).await.unwrap());
    }
    let newest = trace_call(&server, &alice, 200).await;
    assert_eq!((text(&newest, "state"), &newest["note"]), ("written", &Value::Null), "{newest}");
    assert!(newest["trace"]["bytes"].as_u64().unwrap() <= 64 * 1024, "{newest}");
    let oldest = trace_call(&server, &alice, 1).await;
    assert_eq!((text(&oldest, "state"), steps(&oldest).len()), ("forgotten", 0), "{oldest}");
    assert!(text(&oldest, "note").contains("no longer known"), "{oldest}");
}

#[tokio::test]
async fn without_a_trace_it_is_known_where_a_message_is_and_how_to_learn_more() {
    let (server, _upstream) = open_server().await;
    let said = server.run(&["trace"]).await.unwrap();
    assert!(said.contains("no trace is kept") && said.contains("trunkline trace --on"), "{said}");
    let mut alice = client(&server, "alice").await;
    business(alice.call("echo", "x").await.unwrap());
    let off = trace_call(&server, &alice, 1).await;
    assert_eq!((text(&off, "state"), steps(&off).len()), ("kept", 0), "{off}");
    assert!(text(&off, "note").contains("no trace is kept"), "{off}");
    assert_eq!(off["trace"]["bytes"], 0, "{off}");
    server.run(&["trace", "--on"]).await.unwrap();
    business(alice.call("echo", "x").await.unwrap());
    let on = trace_call(&server, &alice, 2).await;
    assert_eq!(steps(&on), ["received", "started", "ended", "queued", "written"], "{on}");
    let said = server.run(&["trace", "--off"]).await.unwrap();
    assert!(said.contains("no trace is kept"), "{said}");
    let off = trace_call(&server, &alice, 2).await;
    assert_eq!((steps(&off).len(), &off["trace"]["bytes"]), (0, &0.into()), "it has forgotten: {off}");
}

#[tokio::test]
async fn only_operators_ask_and_what_makes_no_sense_is_told() {
    let server = server().anonymous().start().await.unwrap();
    let alice = client(&server, "alice").await;
    let session = session(&alice);
    let wrong = server.run(&["trace", "--session", &session]).await.unwrap_err().to_string();
    assert!(wrong.contains("--call"), "{wrong}");
    let wrong = server.run(&["trace", "--session", "nobody", "--call", "1"]).await.unwrap_err().to_string();
    assert!(wrong.contains("32 hexadecimal digits"), "{wrong}");
    let nobody = server.run(&["trace", "--session", &"0".repeat(32), "--call", "1"]).await.unwrap();
    assert!(nobody.starts_with("unknown: ") && nobody.contains("/stats"), "{nobody}");
    let wrong = get(server.ready(), &format!("/api/admin/trace?session={session}&call=1&offset=2")).await;
    assert!(wrong.contains("wanted session=ID with call=NUMBER"), "{wrong}");
    let mut public = tokio::net::TcpStream::connect(server.ready().http().unwrap()).await.unwrap();
    let request = "GET /api/admin/trace HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    public.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    public.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}
