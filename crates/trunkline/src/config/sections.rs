//! Every key of the configuration, in the order in which people meet them.
//!
//! A key stands here only if the node acts on it. Its first line of documentation is what `trunkline init` and
//! `docs/configuration.md` print; defaults that belong to a library are that library's own constants.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;
use trunkline_gateway::defaults as gateway;
use trunkline_gateway::upstream::defaults as upstream;

use super::defaults;
use super::memory::MemoryLimit;
use super::setting::{Setting, refusal, section, words};
use super::values::{ByteSize, Item, Members, Surface};

section! {
    /// The node as a whole. These keys stand above all sections.
    struct Node {
        /// Where keys, the self-made certificate and the broker's records are kept. Created at the first start.
        data_dir: PathBuf = PathBuf::from("trunkline-data"),
    }
}

section! {
    /// Where the node listens: an address, a port, or "off". Port 0 takes any free port.
    struct Listen {
        /// Host of http, tcp and quic where they give only a port. 0.0.0.0 opens the three to the network.
        host: IpAddr = Ipv4Addr::LOCALHOST.into(),
        /// HTTP and WebSocket, plain and TLS on the same port.
        http: Surface = Surface::Port(8080),
        /// TCP, plain and TLS on the same port.
        tcp: Surface = Surface::Port(8090),
        /// QUIC and WebTransport (UDP).
        quic: Surface = Surface::Port(8453),
        /// WebSocket on a port of its own, besides the one of http.
        websocket: Surface = Surface::Off,
        /// gRPC for upstreams. A bare port is on loopback, whatever host says.
        grpc: Surface = Surface::Port(8092),
        /// Metrics and administration. A bare port is on loopback, whatever host says.
        metrics: Surface = Surface::Port(9090),
    }
}

words! {
    /// What becomes of connections without TLS.
    enum TlsMode {
        /// Plain and TLS are told apart by the first byte.
        Optional = "optional",
        /// Plain HTTP is sent to https, plain TCP closed with 4406.
        Required = "required",
        /// No TLS on TCP, HTTP and WebSocket. QUIC always has it.
        Off = "off",
    }
}

section! {
    /// TLS on the HTTP and TCP ports. QUIC and WebTransport always have it.
    struct Tls {
        /// Unless set: "optional" on loopback addresses, "required" on all others.
        mode: Option<TlsMode> = None,
        /// PEM file with the certificate chain. Unless set, the node makes its own and prints its SHA-256.
        certificate: Option<PathBuf> = None,
        /// PEM file with the certificate's private key.
        key: Option<PathBuf> = None,
        /// Further names and addresses in the self-made certificate, besides localhost, 127.0.0.1 and ::1.
        names: Vec<String> = Vec::new(),
        /// PEM file with the authority of upstreams: who shows a certificate of it on the gRPC port needs no token.
        upstream_authority: Option<PathBuf> = None,
    }
}

/// Who says which user a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuthMode {
    /// A signed token.
    Jwt,
    /// The upstreams registered for the service `auth`.
    Upstream,
    /// Nobody: every client is who it says it is.
    Anonymous,
}

impl AuthMode {
    /// What the flag `--anonymous` passes on. No file or variable can hold it by accident.
    pub(crate) const FLAG: &'static str = "anonymous (by flag)";
}

impl Setting for AuthMode {
    fn wanted() -> String {
        "\"jwt\" or \"upstream\"".to_owned()
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some("jwt") => Ok(AuthMode::Jwt),
            Some("upstream") => Ok(AuthMode::Upstream),
            Some(Self::FLAG) => Ok(AuthMode::Anonymous),
            Some("anonymous") => {
                Err("wanted \"jwt\" or \"upstream\": a node that believes everybody is started with the flag --anonymous only".to_owned())
            }
            _ => Err(refusal::<Self>(value)),
        }
    }

    fn show(&self) -> Option<String> {
        let word = match self {
            AuthMode::Jwt => "jwt",
            AuthMode::Upstream => "upstream",
            AuthMode::Anonymous => "anonymous",
        };
        word.to_owned().show()
    }
}

words! {
    /// How many sessions a user may have. The new one replaces unless the word says otherwise.
    enum Login {
        /// One per device, at most `auth.devices` devices.
        Device = "device",
        /// One per platform.
        Platform = "platform",
        /// One.
        One = "one",
        /// One, and a further one is refused with 4306.
        Refuse = "refuse",
        /// Up to `auth.devices`, whatever the devices.
        Many = "many",
    }
}

