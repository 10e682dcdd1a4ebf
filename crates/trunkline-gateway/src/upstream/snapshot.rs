//! What pages and metrics show of the upstreams: plain figures, taken at one moment.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::dispatch::Traffic;
use super::registry::{Entry, Source};

/// Everything, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UpstreamsSnapshot {
    /// One for each registration, by zone, service and address.
    pub instances: Vec<InstanceSnapshot>,
    /// All requests together.
    pub traffic: TrafficSnapshot,
}

/// Requests over all instances.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TrafficSnapshot {
    /// That run now.
    pub in_flight: u32,
    /// That have ended.
    pub calls: u64,
    /// Answered 502 and other failures.
    pub failed: u64,
    /// Answered 503, before they ran.
    pub refused: u64,
    /// Answered 504.
    pub timed_out: u64,
    /// Attempts beyond the first.
    pub retries: u64,
}

/// One registration. Figures of the instance itself (state, calls, limits) are the same in all its zones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceSnapshot {
    /// Where it listens.
    pub address: String,
    /// Its zone, or `*`.
    pub zone: String,
    /// Its service's name.
    pub service: String,
    /// Its own name.
    pub instance: String,
    /// `static` or `registered`.
    pub source: &'static str,
    /// `unprobed`, `up`, `half-open`, `ejected` or `down`.
    pub state: &'static str,
    /// Why it is not up; empty while it is.
    pub why: String,
    /// How long it has been so, in seconds.
    pub state_seconds: u64,
    /// Its share.
    pub weight: u32,
    /// HTTP/2 connections to it.
    pub connections: usize,
    /// Calls that run.
    pub in_flight: u32,
    /// Calls that it takes at once.
    pub max_in_flight: u32,
    /// Calls begun.
    pub calls: u64,
    /// Calls that it failed.
    pub failures: u64,
    /// How often it was ejected.
    pub ejections: u64,
    /// Session events dropped because it did not take them.
    pub events_lost: u64,
}

impl InstanceSnapshot {
    pub(super) fn of(entry: &Entry) -> Self {
        let figures = entry.peer.figures();
        let registration = &entry.registration;
        InstanceSnapshot {
            address: registration.address.to_string(),
            zone: registration.zone.as_str().to_owned(),
            service: registration.service.clone(),
            instance: registration.instance.clone(),
            source: match entry.source {
                Source::Static => "static",
                Source::Registered => "registered",
            },
            state: figures.phase.as_str(),
            why: figures.why,
            state_seconds: figures.since.elapsed().as_secs(),
            weight: registration.weight,
            connections: figures.connections,
            in_flight: figures.in_flight,
            max_in_flight: figures.limit,
            calls: figures.calls,
            failures: figures.failures,
            ejections: figures.ejections,
            events_lost: entry.peer.events.lost(),
        }
    }
}

impl TrafficSnapshot {
    pub(super) fn of(traffic: &Traffic) -> Self {
        TrafficSnapshot {
            in_flight: traffic.in_flight.load(Ordering::Relaxed),
            calls: traffic.calls.load(Ordering::Relaxed),
            failed: traffic.failed.load(Ordering::Relaxed),
            refused: traffic.refused.load(Ordering::Relaxed),
            timed_out: traffic.timed_out.load(Ordering::Relaxed),
            retries: traffic.retries.load(Ordering::Relaxed),
        }
    }
}
