//! The catalogue as a whole, and the table that `docs/operations.md` shows of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use trunkline_broker::{Broker, MemoryBroker, MemoryOptions, NodeId};
use trunkline_gateway::auth::{AuthMode, Authenticator, JwtOptions, JwtVerifier};
use trunkline_gateway::upstream::{UpstreamOptions, Upstreams};
use trunkline_gateway::{Gateway, GatewayOptions};
use trunkline_session::TokenKey;

use super::super::certificate;
use super::super::status::StatusSource;
use super::*;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::logging::LogHandle;

/// What a node says that has just begun.
async fn idle() -> Status {
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::open(MemoryOptions::new(NodeId(0))).unwrap());
    let upstreams = Upstreams::new(UpstreamOptions::default(), Arc::clone(&broker));
    let keys = jsonwebtoken::jwk::JwkSet { keys: Vec::new() };
    let verifier = JwtVerifier::new(None, keys, JwtOptions::default());
    let options = GatewayOptions::new("node", TokenKey::new([1; 32]));
    let authenticator = Authenticator::new(AuthMode::Jwt(Arc::new(verifier)), false);
    let gateway = Gateway::new(options, broker, authenticator, Some(Arc::clone(&upstreams))).await.unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let dir = DataDir::open(temporary.path()).unwrap();
    let certificate = certificate::load(&Config::default().tls, &dir).unwrap();
    StatusSource::new(gateway, upstreams, &certificate, LogHandle::default(), Arc::default()).read()
}

fn labels(family: &Family) -> BTreeSet<&'static str> {
    family.samples.iter().filter_map(|sample| Some(sample.label.as_ref()?.0)).collect()
}

#[tokio::test]
async fn every_family_keeps_the_rules_of_its_kind() {
    let all = families(&idle().await);
    let names: BTreeSet<&str> = all.iter().map(|family| family.name.as_str()).collect();
    assert_eq!(names.len(), all.len(), "a name is there twice");
    for family in &all {
        let Family { name, kind, unit, help, samples } = family;
        let ours = name.starts_with("trunkline_") || name.starts_with("process_");
        assert!(ours || name.starts_with("gatesvr_"), "{name}: whose is it?");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert!(help.ends_with('.') && help.is_ascii(), "{name}: {help}");
        assert!(!samples.is_empty(), "{name} has no sample at the start");
        if ours {
            // The names of GateSvr are what they are.
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert_eq!(*unit == Unit::Bytes, name.contains("_bytes"), "{name}");
            assert_eq!(*unit == Unit::Seconds, name.contains("_seconds"), "{name}");
        }
        let whole = samples.iter().all(|sample| matches!(sample.value, Value::Durations(_)));
        assert_eq!(whole, *kind == Kind::Histogram, "{name}");
        let plain = samples.iter().filter(|sample| sample.label.is_none()).count();
        assert!(plain == 0 && labels(family).len() == 1 || plain == 1 && samples.len() == 1, "{name}");
        for label in labels(family) {
            assert!(!["session_id", "user", "openid", "channel", "action"].contains(&label), "{name}");
        }
    }
}

#[tokio::test]
async fn w6_the_names_of_gatesvr_are_there_with_its_types_and_labels() {
    let all = families(&idle().await);
    for (name, kind, label) in [
        // Its code, all but the label of a session.
        ("gatesvr_qps_total", Kind::Counter, None),
        ("gatesvr_throughput_bytes_total", Kind::Counter, Some("direction")),
        ("gatesvr_active_connections", Kind::Gauge, None),
        ("gatesvr_outbound_queue_size", Kind::Gauge, None),
        ("gatesvr_request_duration_seconds", Kind::Histogram, Some("request_type")),
        ("gatesvr_errors_total", Kind::Counter, Some("error_type")),
        ("gatesvr_connections_rejected_total", Kind::Counter, Some("reason")),
        ("gatesvr_requests_rejected_total", Kind::Counter, Some("reason")),
        ("gatesvr_upstream_rejected_total", Kind::Counter, Some("reason")),
        ("gatesvr_current_qps", Kind::Gauge, None),
        ("gatesvr_upstream_concurrent", Kind::Gauge, None),
        // Its document.
        ("gatesvr_total_requests", Kind::Counter, None),
        ("gatesvr_request_duration", Kind::Histogram, None),
        ("gatesvr_upstream_requests", Kind::Counter, None),
        ("gatesvr_message_queue_size", Kind::Gauge, None),
    ] {
        let family =
            all.iter().find(|family| family.name == name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!((family.kind, labels(family).first().copied()), (kind, label), "{name}");
    }
}

#[test]
fn a_histogram_counts_upwards_and_its_text_is_whole() {
    let mut durations = Durations { buckets: vec![0; BOUNDS_SECONDS.len() + 1], sum_us: 2_500_000 };
    (durations.buckets[1], durations.buckets[14]) = (2, 1);
    let family =
        Family::durations("x_seconds", "Some \\ thing.").by("kind", [("a", Value::Durations(durations))]);
    let mut text = String::new();
    family.write(&mut text);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["# HELP x_seconds Some \\\\ thing.", "# TYPE x_seconds histogram"]);
    assert_eq!(lines[2], "x_seconds_bucket{kind=\"a\",le=\"0.0005\"} 0");
    assert_eq!(lines[3], "x_seconds_bucket{kind=\"a\",le=\"0.001\"} 2");
    assert_eq!(
        lines[15..],
        [
            "x_seconds_bucket{kind=\"a\",le=\"10\"} 2",
            "x_seconds_bucket{kind=\"a\",le=\"+Inf\"} 3",
            "x_seconds_sum{kind=\"a\"} 2.5",
            "x_seconds_count{kind=\"a\"} 3"
        ]
    );
}

const MARKS: [&str; 2] =
    ["<!-- metrics: made from the code, see the test of this page -->\n", "<!-- end -->\n"];

/// The rows of `docs/operations.md`.
fn table(all: &[Family]) -> String {
    let mut text = String::from("| metric | type | unit | labels | what |\n|---|---|---|---|---|\n");
    for family in all {
        let of = labels(family).first().map_or_else(String::new, |label| {
            let values: Vec<String> = family
                .samples
                .iter()
                // A version is no fixed list, and the documentation should not change with it.
                .filter(|_| *label != "version")
                .filter_map(|sample| Some(format!("`{}`", sample.label.as_ref()?.1)))
                .collect();
            if values.is_empty() { format!("`{label}`") } else { format!("`{label}`: {}", values.join(", ")) }
        });
        let Family { name, kind, unit, help, .. } = family;
        text += &format!("| `{name}` | {} | {} | {of} | {help} |\n", kind.as_str(), unit.as_str());
    }
    text
}

/// `UPDATE_DOCS=1 ./test documentation_lists` writes the table anew.
#[tokio::test]
async fn the_documentation_lists_every_metric() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(MARKS[0]).expect("the first mark");
    let (there, after) = rest.split_once(MARKS[1]).expect("the second mark");
    let made = table(&families(&idle().await));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, format!("{before}{}{made}{}{after}", MARKS[0], MARKS[1])).unwrap();
    } else {
        assert_eq!(
            there, made,
            "docs/operations.md is out of date: run UPDATE_DOCS=1 ./test documentation_lists"
        );
    }
}
