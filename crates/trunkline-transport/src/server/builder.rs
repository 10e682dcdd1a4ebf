//! How a server is put together. Everything that can be wrong is said by `build`, and no socket is bound before.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Settings, TransportServer, registry::Registry};
use crate::{
    BuildError, Compression, IsFull, Limits, Overflow, SlowConsumer,
    budget::Budget,
    defaults,
    protocols::{ListenOptions, ServerProtocol},
    session::{core::Shared, events::Hub, stats::Counters},
};

/// Builds a [`TransportServer`].
#[derive(Debug)]
pub struct TransportServerBuilder {
    protocols: Vec<ServerProtocol>,
    limits: Limits,
    slow_consumer: SlowConsumer,
    overflow: Overflow,
    max_connections: usize,
    graceful_shutdown: Duration,
    heartbeat: Duration,
    request_timeout: Duration,
    handshake_timeout: Duration,
    max_handshakes: usize,
    compression: Option<(Compression, usize)>,
    requires_auth: bool,
}

impl Default for TransportServerBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl TransportServerBuilder {
    /// A server without protocols, with the limits of [`crate::defaults`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            protocols: Vec::new(),
            limits: Limits::default(),
            slow_consumer: SlowConsumer::default(),
            overflow: Overflow::default(),
            max_connections: defaults::MAX_CONNECTIONS,
            graceful_shutdown: defaults::CLOSE_TIMEOUT,
            heartbeat: defaults::HEARTBEAT,
            request_timeout: defaults::REQUEST_TIMEOUT,
            handshake_timeout: defaults::HANDSHAKE_TIMEOUT,
            max_handshakes: defaults::MAX_HANDSHAKES,
            compression: None,
            requires_auth: false,
        }
    }

    /// Listens on one more protocol. Several of a kind are fine.
    #[must_use]
    pub fn with_protocol(mut self, protocol: impl Into<ServerProtocol>) -> Self {
        self.protocols.push(protocol.into());
        self
    }

    /// Connections at once, over all protocols; further ones are refused.
    #[must_use]
    pub fn max_connections(self, count: usize) -> Self {
        Self { max_connections: count, ..self }
    }

    /// What a connection and the server may hold.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What happens to a peer that does not take what is sent to it.
    #[must_use]
    pub fn slow_consumer(self, policy: SlowConsumer) -> Self {
        Self { slow_consumer: policy, ..self }
    }

    /// What happens to received packets that nobody takes.
    #[must_use]
    pub fn overflow(self, policy: Overflow) -> Self {
        Self { overflow: policy, ..self }
    }

    /// How long [`TransportServer::shutdown`] waits for requests in flight, and a closing connection for its rest.
    #[must_use]
    pub fn graceful_shutdown(self, within: Duration) -> Self {
        Self { graceful_shutdown: within, ..self }
    }

    /// The interval of heartbeats. A v2 or WebSocket peer that is silent for two and a half is gone.
    #[must_use]
    pub fn heartbeat(self, interval: Duration) -> Self {
        Self { heartbeat: interval.max(Duration::from_millis(10)), ..self }
    }

    /// How long our own requests wait for their response unless told otherwise.
    #[must_use]
    pub fn request_timeout(self, timeout: Duration) -> Self {
        Self { request_timeout: timeout, ..self }
    }

    /// How long TLS, HTTP and QUIC handshakes may take, and how many may be under way on each listener.
    #[must_use]
    pub fn handshakes(self, timeout: Duration, at_once: usize) -> Self {
        Self { handshake_timeout: timeout, max_handshakes: at_once, ..self }
    }

    /// Compresses payloads from `min_size` bytes on, for v2 peers that can inflate it.
    #[must_use]
    pub fn compression(self, how: Compression, min_size: usize) -> Self {
        Self { compression: Some((how, min_size)), ..self }
    }

    /// Connections begin unauthenticated: [`Limits::before_auth`] holds until [`crate::Session::set_authenticated`].
    #[must_use]
    pub fn require_auth(self) -> Self {
        Self { requires_auth: true, ..self }
    }

    /// Resolves names and binds every socket. Connections are accepted from `serve` or `serve_with` on; until then they
    /// wait in the kernel.
    ///
    /// # Errors
    /// There is no protocol, an address cannot be bound, or a certificate is missing or unusable.
    pub async fn build(self) -> Result<TransportServer, BuildError> {
        if self.protocols.is_empty() {
            return Err(BuildError::NoProtocol);
        }
        if let Some((how, _)) = self.compression
            && !how.is_available()
        {
            return Err(BuildError::NotCompiledIn(how));
        }
        let cancel = CancellationToken::new();
        let registry = Arc::new(Registry::new());
        let (places, max) = (Arc::clone(&registry), self.max_connections);
        let is_full = IsFull::new(move || places.len() >= max);
        let before_auth = self.limits.before_auth.min(self.limits.message);
        let options = ListenOptions {
            max_message: if self.requires_auth { before_auth } else { self.limits.message },
            handshake_timeout: self.handshake_timeout,
            max_handshakes: self.max_handshakes,
            is_full,
            cancel: cancel.clone(),
        };
        let mut listeners = Vec::with_capacity(self.protocols.len());
        for protocol in self.protocols {
            listeners.push(protocol.bind(&options).await?);
        }
        let shared = Arc::new(Shared {
            budget: Budget::new(self.limits.total),
            limits: self.limits,
            slow_consumer: self.slow_consumer,
            overflow: self.overflow,
            heartbeat: self.heartbeat,
            request_timeout: self.request_timeout,
            close_timeout: self.graceful_shutdown.min(defaults::CLOSE_TIMEOUT),
            compression: self.compression,
            requires_auth: self.requires_auth,
            ended: Counters::default(),
            hub: Hub::default(),
        });
        let settings =
            Settings { max_connections: self.max_connections, graceful_shutdown: self.graceful_shutdown };
        Ok(TransportServer::new(shared, registry, listeners, cancel, settings))
    }
}
