//! Counters of one connection, and the same of all: relaxed atomics, read only when asked for.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::PacketType;

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent_packets: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) sent_requests: AtomicU64,
    pub(crate) received_packets: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) received_requests: AtomicU64,
    pub(crate) dropped_oldest: AtomicU64,
    pub(crate) dropped_newest: AtomicU64,
    pub(crate) dropped_received: AtomicU64,
    pub(crate) stale_responses: AtomicU64,
    pub(crate) closed_slow: AtomicU64,
    pub(crate) refused_packets: AtomicU64,
    pub(crate) rate_delayed: AtomicU64,
    pub(crate) rate_dropped: AtomicU64,
    pub(crate) rate_closed: AtomicU64,
    /// Microseconds; 0 while not measured.
    pub(crate) rtt: AtomicU64,
}

impl Counters {
    pub(crate) fn sent(&self, packet_type: PacketType, bytes: usize) {
        self.sent_packets.fetch_add(1, Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Relaxed);
        if packet_type == PacketType::Request {
            self.sent_requests.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn received(&self, packet_type: PacketType, bytes: usize) {
        self.received_packets.fetch_add(1, Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
        if packet_type == PacketType::Request {
            self.received_requests.fetch_add(1, Relaxed);
        }
    }

    /// Adds the figures of a connection that has ended.
    pub(crate) fn add(&self, stats: &Stats) {
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Relaxed);
        add(&self.sent_packets, stats.sent_packets);
        add(&self.sent_bytes, stats.sent_bytes);
        add(&self.sent_requests, stats.sent_requests);
        add(&self.received_packets, stats.received_packets);
        add(&self.received_bytes, stats.received_bytes);
        add(&self.received_requests, stats.received_requests);
        add(&self.dropped_oldest, stats.dropped_oldest);
        add(&self.dropped_newest, stats.dropped_newest);
        add(&self.dropped_received, stats.dropped_received);
        add(&self.stale_responses, stats.stale_responses);
        add(&self.closed_slow, stats.closed_slow);
        add(&self.refused_packets, stats.refused_packets);
        add(&self.rate_delayed, stats.rate_delayed);
        add(&self.rate_dropped, stats.rate_dropped);
        add(&self.rate_closed, stats.rate_closed);
        if let Some(rtt) = stats.rtt {
            self.rtt.store(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        Stats {
            sent_packets: get(&self.sent_packets),
            sent_bytes: get(&self.sent_bytes),
            sent_requests: get(&self.sent_requests),
            received_packets: get(&self.received_packets),
            received_bytes: get(&self.received_bytes),
            received_requests: get(&self.received_requests),
            dropped_oldest: get(&self.dropped_oldest),
            dropped_newest: get(&self.dropped_newest),
            dropped_received: get(&self.dropped_received),
            stale_responses: get(&self.stale_responses),
            closed_slow: get(&self.closed_slow),
            refused_packets: get(&self.refused_packets),
            rate_delayed: get(&self.rate_delayed),
            rate_dropped: get(&self.rate_dropped),
            rate_closed: get(&self.rate_closed),
            refused_connections: 0,
            rtt: Some(get(&self.rtt)).filter(|rtt| *rtt > 0).map(Duration::from_micros),
        }
    }
}

/// Figures of one connection since it began, or of all connections of a server or client together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Packets that were queued to be sent; control packets are not counted.
    pub sent_packets: u64,
    /// Their bytes, framing included.
    pub sent_bytes: u64,
    /// How many of them were requests.
    pub sent_requests: u64,
    /// Packets that were received.
    pub received_packets: u64,
    /// Their bytes, framing not included.
    pub received_bytes: u64,
    /// How many of them were requests.
    pub received_requests: u64,
    /// Queued packets that were dropped by [`crate::SlowConsumer::DropOldest`].
    pub dropped_oldest: u64,
    /// Packets that were not queued because the queue was full.
    pub dropped_newest: u64,
    /// Received packets that were dropped by [`crate::Overflow`].
    pub dropped_received: u64,
    /// Responses that nobody waited for any more.
    pub stale_responses: u64,
    /// Connections that were closed as slow; of one connection 0 or 1.
    pub closed_slow: u64,
    /// Packets that a middleware refused.
    pub refused_packets: u64,
    /// Packets that waited for their turn by [`crate::RateLimiterConfig`].
    pub rate_delayed: u64,
    /// Packets that were dropped by it.
    pub rate_dropped: u64,
    /// Connections that were closed by it; of one connection 0 or 1.
    pub rate_closed: u64,
    /// Newcomers that a middleware refused, or for whom there was no place; only of a server.
    pub refused_connections: u64,
    /// The last measured round trip, on v2; of many connections the last one of any.
    pub rtt: Option<Duration>,
}
