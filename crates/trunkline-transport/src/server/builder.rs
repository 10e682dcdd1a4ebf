//! How a server is put together. Everything that can be wrong is said by `build`, and no socket is bound before.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Settings, TransportServer, registry::Registry};
use crate::{
    BuildError, Compression, IsFull, Limits, Middleware, MiddlewareStack, Overflow, RateLimiterConfig,
    SlowConsumer,
    budget::Budget,
    compress::{self, Dictionary},
    defaults::{self, LONGEST, MIN_HEARTBEAT},
    protocols::{ListenOptions, ServerProtocol},
    rate_limit::RateLimiter,
    session::{core::Shared, events::Hub},
};

/// Builds a [`TransportServer`].
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
    backlog: u32,
    compression: Option<(Compression, usize)>,
    dictionary: Option<Dictionary>,
    requires_auth: bool,
    auth_timeout: Duration,
    first_packet: Duration,
    middleware: Vec<Arc<dyn Middleware>>,
    rate_limiter: Option<RateLimiterConfig>,
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
            backlog: defaults::BACKLOG,
            compression: None,
            dictionary: None,
            requires_auth: false,
            auth_timeout: defaults::AUTH_TIMEOUT,
            first_packet: defaults::FIRST_PACKET,
            middleware: Vec::new(),
            rate_limiter: None,
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
        Self { slow_consumer: policy.within_reach(), ..self }
    }

    /// What happens to received packets that nobody takes.
    #[must_use]
    pub fn overflow(self, policy: Overflow) -> Self {
        Self { overflow: policy, ..self }
    }

    /// How long [`TransportServer::shutdown`] waits for requests in flight, and a closing connection for its rest.
    #[must_use]
    pub fn graceful_shutdown(self, within: Duration) -> Self {
        Self { graceful_shutdown: within.min(LONGEST), ..self }
    }

    /// The interval of heartbeats, from 10 ms to a year. A v2 or WebSocket peer that is silent for two and a half is gone. On v2 a
    /// side leaves its own out while packets come and go anyway, and when it has just answered the other's, but for every
    /// fourth, which measures the round-trip time.
    #[must_use]
    pub fn heartbeat(self, interval: Duration) -> Self {
        Self { heartbeat: interval.clamp(MIN_HEARTBEAT, LONGEST), ..self }
    }

    /// How long our own requests wait for their response unless told otherwise.
    #[must_use]
    pub fn request_timeout(self, timeout: Duration) -> Self {
        Self { request_timeout: timeout.min(LONGEST), ..self }
    }

    /// How long TLS, HTTP and QUIC handshakes may take, and how many may be under way on each listener.
    #[must_use]
    pub fn handshakes(self, timeout: Duration, at_once: usize) -> Self {
        Self { handshake_timeout: timeout.min(LONGEST), max_handshakes: at_once, ..self }
    }

    /// Connections that the kernel keeps on each TCP, TLS, WebSocket and Unix listener while nobody accepts them: 4,096 unless told
    /// otherwise, and never more than the kernel's own cap (`net.core.somaxconn` on Linux). Others wait in no kernel.
    #[must_use]
    pub fn backlog(self, connections: u32) -> Self {
        Self { backlog: connections, ..self }
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

    /// Connections begin unauthenticated: [`Limits::before_auth`] holds until the handler calls
    /// [`crate::Session::set_authenticated`]; who has not got there within 10 s is closed
    /// ([`TransportServerBuilder::auth_timeout`]), and broadcasts pass him by. With [`crate::AuthMiddleware`] this is not needed.
    #[must_use]
    pub fn require_auth(self) -> Self {
        Self { requires_auth: true, ..self }
    }

    /// How long a connection may be unauthenticated, with [`TransportServerBuilder::require_auth`].
    #[must_use]
    pub fn auth_timeout(self, within: Duration) -> Self {
        Self { auth_timeout: within.min(LONGEST), ..self }
    }

    /// How long a peer may take for its first packet where nothing else tells what it speaks, or whether it is there: over TCP, Unix
    /// sockets and memory, and for the first stream of QUIC and WebTransport. 90 s; clients of v2 speak at once.
    #[must_use]
    pub fn first_packet_timeout(self, within: Duration) -> Self {
        Self { first_packet: within.min(LONGEST), ..self }
    }

    /// Adds a middleware behind those before it.
    #[must_use]
    pub fn with_middleware(mut self, middleware: impl Middleware) -> Self {
        self.middleware.push(Arc::new(middleware));
        self
    }

    /// Limits how fast peers may send.
    #[must_use]
    pub fn rate_limiter(self, config: RateLimiterConfig) -> Self {
        Self { rate_limiter: Some(config), ..self }
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
        compress::judge(self.compression, self.dictionary.as_ref())?;
        let cancel = CancellationToken::new();
        let registry = Arc::new(Registry::new());
        let middleware = MiddlewareStack::new(self.middleware);
        let is_full = is_full(Arc::clone(&registry), self.max_connections, middleware.clone());
        let own_auth = self.requires_auth.then_some(self.auth_timeout);
        let auth_within =
            own_auth.into_iter().chain(middleware.authentication()).min().map(|within| within.min(LONGEST));
        let before_auth = self.limits.before_auth.min(self.limits.message);
        let options = ListenOptions {
            max_message: if auth_within.is_some() { before_auth } else { self.limits.message },
            handshake_timeout: self.handshake_timeout,
            max_handshakes: self.max_handshakes,
            backlog: self.backlog,
            is_full,
            middleware: middleware.clone(),
            first_packet: self.first_packet,
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
            dictionary: self.dictionary,
            auth_within,
            hides_strangers: middleware.authentication().is_some(),
            first_packet: Some(self.first_packet),
            middleware,
            limiter: self.rate_limiter.map(|config| Arc::new(RateLimiter::new(config))),
            ended: Mutex::default(),
            hub: Hub::new(self.max_connections),
            changed: Notify::new(),
        });
        let settings = Settings {
            max_connections: self.max_connections,
            graceful_shutdown: self.graceful_shutdown,
            handshake_timeout: self.handshake_timeout,
        };
        Ok(TransportServer::new(shared, registry, listeners, cancel, settings))
    }
}

impl fmt::Debug for TransportServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportServerBuilder")
            .field("protocols", &self.protocols)
            .field("limits", &self.limits)
            .field("max_connections", &self.max_connections)
            .field("middleware", &self.middleware.len())
            .finish_non_exhaustive()
    }
}

/// Asked for each newcomer: whom it turns away is counted.
fn is_full(places: Arc<Registry>, max: usize, counts: MiddlewareStack) -> IsFull {
    IsFull::new(move || {
        let is_full = places.len() >= max;
        if is_full {
            counts.note_refused();
        }
        is_full
    })
}
