//! How a client command finds its node: by the data directory alone on the node's own machine, or by a URL.
//!
//! It makes the options of a client, no connection. What is not said is derived: addresses, the certificate to pin
//! and the key that signs a token lie in the data directory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, ValueEnum};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use trunkline_client::{Client, ClientTls, ConnectError, Endpoint, Options};
use trunkline_service::grpc::GatewayAddress;
use trunkline_transport::Protocol;
use trunkline_transport::certificate::fingerprint;

use super::Place;
use super::token::Grant;
use crate::config::{Config, May, Right, Tls, TlsMode};
use crate::ready::RunningNode;

/// How long a token lives that a command signs for itself: longer than anybody looks at one run.
const OWN_TOKEN_TTL: Duration = Duration::from_secs(86_400);

/// How long a command waits for its first connection: the slowest handshake and a START, with room for a busy node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The ways to a node's clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// Plain TCP
    Tcp,
    /// TCP with TLS
    Tls,
    /// WebSocket, with TLS where the node wants it
    Websocket,
    /// WebSocket with TLS
    WebsocketTls,
    /// QUIC
    Quic,
    /// WebTransport
    Webtransport,
}

/// Where the node is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Reach {
    #[command(flatten)]
    place: Place,
    /// A node elsewhere: tcp|tls|ws|wss|quic|wt://host:port, such as wss://gateway.example/ws
    #[arg(long, value_name = "URL", conflicts_with = "transport", help_heading = "The node")]
    url: Option<Endpoint>,
    /// One way to the node of this machine [default: QUIC with a head start, then all at once; `bench`: tcp]
    #[arg(long, value_enum, value_name = "WAY", help_heading = "The node")]
    transport: Option<Way>,
    /// SHA-256 of the node's certificate, to trust it and no other
    #[arg(long, value_name = "SHA256", value_parser = pin, conflicts_with = "ca", help_heading = "The node")]
    pin: Option<Pin>,
    /// A PEM file with the authorities to trust [default: the machine's own]
    #[arg(long, value_name = "FILE", help_heading = "The node")]
    ca: Option<PathBuf>,
}

/// As whom.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Identity {
    /// The user; on the node's own machine a token is signed with the node's key
    #[arg(long, help_heading = "As whom")]
    user: Option<String>,
    /// A token; its user need not be named
    #[arg(long, help_heading = "As whom")]
    token: Option<String>,
    /// The device: one session per user and device [default: one of this command's own]
    #[arg(long, help_heading = "As whom")]
    device: Option<String>,
}

impl Identity {
    /// This user, with a token of the node's own.
    pub(crate) fn of(user: &str) -> Self {
        Identity { user: Some(user.to_owned()), ..Identity::default() }
    }
}

/// A certificate's SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pin([u8; 32]);

impl Reach {
    /// Options of a client with this identity; a token that is signed for it may do `may` on `channels`.
    pub(crate) fn client(
        &self,
        identity: &Identity,
        channels: &[String],
        may: &[May],
    ) -> anyhow::Result<Options> {
        let mut options = self.endpoints()?;
        (options.user, options.token) = self.credentials(identity, channels, may)?;
        // Two commands of one user at once are two devices, or the second would replace the first.
        let own = || format!("trunkline-cli-{}", std::process::id());
        options.device = identity.device.clone().unwrap_or_else(own);
        options.name = concat!("trunkline-cli/", env!("CARGO_PKG_VERSION")).to_owned();
        Ok(options)
    }

    /// Options of a client of this node, one way only.
    pub(crate) fn to(
        &self,
        node: &RunningNode,
        config: &Config,
        way: Way,
        identity: &Identity,
    ) -> anyhow::Result<Options> {
        let mut options = Options::new("", "");
        options.endpoints = endpoints(node, &config.tls, Some(way), Plain::OnLoopback)?;
        options.tls = Some(own_certificate(node, &config.node.data_dir)?);
        (options.user, options.token) = self.credentials(identity, &[], &[])?;
        // One device a way, so that all ways can be gone at once.
        options.device = format!("trunkline-cli-{}-{way:?}", std::process::id());
        Ok(options)
    }

