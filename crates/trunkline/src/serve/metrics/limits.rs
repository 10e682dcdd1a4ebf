//! Metrics of what was refused or read later, and of how near the limits are.

use trunkline_gateway::Snapshot;

use super::Unit::Count;
use super::{Family, counts};

pub(super) fn families(of: &Snapshot) -> Vec<Family> {
    vec![
        Family::counter(
            Count,
            "trunkline_calls_refused_by_reason_total",
            "Calls refused for load before they ran (429, 503), by the limit.",
        )
        .by("reason", counts(&of.calls_refused_by)),
        Family::counter(
            Count,
            "trunkline_requests_refused_by_reason_total",
            "Other requests of clients refused for load (429, 503), by the limit.",
        )
        .by("reason", counts(&of.requests_refused_by)),
        Family::counter(
            Count,
            "trunkline_starts_refused_by_reason_total",
            "STARTs refused for load, or since what they need is away (4005), by the reason.",
        )
        .by("reason", counts(&of.starts_refused_by)),
        Family::counter(
            Count,
            "trunkline_reads_paused_total",
            "Times that a connection was read no further for a while, since it or its address sends too fast.",
        )
        .by("reason", counts(&of.reads_paused_by)),
        Family::gauge(Count, "trunkline_limit_used", "What is used of each limit; of a rate, in the last second.")
            .by("limit", of.limits.iter().map(|(name, limit)| (*name, limit.used))),
        Family::gauge(Count, "trunkline_limit", "The limits; 0 where there is none.")
            .by("limit", of.limits.iter().map(|(name, limit)| (*name, limit.limit))),
        Family::gauge(
            Count,
            "trunkline_limit_level",
            "How near each limit is: 0 normal, 1 near (limits.warn_percent), 2 reached, so that what is beyond it is refused.",
        )
        .by("limit", of.limits.iter().map(|(name, limit)| (*name, limit.level.number()))),
    ]
}
