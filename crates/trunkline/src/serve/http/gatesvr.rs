//! The addresses that GateSvr had, with the names and the units of its fields, so that what watches it can watch a node:
//! `/health`, `/stats` and `/performance`. Times are Unix seconds here, as they were there.
//!
//! The public surface gets sums only. Who the sessions are, and from where, is for operators.

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;
use trunkline_session::SessionId;

use super::Http;
use crate::serve::status::unix_time;

/// Sessions of a page of `/stats`, unless it is told otherwise.
const PAGE: usize = 100;

/// The most of them: about half a megabyte.
const MAX_PAGE: usize = 1_000;

const MEGABYTE: u64 = 1024 * 1024;

/// Alive, whatever else.
pub(super) async fn health(State(http): State<Http>) -> Response {
    Json(json!({
        "status": "healthy",
        "active_connections": http.gateway.connections(),
        "timestamp": unix_time().as_secs(),
    }))
    .into_response()
}

/// How many sessions there are.
pub(super) async fn stats_sums(State(http): State<Http>) -> Response {
    fresh(json!({
        "total_sessions": http.gateway.session_count(),
        "sessions": [],
        "timestamp": unix_time().as_secs(),
        "note": "the metrics address lists the sessions",
    }))
}

/// The sessions, page by page: `?limit=N`, and `?after=ID` with what `next` of the page before says.
pub(super) async fn stats(State(http): State<Http>, RawQuery(query): RawQuery) -> Response {
    let (after, limit) = match page(&query.unwrap_or_default()) {
        Ok(page) => page,
        Err(wrong) => return (StatusCode::BAD_REQUEST, wrong + "\n").into_response(),
    };
    let page = http.gateway.sessions(after, limit);
    fresh(json!({
        "total_sessions": page.total,
        "sessions": page.sessions,
        "timestamp": unix_time().as_secs(),
        "next": page.next,
    }))
}

/// Which page a query asks for.
fn page(query: &str) -> Result<(Option<SessionId>, usize), String> {
    let (mut after, mut limit) = (None, PAGE);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "after" => match value.parse() {
                Ok(id) => after = Some(id),
                Err(_) => return Err("after: wanted the id of a session, 32 hexadecimal digits".to_owned()),
            },
            "limit" => match value.parse() {
                Ok(count) if (1..=MAX_PAGE).contains(&count) => limit = count,
                _ => return Err(format!("limit: wanted a number from 1 to {MAX_PAGE}")),
            },
            _ => {}
        }
    }
    Ok((after, limit))
}

/// What the node does, in sums. Without a garbage collector there is none to count: `gc_count` is 0.
pub(super) async fn performance(State(http): State<Http>) -> Response {
    let now = http.status.performance();
    let (requests, errors) = (now.counters.requests(), now.counters.requests_failed());
    let uptime = now.uptime.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a share and a rate need no more than 52 bits")]
    let (per_second, succeeded) = match requests {
        0 => (0.0, 100.0),
        _ => (requests as f64 / uptime, requests.saturating_sub(errors) as f64 / requests as f64 * 100.0),
    };
    let megabytes = |bytes: Option<u64>| bytes.map(|bytes| bytes / MEGABYTE);
    let profile = http.status.metrics_address().map(|at| format!("http://{at}/debug/pprof/profile"));
    fresh(json!({
        "basic_stats": {
            "uptime_seconds": uptime,
            "total_connections": now.counters.connections_accepted,
            "active_connections": now.connections,
            "total_requests": requests,
            "total_errors": errors,
            "qps": per_second,
            "success_rate": succeeded,
            "timestamp": now.timestamp,
        },
        "memory": {
            "alloc_mb": megabytes(now.process.resident),
            "total_alloc_mb": megabytes(now.process.resident_peak),
            "sys_mb": megabytes(now.process.virtual_memory),
            "gc_count": 0,
        },
        "goroutines": { "count": now.tasks },
        "pprof_endpoints": profile.as_ref().map_or(json!({}), |at| json!({ "cpu_profile": at })),
        "usage_examples": profile.map_or(json!({}), |at| json!({ "cpu_analysis": format!("go tool pprof {at}?seconds=30") })),
        "note": "goroutines are tasks here; memory is resident, its peak, and what is reserved",
    }))
}

/// Figures of this moment: nobody keeps them.
fn fresh(figures: serde_json::Value) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(figures)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_asked_for_by_id_and_number() {
        let id = SessionId(171);
        assert_eq!(page(""), Ok((None, PAGE)));
        assert_eq!(page(&format!("after={id}&limit=7")), Ok((Some(id), 7)));
        assert_eq!(page("limit=1000&x"), Ok((None, 1_000)));
        for wrong in
            ["limit=0", "limit=1001", "limit=-1", "limit", "limit=%31", "after=", "after=xyz", "after"]
        {
            let said = page(wrong).unwrap_err();
            assert!(said.contains("wanted"), "{wrong}: {said}");
        }
    }
}