section! {
    /// Who may connect, and what a token without rights of its own may do.
    struct Auth {
        /// How a client proves who it is: "jwt", or "upstream" (the upstreams registered for the service "auth").
        mode: AuthMode = AuthMode::Jwt,
        /// Sessions of one user: one per "device", one per "platform", "one", one and "refuse" the next, or "many".
        login: Login = Login::Device,
        /// Devices, or with "many" sessions, that one user may have.
        devices: usize = defaults::DEVICES,
        /// Rights of tokens that carry none. With --anonymous, unless set: everything on every channel.
        default_rights: Vec<Right> = Vec::new(),
    }
}

section! {
    /// JSON web tokens. HS256 with the key file keys/jwt.key of the data directory always works.
    struct Jwt {
        /// File or https URL of a JWKS with RS256, ES256 or EdDSA keys. It is read again every five minutes.
        jwks: Option<String> = None,
        /// PEM file with the authority that vouches for the server of an https URL. Unless set, the machine's own.
        jwks_authority: Option<PathBuf> = None,
        /// The value that the claim aud must name. Unless set, aud is not looked at.
        audience: Option<String> = None,
        /// The value that the claim iss must have. Unless set, iss is not looked at.
        issuer: Option<String> = None,
        /// Claims that a token must have, besides sub: of "exp", "nbf", "aud" and "iss".
        required_claims: Vec<String> = Vec::new(),
    }
}

words! {
    /// One thing to do with a channel.
    enum May {
        /// Receive what is published.
        Subscribe = "subscribe",
        /// Publish.
        Publish = "publish",
        /// Read what was published.
        History = "history",
        /// See who is there.
        Presence = "presence",
    }
}

impl Item for May {
    fn wanted_list() -> String {
        format!("a list of {}", Self::wanted())
    }
}

/// What may be done on the channels that a pattern names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Right {
    /// A channel, or the beginning of channels with `*` at the end.
    pub(crate) pattern: String,
    /// What is allowed there.
    pub(crate) may: Vec<May>,
}

impl Setting for Right {
    fn wanted() -> String {
        "a right such as { pattern = \"room:*\", may = [\"subscribe\"] }".to_owned()
    }

    fn read(value: &Value) -> Result<Self, String> {
        let mut members = Members::of::<Self>(value)?;
        let right = Right { pattern: members.required("pattern"), may: members.required("may") };
        members.finish(right)
    }

    fn show(&self) -> Option<String> {
        Some(format!("{{ pattern = {}, may = {} }}", self.pattern.show()?, self.may.show()?))
    }
}

impl Item for Right {
    fn wanted_list() -> String {
        format!("a list, each item {}", Self::wanted())
    }
}

section! {
    /// Sessions: how long they live, and what one of them may cost.
    struct Session {
        /// How long a session outlives its connection.
        resume_window: Duration = trunkline_session::defaults::RESUME_WINDOW,
        /// How often clients are told to send a heartbeat. 2.5 times that without any frame, and a client is silent (4002).
        heartbeat: Duration = trunkline_session::defaults::HEARTBEAT,
        /// The longest a call may take, at an upstream or in a service.
        call_timeout: Duration = trunkline_session::defaults::CALL_TIMEOUT,
        /// Calls of one session that run at once.
        running_calls: usize = trunkline_session::defaults::RUNNING_CALLS,
        /// Largest frame from a client, and largest single publication or reply.
        max_frame_size: ByteSize = ByteSize(trunkline_session::defaults::MAX_FRAME_SIZE),
        /// Largest frame to a client: a reply with its bound pushes.
        max_frame_size_down: ByteSize = ByteSize(trunkline_session::defaults::MAX_FRAME_SIZE_DOWN),
        /// Frames a session may send per second, 0 for no limit.
        frames_per_second: u32 = trunkline_session::defaults::FRAMES_PER_SECOND,
        /// Frames a session may send at once.
        frame_burst: u32 = trunkline_session::defaults::FRAME_BURST,
        /// Channels a session may be on.
        channels: usize = trunkline_session::defaults::CHANNELS,
        /// Bytes of replies kept for one session until it confirms them.
        reply_cache: ByteSize = ByteSize(defaults::REPLY_CACHE),
    }
}

