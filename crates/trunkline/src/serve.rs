//! A node, from its configuration to its end: keys, broker, gateway, surfaces, the ready file, signals, drain.
//!
//! The order is the point of this file: everything is checked before a port is bound, the ready file is written once
//! everything serves, and on the way out clients are told first.

mod certificate;
mod echo;
mod http;
mod limit;
mod memory;
mod metrics;
mod page;
mod rate;
mod refusals;
mod reload;
mod status;
mod stop;
mod surfaces;
mod systemd;
mod watching;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trunkline_broker::{Broker, MemoryBroker, MemoryOptions, NodeId};
use trunkline_gateway::auth::{AuthMode as GatewayAuth, Authenticator, JwtVerifier};
use trunkline_gateway::upstream::Upstreams;
use trunkline_gateway::{Gateway, Snapshot};
use trunkline_session::TokenKey;
use trunkline_session::position::is_implicit_name;

use crate::config::{AuthMode, Config, Limits, Loaded, Sources};
use crate::data_dir::DataDir;
use crate::logging::LogHandle;
use crate::ready::{Published, RunningNode};
use crate::{descriptors, jwks, keys, logging, options, ready};
use certificate::NodeCertificate;
use reload::{Reloader, Reloads};
use status::StatusSource;
use stop::Signals;
use surfaces::Surfaces;
use watching::Watch;

/// Where a memory broker keeps what outlives the process: registrations of upstreams.
const DURABLE_PREFIX: &str = "upstream/";

