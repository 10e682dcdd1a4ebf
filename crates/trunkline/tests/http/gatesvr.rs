//! The addresses and fields of GateSvr (W6), and what of them is for everybody and what for operators.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use trunkline_testkit::{TestUpstream, Way};

use crate::exchange::{ask, server};

async fn json(address: SocketAddr, path: &str) -> Value {
    let answer = ask(address, &format!("GET {path}"), "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{path}");
    serde_json::from_str(&answer.body).expect("JSON")
}

fn fields(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn assert_has(value: &Value, wanted: &[&str]) {
    let missing: Vec<_> = wanted.iter().filter(|name| value.get(**name).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?} of {value}");
}

/// Unix seconds of about now.
fn assert_now(value: &Value) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let said = value.as_u64().unwrap_or_else(|| panic!("{value} is no number"));
    assert!(now.abs_diff(said) < 3_600, "{said} is no time in seconds, now is {now}");
}

#[tokio::test]
async fn w6_health_has_the_fields_of_gatesvr_on_both_addresses() {
    let server = server().start().await.unwrap();
    let _client = server.client("alice", Way::TCP).await.unwrap();
    for address in [server.ready().http().unwrap(), server.ready().metrics().unwrap()] {
        let health = json(address, "/health").await;
        assert_eq!(fields(&health), BTreeSet::from(["status", "active_connections", "timestamp"]));
        assert_eq!((&health["status"], &health["active_connections"]), (&"healthy".into(), &1.into()));
        assert_now(&health["timestamp"]);
    }
}

#[tokio::test]
async fn w6_stats_lists_sessions_for_operators_and_sums_for_everybody() {
    let server = server().start().await.unwrap();
    let alice = server.client("alice-the-secret", Way::TCP).await.unwrap();
    let stats = json(server.ready().metrics().unwrap(), "/stats").await;
    assert_has(&stats, &["total_sessions", "sessions", "timestamp"]);
    assert_now(&stats["timestamp"]);
    assert_eq!((&stats["total_sessions"], &stats["next"]), (&1.into(), &Value::Null));
    let session = &stats["sessions"][0];
    let names =
        ["session_id", "create_time", "last_activity", "pending_count", "ordered_queue", "remote_addr"];
    assert_has(session, &names);
    assert_has(
        &session["ordered_queue"],
        &[
            "session_id",
            "queue_size",
            "pending_count",
            "max_queue_size",
            "next_expected_seq",
            "last_sent_seq",
            "last_acked_seq",
            "stopped",
        ],
    );
    assert_now(&session["create_time"]);
    assert_now(&session["last_activity"]);
    assert_eq!(session["ordered_queue"]["session_id"], session["session_id"]);
    assert_eq!((&session["user"], &session["connected"]), (&"alice-the-secret".into(), &true.into()));
    assert!(session["remote_addr"].as_str().unwrap().starts_with("127.0.0.1:"), "{session}");

    // Everybody else learns how many there are, and nothing about them.
    let answer = ask(server.ready().http().unwrap(), "GET /stats?limit=5", "").await;
    let sums: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((&sums["total_sessions"], &sums["sessions"]), (&1.into(), &Value::Array(Vec::new())));
    assert!(!answer.body.contains("alice") && !answer.body.contains("127.0.0.1"), "{}", answer.body);
    drop(alice);
}

#[tokio::test]
async fn w6_the_pages_of_stats_have_every_session_once() {
    let server = server().start().await.unwrap();
    let metrics = server.ready().metrics().unwrap();
    let mut clients = Vec::new();
    for user in 0..7 {
        clients.push(server.client(&format!("user{user}"), Way::TCP).await.unwrap());
    }
    let (mut path, mut users, mut pages) = ("/stats?limit=3".to_owned(), Vec::new(), 0);
    loop {
        let page = json(metrics, &path).await;
        assert_eq!(page["total_sessions"], 7);
        let sessions = page["sessions"].as_array().unwrap();
        users.extend(sessions.iter().map(|session| session["user"].as_str().unwrap().to_owned()));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => path = format!("/stats?limit=3&after={next}"),
            None => break,
        }
    }
    users.sort();
    assert_eq!(users, (0..7).map(|user| format!("user{user}")).collect::<Vec<_>>());
    assert_eq!(pages, 3);
    for wrong in ["limit=0", "limit=100000", "limit=all", "after=somebody"] {
        let refused = ask(metrics, &format!("GET /stats?{wrong}"), "").await;
        assert_eq!(refused.status, 400, "{wrong}");
        assert!(refused.body.contains("wanted"), "{wrong}: {}", refused.body);
    }
}

