//! Counters of what the node does, cheap enough for the hot path, read as one [`Snapshot`].
//!
//! A snapshot is a plain value that can be added to another, so that many processes can be shown as one. Nothing
//! here is labelled by session or user: every label has a value of a fixed list.

mod histogram;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;
use trunkline_proto::{CloseCode, ErrorCode};
use trunkline_session::RequestRefusal;
use trunkline_transport::Protocol;

use crate::connection::{PauseReason, Refusal};
pub(crate) use histogram::Histogram;
pub use histogram::{BOUNDS_SECONDS, Durations};

use crate::limits::LimitFigures;
use crate::start::StartRefusal;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The node's counters; each only rises.
        #[derive(Debug, Default)]
        pub(crate) struct Stats {
            pub(crate) connections_by_protocol: [Gauge; Protocol::ALL.len()],
            pub(crate) calls_running: Gauge,
            /// Calls that ended with an error, by its code.
            pub(crate) calls_failed_by: Labelled<{ ErrorCode::ALL.len() }>,
            /// Connections that ended, by their close code.
            pub(crate) closed_by: Labelled<{ CloseCode::ALL.len() }>,
            pub(crate) refused_by: Labelled<{ Refusal::ALL.len() }>,
            /// Calls that were refused for load, by reason.
            pub(crate) calls_refused_by: Labelled<{ RequestRefusal::ALL.len() }>,
            /// Other requests that were refused for load, by reason.
            pub(crate) requests_refused_by: Labelled<{ RequestRefusal::ALL.len() }>,
            /// STARTs that were refused for load, by reason.
            pub(crate) starts_refused_by: Labelled<{ StartRefusal::ALL.len() }>,
            pub(crate) reads_paused_by: Labelled<{ PauseReason::ALL.len() }>,
            /// From the arrival of a call that ran to its outcome.
            pub(crate) call_durations: Histogram,
            /// From the arrival of a START to its answer.
            pub(crate) start_durations: Histogram,
            $(pub(crate) $name: Counter,)+ }

        /// The counters at one moment.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: u64,)+ }

        impl Counters {
            /// Each counter's name, what it counts, and its value.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc),+).trim_ascii_start(), self.$name),)+].into_iter()
            }

            /// What clients asked for, whether it was done or not: STARTs and calls.
            pub fn requests(&self) -> u64 {
                self.calls + self.calls_refused + self.sessions_started + self.sessions_resumed + self.starts_refused
            }

            /// Of the requests, those that did not succeed.
            pub fn requests_failed(&self) -> u64 {
                self.calls_failed + self.calls_refused + self.starts_refused
            }
        }

        impl Stats {
            /// Reads every counter.
            pub(crate) fn counters(&self) -> Counters {
                Counters { $($name: self.$name.value(),)+ }
            }
        }

        impl std::ops::AddAssign for Counters {
            fn add_assign(&mut self, other: Self) { $(self.$name += other.$name;)+ }
        }
    };
}

counters! {
    /// Connections ever accepted.
    connections_accepted,
    /// Connections refused before they were served.
    connections_refused,
    /// Frames read from clients.
    frames_in,
    /// Bytes of frames read from clients.
    bytes_in,
    /// Bytes written to clients, framing included.
    bytes_out,
    /// Calls that ran: each was handed to a service or to the way to an upstream.
    calls,
    /// Of `calls`, those that ended without a reply: an error of the service or of the way to it, a time-out.
    calls_failed,
    /// Calls that did not run, none of them in `calls`: refused by a limit of the session or the node (429, 503),
    /// because the node stops (503), or because they may have run in a session that is gone (520).
    calls_refused,
    /// Pushes accepted from services.
    pushes,
    /// Publications accepted from clients and services.
    publications,
    /// Publications made into bytes for clients: once for each protocol, dialect and framing that a subscriber has,
    /// whatever the number of its subscribers.
    publications_encoded,
    /// Publications written to clients.
    deliveries,
    /// Gaps told to clients, while connected or at START.
    gaps_told,
    /// Sessions begun.
    sessions_started,
    /// Sessions continued on a new connection.
    sessions_resumed,
    /// Sessions ended.
    sessions_ended,
    /// STARTs refused: tokens, policies, late attempts.
    starts_refused,
    /// Used resume tokens presented again: a client with a bug, or a thief.
    tokens_reused,
    /// Frames that did not decode.
    frames_malformed,
}

