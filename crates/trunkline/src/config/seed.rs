//! The configuration file of the gateway that this one replaces (GateSvr, YAML), read as protocol.md section 11 says.
//!
//! Every key it can have stands in [`ROWS`] with what becomes of it: mapped to ours, or without effect here and why.
//! No key of ours is read from YAML: a person who wants them writes TOML.

use std::path::Path;

use serde_json::Value as Json;
use toml::Value;

use super::nearest;
use super::problem::Origin;
use super::sources::Assignment;

/// What becomes of a key.
enum Effect {
    /// It is ours by another name.
    Is(&'static str),
    /// It has no effect here, for this reason.
    None(&'static str),
    /// [`Reading`] handles it together with others.
    Together,
}
use Effect::{Is, None as Nothing, Together};

const NO_RETRIES: &str =
    "connections are reliable: nothing is sent twice on one, and a resume sends what was not confirmed";
const NO_POOL: &str = "every connection has a task of its own: there is no pool to size";
const NO_STAGE: &str = "a node serves or refuses, it has no stage of slowing down before; limits.warn_percent says from when on a \
     limit counts as near";
const NO_BACKUP: &str = "it configures a pair of nodes, and backup.enabled is false";

const ROWS: &[(&str, Effect)] = &[
    ("server.quic_addr", Is("listen.quic")),
    ("server.http_addr", Is("listen.http")),
    ("server.grpc_addr", Is("listen.grpc")),
    ("server.metrics_addr", Is("listen.metrics")),
    ("server.session_timeout", Is("session.resume_window")),
    ("server.cert_file", Together),
    ("server.key_file", Together),
    ("server.upstream_addr", Together),
    ("server.upstream_services", Nothing("upstreams register themselves")),
    ("server.ack_timeout", Nothing(NO_RETRIES)),
    ("server.max_retries", Nothing(NO_RETRIES)),
    ("overload_protection.enabled", Together),
    ("overload_protection.max_connections", Together),
    ("overload_protection.max_qps", Together),
    ("overload_protection.qps_window_seconds", Together),
    ("overload_protection.max_upstream_concurrent", Together),
    ("overload_protection.upstream_timeout", Together),
    ("overload_protection.connection_warning_threshold", Nothing(NO_STAGE)),
    ("overload_protection.qps_warning_threshold", Nothing(NO_STAGE)),
    ("overload_protection.upstream_warning_threshold", Nothing(NO_STAGE)),
    ("start_processor.enabled", Nothing(NO_POOL)),
    ("start_processor.max_workers", Nothing(NO_POOL)),
    ("start_processor.queue_size", Nothing(NO_POOL)),
    ("start_processor.timeout", Nothing(NO_POOL)),
    ("async.max_workers", Nothing(NO_POOL)),
    ("async.max_queue_size", Nothing(NO_POOL)),
    ("async.task_timeout", Nothing(NO_POOL)),
    ("backup.enabled", Together),
    ("backup.mode", Nothing(NO_BACKUP)),
    ("backup.server_id", Nothing(NO_BACKUP)),
    ("backup.readonly", Nothing(NO_BACKUP)),
    ("backup.heartbeat.interval", Nothing(NO_BACKUP)),
    ("backup.heartbeat.peer_addr", Nothing(NO_BACKUP)),
    ("backup.heartbeat.listen_addr", Nothing(NO_BACKUP)),
    ("backup.heartbeat.timeout", Nothing(NO_BACKUP)),
    ("backup.sync.peer_addr", Nothing(NO_BACKUP)),
    ("backup.sync.listen_addr", Nothing(NO_BACKUP)),
    ("backup.sync.batch_size", Nothing(NO_BACKUP)),
    ("backup.sync.timeout", Nothing(NO_BACKUP)),
    ("backup.sync.buffer_size", Nothing(NO_BACKUP)),
];

/// A static upstream that serves every zone, which is what the seed's one upstream address meant.
pub(crate) fn instance_for_all_zones(address: &str) -> Value {
    let instance = toml::Table::from_iter([
        ("address".to_owned(), Value::String(address.to_owned())),
        ("zone".to_owned(), Value::String("*".to_owned())),
    ]);
    Value::Array(vec![Value::Table(instance)])
}

/// Reads the seed's file into assignments of our keys.
pub(crate) fn read(
    file: &Path,
    text: &str,
    all: &mut Vec<Assignment>,
    problems: &mut Vec<String>,
    warnings: &mut Vec<String>,
) {
    let document = match serde_saphyr::from_str::<Json>(text) {
        Ok(document) => document,
        Err(error) => {
            problems.push(format!("{}: this is not YAML: {error}", file.display()));
            return;
        }
    };
    let mut reading = Reading { file, leaves: Vec::new(), all, problems, warnings };
    match &document {
        Json::Object(_) => reading.flatten("", &document),
        Json::Null => {}
        _ => reading
            .problems
            .push(format!("{}: wanted sections such as server:, got one value", file.display())),
    }
    reading.map();
    reading.certificate();
    reading.overload();
    reading.upstream();
    reading.backup();
    reading.warnings.push(format!(
        "{}: this is the configuration of GateSvr, whose clients may come without TLS, so tls.mode stays \"optional\" on \
         every address. A TOML file can say tls.mode = \"required\"",
        file.display()
    ));
    reading.all.push(Assignment::new(
        reading.origin("server"),
        "tls.mode",
        Value::String("optional".to_owned()),
    ));
}

struct Reading<'a> {
    file: &'a Path,
    /// Every key with a value, by its path.
    leaves: Vec<(String, Json)>,
    all: &'a mut Vec<Assignment>,
    problems: &'a mut Vec<String>,
    warnings: &'a mut Vec<String>,
}

impl Reading<'_> {
    fn flatten(&mut self, path: &str, value: &Json) {
        match value {
            Json::Object(members) => {
                for (name, member) in members {
                    let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    // The seed's upstream_services is a table whose names are the person's own.
                    if below == "server.upstream_services" {
                        self.leaves.push((below, member.clone()));
                    } else {
                        self.flatten(&below, member);
                    }
                }
            }
            // A key without a value is a key that is not set.
            Json::Null => {}
            other => self.leaves.push((path.to_owned(), other.clone())),
        }
    }

