//! Reloads: SIGHUP, or a file that has changed, takes a new configuration into the running node.
//!
//! The new one is read and checked as at a start, everything that it needs is made, and only then is anything changed:
//! what is wrong leaves the node as it was, and is said. What cannot change while a node runs is named.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use anyhow::Context;
use jsonwebtoken::jwk::JwkSet;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use trunkline_gateway::auth::JwtVerifier;
use trunkline_gateway::upstream::{UpstreamOptions, Upstreams};
use trunkline_gateway::{Gateway, GatewayOptions};

use super::certificate::{NodeCertificate, Pem};
use super::surfaces::Surfaces;
use super::systemd;
use super::watching::Watch;
use crate::config::{self, Changes, Config, Jwt, MemoryLimit, Sources};
use crate::data_dir::DataDir;
use crate::logging::{Level, LogHandle};
use crate::{jwks, options};

/// What became of reloads, for metrics.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    applied: AtomicU64,
    refused: AtomicU64,
    /// The last one was refused: what is on the disk is not in force.
    stale: AtomicBool,
    /// A key has changed that needs a restart.
    restart: AtomicBool,
}

/// [`Reloads`] at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ReloadFigures {
    pub(super) applied: u64,
    pub(super) refused: u64,
    pub(super) stale: bool,
    pub(super) restart: bool,
}

impl Reloads {
    pub(super) fn read(&self) -> ReloadFigures {
        ReloadFigures {
            applied: self.applied.load(Relaxed),
            refused: self.refused.load(Relaxed),
            stale: self.stale.load(Relaxed),
            restart: self.restart.load(Relaxed),
        }
    }
}

/// SIGHUP from the moment of this on.
pub(super) fn hangups() -> anyhow::Result<Signal> {
    signal(SignalKind::hangup()).context("SIGHUP cannot be handled")
}

/// What a reload reads, and what it changes.
pub(super) struct Reloader<'a> {
    pub(super) sources: Sources,
    /// What is in force.
    pub(super) running: Config,
    pub(super) dir: &'a DataDir,
    /// The options of the gateway for a configuration.
    pub(super) gateway_options: &'a dyn Fn(&Config) -> anyhow::Result<GatewayOptions>,
    pub(super) gateway: &'a Gateway,
    pub(super) upstreams: &'a Upstreams,
    pub(super) certificate: &'a NodeCertificate,
    pub(super) surfaces: &'a Surfaces,
    pub(super) verifier: Option<Arc<JwtVerifier>>,
    pub(super) jwt: watch::Sender<Jwt>,
    pub(super) memory_limit: watch::Sender<MemoryLimit>,
    pub(super) log: LogHandle,
    pub(super) reloads: &'a Reloads,
    /// The files of a reload, since before the node read them.
    pub(super) watch: Watch,
}

/// Every file that a reload of this configuration reads.
pub(super) fn files(sources: &Sources, config: &Config) -> BTreeSet<PathBuf> {
    let Config { tls, jwt, .. } = config;
    let keys = jwt.jwks.as_ref().filter(|source| jwks::https(source).is_none()).map(PathBuf::from);
    let all = [sources.file.clone(), tls.certificate.clone(), tls.key.clone(), keys];
    all.into_iter().chain([jwt.jwks_authority.clone()]).flatten().collect()
}

/// All that a new configuration needs, made and checked.
struct Prepared {
    config: Config,
    changes: Changes,
    gateway: GatewayOptions,
    upstreams: UpstreamOptions,
    certificate: Pem,
    keys: Option<JwkSet>,
    level: Level,
}

impl Reloader<'_> {
    /// Reloads whenever it is asked to, for as long as it is polled.
    pub(super) async fn run(&mut self, hangups: &mut Signal) -> Infallible {
        loop {
            let why = tokio::select! {
                _ = hangups.recv() => {
                    self.watch.look();
                    "SIGHUP"
                }
                () = self.watch.changed() => "a file has changed",
            };
            systemd::reloading();
            self.log.reopen();
            self.reload(why).await;
            systemd::ready();
            self.watch.set(files(&self.sources, &self.running));
        }
    }

    async fn reload(&mut self, why: &str) {
        let applied = match self.prepare().await {
            Ok(prepared) => self.apply(prepared),
            Err(error) => Err(error),
        };
        self.reloads.stale.store(applied.is_err(), Relaxed);
        match applied {
            Ok(changes) => {
                self.reloads.applied.fetch_add(1, Relaxed);
                self.reloads.restart.store(!changes.needs_restart.is_empty(), Relaxed);
                tracing::info!(why, changed = changes.taken.join(", "), "the configuration was reloaded");
                for key in changes.needs_restart {
                    tracing::warn!("{key} has changed and needs a restart: the old value stays in force");
                }
            }
            Err(error) => {
                self.reloads.refused.fetch_add(1, Relaxed);
                tracing::error!(why, "the configuration from before stays in force: {error:#}");
            }
        }
    }

    async fn prepare(&self) -> anyhow::Result<Prepared> {
        let loaded = config::load(&self.sources).context("the new one is wrong")?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let mut config = self.running.clone();
        let changes = config.take_live(&loaded.config);
        let keys = match &self.verifier {
            Some(_) => Some(jwks::load(&config.jwt).await?),
            None => None,
        };
        Ok(Prepared {
            gateway: (self.gateway_options)(&config)?,
            upstreams: options::upstream_options(&config)?,
            certificate: Pem::read(&config.tls, self.dir)?,
            keys,
            level: Level::parse(&config.log)?,
            changes,
            config,
        })
    }

    /// The one step that can fail comes first; nothing has changed then.
    fn apply(&mut self, prepared: Prepared) -> anyhow::Result<Changes> {
        let Prepared { config, mut changes, gateway, upstreams, certificate, keys, level } = prepared;
        if self.certificate.replace(certificate).context("the certificate cannot be used")? {
            changes.taken.push(format!("the certificate (SHA-256 {})", self.certificate.sha256()));
        }
        self.gateway.reconfigure(gateway);
        self.upstreams.reconfigure(&upstreams);
        self.surfaces.limit_connections(config.limits.connections_per_address);
        if let (Some(verifier), Some(keys)) = (&self.verifier, keys) {
            verifier.replace_options(options::jwt_options(&config.jwt));
            verifier.replace_keys(keys);
        }
        self.jwt.send_replace(config.jwt.clone());
        self.memory_limit.send_replace(config.limits.memory);
        self.log.set(level);
        self.running = config;
        Ok(changes)
    }
}
