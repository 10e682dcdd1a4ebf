//! A node's end: the signals that ask for it, and the order in which everything stops within one budget of time.
//!
//! The end is one moment, fixed when the first signal comes; whatever waits, waits until then and no longer.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trunkline_gateway::upstream::Upstreams;
use trunkline_gateway::{Cut, Gateway};

use super::surfaces::Surfaces;

/// The share of the drain, one part in so many, that is kept for requests of upstreams and pages when clients and calls
/// use up all the rest: with the default of 30 s they have 3 s for their last answers.
const CLOSING_SHARE: u32 = 10;

/// SIGTERM and SIGINT. None is lost from the moment of [`Signals::listen`] on.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?,
        })
    }

    /// The next one's name. Cancel safe.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Ends everything, at the latest at `end`: clients, then what listens, then the ways to upstreams.
pub(super) async fn wind_down(
    gateway: &Gateway,
    surfaces: &Surfaces,
    upstreams: &Upstreams,
    cancel: &CancellationToken,
    end: Instant,
) -> Cut {
    let closing = end.saturating_duration_since(Instant::now()) / CLOSING_SHARE;
    // Whoever is on the way in is still told; then nobody is let in any more.
    let cut = gateway.drain(end - closing).await;
    cancel.cancel();
    surfaces.closed(end).await;
    upstreams.shutdown(end).await;
    cut
}

/// One line about how it ended.
pub(super) fn report(cut: Cut) {
    let Cut { connections, sessions, calls } = cut;
    if cut == Cut::default() {
        tracing::info!("stopped: every client and call came to its end");
    } else {
        tracing::warn!(
            connections,
            sessions,
            calls,
            "stopped: the drain deadline (limits.drain) cut the rest"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use trunkline_broker::{Broker, MemoryBroker, MemoryOptions, NodeId};
    use trunkline_gateway::GatewayOptions;
    use trunkline_gateway::auth::{AuthMode, Authenticator, JwtOptions, JwtVerifier};
    use trunkline_gateway::upstream::{Address, Dial, Registration, Stream, UpstreamOptions};
    use trunkline_gateway::zone::ZoneMap;
    use trunkline_proto::wire::UpstreamRegisterRequest;
    use trunkline_service::{Call, Caller};
    use trunkline_session::TokenKey;
    use trunkline_transport::{Framing, memory};

    use super::super::status::StatusSource;
    use super::super::{certificate, surfaces};
    use super::*;
    use crate::config::{Config, Surface};
    use crate::data_dir::DataDir;
    use crate::logging::LogHandle;

    /// An upstream that takes a connection and never says a word.
    struct Silence;

    #[async_trait::async_trait]
    impl Dial for Silence {
        async fn dial(&self, _: &Address) -> io::Result<Box<dyn Stream>> {
            std::future::pending().await
        }
    }

    fn silent_upstream(broker: &Arc<dyn Broker>) -> Arc<Upstreams> {
        let request = UpstreamRegisterRequest {
            address: "192.0.2.1:9".to_owned(),
            zone_id: "*".to_owned(),
            ..Default::default()
        };
        let options = UpstreamOptions {
            statics: vec![Registration::parse(&request, &ZoneMap::default()).unwrap()],
            connect_timeout: Duration::from_secs(600),
            call_timeout: Duration::from_secs(600),
            ..UpstreamOptions::default()
        };
        Upstreams::with_dial(options, Arc::clone(broker), Arc::new(Silence))
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_hangs_the_end_is_one_moment() {
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::open(MemoryOptions::new(NodeId(0))).unwrap());
        let upstreams = silent_upstream(&broker);
        let keys = jsonwebtoken::jwk::JwkSet { keys: Vec::new() };
        let verifier = JwtVerifier::new(None, keys, JwtOptions::default());
        let gateway = Gateway::new(
            GatewayOptions::new("node", TokenKey::new([1; 32])),
            broker,
            Authenticator::new(AuthMode::Jwt(Arc::new(verifier)), false),
            Some(Arc::clone(&upstreams)),
        );
        let gateway = gateway.await.unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temporary.path()).unwrap();
        let mut config = Config::default();
        let listen = &mut config.listen;
        for surface in [&mut listen.tcp, &mut listen.quic, &mut listen.grpc, &mut listen.metrics] {
            *surface = Surface::Off;
        }
        listen.http = Surface::At(([127, 0, 0, 1], 0).into());
        let certificate = certificate::load(&config.tls, &dir).unwrap();
        let status = StatusSource::new(
            gateway.clone(),
            Arc::clone(&upstreams),
            &certificate,
            LogHandle::default(),
            Arc::default(),
        );
        let cancel = CancellationToken::new();
        let surfaces =
            surfaces::bind(&config, &gateway, &certificate, &status, &dir, 1_000, &cancel).await.unwrap();

        // A client that does not go away when it is told to, and a call that nobody answers.
        let (node_side, _client) = memory::pair(Framing::Length, 1024);
        gateway.serve(node_side);
        let caller = Caller { user: "alice".to_owned(), ..Caller::default() };
        let call = upstreams.call(&caller, Call { action: "anything".to_owned(), ..Call::default() });
        let begun = Instant::now();
        let stopping = async {
            let cut =
                wind_down(&gateway, &surfaces, &upstreams, &cancel, begun + Duration::from_secs(4)).await;
            (cut, begun.elapsed())
        };
        let (answer, (cut, took)) = tokio::join!(call, stopping);
        assert_eq!(cut, Cut { connections: 1, sessions: 0, calls: 0 });
        assert_eq!(took, Duration::from_secs(4), "the parts' times do not add up");
        answer.unwrap_err();
    }
}
