//! Each address of the two HTTP surfaces: what it answers, to which method, and what is said where nothing is.

use std::net::SocketAddr;

use serde_json::Value;
use trunkline_testkit::Way;

use crate::exchange::{ask, server};

/// What the public surface has, and the type of each.
const PUBLIC: [(&str, &str); 15] = [
    ("/", "text/html; charset=utf-8"),
    ("/status/status.css", "text/css; charset=utf-8"),
    ("/status/status.js", "text/javascript; charset=utf-8"),
    ("/status/history.js", "text/javascript; charset=utf-8"),
    ("/status/words.js", "text/javascript; charset=utf-8"),
    ("/status/icon.svg", "image/svg+xml"),
    ("/sdk/trunkline.js", "text/javascript; charset=utf-8"),
    ("/sdk/session.js", "text/javascript; charset=utf-8"),
    ("/sdk/links.js", "text/javascript; charset=utf-8"),
    ("/health", "application/json"),
    ("/ready", "text/plain; charset=utf-8"),
    ("/api/status", "application/json"),
    ("/stats", "application/json"),
    ("/performance", "application/json"),
    ("/certificate", "text/plain; charset=utf-8"),
];

async fn json(address: SocketAddr, path: &str) -> Value {
    serde_json::from_str(&ask(address, &format!("GET {path}"), "").await.body).expect("JSON")
}

#[tokio::test]
async fn every_address_answers_get_and_head_and_refuses_the_rest() {
    let server = server().start().await.unwrap();
    let http = server.ready().http().unwrap();
    for (path, kind) in PUBLIC {
        let get = ask(http, &format!("GET {path}"), "").await;
        assert_eq!((get.status, get.header("content-type")), (200, kind), "{path}");
        assert!(!get.body.is_empty(), "{path} is empty");
        assert_eq!(get.header("x-content-type-options"), "nosniff", "{path}");
        let head = ask(http, &format!("HEAD {path}?x=1"), "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "HEAD {path}");
        assert_eq!(head.header("content-type"), kind, "HEAD {path}");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            let refused = ask(http, &format!("{method} {path}"), "Content-Length: 2\r\n").await;
            assert_eq!((refused.status, refused.header("allow")), (405, "GET,HEAD"), "{method} {path}");
            assert_eq!(refused.body, "this address answers GET and HEAD\n");
        }
    }
}

#[tokio::test]
async fn an_unknown_path_is_told_what_is_there() {
    let server = server().start().await.unwrap();
    let long = format!("/{}", "a".repeat(8_000));
    for path in [
        "/nothing",
        "/status",
        "/status/",
        "/../etc/passwd",
        "/status/..%2f..%2fCargo.toml",
        "//",
        "/%00",
        &long,
    ] {
        let answer = ask(server.ready().http().unwrap(), &format!("GET {path}"), "").await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (404, "text/plain; charset=utf-8"),
            "{path}"
        );
        assert_eq!(
            answer.body,
            "not found: here are /, /ws, /certificate, /health, /ready, /stats, /performance, /api/status and /sdk/trunkline.js\n"
        );
    }
    let metrics = ask(server.ready().metrics().unwrap(), "GET /", "").await;
    assert_eq!(
        (metrics.status, metrics.body.as_str()),
        (
            404,
            "not found: here are /metrics, /health, /ready, /stats, /performance, /debug/pprof/profile, /api/status and /api/admin/trace\n"
        )
    );
}

#[tokio::test]
async fn the_page_and_what_it_loads_allow_nothing_inline() {
    let server = server().start().await.unwrap();
    for (path, _) in &PUBLIC[..9] {
        let answer = ask(server.ready().http().unwrap(), &format!("GET {path}"), "").await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}: {policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{path}: {policy}");
        let any_origin = if path.starts_with("/sdk/") { "*" } else { "" };
        assert_eq!(answer.header("access-control-allow-origin"), any_origin, "{path}");
        assert!(
            !answer.body.contains("http://") || path.starts_with("/status/"),
            "{path} loads from elsewhere"
        );
    }
}

#[tokio::test]
async fn the_figures_are_sums_and_name_no_session() {
    let server = server().start().await.unwrap();
    let (ready, http) = (server.ready(), server.ready().http().unwrap());
    let before = json(http, "/api/status").await;
    let client = server.client("alice-the-secret", Way::TCP).await.unwrap();
    let answer = ask(http, "GET /api/status", "").await;
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(!answer.body.contains("alice-the-secret"), "{}", answer.body);
    let status: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(status["phase"], "ready");
    assert_eq!(before["gateway"]["connections"]["tcp"], 0);
    assert_eq!(status["gateway"]["connections"]["tcp"], 1);
    assert_eq!(status["gateway"]["sessions_live"], 1);
    assert_eq!(status["gateway"]["counters"]["sessions_started"], 1);
    assert_eq!(status["surfaces"]["http"], http.to_string());
    assert_eq!(status["surfaces"]["quic"], ready.quic().unwrap().to_string());
    assert!(status["memory_bytes"].as_u64() > Some(1 << 20), "{}", status["memory_bytes"]);
    let certificate = ask(http, "GET /certificate", "").await;
    assert_eq!(certificate.body.trim_end(), status["certificate_sha256"]);
    assert_eq!(certificate.header("access-control-allow-origin"), "*");
    let pinned: String = ready.certificate().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(certificate.body.trim_end(), pinned);

    // The same figures for operators.
    assert_eq!(ask(http, "GET /ready", "").await.body, "ready\n");
    let metrics = ask(ready.metrics().unwrap(), "GET /metrics", "").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for line in
        ["trunkline_connections{protocol=\"tcp\"} 1", "trunkline_sessions_live 1", "trunkline_calls_total 0"]
    {
        assert!(metrics.body.lines().any(|found| found == line), "{line} is missing:\n{}", metrics.body);
    }
    assert_eq!(ask(http, "GET /metrics", "").await.status, 404, "metrics are for the metrics surface");
    drop(client);
}