    /// Options that name the ways to the node and what to trust there, but no user yet.
    pub(crate) fn endpoints(&self) -> anyhow::Result<Options> {
        let mut options = Options::new("", "");
        options.connect_timeout = CONNECT_TIMEOUT;
        let trust = self.trust()?;
        if let Some(url) = &self.url {
            options.endpoints = vec![url.clone()];
            options.tls = match trust {
                None if url.protocol.is_encrypted() => Some(system_roots()?),
                trust => trust,
            };
        } else {
            let loaded = self.place.load(Vec::new())?;
            let data_dir = &loaded.config.node.data_dir;
            let node = RunningNode::find(data_dir)?;
            let plain = if trust.is_some() { Plain::Never } else { Plain::OnLoopback };
            options.endpoints = endpoints(&node, &loaded.config.tls, self.transport, plain)?;
            options.tls = match trust {
                Some(trust) => Some(trust),
                None => Some(own_certificate(&node, data_dir)?),
            };
        }
        let is_plain = |endpoint: &Endpoint| !endpoint.protocol.is_encrypted();
        if (self.pin.is_some() || self.ca.is_some()) && options.endpoints.iter().any(is_plain) {
            bail!(
                "--pin and --ca say which certificate to trust, and a plain connection has none: take tls, wss, quic or wt"
            );
        }
        Ok(options)
    }

    /// Options of so many clients, each a user of its own, whose tokens may do `may` on channels like `pattern`.
    pub(crate) fn crowd(&self, count: usize, pattern: &str, may: &[May]) -> anyhow::Result<Vec<Options>> {
        let base = self.endpoints()?;
        let signs = self.url.is_none() || self.place.data_dir.is_some();
        let dir = if signs { Some(self.place.data_dir()?) } else { None };
        let rights = [Right { pattern: pattern.to_owned(), may: may.to_vec() }];
        let one = |at: usize| {
            let mut options = base.clone();
            options.user = crate::bench::user(at);
            if let Some(dir) = &dir {
                let (user, ttl) = (options.user.as_str(), OWN_TOKEN_TTL);
                let grant = Grant { user, ttl, groups: &[], rights: &rights, platform: None };
                options.token = grant.sign(dir)?;
            }
            Ok(options)
        };
        (0..count).map(one).collect()
    }

    /// The gRPC surface of the node of this machine.
    pub(crate) fn gateway(&self) -> anyhow::Result<GatewayAddress> {
        super::push::gateway(&self.place)
    }

    /// The node of this machine, where the command was not sent to another.
    pub(crate) fn node(&self) -> anyhow::Result<Option<RunningNode>> {
        match self.url {
            Some(_) => Ok(None),
            None => RunningNode::find(&self.place.load(Vec::new())?.config.node.data_dir).map(Some),
        }
    }

    /// Neither a URL nor a data directory was named.
    pub(crate) fn names_nothing(&self) -> bool {
        self.url.is_none() && self.place.data_dir.is_none() && self.place.config.is_none()
    }

    /// The same, with this way where none was named.
    pub(crate) fn by_default(mut self, way: Way) -> Self {
        if self.url.is_none() {
            self.transport.get_or_insert(way);
        }
        self
    }

    /// How the node is reached, for people.
    pub(crate) fn way_named(&self) -> String {
        match (&self.url, self.transport) {
            (Some(url), _) => url.protocol.as_str().to_owned(),
            (None, Some(way)) => {
                way.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
            }
            (None, None) => "the first of several".to_owned(),
        }
    }

    /// Whether all connections go through UDP sockets that they share, at the node too.
    pub(crate) fn is_over_udp(&self) -> bool {
        match &self.url {
            Some(url) => matches!(url.protocol, Protocol::Quic | Protocol::WebTransport),
            None => matches!(self.transport, Some(Way::Quic | Way::Webtransport)),
        }
    }

    /// The same, with the node of this data directory.
    pub(crate) fn at(&self, data_dir: &Path) -> Self {
        let place = Place { data_dir: Some(data_dir.to_owned()), ..self.place.clone() };
        Reach { place, ..self.clone() }
    }

    fn trust(&self) -> anyhow::Result<Option<ClientTls>> {
        if let Some(Pin(pin)) = self.pin {
            return Ok(Some(ClientTls::pinned(vec![pin])?));
        }
        let Some(file) = &self.ca else { return Ok(None) };
        let pem = std::fs::read(file).with_context(|| format!("--ca: {} cannot be read", file.display()))?;
        let trust = ClientTls::authority(&pem)
            .with_context(|| format!("--ca: {} has no usable certificate", file.display()))?;
        Ok(Some(trust))
    }