/// A number that only rises.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A counter for each item of a fixed list.
#[derive(Debug)]
pub(crate) struct Labelled<const N: usize>([Counter; N]);

impl<const N: usize> Default for Labelled<N> {
    fn default() -> Self {
        Labelled(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> Labelled<N> {
    /// Counts one. An item that is not in the list is not counted; the lists here have every item of their type.
    pub(crate) fn one<T: PartialEq>(&self, list: &[T], item: &T) {
        if let Some(counter) = list.iter().position(|other| other == item).and_then(|at| self.0.get(at)) {
            counter.one();
        }
    }

    /// By name; each item of the list is there, also at 0.
    fn values<T>(&self, list: &[T], name: impl Fn(&T) -> String) -> BTreeMap<String, u64> {
        list.iter().map(name).zip(self.0.iter().map(Counter::value)).collect()
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn up(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn down(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What the node does and holds now.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Snapshot {
    /// Live connections by protocol name.
    pub connections: BTreeMap<&'static str, u64>,
    /// Sessions with a connection.
    pub sessions_live: u64,
    /// Sessions that wait for their client.
    pub sessions_waiting: u64,
    /// Calls running now.
    pub calls_running: u64,
    /// Bytes of cached replies.
    pub reply_cache_bytes: u64,
    /// Tasks of the node: connections, calls, operations.
    pub tasks: u64,
    /// Frames that wait to be written: replies and control frames. Publications wait in their channel's log.
    pub queued_frames: u64,
    /// Bytes of these frames.
    pub queued_bytes: u64,
    /// The `calls_failed`, by the name of their error.
    pub calls_failed_by: BTreeMap<String, u64>,
    /// Connections that ended, by the name of their close code.
    pub connections_closed_by: BTreeMap<String, u64>,
    /// Connections refused before they were served, by reason.
    pub connections_refused_by: BTreeMap<String, u64>,
    /// Of `calls_refused`, those that were refused for load, by reason.
    pub calls_refused_by: BTreeMap<String, u64>,
    /// Publishes, subscriptions and the like that were refused for load, by reason.
    pub requests_refused_by: BTreeMap<String, u64>,
    /// Of `starts_refused`, those that were refused for load, by reason.
    pub starts_refused_by: BTreeMap<String, u64>,
    /// Times that a connection was read no further for a while, by reason.
    pub reads_paused_by: BTreeMap<String, u64>,
    /// The limits by name: how much is used, and how near they are.
    pub limits: BTreeMap<&'static str, LimitFigures>,
    /// From the arrival of a call that ran to its outcome.
    pub call_durations: Durations,
    /// From the arrival of a START to its answer.
    pub start_durations: Durations,
    /// Channels that the node holds or remembers.
    pub channels: u64,
    /// Bytes of publications in the channels' logs, and of what is encoded of them.
    pub publication_bytes: u64,
    /// Everything that only rises.
    pub counters: Counters,
}

impl Stats {
    /// Whatever is counted by a label.
    pub(crate) fn labelled(&self, snapshot: &mut Snapshot) {
        let lower = |name: &str| name.to_lowercase();
        snapshot.calls_failed_by = self.calls_failed_by.values(ErrorCode::ALL, |code| lower(code.name()));
        snapshot.connections_closed_by = self.closed_by.values(CloseCode::ALL, |code| lower(code.name()));
        snapshot.connections_refused_by =
            self.refused_by.values(&Refusal::ALL, |refusal| refusal.as_str().to_owned());
        let request = |refusal: &RequestRefusal| refusal.as_str().to_owned();
        snapshot.calls_refused_by = self.calls_refused_by.values(RequestRefusal::ALL, request);
        snapshot.requests_refused_by = self.requests_refused_by.values(RequestRefusal::ALL, request);
        snapshot.starts_refused_by =
            self.starts_refused_by.values(&StartRefusal::ALL, |refusal| refusal.as_str().to_owned());
        snapshot.reads_paused_by =
            self.reads_paused_by.values(&PauseReason::ALL, |reason| reason.as_str().to_owned());
        snapshot.call_durations = self.call_durations.read();
        snapshot.start_durations = self.start_durations.read();
    }

    pub(crate) fn gauge(&self, protocol: Protocol) -> &Gauge {
        let at = Protocol::ALL.iter().position(|p| *p == protocol).unwrap_or_default();
        &self.connections_by_protocol[at]
    }

    pub(crate) fn connections(&self) -> BTreeMap<&'static str, u64> {
        Protocol::ALL
            .iter()
            .zip(&self.connections_by_protocol)
            .map(|(protocol, gauge)| (protocol.as_str(), gauge.value()))
            .collect()
    }
}

impl std::ops::AddAssign for Snapshot {
    fn add_assign(&mut self, other: Self) {
        add(&mut self.connections, other.connections);
        self.sessions_live += other.sessions_live;
        self.sessions_waiting += other.sessions_waiting;
        self.calls_running += other.calls_running;
        self.reply_cache_bytes += other.reply_cache_bytes;
        self.tasks += other.tasks;
        self.queued_frames += other.queued_frames;
        self.queued_bytes += other.queued_bytes;
        self.channels += other.channels;
        self.publication_bytes += other.publication_bytes;
        add(&mut self.calls_failed_by, other.calls_failed_by);
        add(&mut self.connections_closed_by, other.connections_closed_by);
        add(&mut self.connections_refused_by, other.connections_refused_by);
        add(&mut self.calls_refused_by, other.calls_refused_by);
        add(&mut self.requests_refused_by, other.requests_refused_by);
        add(&mut self.starts_refused_by, other.starts_refused_by);
        add(&mut self.reads_paused_by, other.reads_paused_by);
        for (name, figures) in other.limits {
            *self.limits.entry(name).or_default() += figures;
        }
        self.call_durations += other.call_durations;
        self.start_durations += other.start_durations;
        self.counters += other.counters;
    }
}

fn add<K: Ord>(to: &mut BTreeMap<K, u64>, from: BTreeMap<K, u64>) {
    for (key, count) in from {
        *to.entry(key).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn snapshots_of_two_processes_add_up() {
        let of = |refusal, millis| {
            let stats = Stats::default();
            stats.calls.add(3);
            stats.gauge(Protocol::Tcp).up();
            stats.refused_by.one(&Refusal::ALL, &refusal);
            stats.calls_failed_by.one(ErrorCode::ALL, &ErrorCode::Conflict);
            stats.call_durations.observe(Duration::from_millis(millis), 1);
            let mut snapshot = Snapshot {
                connections: stats.connections(),
                counters: stats.counters(),
                queued_bytes: 5,
                ..Snapshot::default()
            };
            stats.labelled(&mut snapshot);
            snapshot
        };
        let mut sum = of(Refusal::Full, 1);
        sum += of(Refusal::Stopping, 2_000);
        assert_eq!((sum.counters.calls, sum.connections["tcp"], sum.queued_bytes), (6, 2, 10));
        assert_eq!((sum.connections_refused_by["full"], sum.connections_refused_by["stopping"]), (1, 1));
        // Two codes have the number 409; each has its own count.
        assert_eq!((sum.calls_failed_by["conflict"], sum.calls_failed_by["seq_reused"]), (2, 0));
        assert_eq!((sum.call_durations.count(), sum.call_durations.sum_us), (2, 2_001_000));
    }
}
