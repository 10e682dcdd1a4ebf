//! `/metrics`, in the text format of Prometheus.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Http;

/// Prometheus text: gauges of what is, counters of what was; no label per session.
pub(super) async fn metrics(State(http): State<Http>) -> Response {
    let status = http.status.read();
    let mut text = String::new();
    let mut line = |kind: &str, name: &str, value: u64| {
        text.push_str(&format!("# TYPE trunkline_{name} {kind}\ntrunkline_{name} {value}\n"));
    };
    line("gauge", "memory_bytes", status.memory_bytes);
    line("gauge", "sessions_live", status.gateway.sessions_live);
    line("gauge", "sessions_waiting", status.gateway.sessions_waiting);
    line("gauge", "calls_running", status.gateway.calls_running);
    line("gauge", "reply_cache_bytes", status.gateway.reply_cache_bytes);
    line("gauge", "tasks", status.gateway.tasks);
    let counters = serde_json::to_value(&status.gateway.counters).unwrap_or_default();
    for (name, value) in counters.as_object().into_iter().flatten() {
        line("counter", &format!("{name}_total"), value.as_u64().unwrap_or_default());
    }
    text.push_str("# TYPE trunkline_connections gauge\n");
    for (protocol, count) in &status.gateway.connections {
        text.push_str(&format!("trunkline_connections{{protocol=\"{protocol}\"}} {count}\n"));
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
