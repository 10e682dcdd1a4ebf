//! The surfaces of a node: each listener, bound before anything serves, and the loop that hands its connections over.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline_gateway::grpc::{self, GrpcOptions, GrpcServer};
use trunkline_gateway::{Gateway, Refusal};
use trunkline_transport::{
    Accepted, QuicListener, QuicOptions, Secret, ServerTls, Socket, StreamListener, StreamOptions, TlsPolicy,
    WebSocketListener, WebSocketOptions,
};

use super::certificate::NodeCertificate;
use super::http::{self, Http, Places, Serving};
use super::limit::ConnectionRate;
use super::refusals::Refusals;
use super::status::StatusSource;
use crate::config::{Config, TlsMode};
use crate::data_dir::DataDir;
use crate::{keys, options};

/// What listens, and where.
pub(super) struct Surfaces {
    addresses: BTreeMap<String, SocketAddr>,
    tasks: TaskTracker,
    grpc: Option<GrpcServer>,
    rate: Arc<ConnectionRate>,
}

impl Surfaces {
    /// The bound address of each surface.
    pub(super) fn addresses(&self) -> &BTreeMap<String, SocketAddr> {
        &self.addresses
    }

    /// Changes how many connections one address may open in a second.
    pub(super) fn limit_connections(&self, per_second: u32) {
        self.rate.set(per_second);
    }

    /// The node serves: whoever asks by gRPC is told so from now on.
    pub(super) async fn ready(&self) {
        if let Some(grpc) = &self.grpc {
            grpc.ready().await;
        }
    }

    /// Resolves when everything that listened has ended, after the cancellation, at the latest at `end`.
    pub(super) async fn closed(&self, end: Instant) {
        let end = end.min(Instant::now() + CLOSE_DEADLINE);
        self.tasks.close();
        let requests = async {
            if let Some(grpc) = &self.grpc {
                grpc.shutdown(end).await;
            }
        };
        // What a peer still holds open is cut with the process.
        let (_in_time, ()) = tokio::join!(tokio::time::timeout_at(end, self.tasks.wait()), requests);
    }
}

/// What requests of upstreams and pages may still take once nobody new is let in, if there is as much time.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// What every surface is made from.
struct Binder<'a> {
    config: &'a Config,
    gateway: &'a Gateway,
    certificate: &'a NodeCertificate,
    cancel: &'a CancellationToken,
    rate: Arc<ConnectionRate>,
    refusals: Refusals,
    places: Places,
    /// Handshakes at once on each listener, within what descriptors allow.
    handshakes: usize,
    tasks: TaskTracker,
}

/// Binds every surface that is on; the first that can't be bound is the error.
pub(super) async fn bind(
    config: &Config,
    gateway: &Gateway,
    certificate: &NodeCertificate,
    status: &StatusSource,
    dir: &DataDir,
    descriptors: usize,
    cancel: &CancellationToken,
) -> anyhow::Result<Surfaces> {
    let rate = Arc::new(ConnectionRate::new(config.limits.connections_per_address));
    let tasks = TaskTracker::new();
    tasks.spawn(certificate.clone().renew(config.tls.names.clone(), dir.clone(), cancel.clone()));
    tasks.spawn(status.clone().follow(cancel.clone()));
    let refusals = Refusals::new(&tasks);
    let places = Places::new(options::http_connections(&config.limits, descriptors));
    let handshakes = options::handshakes(&config.limits, descriptors);
    let binder = Binder {
        config,
        gateway,
        certificate,
        cancel,
        rate: Arc::clone(&rate),
        refusals,
        places,
        handshakes,
        tasks: tasks.clone(),
    };
    let shared = Http {
        gateway: gateway.clone(),
        status: status.clone(),
        websocket: WebSocketOptions { max_frame: binder.max_frame(), ..WebSocketOptions::default() },
        tasks: tasks.clone(),
    };
    let mut addresses = BTreeMap::new();
    let mut grpc = None;
    for (name, address) in config.listen.surfaces() {
        let Some(address) = address else { continue };
        let bound = match name {
            "http" => binder.http(address, http::public(shared.clone()), binder.places.clone()),
            // Of its own, so that operators find a place however busy the public address is.
            "metrics" => {
                binder.http(address, http::metrics(shared.clone()), Places::new(options::METRICS_CONNECTIONS))
            }
            "tcp" => binder.tcp(address),
            "websocket" => binder.websocket(address),
            "quic" => binder.quic(address, &keys::quic_key(dir)?),
            _ => {
                let options = binder.grpc_options(address, &keys::upstream_token(dir)?)?;
                let server = grpc::serve(gateway, Socket::Address(address), options).await;
                server.map_err(Into::into).map(|server| grpc.insert(server).local_addr())
            }
        };
        let bound = bound.with_context(|| {
            format!(
                "listen.{name}: {address} cannot be bound: stop what uses it, or name another with --{name}"
            )
        })?;
        addresses.insert(name.to_owned(), bound);
    }
    Ok(Surfaces { addresses, tasks, grpc, rate })
}

