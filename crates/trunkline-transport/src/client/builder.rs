//! How a client is put together.

use std::{sync::Arc, time::Duration};

use super::TransportClient;
use crate::{
    BuildError, Compression, Limits, MiddlewareStack, Overflow, SlowConsumer, Wire,
    budget::Budget,
    defaults,
    protocols::{ClientProtocol, DialOptions},
    session::{core::Shared, events::Hub, stats::Counters},
};

/// Builds a [`TransportClient`].
#[derive(Clone, Debug)]
pub struct TransportClientBuilder {
    protocol: Option<ClientProtocol>,
    limits: Limits,
    slow_consumer: SlowConsumer,
    overflow: Overflow,
    connect_timeout: Duration,
    request_timeout: Duration,
    heartbeat: Duration,
    compression: Option<(Compression, usize)>,
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
            protocol: None,
            limits: Limits::default(),
            slow_consumer: SlowConsumer::default(),
            overflow: Overflow::default(),
            connect_timeout: defaults::CONNECT_TIMEOUT,
            request_timeout: defaults::REQUEST_TIMEOUT,
            heartbeat: defaults::HEARTBEAT,
            compression: None,
            wire: Wire::V2,
        }
    }

    /// What to connect with.
    #[must_use]
    pub fn with_protocol(self, protocol: impl Into<ClientProtocol>) -> Self {
        Self { protocol: Some(protocol.into()), ..self }
    }

    /// The wire to speak where the handshake does not agree on one: over TCP, v2 unless told. A `msgtrans` server
    /// needs v1.
    #[must_use]
    pub fn wire(self, wire: Wire) -> Self {
        Self { wire, ..self }
    }

    /// How long [`TransportClient::connect`] may take.
    #[must_use]
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        Self { connect_timeout: timeout, ..self }
    }

    /// How long requests wait for their response unless told otherwise.
    #[must_use]
    pub fn request_timeout(self, timeout: Duration) -> Self {
        Self { request_timeout: timeout, ..self }
    }

    /// The interval of heartbeats. A v2 or WebSocket peer that is silent for two and a half is gone.
    #[must_use]
    pub fn heartbeat(self, interval: Duration) -> Self {
        Self { heartbeat: interval.max(Duration::from_millis(10)), ..self }
    }

    /// What the client may hold.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What happens when the server does not take what is sent to it.
    #[must_use]
    pub fn slow_consumer(self, policy: SlowConsumer) -> Self {
        Self { slow_consumer: policy, ..self }
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

    /// Checks everything; [`TransportClient::connect`] connects.
    ///
    /// # Errors
    /// There is no protocol, or it cannot be used.
    #[expect(clippy::unused_async, reason = "the published shape; protocols to come prepare themselves here")]
    pub async fn build(self) -> Result<TransportClient, BuildError> {
        let protocol = self.protocol.ok_or(BuildError::NoProtocol)?;
        protocol.judge()?;
        if let Some((how, _)) = self.compression
            && !how.is_available()
        {
            return Err(BuildError::NotCompiledIn(how));
        }
        let dial =
            DialOptions { max_message: self.limits.message, timeout: self.connect_timeout, wire: self.wire };
        let shared = Arc::new(Shared {
            budget: Budget::new(self.limits.total),
            limits: self.limits,
            slow_consumer: self.slow_consumer,
            overflow: self.overflow,
            heartbeat: self.heartbeat,
            request_timeout: self.request_timeout,
            close_timeout: defaults::CLOSE_TIMEOUT,
            compression: self.compression,
            auth_within: None,
            hides_strangers: false,
            first_packet: None,
            middleware: MiddlewareStack::default(),
            limiter: None,
            ended: Counters::default(),
            hub: Hub::default(),
        });
        Ok(TransportClient::new(protocol, dial, shared))
    }
}
