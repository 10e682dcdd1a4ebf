//! How a client is put together.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{RetryConfig, TransportClient, keeper::Keeping};
use crate::{
    BuildError, Compression, Limits, MiddlewareStack, Overflow, SlowConsumer, Wire,
    budget::Budget,
    compress::{self, Dictionary},
    defaults::{self, LONGEST, MIN_HEARTBEAT},
    early::Early,
    protocols::{ClientProtocol, DialOptions},
    session::{core::Shared, events::Hub},
};

/// Builds a [`TransportClient`].
#[derive(Clone, Debug)]
pub struct TransportClientBuilder {
    protocols: Vec<ClientProtocol>,
    retry: Option<RetryConfig>,
    reconnect: Option<RetryConfig>,
    pool: Option<(usize, usize, Duration)>,
    limits: Limits,
    slow_consumer: SlowConsumer,
    overflow: Overflow,
    connect_timeout: Duration,
    request_timeout: Duration,
    heartbeat: Duration,
    compression: Option<(Compression, usize)>,
    dictionary: Option<Dictionary>,
    wire: Wire,
}

impl Default for TransportClientBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl TransportClientBuilder {
    /// A client without a protocol, with the limits of [`crate::defaults`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            protocols: Vec::new(),
            retry: None,
            reconnect: None,
            pool: None,
            limits: Limits::default(),
            slow_consumer: SlowConsumer::default(),
            overflow: Overflow::default(),
            connect_timeout: defaults::CONNECT_TIMEOUT,
            request_timeout: defaults::REQUEST_TIMEOUT,
            heartbeat: defaults::HEARTBEAT,
            compression: None,
            dictionary: None,
            wire: Wire::V2,
        }
    }

    /// What to connect with.
    #[must_use]
    pub fn with_protocol(self, protocol: impl Into<ClientProtocol>) -> Self {
        Self { protocols: vec![protocol.into()], ..self }
    }

    /// Another way to the same server. All are raced, and the first that answers is used: QUIC and WebTransport begin,
    /// whatever the order, and each further one follows after 250 ms or when one fails. What loses is dropped.
    #[must_use]
    pub fn or(mut self, protocol: impl Into<ClientProtocol>) -> Self {
        self.protocols.push(protocol.into());
        self
    }

    /// How [`TransportClient::connect`] tries again; unless told, it does not.
    #[must_use]
    pub fn retry_strategy(self, retry: RetryConfig) -> Self {
        Self { retry: Some(retry), ..self }
    }

    /// Comes back by itself when the connection is lost or the server goes away, as a new session. What was in flight ends
    /// as disconnected, unless it is asked again ([`crate::Request::idempotent`]). It does not come back where the server
    /// has ended the conversation: by an ordinary end, as a refusal, or with a code of its user's own.
    #[must_use]
    pub fn reconnect(self, retry: RetryConfig) -> Self {
        Self { reconnect: Some(retry), ..self }
    }

    /// Keeps from `min` to `max` connections. Each packet and request takes the one with the fewest requests in flight; one
    /// is added when half of its places are taken, one that nothing has moved on for `idle_timeout` goes, and lost ones
    /// are replaced, by the strategy of [`TransportClientBuilder::reconnect`] (without end, unless told).
    #[must_use]
    pub fn pool(self, min: usize, max: usize, idle_timeout: Duration) -> Self {
        let min = min.max(1);
        Self { pool: Some((min, max.max(min), idle_timeout.min(LONGEST))), ..self }
    }

    /// The wire to speak where the handshake does not agree on one: over TCP, v2 unless told. A `msgtrans` server
    /// needs v1.
    #[must_use]
    pub fn wire(self, wire: Wire) -> Self {
        Self { wire, ..self }
    }

    /// How long each attempt to connect may take, name look-up included.
    #[must_use]
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        Self { connect_timeout: timeout.min(LONGEST), ..self }
    }

    /// How long requests wait for their response unless told otherwise.
    #[must_use]
    pub fn request_timeout(self, timeout: Duration) -> Self {
        Self { request_timeout: timeout.min(LONGEST), ..self }
    }

    /// The interval of heartbeats, from 10 ms to a year. A v2 or WebSocket peer that is silent for two and a half is gone. On v2 a
    /// side leaves its own out while packets come and go anyway, and when it has just answered the other's, but for every
    /// fourth, which measures the round-trip time.
    #[must_use]
    pub fn heartbeat(self, interval: Duration) -> Self {
        Self { heartbeat: interval.clamp(MIN_HEARTBEAT, LONGEST), ..self }
    }

    /// What the client may hold.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What happens when the server does not take what is sent to it.
    #[must_use]
    pub fn slow_consumer(self, policy: SlowConsumer) -> Self {
        Self { slow_consumer: policy.within_reach(), ..self }
    }

    /// What happens to received packets that nobody takes.
    #[must_use]
    pub fn overflow(self, policy: Overflow) -> Self {
        Self { overflow: policy, ..self }
    }

    /// Compresses payloads from `min_size` bytes on, for v2 peers that can inflate it.
    #[must_use]
    pub fn compression(self, how: Compression, min_size: usize) -> Self {
        Self { compression: Some((how, min_size)), ..self }
    }

    /// The dictionary for [`Compression::ZstdDictionary`], which the other side has to be given as well. What such a peer
    /// compresses with it is inflated whether anything is compressed here or not.
    #[cfg(feature = "zstd")]
    #[must_use]
    pub fn dictionary(self, dictionary: Dictionary) -> Self {
        Self { dictionary: Some(dictionary), ..self }
    }

    /// Checks everything; [`TransportClient::connect`] connects.
    ///
    /// # Errors
    /// There is no protocol, or it cannot be used.
    #[expect(clippy::unused_async, reason = "the published shape; protocols to come prepare themselves here")]
    pub async fn build(self) -> Result<TransportClient, BuildError> {
        if self.protocols.is_empty() {
            return Err(BuildError::NoProtocol);
        }
        self.protocols.iter().try_for_each(ClientProtocol::judge)?;
        let mut protocols = self.protocols;
        protocols.sort_by_key(|protocol| !protocol.is_over_udp());
        compress::judge(self.compression, self.dictionary.as_ref())?;
        let (max_message, timeout, wire) = (self.limits.message, self.connect_timeout, self.wire);
        let shared = Arc::new(Shared {
            budget: Budget::new(self.limits.total),
            limits: self.limits,
            slow_consumer: self.slow_consumer,
            overflow: self.overflow,
            heartbeat: self.heartbeat,
            request_timeout: self.request_timeout,
            close_timeout: defaults::CLOSE_TIMEOUT,
            compression: self.compression,
            dictionary: self.dictionary,
            auth_within: None,
            hides_strangers: false,
            first_packet: None,
            middleware: MiddlewareStack::default(),
            limiter: None,
            ended: Mutex::default(),
            hub: Hub::new(self.pool.map_or(1, |(_, max, _)| max)),
            changed: Notify::new(),
        });
        let sends_early = protocols.iter().any(ClientProtocol::sends_early);
        let early = sends_early.then(|| Early::new(Arc::clone(&shared)));
        let dial = DialOptions { max_message, timeout, wire, early };
        let forever = RetryConfig::forever(defaults::RETRY_INITIAL);
        let keeping = match (self.pool, self.reconnect) {
            (Some((min, max, idle)), retry) => {
                Some(Keeping { min, max, idle: Some(idle), retry: retry.unwrap_or(forever) })
            }
            (None, Some(retry)) => Some(Keeping { min: 1, max: 1, idle: None, retry }),
            (None, None) => None,
        };
        Ok(TransportClient::new(protocols, dial, self.retry, keeping, shared))
    }
}