    /// Maps what has an equal, warns of what has no effect, refuses what is unknown.
    fn map(&mut self) {
        for (path, value) in self.leaves.clone() {
            match ROWS.iter().find(|(known, _)| *known == path) {
                Some((_, Is(ours))) => self.assign(&path, ours, text_of(&value)),
                // A pair of nodes that is switched on is one error, not ten warnings.
                Some((_, Nothing(NO_BACKUP))) if self.pair_is_on() => {}
                Some((_, Nothing(reason))) => {
                    self.warnings.push(format!("{}: has no effect here: {reason}", self.origin(&path)));
                }
                Some((_, Together)) => {}
                None => {
                    let known: Vec<String> = ROWS.iter().map(|(known, _)| (*known).to_owned()).collect();
                    let hint = match nearest::name(&path, &known) {
                        Some(near) => format!("did you mean {near}?"),
                        None => "YAML files have the keys of GateSvr; for all others write TOML (`trunkline init`)".to_owned(),
                    };
                    self.problems.push(format!("{}: {hint}", self.origin(&path).unknown()));
                }
            }
        }
    }

    /// The seed made its certificate with a separate command. Without it, a self-made one serves as well.
    fn certificate(&mut self) {
        let named: Vec<(&str, String)> = ["server.cert_file", "server.key_file"]
            .iter()
            .filter_map(|path| Some((*path, self.text(path)?)))
            .collect();
        if !named.is_empty() && named.iter().all(|(_, file)| !Path::new(file).exists()) {
            for (path, file) in named {
                self.warnings.push(format!(
                    "{}: {file} does not exist: the node makes its own certificate",
                    self.origin(path)
                ));
            }
            return;
        }
        for (path, file) in named {
            let ours = if path == "server.cert_file" { "tls.certificate" } else { "tls.key" };
            self.assign(path, ours, Value::String(file));
        }
    }

    fn overload(&mut self) {
        let section = "overload_protection";
        if self.leaf(&format!("{section}.enabled")) == Some(&Json::Bool(false)) {
            self.warnings.push(format!(
                "{}: is false, so the other keys of the section have no effect; the node keeps its own limits",
                self.origin(&format!("{section}.enabled"))
            ));
            return;
        }
        for (theirs, ours) in [
            ("max_connections", "limits.connections"),
            ("max_qps", "limits.calls_per_second"),
            ("max_upstream_concurrent", "upstreams.in_flight_total"),
            ("upstream_timeout", "session.call_timeout"),
        ] {
            let path = format!("{section}.{theirs}");
            if let Some(value) = self.leaf(&path).map(text_of) {
                self.assign(&path, ours, value);
            }
        }
        // The seed let through max_qps times the window within one window; that is our rate with this burst.
        let number =
            |path: &str| self.text(&format!("{section}.{path}")).and_then(|text| text.parse::<u32>().ok());
        let path = format!("{section}.qps_window_seconds");
        match (number("max_qps"), number("qps_window_seconds")) {
            (Some(rate), Some(seconds)) => {
                let burst = i64::from(rate.saturating_mul(seconds));
                self.assign(&path, "limits.call_burst", Value::Integer(burst));
            }
            (_, None) if self.leaf(&path).is_some() => {
                self.problems.push(format!("{}: wanted a number of seconds", self.origin(&path)));
            }
            (None, Some(_)) => {
                self.warnings.push(format!("{}: has no effect without max_qps", self.origin(&path)));
            }
            _ => {}
        }
    }

    fn upstream(&mut self) {
        let path = "server.upstream_addr";
        if let Some(address) = self.text(path).filter(|address| !address.is_empty()) {
            self.assign(path, "upstreams.instances", instance_for_all_zones(&address));
        }
    }

    fn backup(&mut self) {
        if self.pair_is_on() {
            self.problems.push(format!(
                "{}: is true, but there is no pair of a primary and a backup here: nodes that survive each other share \
                 a broker, by the cluster settings ([broker], Redis or NATS) once this version has them. Set it to \
                 false to run one node",
                self.origin("backup.enabled")
            ));
        }
    }

    fn pair_is_on(&self) -> bool {
        !matches!(self.leaf("backup.enabled"), None | Some(Json::Bool(false)))
    }

    fn leaf(&self, path: &str) -> Option<&Json> {
        self.leaves.iter().find(|(known, _)| known == path).map(|(_, value)| value)
    }

    fn text(&self, path: &str) -> Option<String> {
        self.leaf(path).map(|value| match value {
            Json::String(text) => text.clone(),
            other => other.to_string(),
        })
    }

    fn assign(&mut self, path: &str, ours: &str, value: Value) {
        self.all.push(Assignment::new(self.origin(path), ours, value));
    }

    fn origin(&self, path: &str) -> Origin {
        Origin::File { file: self.file.to_owned(), key: path.to_owned(), line: None }
    }
}

/// A scalar as our settings read it: they take text for every type.
fn text_of(value: &Json) -> Value {
    match value {
        Json::String(text) => Value::String(text.clone()),
        other => Value::String(other.to_string()),
    }
}