section! {
    /// Channels whose names begin alike. NAME in [namespaces.NAME] is yours to choose.
    struct Namespace {
        /// How the channels' names begin. Unless set: the namespace's name and a colon.
        prefix: Option<String> = None,
        /// Publications kept; 0 keeps none beyond what live subscribers still read.
        history_count: usize = 0,
        /// Bytes kept.
        history_bytes: ByteSize = ByteSize(defaults::HISTORY_BYTES),
        /// How long a publication is kept.
        history_ttl: Duration = defaults::HISTORY_TTL,
        /// Whether subscribers can be listed.
        presence: bool = true,
        /// What every client may do here, besides what its token says.
        rights: Vec<May> = Vec::new(),
    }
}

/// An upstream that does not register itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    /// Where it serves, `host:port`.
    pub(crate) address: String,
    /// Its zone, or `*` for all.
    pub(crate) zone: String,
    /// Its service name, `""` for the zone's calls.
    pub(crate) service: String,
    /// Its share of the calls relative to its neighbours'.
    pub(crate) weight: u32,
    /// Whether it is told of sessions that start, resume, lose their connection and end.
    pub(crate) session_events: bool,
    /// Calls that it takes at once; `None`: as many as the others.
    pub(crate) max_in_flight: Option<u32>,
    /// Actions that may run twice for the same call.
    pub(crate) idempotent_actions: Vec<String>,
}

impl Setting for Instance {
    fn wanted() -> String {
        "an upstream such as { address = \"127.0.0.1:9001\", zone = \"001\" }".to_owned()
    }

    fn read(value: &Value) -> Result<Self, String> {
        let mut members = Members::of::<Self>(value)?;
        let instance = Instance {
            address: members.required("address"),
            zone: members.optional("zone").unwrap_or_else(|| "*".to_owned()),
            service: members.optional("service").unwrap_or_default(),
            weight: members.optional("weight").unwrap_or(1),
            session_events: members.optional("session_events").unwrap_or(false),
            max_in_flight: members.optional("max_in_flight"),
            idempotent_actions: members.optional("idempotent_actions").unwrap_or_default(),
        };
        members.finish(instance)
    }

    fn show(&self) -> Option<String> {
        let mut members = vec![
            format!("address = {}", self.address.show()?),
            format!("zone = {}", self.zone.show()?),
            format!("weight = {}", self.weight),
        ];
        if !self.service.is_empty() {
            members.push(format!("service = {}", self.service.show()?));
        }
        if self.session_events {
            members.push("session_events = true".to_owned());
        }
        if let Some(limit) = self.max_in_flight {
            members.push(format!("max_in_flight = {limit}"));
        }
        if !self.idempotent_actions.is_empty() {
            members.push(format!("idempotent_actions = {}", self.idempotent_actions.show()?));
        }
        Some(format!("{{ {} }}", members.join(", ")))
    }
}

impl Item for Instance {
    fn wanted_list() -> String {
        format!("a list, each item {}", Self::wanted())
    }
}

section! {
    /// Your services behind the gateway, reached over gRPC.
    struct Upstreams {
        /// Number of zones that users are spread over by the hash of their name: 001, 002 and so on.
        zones: u32 = defaults::ZONES,
        /// Ranges of numeric users and their zone, before the hash: { "10000-24999" = "001" }.
        ranges: BTreeMap<String, String> = BTreeMap::new(),
        /// Single users and their zone, before ranges and hash: { "alice" = "vip" }.
        users: BTreeMap<String, String> = BTreeMap::new(),
        /// Action prefixes that go to a registered service instead of the user's zone: { "pay." = "payments" }.
        routes: BTreeMap<String, String> = BTreeMap::new(),
        /// Upstreams that do not register themselves: [{ address = "127.0.0.1:9001", zone = "001" }].
        instances: Vec<Instance> = Vec::new(),
        /// Actions that may run twice without harm, so that they are tried again elsewhere. A * at the end stands for any ending.
        idempotent: Vec<String> = Vec::new(),
        /// Calls under way at one upstream that does not say how many it takes; more are answered 503.
        in_flight: u32 = upstream::MAX_IN_FLIGHT,
        /// Calls under way at all upstreams together. Unless set, there is no such limit.
        in_flight_total: Option<u32> = None,
        /// HTTP/2 connections to each upstream at most. One is made; another when calls find that the upstream takes no more of them on
        /// those that are there, until it is idle.
        connections: usize = upstream::CHANNELS,
        /// How often an upstream is asked for its health.
        probe_interval: Duration = upstream::PROBE_INTERVAL,
        /// A call longer than this is slow: an upstream whose calls are, while its neighbours' are not, rests. 0s for never.
        slow_after: Duration = upstream::SLOW_AFTER,
        /// How long a registration outlives the last answer of its upstream.
        lease: Duration = upstream::LEASE,
    }
}

