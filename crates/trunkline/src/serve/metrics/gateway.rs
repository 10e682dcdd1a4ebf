//! Metrics of connections, sessions, calls and publications.

use trunkline_gateway::Snapshot;

use super::Unit::{Bytes, Count};
use super::{Family, Value, counts};

pub(super) fn families(of: &Snapshot) -> Vec<Family> {
    let mut all = vec![
        Family::gauge(Count, "trunkline_connections", "Live connections, by what they came over.")
            .by("protocol", counts(&of.connections)),
        Family::gauge(Count, "trunkline_sessions_live", "Sessions with a connection.").is(of.sessions_live),
        Family::gauge(Count, "trunkline_sessions_waiting", "Sessions that wait for their client to come back.")
            .is(of.sessions_waiting),
        Family::gauge(Count, "trunkline_calls_running", "Calls that run now.").is(of.calls_running),
        Family::gauge(Bytes, "trunkline_reply_cache_bytes", "Replies that sessions keep until they are confirmed.")
            .is(of.reply_cache_bytes),
        Family::gauge(
            Count,
            "trunkline_queued_frames",
            "Frames that wait to be written: replies and control frames. Publications wait in their channel's log.",
        )
        .is(of.queued_frames),
        Family::gauge(Bytes, "trunkline_queued_bytes", "Bytes of these frames.").is(of.queued_bytes),
        Family::gauge(Count, "trunkline_channels", "Channels that the node holds or remembers.").is(of.channels),
        Family::gauge(
            Bytes,
            "trunkline_publication_bytes",
            "Publications in the channels' logs, and what is encoded of them.",
        )
        .is(of.publication_bytes),
        Family::durations(
            "trunkline_call_duration_seconds",
            "From the arrival of a call that ran to its outcome.",
        )
        .is(Value::Durations(of.call_durations.clone())),
        Family::durations("trunkline_start_duration_seconds", "From the arrival of a START to its answer.")
            .is(Value::Durations(of.start_durations.clone())),
        Family::counter(
            Count,
            "trunkline_calls_failed_by_code_total",
            "The failed calls, by the name of their error (docs/codes.md).",
        )
        .by("code", counts(&of.calls_failed_by)),
        Family::counter(
            Count,
            "trunkline_connections_closed_total",
            "Connections that ended, by the name of their close code (docs/codes.md).",
        )
        .by("code", counts(&of.connections_closed_by)),
        Family::counter(
            Count,
            "trunkline_connections_refused_by_reason_total",
            "Connections refused before they were served, by the reason.",
        )
        .by("reason", counts(&of.connections_refused_by)),
    ];
    all.extend(of.counters.each().map(|(name, help, value)| {
        let unit = if name.starts_with("bytes_") { Bytes } else { Count };
        Family::counter(unit, format!("trunkline_{name}_total"), help).is(value)
    }));
    all
}