#[tokio::test]
async fn w6_performance_has_the_fields_of_gatesvr() {
    let server = server().start().await.unwrap();
    let ready = server.ready();
    let _upstream = TestUpstream::registered(ready.grpc().unwrap()).await.unwrap();
    let before = json(ready.http().unwrap(), "/performance").await;
    assert_eq!(
        (&before["basic_stats"]["success_rate"], &before["basic_stats"]["qps"]),
        (&100.0.into(), &0.0.into())
    );
    let mut alice = server.client("alice", Way::TCP).await.unwrap();
    alice.call("echo", "1").await.unwrap();
    alice.call("no-such-action-anywhere", "2").await.unwrap();
    for address in [ready.http().unwrap(), ready.metrics().unwrap()] {
        let now = json(address, "/performance").await;
        assert_has(
            &now,
            &["basic_stats", "memory", "goroutines", "pprof_endpoints", "usage_examples", "note"],
        );
        let basic = &now["basic_stats"];
        assert_has(
            basic,
            &[
                "uptime_seconds",
                "total_connections",
                "active_connections",
                "total_requests",
                "total_errors",
                "qps",
                "success_rate",
            ],
        );
        assert_now(&basic["timestamp"]);
        // A START and two calls.
        assert_eq!(
            (&basic["total_requests"], &basic["active_connections"]),
            (&3.into(), &1.into()),
            "{basic}"
        );
        assert!(basic["qps"].as_f64() > Some(0.0) && basic["uptime_seconds"].as_f64() > Some(0.0), "{basic}");
        let memory = &now["memory"];
        assert_has(memory, &["alloc_mb", "total_alloc_mb", "sys_mb", "gc_count"]);
        assert_eq!(memory["gc_count"], 0);
        assert!(memory["alloc_mb"].as_u64() > Some(0) && memory["sys_mb"].as_u64() > Some(0), "{memory}");
        assert!(now["goroutines"]["count"].as_u64() > Some(1), "{now}");
        assert!(!now.to_string().contains("alice"), "{now}");
    }
}

#[tokio::test]
async fn w6_the_metrics_have_the_names_of_gatesvr_and_no_label_of_a_session() {
    let server = server().start().await.unwrap();
    let mut alice = server.client("alice", Way::TCP).await.unwrap();
    alice.call("trunkline.echo", "1").await.unwrap();
    let text = ask(server.ready().metrics().unwrap(), "GET /metrics", "").await.body;
    let value = |sample: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{sample} is missing:\n{text}")).parse::<f64>().unwrap()
    };
    for (sample, wanted) in [
        ("gatesvr_active_connections", 1.0),
        ("gatesvr_qps_total", 2.0),
        ("gatesvr_total_requests", 2.0),
        ("gatesvr_outbound_queue_size", 0.0),
        ("gatesvr_message_queue_size", 0.0),
        ("gatesvr_upstream_requests", 0.0),
        ("gatesvr_upstream_concurrent", 0.0),
        ("gatesvr_errors_total{error_type=\"decode_error\"}", 0.0),
        ("gatesvr_connections_rejected_total{reason=\"max_connections_exceeded\"}", 0.0),
        ("gatesvr_requests_rejected_total{reason=\"max_qps_exceeded\"}", 0.0),
        ("gatesvr_upstream_rejected_total{reason=\"max_upstream_concurrent_exceeded\"}", 0.0),
        ("gatesvr_request_duration_count", 1.0),
        ("gatesvr_request_duration_seconds_count{request_type=\"business\"}", 1.0),
        ("gatesvr_request_duration_seconds_bucket{request_type=\"business\",le=\"+Inf\"}", 1.0),
    ] {
        assert_eq!(value(sample), wanted, "{sample}");
    }
    assert!(value("gatesvr_current_qps") >= 0.0);
    assert!(value("gatesvr_throughput_bytes_total{direction=\"inbound\"}") > 0.0);
    assert!(value("gatesvr_throughput_bytes_total{direction=\"outbound\"}") > 0.0);
    assert!(!text.contains("session_id") && !text.contains("alice"), "{text}");
}