    /// The user and the token to say.
    fn credentials(
        &self,
        identity: &Identity,
        channels: &[String],
        may: &[May],
    ) -> anyhow::Result<(String, String)> {
        if let Some(token) = &identity.token {
            let user = identity.user.clone().or_else(|| subject(token));
            let user = user.context("--user is missing, and the token does not say whose it is")?;
            return Ok((user, token.clone()));
        }
        let user = identity.user.as_deref().filter(|user| !user.is_empty());
        let user = user.context("--user is missing: name the user to be, such as --user alice")?;
        // A node elsewhere is not sent what opens the one here, unless the data directory is named for it.
        if self.url.is_some() && self.place.data_dir.is_none() {
            return Ok((user.to_owned(), String::new()));
        }
        let right = |channel: &String| Right { pattern: channel.clone(), may: may.to_vec() };
        let rights: Vec<Right> = channels.iter().map(right).collect();
        let grant = Grant { user, ttl: OWN_TOKEN_TTL, groups: &[], rights: &rights, platform: None };
        Ok((user.to_owned(), grant.sign(&self.place.data_dir()?)?))
    }
}

/// Connects, or says why not and what to do.
pub(crate) async fn connect(options: Options) -> anyhow::Result<Client> {
    let no_token = options.token.is_empty();
    Client::connect(options).await.map_err(|error| {
        let next = match &error {
            ConnectError::Unreachable(reasons) if reasons.is_distrust() => {
                "Name the certificate to trust with --pin SHA256 (a node prints its own when it starts), or a PEM file with its authority with --ca FILE"
            }
            ConnectError::Unreachable(_) => {
                "Check the address and that the node runs: `trunkline doctor` looks at the one of this machine"
            }
            ConnectError::Refused(_) if no_token => {
                "No token was sent: name the data directory of the node on this machine with --data-dir, or give a token where the command takes one (--token)"
            }
            ConnectError::Refused(_) => "docs/codes.md says what the code means",
            _ => "It may be overloaded, or something else listens there: try again, or another --transport",
        };
        anyhow::anyhow!("{error}. {next}")
    })
}

/// Runs a command's future to its end on a runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("the runtime cannot be started")?.block_on(future)
}

/// Runs a command on this thread alone, where its tasks need not be able to leave it.
pub(crate) fn block_on_one_thread<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the runtime cannot be started")?;
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// The certificates that this machine trusts anyway.
fn system_roots() -> anyhow::Result<ClientTls> {
    let next =
        "name the node's certificate with --pin SHA256, or a PEM file with its authority with --ca FILE";
    ClientTls::system_roots().with_context(|| format!("it is not known whom to trust: {next}"))
}

/// Where a plain connection will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plain {
    /// Where the node takes one, which by default is on loopback.
    OnLoopback,
    /// Nowhere: the caller has said whose certificate it wants to see.
    Never,
}

/// The ways to a node's clients, the best first: they are raced.
fn endpoints(node: &RunningNode, tls: &Tls, way: Option<Way>, plain: Plain) -> anyhow::Result<Vec<Endpoint>> {
    // A plain connection to a port that wants TLS is told so after its handshake: too late for a race.
    let secure = |address: SocketAddr| plain == Plain::Never || tls.mode_at(address) == TlsMode::Required;
    let surface = |name: &str| node.surfaces.get(name).copied();
    let url = |way: Way| -> Option<String> {
        Some(match way {
            Way::Quic => format!("quic://{}", reachable(surface("quic")?)),
            Way::Webtransport => format!("wt://{}/", reachable(surface("quic")?)),
            Way::Websocket | Way::WebsocketTls => {
                let address = surface("http").or_else(|| surface("websocket"))?;
                let scheme = if way == Way::WebsocketTls || secure(address) { "wss" } else { "ws" };
                format!("{scheme}://{}/ws", reachable(address))
            }
            Way::Tcp => format!("tcp://{}", reachable(surface("tcp")?)),
            Way::Tls => format!("tls://{}", reachable(surface("tcp")?)),
        })
    };
    let ways = match way {
        Some(way) => vec![way],
        None => {
            let tcp = if surface("tcp").is_some_and(secure) { Way::Tls } else { Way::Tcp };
            vec![Way::Quic, Way::Websocket, tcp]
        }
    };
    let urls: Vec<String> = ways.into_iter().filter_map(url).collect();
    if urls.is_empty() {
        bail!("the node does not serve that way: {}", surfaces(node));
    }
    urls.iter().map(|url| Ok(url.parse()?)).collect()
}

