//! What is wrong across keys: settings that exclude each other, that can have no effect beside the others, or that
//! name what is not there. It reads files that are named and binds nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use super::files::{self, Pair};
use super::problem::Origin;
use super::sections::{AuthMode, TlsMode};
use super::{ByteSize, Config, MemoryLimit};
use crate::{jwks, options};

/// Channels that belong to the gateway: no namespace may cover them.
const IMPLICIT: [&str; 5] = ["user:", "session:", "zone:", "group:", "all"];

/// The smallest frame limit with which every frame of the protocol itself passes.
const SMALLEST_FRAME: ByteSize = ByteSize(4 * 1024);

/// Below it a file is rotated so often that little of the log is left.
const SMALLEST_LOG: ByteSize = ByteSize(64 * 1024);

/// Below it a node that does nothing would refuse everybody.
const SMALLEST_MEMORY: u64 = 32 << 20;

/// A smaller trace holds less than one busy second; a larger one is searched for too long.
const TRACE_BYTES: RangeInclusive<ByteSize> = ByteSize(64 * 1024)..=ByteSize(1024 * 1024 * 1024);

/// Adds a sentence for everything that is wrong across the keys.
pub(crate) fn across(config: &Config, origins: &BTreeMap<String, Origin>, problems: &mut Vec<String>) {
    let mut checks = Checks { config, origins, problems };
    checks.surfaces();
    checks.tls();
    checks.auth();
    checks.session();
    checks.namespaces();
    checks.upstreams();
    checks.limits();
    checks.log();
}

struct Checks<'a> {
    config: &'a Config,
    origins: &'a BTreeMap<String, Origin>,
    problems: &'a mut Vec<String>,
}

