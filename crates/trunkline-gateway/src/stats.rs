//! Counters of what the node does, cheap enough for the hot path, read as one [`Snapshot`].
//!
//! A snapshot is a plain value that can be added to another, so that many processes can be shown as one. Nothing
//! here is labelled by session or user.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;
use trunkline_transport::Protocol;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The node's counters; each only rises.
        #[derive(Debug, Default)]
        pub(crate) struct Stats {
            pub(crate) connections_by_protocol: [Gauge; Protocol::ALL.len()],
            pub(crate) calls_running: Gauge,
            $(pub(crate) $name: Counter,)+ }

        /// The counters at one moment.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)+ }

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
    /// Calls started.
    calls,
    /// Calls that ended with an error of the gateway or the way to an upstream.
    calls_failed,
    /// Calls and starts refused for load.
    calls_refused,
    /// Pushes accepted from services.
    pushes,
    /// Publications accepted from clients and services.
    publications,
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
    pub connections: std::collections::BTreeMap<&'static str, u64>,
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
    /// Everything that only rises.
    pub counters: Counters,
}

impl Stats {
    pub(crate) fn gauge(&self, protocol: Protocol) -> &Gauge {
        let at = Protocol::ALL.iter().position(|p| *p == protocol).unwrap_or_default();
        &self.connections_by_protocol[at]
    }

    pub(crate) fn connections(&self) -> std::collections::BTreeMap<&'static str, u64> {
        Protocol::ALL
            .iter()
            .zip(&self.connections_by_protocol)
            .map(|(protocol, gauge)| (protocol.as_str(), gauge.value()))
            .collect()
    }
}