impl Binder<'_> {
    fn max_frame(&self) -> usize {
        self.config.session.max_frame_size.0 as usize
    }

    fn stream_options(&self, address: SocketAddr, alpns: &[&str]) -> anyhow::Result<StreamOptions> {
        let limits = &self.config.limits;
        let policy = match self.config.tls.mode_at(address) {
            TlsMode::Off => TlsPolicy::Off,
            TlsMode::Optional => TlsPolicy::Optional,
            TlsMode::Required => TlsPolicy::Required,
        };
        Ok(StreamOptions {
            policy,
            tls: Some(ServerTls::new(&self.certificate.certificate, alpns, None)?),
            handshake_timeout: limits.handshake_timeout,
            max_handshakes: self.handshakes,
            cancel: self.cancel.clone(),
            ..StreamOptions::default()
        })
    }

    fn http(&self, address: SocketAddr, router: axum::Router, places: Places) -> anyhow::Result<SocketAddr> {
        let options = self.stream_options(address, &["http/1.1"])?;
        let listener = StreamListener::bind(Socket::Address(address), options)?;
        let bound = listener.local_addr()?;
        let serving = Serving {
            router,
            head_timeout: self.config.limits.handshake_timeout,
            rate: Arc::clone(&self.rate),
            places,
            gateway: self.gateway.clone(),
            refusals: self.refusals.clone(),
            tasks: self.tasks.clone(),
            cancel: self.cancel.clone(),
        };
        self.tasks.spawn(http::serve(listener, serving));
        Ok(bound)
    }

    fn tcp(&self, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        let options = self.stream_options(address, &[])?;
        let mut listener = StreamListener::bind(Socket::Address(address), options)?;
        let bound = listener.local_addr()?;
        let (gateway, rate) = (self.gateway.clone(), Arc::clone(&self.rate));
        let max_frame = self.max_frame();
        self.tasks.spawn(async move {
            while let Some(accepted) = listener.accept().await {
                match accepted {
                    Accepted::Stream(stream) if rate.admits(stream.peer().ip()) => {
                        gateway.serve(stream.into_connection(max_frame));
                    }
                    Accepted::Stream(stream) => {
                        gateway.refuse(stream.into_connection(max_frame), Refusal::RateLimited);
                    }
                    Accepted::PlainRefused(stream) => {
                        gateway.refuse(stream.into_connection(max_frame), Refusal::TlsRequired);
                    }
                }
            }
        });
        Ok(bound)
    }

    fn websocket(&self, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        let options = self.stream_options(address, &["http/1.1"])?;
        let websocket = WebSocketOptions { max_frame: self.max_frame(), ..WebSocketOptions::default() };
        let mut listener = WebSocketListener::bind(Socket::Address(address), options, websocket)?;
        let bound = listener.local_addr()?;
        let (gateway, rate) = (self.gateway.clone(), Arc::clone(&self.rate));
        self.tasks.spawn(async move {
            while let Some(connection) = listener.accept().await {
                match connection.info.peer.is_none_or(|peer| rate.admits(peer.ip())) {
                    true => gateway.serve(connection),
                    false => gateway.refuse(connection, Refusal::RateLimited),
                }
            }
        });
        Ok(bound)
    }

    /// How upstreams are served, and whom of them the node believes.
    fn grpc_options(&self, address: SocketAddr, token: &str) -> anyhow::Result<GrpcOptions> {
        let StreamOptions { policy, mut tls, .. } = self.stream_options(address, &["h2"])?;
        if let Some(path) = &self.config.tls.upstream_authority {
            let unusable = || {
                let path = path.display();
                format!(
                    "tls.upstream_authority: {path} is no authority: name a PEM file with its certificate"
                )
            };
            let authority = std::fs::read(path).with_context(unusable)?;
            let certificate = &self.certificate.certificate;
            let verifying = ServerTls::verifying_clients(certificate, &["h2"], None, &authority);
            tls = Some(verifying.with_context(unusable)?);
        }
        Ok(GrpcOptions { tls_policy: policy, tls, ..GrpcOptions::new(token) })
    }

    fn quic(&self, address: SocketAddr, key: &Secret) -> anyhow::Result<SocketAddr> {
        let limits = &self.config.limits;
        let options = QuicOptions {
            // The same after a restart: it ends the connections of the former process, and knows its tickets.
            reset_key: Some(key.clone()),
            token_key: Some(key.clone()),
            ticket_key: Some(key.clone()),
            handshake_timeout: limits.handshake_timeout,
            max_handshakes: limits.handshakes,
            max_frame: self.max_frame(),
            // No service takes streams or datagrams yet: one at a time comes to be told so.
            max_streams: 1,
            datagram_buffer: 0,
            cancel: self.cancel.clone(),
            ..QuicOptions::new(self.certificate.certificate.clone())
        };
        let mut listener = QuicListener::bind(Socket::Address(address), options)?;
        let bound = listener.local_addr();
        let (gateway, rate) = (self.gateway.clone(), Arc::clone(&self.rate));
        self.tasks.spawn(async move {
            while let Some(connection) = listener.accept().await {
                match connection.info.peer.is_none_or(|peer| rate.admits(peer.ip())) {
                    true => gateway.serve(connection),
                    false => gateway.refuse(connection, Refusal::RateLimited),
                }
            }
        });
        Ok(bound)
    }
}