/// What a node serves, for people.
fn surfaces(node: &RunningNode) -> String {
    let names: Vec<&str> = node.surfaces.keys().map(String::as_str).collect();
    format!("it serves {}", names.join(", "))
}

/// Where this machine reaches a surface that is bound to all its addresses.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Trusts the certificate that the node began with, and the one that it has renewed since.
fn own_certificate(node: &RunningNode, data_dir: &Path) -> anyhow::Result<ClientTls> {
    let mut pins: Vec<[u8; 32]> =
        pin(&node.certificate_sha256).ok().map(|Pin(pin)| pin).into_iter().collect();
    if let Ok(renewed) = CertificateDer::from_pem_file(data_dir.join("certificate.pem")) {
        pins.push(fingerprint(&renewed));
    }
    Ok(ClientTls::pinned(pins)?)
}

/// The user of a token, unchecked: the node checks it.
fn subject(token: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Claims {
        sub: String,
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    Some(serde_json::from_slice::<Claims>(&claims).ok()?.sub)
}

fn pin(text: &str) -> Result<Pin, String> {
    let wrong = || "wanted the certificate's SHA-256: 64 hexadecimal digits".to_owned();
    let digits: Option<Vec<u32>> = text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() == 64).ok_or_else(wrong)?;
    let mut pin = [0; 32];
    for (byte, pair) in pin.iter_mut().zip(digits.chunks(2)) {
        // Two digits below 16 are a byte.
        *byte = pair.iter().fold(0, |sum, digit| sum << 4 | u8::try_from(*digit).unwrap_or_default());
    }
    Ok(Pin(pin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(surfaces: &[(&str, &str)]) -> RunningNode {
        let surfaces =
            surfaces.iter().map(|(name, address)| ((*name).to_owned(), address.parse().unwrap())).collect();
        RunningNode { surfaces, pid: 1, certificate_sha256: "ab".repeat(32) }
    }

    fn urls(node: &RunningNode, way: Option<Way>) -> Vec<String> {
        let endpoints = endpoints(node, &Tls::default(), way, Plain::OnLoopback).unwrap();
        endpoints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_node_on_loopback_is_raced_without_tls_and_an_open_one_with_it() {
        let local = node(&[("http", "127.0.0.1:1"), ("tcp", "127.0.0.1:2"), ("quic", "127.0.0.1:3")]);
        let local = urls(&local, None);
        assert!(local[0].starts_with("quic://127.0.0.1:3"), "{local:?}");
        assert!(local[1].starts_with("ws://127.0.0.1:1/ws"), "{local:?}");
        assert!(local[2].starts_with("tcp://127.0.0.1:2"), "{local:?}");
        let named = endpoints(
            &node(&[("http", "127.0.0.1:1"), ("tcp", "127.0.0.1:2")]),
            &Tls::default(),
            None,
            Plain::Never,
        );
        let named: Vec<String> = named.unwrap().iter().map(ToString::to_string).collect();
        assert!(named[0].starts_with("wss://") && named[1].starts_with("tls://"), "{named:?}");
        let open = node(&[("http", "0.0.0.0:1"), ("tcp", "[::]:2")]);
        let race = urls(&open, None);
        assert!(race[0].starts_with("wss://127.0.0.1:1/ws"), "{race:?}");
        assert!(race[1].starts_with("tls://[::1]:2"), "{race:?}");
        let error =
            endpoints(&open, &Tls::default(), Some(Way::Quic), Plain::OnLoopback).unwrap_err().to_string();
        assert!(error.contains("serves http, tcp"), "{error}");
    }

    #[test]
    fn a_pin_is_64_digits_with_or_without_colons() {
        assert_eq!(pin(&"0f".repeat(32)), Ok(Pin([15; 32])));
        assert_eq!(pin(&["aB"; 32].join(":")), Ok(Pin([0xab; 32])));
        for wrong in ["", "0f", &"0g".repeat(32), &"0f".repeat(33)] {
            assert!(pin(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn the_user_of_a_token_is_read_from_it() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"alice","exp":1}"#);
        assert_eq!(subject(&format!("x.{claims}.y")).as_deref(), Some("alice"));
        for wrong in ["", "a.b.c", "..", &format!("x.{}", URL_SAFE_NO_PAD.encode("{}"))] {
            assert_eq!(subject(wrong), None);
        }
    }
}
