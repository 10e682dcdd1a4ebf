//! The names of GateSvr, from its code and from its document, so that dashboards made for it go on. Each is computed
//! from our own figures; what GateSvr labelled by session is one sum here.

use super::Unit::{Bytes, Count, PerSecond};
use super::{Family, Status, Value};

pub(super) fn families(status: &Status) -> Vec<Family> {
    let gateway = &status.gateway;
    let requests = gateway.counters.requests();
    let durations = |of: &trunkline_gateway::Durations| Value::Durations(of.clone());
    let mut all = vec![
        Family::counter(
            Count,
            "gatesvr_qps_total",
            "STARTs and calls, the refused ones too. Its rate is what the name promises.",
        )
        .is(requests),
        Family::counter(Count, "gatesvr_total_requests", "The same as gatesvr_qps_total.").is(requests),
        Family::gauge(
            PerSecond,
            "gatesvr_current_qps",
            "STARTs and calls a second, over the last ten seconds.",
        )
        .is(status.requests_per_second),
        Family::counter(
            Bytes,
            "gatesvr_throughput_bytes_total",
            "Bytes read from clients and written to them.",
        )
        .by("direction", [("inbound", gateway.counters.bytes_in), ("outbound", gateway.counters.bytes_out)]),
        Family::gauge(Count, "gatesvr_active_connections", "Live connections.")
            .is(gateway.connections.values().sum::<u64>()),
        Family::gauge(
            Count,
            "gatesvr_outbound_queue_size",
            "Frames that wait to be written, over all sessions.",
        )
        .is(gateway.queued_frames),
        Family::gauge(Count, "gatesvr_message_queue_size", "The same as gatesvr_outbound_queue_size.")
            .is(gateway.queued_frames),
        Family::durations(
            "gatesvr_request_duration_seconds",
            "From the arrival of a request to its outcome.",
        )
        .by(
            "request_type",
            [
                ("start", durations(&gateway.start_durations)),
                ("business", durations(&gateway.call_durations)),
            ],
        ),
        Family::durations(
            "gatesvr_request_duration",
            "Calls as in gatesvr_request_duration_seconds, in seconds.",
        )
        .is(durations(&gateway.call_durations)),
    ];
    all.extend(refusals(status));
    all
}

fn refusals(status: &Status) -> Vec<Family> {
    let (gateway, traffic) = (&status.gateway, &status.upstreams.traffic);
    let counters = &gateway.counters;
    let refused = |reason: &str| gateway.connections_refused_by.get(reason).copied().unwrap_or_default();
    let closed = |code: &str| gateway.connections_closed_by.get(code).copied().unwrap_or_default();
    vec![
        Family::counter(
            Count,
            "gatesvr_errors_total",
            "Frames that did not decode, calls that failed, STARTs that were refused, connections that took no more.",
        )
        .by(
            "error_type",
            [
                ("decode_error", counters.frames_malformed),
                ("upstream_error", counters.calls_failed),
                ("start_error", counters.starts_refused),
                ("send_error", closed("slow")),
            ],
        ),
        Family::counter(Count, "gatesvr_connections_rejected_total", "Connections refused before they were served.")
            .by(
                "reason",
                [
                    ("max_connections_exceeded", refused("full")),
                    ("connection_rate_exceeded", refused("rate")),
                    ("stopping", refused("stopping")),
                ],
            ),
        Family::counter(Count, "gatesvr_requests_rejected_total", "Calls refused before they ran.")
            .by("reason", [("max_qps_exceeded", counters.calls_refused)]),
        Family::counter(Count, "gatesvr_upstream_rejected_total", "Calls that found no upstream with room.")
            .by("reason", [("max_upstream_concurrent_exceeded", traffic.refused)]),
        Family::gauge(Count, "gatesvr_upstream_concurrent", "Calls that run at upstreams now.")
            .is(u64::from(traffic.in_flight)),
        Family::counter(Count, "gatesvr_upstream_requests", "Calls to upstreams that have ended.").is(traffic.calls),
    ]
}
