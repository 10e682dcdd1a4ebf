//! Counters of one connection, and the same of all: relaxed atomics, read only when asked for.
//!
//! One table declares each figure once: the counter, its place in [`Stats`], and its line for Prometheus.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::PacketType;

macro_rules! figures {
    ($($name:ident: $help:literal,)*) => {
        /// What is counted.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
            /// Microseconds; 0 while not measured.
            pub(crate) rtt: AtomicU64,
        }

        impl Counters {
            /// Adds the figures of a connection that has ended.
            pub(crate) fn add(&self, stats: &Stats) {
                $(self.$name.fetch_add(stats.$name, Relaxed);)*
                if let Some(rtt) = stats.rtt {
                    self.rtt.store(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX), Relaxed);
                }
            }

            pub(crate) fn snapshot(&self) -> Stats {
                let rtt = self.rtt.load(Relaxed);
                Stats {
                    $($name: self.$name.load(Relaxed),)*
                    refused_connections: 0,
                    rtt: Some(rtt).filter(|rtt| *rtt > 0).map(Duration::from_micros),
                }
            }
        }

        /// Figures of one connection since it began, or of all connections of a server or client together.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $(#[doc = $help] pub $name: u64,)*
            /// Newcomers that a middleware refused, or for whom there was no place; only of a server.
            pub refused_connections: u64,
            /// The last measured round trip, on v2; of many connections the last one of any.
            pub rtt: Option<Duration>,
        }

        impl Stats {
            /// Every counter by its name, with what it counts.
            fn counters(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                let refused = "Newcomers that a middleware refused, or for whom there was no place.";
                [
                    $((stringify!($name), $help, self.$name),)*
                    ("refused_connections", refused, self.refused_connections),
                ]
                .into_iter()
            }
        }
    };
}

figures! {
    sent_packets: "Packets that were queued to be sent; control packets are not counted.",
    sent_bytes: "Their bytes, framing included.",
    sent_requests: "Requests that were queued to be sent.",
    received_packets: "Packets that were received; control packets are not counted.",
    received_bytes: "Their bytes, framing not included.",
    received_requests: "Requests that were received.",
    dropped_oldest: "Queued packets that the policy for slow consumers dropped to make room.",
    dropped_newest: "Packets that were not queued because the queue was full.",
    dropped_received: "Received packets that were dropped because too much was unread.",
    stale_responses: "Responses that nobody waited for any more.",
    closed_slow: "Connections that were closed as slow; of one connection 0 or 1.",
    refused_packets: "Packets that a middleware refused.",
    sent_datagrams: "Packets of unreliable lanes that left as datagrams of QUIC or WebTransport.",
    early_requests: "Idempotent requests that left before the handshake of a QUIC client was complete, and were taken.",
    early_resent: "Those that were not taken, and were sent again when it was.",
    received_early: "Idempotent requests that a QUIC server has taken before the handshake was complete.",
    lane_streams: "Lanes that have a stream of their own, on QUIC or WebTransport.",
    lane_replaced: "Packets of a latest lane that a newer one replaced before they were sent.",
    lane_dropped: "Packets of an unreliable lane for which there was no room.",
    rate_delayed: "Packets that waited for their turn because they came too fast.",
    rate_dropped: "Packets that were dropped because they came too fast.",
    rate_closed: "Connections that were closed because they sent too fast; of one connection 0 or 1.",
}

impl Counters {
    /// For whoever holds the lock of the connection's output, or has the connection alone, and for nobody else.
    pub(crate) fn sent(&self, packet_type: PacketType, bytes: usize) {
        add_alone(&self.sent_packets, 1);
        add_alone(&self.sent_bytes, bytes as u64);
        if packet_type == PacketType::Request {
            add_alone(&self.sent_requests, 1);
        }
    }

    /// For the connection's task, and for nobody else.
    pub(crate) fn received(&self, packet_type: PacketType, bytes: usize) {
        add_alone(&self.received_packets, 1);
        add_alone(&self.received_bytes, bytes as u64);
        if packet_type == PacketType::Request {
            add_alone(&self.received_requests, 1);
        }
    }
}

/// Adds to what nobody else adds to meanwhile: then an addition need not be atomic.
fn add_alone(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
}

impl Stats {
    /// The figures in Prometheus' text format, each name behind `prefix_`, such as `chat_sent_packets_total`.
    #[must_use]
    pub fn prometheus(&self, prefix: &str) -> String {
        let mut text = String::new();
        for (name, help, value) in self.counters() {
            write_figure(&mut text, &format!("{prefix}_{name}_total"), help, "counter", value);
        }
        if let Some(rtt) = self.rtt {
            let help = "The last measured round trip of any connection.";
            write_figure(&mut text, &format!("{prefix}_rtt_seconds"), help, "gauge", rtt.as_secs_f64());
        }
        text
    }
}

/// One figure with what it is.
pub(crate) fn write_figure(
    text: &mut String,
    name: &str,
    help: &str,
    kind: &str,
    value: impl std::fmt::Display,
) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_told_to_prometheus_with_its_help_and_type() {
        let stats = Stats {
            sent_packets: 7,
            refused_connections: 2,
            rtt: Some(Duration::from_micros(1500)),
            ..Stats::default()
        };
        let text = stats.prometheus("chat");
        for line in [
            "chat_sent_packets_total 7",
            "chat_refused_connections_total 2",
            "chat_received_bytes_total 0",
            "chat_rtt_seconds 0.0015",
            "# TYPE chat_sent_packets_total counter",
            "# TYPE chat_rtt_seconds gauge",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
        }
        let values = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(text.lines().filter(|line| line.starts_with("# HELP ")).count(), values);
        assert_eq!(text.lines().count(), 3 * values);
    }
}
