//! A registration: which instance serves which zone and service, checked before anything is kept.
//!
//! What an upstream says of itself is foreign input: lengths and characters are bounded here, so that keys,
//! tables and pages need not ask again.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use trunkline_proto::wire;

use crate::zone::{Zone, ZoneMap};

/// The service that answers `Authenticate`; its instances serve every zone.
pub const AUTH_SERVICE: &str = "auth";
/// Longest service name and instance id. With address and zone a key stays below the broker's 512 bytes.
const MAX_NAME: usize = 128;
/// Longest address: a DNS name has at most 253 characters.
const MAX_ADDRESS: usize = 260;
/// Idempotent actions of one registration: its value must stay small, it is written with all others.
const MAX_ACTIONS: usize = 256;
/// A weight says "so many times the share of weight 1"; more than this is a mistake.
const MAX_WEIGHT: u32 = 1_000;

/// Where an instance listens: `host:port`, or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address(String);

impl Address {
    /// Checks an address without resolving it.
    ///
    /// # Errors
    /// [`RegisterError::Address`] for everything that no connection could be made to.
    pub fn parse(text: &str) -> Result<Self, RegisterError> {
        let bad = |why| RegisterError::Address { address: clip(text), why };
        if text.len() > MAX_ADDRESS || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(bad("it is too long, or has spaces in it"));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Address(text.to_owned()))
            } else {
                Err(bad("unix: needs an absolute path"))
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("it has no port"))?;
        match port.parse::<u16>() {
            Ok(0) | Err(_) => return Err(bad("its port is not 1 to 65535")),
            Ok(_) => {}
        }
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        match (host, inner) {
            ("", _) => Err(bad("it has no host; name one that the gateway can reach")),
            ("0.0.0.0" | "[::]", _) => {
                Err(bad("it is a wildcard; name an address that the gateway can reach"))
            }
            (_, Some(inner)) if inner.parse::<std::net::Ipv6Addr>().is_err() => {
                Err(bad("its brackets hold no IPv6 address"))
            }
            (host, None) if !host.bytes().all(|c| c.is_ascii_alphanumeric() || b".-_".contains(&c)) => {
                Err(bad("its host is neither a name nor an IP address"))
            }
            _ => Ok(Address(text.to_owned())),
        }
    }

    /// The address as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of a Unix socket.
    pub(super) fn unix_path(&self) -> Option<&str> {
        self.0.strip_prefix("unix:")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The zones that an instance serves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServedZone {
    /// Every zone, `*` on the wire.
    All,
    /// One zone.
    One(Zone),
}

impl ServedZone {
    /// `*` or the zone's name.
    pub fn as_str(&self) -> &str {
        match self {
            ServedZone::All => "*",
            ServedZone::One(zone) => zone.as_str(),
        }
    }

    /// Does it serve this zone?
    pub(super) fn serves(&self, zone: &Zone) -> bool {
        match self {
            ServedZone::All => true,
            ServedZone::One(own) => own == zone,
        }
    }
}

/// Why a registration is refused; the answer is in-band, with [`Self::code`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// No connection could be made to it.
    #[error("{address:?} is no address of an upstream: {why}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No such zone.
    #[error("{0}")]
    Zone(String),
    /// Anything else that is wrong, or the broker's failure.
    #[error("{0}")]
    Failed(String),
}

impl RegisterError {
    /// The seed's `error_code`.
    pub const fn code(&self) -> &'static str {
        match self {
            RegisterError::Address { .. } => "INVALID_ADDRESS",
            RegisterError::Zone(_) => "INVALID_ZONE_ID",
            RegisterError::Failed(_) => "REGISTER_FAILED",
        }
    }
}

/// One instance in one zone for one service. An instance that serves several zones has as many registrations,
/// and shares its connection, its health and its limit among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Where it listens.
    pub address: Address,
    /// What it serves.
    pub zone: ServedZone,
    /// Which service it is, `""` where it does not say.
    pub service: String,
    /// What it is called: the same again replaces the former registration; the address where it does not say.
    pub instance: String,
    /// Its share among the instances of a zone, at least 1.
    pub weight: u32,
    /// How many calls it takes at once; `None`: the gateway's default.
    pub max_in_flight: Option<u32>,
    /// Actions that may run twice: `name` or `prefix*`.
    pub idempotent_actions: Vec<String>,
    /// It wants to hear of sessions.
    pub session_events: bool,
}