/// Serves until a signal comes, then drains. A reload reads the sources again.
pub(crate) fn run(loaded: Loaded, sources: Sources, ready_file: Option<PathBuf>) -> anyhow::Result<()> {
    let (log, flush) = logging::start(&loaded.config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("the runtime cannot be started")?;
    let ended = runtime.block_on(serve(loaded.config, sources, log, ready_file.as_deref()));
    // Nothing is left that matters, and a thread that hangs in a system call must not hold up the end.
    runtime.shutdown_background();
    drop(flush);
    ended
}

async fn serve(
    config: Config,
    sources: Sources,
    log: LogHandle,
    ready_file: Option<&Path>,
) -> anyhow::Result<()> {
    // Before anything is heard of us: a signal during the start must not be lost.
    let (mut signals, mut hangups) = (Signals::listen()?, reload::hangups()?);
    let dir = DataDir::open(&config.node.data_dir)?;
    let _lock = dir.lock()?;
    ready::forget(&dir, ready_file)?;
    // Before the files are read: what happens to them until the first reload can run is a change.
    let watch = Watch::new(reload::files(&sources, &config));
    let certificate = certificate::load(&config.tls, &dir)?;
    // Before the first word about it: a renewal from here on is told.
    let renewals = certificate.renewals();
    let broker = open_broker(&dir, &config.limits)?;
    let upstreams = Upstreams::new(options::upstream_options(&config)?, Arc::clone(&broker));
    let (authenticator, verifier) = authenticator(&config, &dir, &upstreams).await?;
    let key = TokenKey::new(keys::resume_key(&dir)?);
    let (name, descriptors) = (node_name(), descriptors::raise_limit());
    let gateway_options = |config: &Config| options::gateway_options(config, &name, key.clone(), descriptors);
    let gateway =
        Gateway::new(gateway_options(&config)?, broker, authenticator, Some(Arc::clone(&upstreams)));
    let gateway = gateway.await.context("the broker refused the node")?;
    gateway.mount(Arc::new(echo::Echo));

    let cancel = CancellationToken::new();
    let reloads = Arc::new(Reloads::default());
    let status = StatusSource::new(
        gateway.clone(),
        Arc::clone(&upstreams),
        &certificate,
        log.clone(),
        Arc::clone(&reloads),
    );
    let surfaces =
        surfaces::bind(&config, &gateway, &certificate, &status, &dir, descriptors, &cancel).await?;
    let node = running_node(&surfaces, &certificate);
    status.ready(surfaces.addresses());
    surfaces.ready().await;
    // Who waits for the ready file finds the greeting printed.
    greet(&node, &config);
    let mut published = node.publish(&dir, ready_file)?;

    systemd::ready();

    let (memory_limit, memory_limit_now) = watch::channel(config.limits.memory);
    let (jwt, jwt_now) = watch::channel(config.jwt.clone());
    let mut reloader = Reloader {
        sources,
        running: config,
        dir: &dir,
        gateway_options: &gateway_options,
        gateway: &gateway,
        upstreams: &upstreams,
        certificate: &certificate,
        surfaces: &surfaces,
        verifier: verifier.clone(),
        jwt,
        memory_limit,
        log,
        reloads: &reloads,
        watch,
    };
    let signal = tokio::select! {
        signal = signals.next() => signal,
        never = reloader.run(&mut hangups) => match never {},
        never = jwks::keep_fresh(jwt_now, verifier) => match never {},
        never = keep_published(&mut published, &certificate, renewals) => match never {},
        never = memory::watch(&gateway, memory_limit_now) => match never {},
        never = systemd::watchdog() => match never {},
    };
    let drain = reloader.running.limits.drain;
    let end = Instant::now() + drain;
    tracing::info!(signal, ?drain, "stopping: clients are told to reconnect");
    systemd::stopping();
    status.stopping();
    drop(published);
    ending(&mut signals, &gateway, &surfaces, &upstreams, &cancel, end).await
}

fn running_node(surfaces: &Surfaces, certificate: &NodeCertificate) -> RunningNode {
    RunningNode {
        surfaces: surfaces.addresses().clone(),
        pid: std::process::id(),
        certificate_sha256: certificate.sha256(),
    }
}

/// Drains until `end`, unless a second signal comes.
async fn ending(
    signals: &mut Signals,
    gateway: &Gateway,
    surfaces: &Surfaces,
    upstreams: &Upstreams,
    cancel: &CancellationToken,
    end: Instant,
) -> anyhow::Result<()> {
    tokio::select! {
        // A second signal is looked at first: it is what a person sends who does not want to wait.
        biased;
        signal = signals.next() => {
            let Snapshot { sessions_live, calls_running, .. } = gateway.snapshot();
            bail!("a second signal, {signal}, ended the node at once: {sessions_live} sessions and {calls_running} calls were cut");
        }
        never = systemd::watchdog() => match never {},
        cut = stop::wind_down(gateway, surfaces, upstreams, cancel, end) => stop::report(cut),
    }
    Ok(())
}

/// Tells of each new certificate where the node is announced, for as long as it is polled.
async fn keep_published(
    published: &mut Published,
    certificate: &NodeCertificate,
    mut renewals: watch::Receiver<()>,
) -> Infallible {
    loop {
        // The sender lives in `certificate`.
        if renewals.changed().await.is_err() {
            return std::future::pending().await;
        }
        if let Err(error) = published.renewed(certificate.sha256()) {
            tracing::error!(error = format!("{error:#}"), "the ready file still names the old certificate");
        }
    }
}

fn open_broker(dir: &DataDir, limits: &Limits) -> anyhow::Result<Arc<dyn Broker>> {
    let options = MemoryOptions {
        data_dir: Some(dir.join("broker")),
        durable_prefixes: vec![DURABLE_PREFIX.to_owned()],
        max_log_bytes: publication_bytes(limits),
        essential: is_implicit_name,
        ..MemoryOptions::new(NodeId(0))
    };
    Ok(Arc::new(MemoryBroker::open(options)?))
}

/// What publications may take in memory: not so much that nothing is left for whoever they are for.
fn publication_bytes(limits: &Limits) -> usize {
    let most = trunkline_broker::defaults::MAX_LOG_BYTES;
    let half = || memory::bytes(limits.memory).map_or(most, |all| most.min(all as usize / 2));
    limits.publication_bytes.map_or_else(half, |bytes| bytes.0 as usize)
}

/// What checks tokens, and the part of it whose keys are read again.
async fn authenticator(
    config: &Config,
    dir: &DataDir,
    upstreams: &Arc<Upstreams>,
) -> anyhow::Result<(Authenticator, Option<Arc<JwtVerifier>>)> {
    let anonymous = config.auth.mode == AuthMode::Anonymous;
    if config.auth.mode == AuthMode::Upstream {
        return Ok((Authenticator::new(GatewayAuth::Upstream(Arc::clone(upstreams)), false), None));
    }
    let set = jwks::load(&config.jwt).await?;
    let verifier = JwtVerifier::new(Some(&keys::jwt_key(dir)?), set, options::jwt_options(&config.jwt));
    let verifier = Arc::new(verifier);
    Ok((Authenticator::new(GatewayAuth::Jwt(Arc::clone(&verifier)), anonymous), Some(verifier)))
}

/// The node's name: the machine's, as clients and operators know it.
fn node_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "node".to_owned() } else { name.to_owned() }
}

/// What a person sees who has just started a node.
fn greet(node: &RunningNode, config: &Config) {
    let mut lines = vec!["Trunkline serves:".to_owned()];
    let what = |name: &str| match name {
        "http" => "status page and WebSocket (/ws)",
        "tcp" => "clients, plain or TLS",
        "quic" => "clients over QUIC and WebTransport",
        "websocket" => "clients over WebSocket",
        "grpc" => "upstreams",
        _ => "metrics",
    };
    for (name, address) in &node.surfaces {
        let url = match name.as_str() {
            "http" => format!("http://{address}/"),
            "quic" => format!("{address}/udp"),
            _ => address.to_string(),
        };
        lines.push(format!("  {name:<10} {url:<32} {}", what(name)));
    }
    lines.push(format!("  certificate sha256 {}", node.certificate_sha256));
    if config.auth.mode == AuthMode::Anonymous {
        lines.push("  --anonymous: every client is believed to be who it says it is".to_owned());
    }
    lines.push("Next: `trunkline token --user alice --ttl 1h` makes a token. Ctrl-C stops.".to_owned());
    crate::cli::output::greeting(&lines.join("\n"));
}