section! {
    /// What the node as a whole takes on.
    struct Limits {
        /// Connections. Unless set: 90 % of the descriptors that the process may have.
        connections: Option<usize> = None,
        /// New connections per second from one address, loopback exempt.
        connections_per_address: u32 = defaults::CONNECTIONS_PER_ADDRESS,
        /// Sessions, with and without a connection. Unless set: four for each connection. A START that would begin another is refused (4005), one that resumes never.
        sessions: Option<usize> = None,
        /// HTTP connections that are no client's: pages, requests, and WebSockets until they are one. At the limit the
        /// longest idle one gives way. Unless set: a 32nd of the descriptors that the process may have.
        http_connections: Option<usize> = None,
        /// Handshakes under way at once on one listener; over TCP at most a 64th of the descriptors.
        handshakes: usize = trunkline_transport::defaults::MAX_HANDSHAKES,
        /// The longest a handshake may take.
        handshake_timeout: Duration = trunkline_transport::defaults::HANDSHAKE_TIMEOUT,
        /// The longest a connection may take to its START.
        start_timeout: Duration = trunkline_session::defaults::START_TIMEOUT,
        /// Bytes that the publications of all channels may take in memory; more are answered 507. Channels that clients name may
        /// have three quarters. Unless set: 1 GiB, or half of `limits.memory` where that is less.
        publication_bytes: Option<ByteSize> = None,
        /// Calls per second over all sessions, 0 for no limit; more are answered 503.
        calls_per_second: u32 = 0,
        /// Calls that may come at once over that rate; half of them are kept for users who have called less. Unless set: one second's worth.
        call_burst: Option<u32> = None,
        /// Calls under way over all sessions, those included that wait for their session's turn; more are answered 503. One user has at most as many as are free.
        calls_in_flight: u32 = gateway::CALLS_IN_FLIGHT,
        /// Bytes of the requests of these calls, and of requests on channels over 1 KiB, shared the same way; more are answered 503.
        call_bytes: ByteSize = ByteSize(gateway::CALL_BYTES),
        /// Bytes of replies kept for all sessions until they confirm them; none free, and a call is answered 503 before it runs.
        reply_cache: ByteSize = ByteSize(defaults::REPLY_CACHE_PER_NODE),
        /// Bytes of replies that wait for slow clients, over all connections; while there are more no call starts.
        reply_queue: ByteSize = ByteSize(gateway::REPLY_QUEUE_BYTES),
        /// Frames per second of one address (an IPv6 /64 is one), loopback exempt, 0 for no limit. A surplus is read later: nothing is refused.
        frames_per_address: u32 = gateway::FRAMES_PER_ADDRESS,
        /// Memory of the process from which on no session begins and no call starts: "auto" (90 % of what the machine or the container gives), a size, or "off".
        memory: MemoryLimit = MemoryLimit::Auto,
        /// From how much of a limit on it counts as near, in metrics and in the log.
        warn_percent: u32 = gateway::WARN_PERCENT,
        /// The longest that stopping may take, all of it: calls, deliveries, requests. A second signal ends the node at once.
        drain: Duration = defaults::DRAIN,
    }
}

section! {
    /// What becomes of single messages, for `trunkline trace`. Off, it costs nothing; `trunkline trace --on` switches it while the node runs.
    struct Trace {
        /// Whether the node keeps a trace from its start on.
        on: bool = false,
        /// Memory of the steps that are kept, up to 1 GiB; the oldest go first. A call has about seven steps, of about 100 bytes each.
        bytes: ByteSize = ByteSize(gateway::TRACE_BYTES),
    }
}

words! {
    /// How log lines look.
    enum LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

section! {
    /// The log, on standard error or in a file. It never holds up the node: lines that cannot be written in time are dropped and counted.
    struct Log {
        /// A level, or directives such as "info,trunkline_gateway=debug".
        level: String = "info".to_owned(),
        /// "text" for people, "json" for programs.
        format: LogFormat = LogFormat::Text,
        /// File to write to instead of standard error. At its size it becomes FILE.1, and FILE.1 becomes FILE.2.
        file: Option<PathBuf> = None,
        /// Largest size of the file.
        file_size: ByteSize = ByteSize(defaults::LOG_FILE_SIZE),
        /// Files kept besides it.
        files_kept: usize = defaults::LOG_FILES_KEPT,
    }
}

impl Namespace {
    /// How the channels of the namespace with this name begin.
    pub(crate) fn prefix(&self, name: &str) -> String {
        self.prefix.clone().unwrap_or_else(|| format!("{name}:"))
    }
}