impl Checks<'_> {
    /// A problem of one key, named with its source.
    fn wrong(&mut self, path: &str, what: &str) {
        match self.origins.get(path) {
            Some(origin) => self.problems.push(format!("{origin}: {what}")),
            None => self.problems.push(format!("{path}: {what}")),
        }
    }

    fn is_set(&self, path: &str) -> bool {
        self.origins.contains_key(path)
    }

    /// A key that somebody set and that can have no effect.
    fn useless(&mut self, path: &str, reason: &str) {
        if self.is_set(path) {
            self.wrong(path, &format!("has no effect: {reason}. Leave it out"));
        }
    }

    /// A file that is named has to be what it is named for.
    fn file(&mut self, path: &str, file: Option<&Path>, read: fn(&Path) -> Result<(), String>) {
        if let Some(problem) = file.and_then(|file| read(file).err()) {
            self.wrong(path, &problem);
        }
    }

    fn surfaces(&mut self) {
        let all = self.config.listen.surfaces();
        let open: Vec<(&str, SocketAddr)> =
            all.iter().filter_map(|(name, at)| Some((*name, (*at)?))).collect();
        if open.iter().all(|(name, _)| ["grpc", "metrics"].contains(name)) {
            self.problems.push("no client can connect: http, tcp, quic and websocket are all off".to_owned());
        }
        for (at, (name, address)) in open.iter().enumerate() {
            let taken = open[..at].iter().find(|(other, of)| {
                // QUIC is UDP: it shares a port number with any other surface.
                *name != "quic" && *other != "quic" && collide(*address, *of)
            });
            if let Some((other, _)) = taken {
                self.wrong(
                    &format!("listen.{name}"),
                    &format!("{address} is taken by listen.{other}: choose another port"),
                );
            }
        }
        let fixed = |name: &str| matches!(name, "http" | "tcp" | "quic" | "websocket");
        if all.iter().filter(|(name, _)| fixed(name)).all(|(name, _)| !self.uses_host(name)) {
            self.useless(
                "listen.host",
                "http, tcp, quic and websocket all have hosts of their own or are off",
            );
        }
    }

    fn uses_host(&self, surface: &str) -> bool {
        let listen = &self.config.listen;
        let surface = match surface {
            "http" => listen.http,
            "tcp" => listen.tcp,
            "quic" => listen.quic,
            _ => listen.websocket,
        };
        matches!(surface, super::Surface::Port(_))
    }

    fn tls(&mut self) {
        let tls = &self.config.tls;
        match (&tls.certificate, &tls.key) {
            (Some(_), None) => self.wrong("tls.certificate", "needs tls.key beside it"),
            (None, Some(_)) => self.wrong("tls.key", "needs tls.certificate beside it"),
            (Some(certificate), Some(key)) => {
                for problem in files::certificate(certificate, key).err().into_iter().flatten() {
                    match problem {
                        Pair::Certificate(problem) => self.wrong("tls.certificate", &problem),
                        Pair::Key(problem) => self.wrong("tls.key", &problem),
                    }
                }
                self.useless("tls.names", "tls.certificate has the names that it has");
            }
            (None, None) => {}
        }
        self.file("tls.upstream_authority", tls.upstream_authority.as_deref(), files::authority);
        if self.config.tls.mode == Some(TlsMode::Off) {
            self.useless("tls.upstream_authority", "tls.mode is \"off\"");
        }
        let listen = &self.config.listen;
        let quic = listen.surfaces().iter().any(|(name, at)| *name == "quic" && at.is_some());
        if self.config.tls.mode == Some(TlsMode::Off) && !quic {
            for path in ["tls.certificate", "tls.key", "tls.names"] {
                self.useless(path, "tls.mode is \"off\" and so is quic");
            }
        }
    }

    fn auth(&mut self) {
        const CLAIMS: [&str; 4] = ["exp", "nbf", "aud", "iss"];
        let jwt = &self.config.jwt;
        for claim in jwt.required_claims.iter().filter(|claim| !CLAIMS.contains(&claim.as_str())) {
            self.wrong("auth.jwt.required_claims", &format!("{claim:?} is none of {}", CLAIMS.join(", ")));
        }
        let jwks = jwt.jwks.as_deref().unwrap_or_default();
        if jwks.starts_with("http://") {
            self.wrong(
                "auth.jwt.jwks",
                "keys must not come over plain HTTP, where anybody could swap them: use https",
            );
        } else if jwks.starts_with("https:") {
            if jwks::https(jwks).is_none() {
                self.wrong(
                    "auth.jwt.jwks",
                    &format!("{jwks:?} is no URL such as https://example.org/keys.json"),
                );
            }
            self.file("auth.jwt.jwks_authority", jwt.jwks_authority.as_deref(), files::authority);
        } else {
            self.file("auth.jwt.jwks", jwt.jwks.as_ref().map(Path::new), files::key_set);
            self.useless("auth.jwt.jwks_authority", "auth.jwt.jwks is no https URL");
        }
        if self.config.auth.mode != AuthMode::Jwt {
            for key in ["jwks", "jwks_authority", "audience", "issuer", "required_claims"] {
                self.useless(&format!("auth.jwt.{key}"), "auth.mode is not \"jwt\"");
            }
        }
        if self.config.auth.devices == 0 {
            self.wrong("auth.devices", "0 would refuse everybody");
        }
    }

    fn session(&mut self) {
        let session = &self.config.session;
        if session.heartbeat.is_zero() {
            self.wrong("session.heartbeat", "must be longer than 0s: every client would count as silent");
        }
        if session.call_timeout.is_zero() {
            self.wrong("session.call_timeout", "must be longer than 0s: every call would time out");
        }
        if session.running_calls == 0 {
            self.wrong("session.running_calls", "0 would let no call run");
        }
        if session.max_frame_size < SMALLEST_FRAME {
            self.wrong("session.max_frame_size", "must be at least 4 KiB, so that a START passes");
        }
        if session.max_frame_size_down < session.max_frame_size {
            self.wrong(
                "session.max_frame_size_down",
                "must not be less than session.max_frame_size: its replies would not pass",
            );
        }
        // A quarter is left to what sessions need, so that it holds one publication of the largest frame.
        let publications = self.config.limits.publication_bytes;
        if publications.is_some_and(|bytes| bytes.0 / 4 < session.max_frame_size.0) {
            self.wrong(
                "limits.publication_bytes",
                "must be at least four times session.max_frame_size, so that every publication fits",
            );
        }
        if session.frames_per_second == 0 {
            self.useless("session.frame_burst", "session.frames_per_second is 0, so there is no limit");
        } else if session.frame_burst == 0 {
            self.wrong("session.frame_burst", "0 would let no frame pass");
        }
    }

    fn namespaces(&mut self) {
        let prefixes: Vec<(String, String)> =
            self.config.namespaces.iter().map(|(name, of)| (name.clone(), of.prefix(name))).collect();
        for (at, (name, prefix)) in prefixes.iter().enumerate() {
            let path = format!("namespaces.{name}.prefix");
            if prefix.is_empty() {
                self.wrong(&path, "is empty: it would cover the gateway's own channels");
            } else if let Some(own) = IMPLICIT.iter().find(|own| {
                own.starts_with(prefix.as_str()) || prefix.starts_with(*own) && own.ends_with(':')
            }) {
                self.wrong(&path, &format!("{prefix:?} covers the gateway's own channels ({own})"));
            }
            if let Some((other, _)) = prefixes[..at].iter().find(|(_, of)| of == prefix) {
                self.wrong(&path, &format!("{prefix:?} is namespaces.{other}'s already"));
            }
            if self.config.namespaces[name].history_count == 0 {
                for key in ["history_bytes", "history_ttl"] {
                    self.useless(
                        &format!("namespaces.{name}.{key}"),
                        "history_count is 0, so nothing is kept",
                    );
                }
            }
        }
    }

    fn upstreams(&mut self) {
        let upstreams = &self.config.upstreams;
        match options::zone_map(upstreams) {
            Err((path, problem)) => self.wrong(path, &problem),
            Ok(zones) => {
                for instance in &upstreams.instances {
                    if let Err(problem) = options::registration(instance, &zones) {
                        self.wrong("upstreams.instances", &problem);
                    }
                }
            }
        }
        if let Some((_, prefix)) =
            upstreams.routes.iter().find(|(prefix, service)| prefix.is_empty() || service.is_empty())
        {
            self.wrong(
                "upstreams.routes",
                &format!("neither a prefix nor a service may be empty ({prefix:?})"),
            );
        }
        for (path, zero) in [
            ("upstreams.in_flight", upstreams.in_flight == 0),
            ("upstreams.in_flight_total", upstreams.in_flight_total == Some(0)),
            ("upstreams.connections", upstreams.connections == 0),
        ] {
            if zero {
                self.wrong(path, "0 would let no call pass");
            }
        }
        for (path, zero) in [
            ("upstreams.probe_interval", upstreams.probe_interval.is_zero()),
            ("upstreams.lease", upstreams.lease.is_zero()),
        ] {
            if zero {
                self.wrong(path, "must be longer than 0s");
            }
        }
    }

    fn limits(&mut self) {
        let limits = &self.config.limits;
        for (path, zero) in [
            ("limits.connections", limits.connections == Some(0)),
            ("limits.sessions", limits.sessions == Some(0)),
            ("limits.connections_per_address", limits.connections_per_address == 0),
            ("limits.handshakes", limits.handshakes == 0),
            ("limits.handshake_timeout", limits.handshake_timeout.is_zero()),
            ("limits.start_timeout", limits.start_timeout.is_zero()),
        ] {
            if zero {
                self.wrong(path, "0 would let nobody in");
            }
        }
        for (path, zero) in [
            ("limits.calls_in_flight", limits.calls_in_flight == 0),
            ("limits.call_bytes", limits.call_bytes == ByteSize(0)),
            ("limits.reply_cache", limits.reply_cache == ByteSize(0)),
            ("limits.reply_queue", limits.reply_queue == ByteSize(0)),
        ] {
            if zero {
                self.wrong(path, "0 would let no call pass");
            }
        }
        if let MemoryLimit::Bytes(bytes) = limits.memory
            && bytes < SMALLEST_MEMORY
        {
            self.wrong("limits.memory", "must be at least 32 MiB: an idle node has nearly as much");
        }
        if !TRACE_BYTES.contains(&self.config.trace.bytes) {
            self.wrong("trace.bytes", "must be from 64 KiB to 1 GiB");
        }
        if !(1..=100).contains(&limits.warn_percent) {
            self.wrong("limits.warn_percent", "must be from 1 to 100");
        }
        if limits.calls_per_second == 0 {
            self.useless("limits.call_burst", "limits.calls_per_second is 0, so there is no limit");
        } else if limits.call_burst == Some(0) {
            self.wrong("limits.call_burst", "0 would let no call pass");
        }
    }

    fn log(&mut self) {
        let log = &self.config.log;
        let Some(file) = &log.file else {
            for key in ["file_size", "files_kept"] {
                self.useless(&format!("log.{key}"), "log.file is not set");
            }
            return;
        };
        let folder = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            self.wrong("log.file", &format!("the folder {} does not exist", folder.display()));
        }
        if log.file_size < SMALLEST_LOG {
            self.wrong("log.file_size", "must be at least 64 KiB, so that a burst of lines fits in");
        }
        if log.files_kept == 0 {
            self.wrong("log.files_kept", "0 would lose the whole log each time the file is full");
        }
    }
}

/// Whether both addresses cannot be bound by TCP at once.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let same_host = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && same_host
}
