//! Metrics of the way to upstreams, over all of them: which one is in trouble, `/api/status` says.

use trunkline_gateway::upstream::UpstreamsSnapshot;

use super::Family;
use super::Unit::Count;

/// Every state that an instance can be in, as [`UpstreamsSnapshot`] names it.
const STATES: [&str; 5] = ["unprobed", "up", "half-open", "ejected", "down"];

pub(super) fn families(of: &UpstreamsSnapshot) -> Vec<Family> {
    let in_state =
        |state: &str| of.instances.iter().filter(|instance| instance.state == state).count() as u64;
    let traffic = &of.traffic;
    let counter = |name: &str, help: &str, value: u64| {
        Family::counter(Count, format!("trunkline_upstream_{name}_total"), help).is(value)
    };
    vec![
        Family::gauge(Count, "trunkline_upstream_instances", "Registrations of upstreams, by their state.")
            .by("state", STATES.map(|state| (state, in_state(state)))),
        Family::gauge(Count, "trunkline_upstream_calls_running", "Calls that run at upstreams now.")
            .is(u64::from(traffic.in_flight)),
        counter("calls", "Calls to upstreams that have ended.", traffic.calls),
        counter("calls_failed", "Of them, those that failed (502 and others).", traffic.failed),
        counter("calls_refused", "Of them, those refused before they ran (503).", traffic.refused),
        counter("calls_timed_out", "Of them, those without an answer in time (504).", traffic.timed_out),
        counter("retries", "Attempts beyond the first.", traffic.retries),
    ]
}
