//! The configuration: one file < environment < flags, checked as a whole, resolved into one typed [`Config`].
//!
//! [`load`] reads every source, reports everything that is wrong at once, and opens no port and changes no file.
//! What a key is called, means and defaults to stands in [`sections`] alone. An unknown key is an error, and so is
//! one that can have no effect beside the others.

mod catalogue;
mod check;
mod defaults;
mod document;
mod files;
mod live;
mod memory;
mod nearest;
mod problem;
mod sections;
mod seed;
mod setting;
mod sources;
mod values;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub(crate) use defaults::MEMORY_PERCENT;
pub(crate) use document::{in_force, init_file};
pub(crate) use live::Changes;
pub(crate) use memory::MemoryLimit;
pub(crate) use problem::{Origin, Problems};
pub(crate) use sections::{
    Auth, AuthMode, Instance, Jwt, Limits, Listen, Log, LogFormat, Login, May, Namespace, Node, Right,
    Session, Tls, TlsMode, Trace, Upstreams,
};
pub(crate) use sources::{Flag, Sources};
pub(crate) use values::parse_duration;
pub(crate) use values::{ByteSize, Surface};

/// The resolved configuration of a node. Plain values: nothing in it has to be parsed or doubted again.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Config {
    /// The node as a whole.
    pub(crate) node: Node,
    /// Where it listens.
    pub(crate) listen: Listen,
    /// TLS.
    pub(crate) tls: Tls,
    /// Who may connect.
    pub(crate) auth: Auth,
    /// JSON web tokens.
    pub(crate) jwt: Jwt,
    /// Sessions.
    pub(crate) session: Session,
    /// Namespaces of channels by their name.
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    /// Services behind the gateway.
    pub(crate) upstreams: Upstreams,
    /// What the node takes on.
    pub(crate) limits: Limits,
    /// The trace of messages.
    pub(crate) trace: Trace,
    /// The log.
    pub(crate) log: Log,
}

/// A configuration with where it came from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Loaded {
    /// The values in force.
    pub(crate) config: Config,
    /// What the person should know although it is no error, one sentence each.
    pub(crate) warnings: Vec<String>,
    /// Where each key that somebody set comes from, by its path.
    pub(crate) origins: BTreeMap<String, Origin>,
}

/// Reads all sources and checks the whole.
///
/// # Errors
/// Everything that is wrong, at once.
pub(crate) fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let assignments = sources::read(sources, &mut problems, &mut warnings);
    let mut config = Config::default();
    let mut origins = BTreeMap::new();
    for assignment in assignments {
        match config.assign(&assignment.path, &assignment.value) {
            Ok(()) => {
                origins.insert(assignment.path.join("."), assignment.origin);
            }
            Err(problem) => problems.push(format!("{}: {problem}", assignment.origin)),
        }
    }
    // A check across keys says nothing useful about a configuration whose values could not be read.
    if problems.is_empty() {
        check::across(&config, &origins, &mut problems);
    }
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    Ok(Loaded { config, warnings, origins })
}

impl Listen {
    /// The address of every surface, in the order in which people read them; `None` for one that is off.
    pub(crate) fn surfaces(&self) -> [(&'static str, Option<SocketAddr>); 6] {
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
        [
            ("http", self.http.on(self.host)),
            ("tcp", self.tcp.on(self.host)),
            ("quic", self.quic.on(self.host)),
            ("websocket", self.websocket.on(self.host)),
            ("grpc", self.grpc.on(loopback)),
            ("metrics", self.metrics.on(loopback)),
        ]
    }
}

impl Tls {
    /// The mode of a surface at this address.
    pub(crate) fn mode_at(&self, address: SocketAddr) -> TlsMode {
        match self.mode {
            Some(mode) => mode,
            None if address.ip().is_loopback() => TlsMode::Optional,
            None => TlsMode::Required,
        }
    }
}

impl Auth {
    /// Rights of tokens that carry none.
    pub(crate) fn default_rights(&self) -> Vec<Right> {
        if self.mode == AuthMode::Anonymous && self.default_rights.is_empty() {
            let may = vec![May::Subscribe, May::Publish, May::History, May::Presence];
            return vec![Right { pattern: "*".to_owned(), may }];
        }
        self.default_rights.clone()
    }
}

#[cfg(test)]
mod tests;