impl Registration {
    /// Checks what an upstream, or a configuration, says.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(request: &wire::UpstreamRegisterRequest, zones: &ZoneMap) -> Result<Self, RegisterError> {
        let address = Address::parse(&request.address)?;
        let zone = parse_zone(&request.zone_id, zones)?;
        let service = check_name("service_name", &request.service_name)?;
        if service == AUTH_SERVICE && zone != ServedZone::All {
            return Err(RegisterError::Zone("the service auth is registered for zone *".to_owned()));
        }
        let instance = match check_name("instance_id", &request.instance_id)? {
            // A socket's path has slashes, which separate the parts of a key.
            instance if instance.is_empty() => address.as_str().replace('/', "|"),
            instance => instance,
        };
        let actions = &request.idempotent_actions;
        if actions.len() > MAX_ACTIONS || actions.iter().any(|action| action.len() > MAX_NAME) {
            let text = format!("idempotent_actions are at most {MAX_ACTIONS} of {MAX_NAME} bytes");
            return Err(RegisterError::Failed(text));
        }
        Ok(Registration {
            address,
            zone,
            service,
            instance,
            weight: request.weight.clamp(1, MAX_WEIGHT),
            max_in_flight: (request.max_in_flight > 0).then_some(request.max_in_flight),
            idempotent_actions: actions.clone(),
            session_events: request.session_events,
        })
    }

    /// May this action run twice?
    pub(super) fn is_idempotent(&self, action: &str) -> bool {
        names_action(&self.idempotent_actions, action)
    }
}

/// Is the action among these names and prefixes (`prefix*`)?
pub(super) fn names_action(names: &[String], action: &str) -> bool {
    names.iter().any(|name| match name.strip_suffix('*') {
        Some(prefix) => action.starts_with(prefix),
        None => name == action,
    })
}

/// A zone that somebody names: `*`, or one of the map's.
pub(super) fn parse_zone(name: &str, zones: &ZoneMap) -> Result<ServedZone, RegisterError> {
    if name == "*" {
        return Ok(ServedZone::All);
    }
    let zone = Zone::named(name);
    if zones.contains(&zone) {
        return Ok(ServedZone::One(zone));
    }
    let known: Vec<String> = zones.zones().iter().take(12).map(Zone::to_string).collect();
    let text = format!("there is no zone {:?}; zones here: {}, and * for all", clip(name), known.join(", "));
    Err(RegisterError::Zone(text))
}

/// An address whose host is missing or a wildcard, with the host that it was said from. Without one, a missing host is
/// this machine, as Go's dialler reads it, and a wildcard stays what it is: no address.
pub(super) fn with_host(address: &str, peer: Option<IpAddr>) -> String {
    let Some((host @ ("" | "0.0.0.0" | "[::]"), port)) = address.rsplit_once(':') else {
        return address.to_owned();
    };
    match peer.map(|ip| ip.to_canonical()) {
        Some(IpAddr::V4(ip)) => format!("{ip}:{port}"),
        Some(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        None if host.is_empty() => format!("127.0.0.1:{port}"),
        None => address.to_owned(),
    }
}

fn check_name(what: &str, name: &str) -> Result<String, RegisterError> {
    if name.len() > MAX_NAME || name.chars().any(|c| c.is_control() || c == '/') {
        let text = format!("{what} has more than {MAX_NAME} bytes, a slash or a control character");
        return Err(RegisterError::Failed(text));
    }
    Ok(name.to_owned())
}

/// What a message may repeat of foreign input.
fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(address: &str, zone: &str) -> wire::UpstreamRegisterRequest {
        wire::UpstreamRegisterRequest {
            address: address.into(),
            zone_id: zone.into(),
            service_name: "game".into(),
            ..Default::default()
        }
    }

    fn code(request: &wire::UpstreamRegisterRequest) -> &'static str {
        Registration::parse(request, &ZoneMap::default()).expect_err("refused").code()
    }

    #[test]
    fn a_seeds_registration_has_the_address_as_its_name_and_weight_one() {
        let registration =
            Registration::parse(&request("localhost:9001", "001"), &ZoneMap::default()).unwrap();
        assert_eq!(registration.instance, "localhost:9001");
        assert_eq!(registration.weight, 1);
        assert_eq!(registration.max_in_flight, None);
        assert_eq!(registration.zone, ServedZone::One(Zone::numbered(1)));
    }

    #[test]
    fn addresses_that_nothing_could_reach_are_invalid() {
        for right in ["a:1", "10.0.0.1:65535", "[::1]:9000", "my-host.local:9000", "unix:/run/a.sock"] {
            assert!(Address::parse(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "a",
            "a:",
            ":9000",
            "a:0",
            "a:65536",
            "a:-1",
            "a b:1",
            "0.0.0.0:1",
            "[::]:1",
            "[x]:1",
            "::1:9",
            "http://a:1",
            "unix:relative",
            "a\n:1",
            "é:1",
        ] {
            assert_eq!(code(&request(wrong, "001")), "INVALID_ADDRESS", "{wrong:?}");
        }
        assert_eq!(code(&request(&format!("{}:1", "a".repeat(300)), "001")), "INVALID_ADDRESS");
    }

    #[test]
    fn zones_that_the_map_does_not_have_are_invalid() {
        for wrong in ["", "7", "007", "all", "001/2"] {
            assert_eq!(code(&request("a:1", wrong)), "INVALID_ZONE_ID", "{wrong:?}");
        }
        let mut auth = request("a:1", "001");
        auth.service_name = AUTH_SERVICE.into();
        assert_eq!(code(&auth), "INVALID_ZONE_ID");
        auth.zone_id = "*".into();
        assert!(Registration::parse(&auth, &ZoneMap::default()).is_ok());
    }

    #[test]
    fn names_that_no_key_can_hold_are_refused() {
        for wrong in ["a/b", "a\0", &"x".repeat(129)] {
            let with_service =
                wire::UpstreamRegisterRequest { service_name: wrong.into(), ..request("a:1", "*") };
            assert_eq!(code(&with_service), "REGISTER_FAILED", "{wrong:?}");
            let with_instance =
                wire::UpstreamRegisterRequest { instance_id: wrong.into(), ..request("a:1", "*") };
            assert_eq!(code(&with_instance), "REGISTER_FAILED", "{wrong:?}");
        }
        let many = vec!["a".to_owned(); MAX_ACTIONS + 1];
        assert_eq!(
            code(&wire::UpstreamRegisterRequest { idempotent_actions: many, ..request("a:1", "*") }),
            "REGISTER_FAILED"
        );
    }

    #[test]
    fn a_seeds_address_without_a_host_is_where_it_registers_from() {
        let far: IpAddr = "192.0.2.7".parse().unwrap();
        let near: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        for (address, peer, expected) in [
            (":9000", None, "127.0.0.1:9000"),
            (":9000", Some(far), "192.0.2.7:9000"),
            (":9000", Some(near), "127.0.0.1:9000"),
            ("0.0.0.0:9000", Some(far), "192.0.2.7:9000"),
            ("[::]:9000", Some("2001:db8::1".parse().unwrap()), "[2001:db8::1]:9000"),
            ("0.0.0.0:9000", None, "0.0.0.0:9000"),
            ("game.local:9000", Some(far), "game.local:9000"),
            ("unix:/run/a.sock", Some(far), "unix:/run/a.sock"),
            ("", Some(far), ""),
        ] {
            assert_eq!(with_host(address, peer), expected, "{address} from {peer:?}");
        }
    }

    #[test]
    fn idempotent_actions_are_names_or_prefixes() {
        let names = ["echo".to_owned(), "get.*".to_owned()];
        for yes in ["echo", "get.", "get.user"] {
            assert!(names_action(&names, yes), "{yes}");
        }
        for no in ["echo2", "get", "", "put.get."] {
            assert!(!names_action(&names, no), "{no}");
        }
    }
}
