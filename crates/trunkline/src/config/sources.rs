//! The sources of the configuration, weakest first: the file, the environment, the flags. Each is turned into
//! assignments of values to paths; what names no key is reported with the nearest right name.
//!
//! Nothing here knows what a key means, and no source knows another.

use std::path::{Path, PathBuf};

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::catalogue::{ANY, Entry, entries, entry};
use super::problem::Origin;
use super::{nearest, seed};

/// What the process was given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// The file to read; one that is named must exist.
    pub(crate) file: Option<PathBuf>,
    /// The environment, all of it.
    pub(crate) environment: Vec<(String, String)>,
    /// Values given by flags.
    pub(crate) flags: Vec<Flag>,
}

/// A flag of the command line that sets a key.
#[derive(Debug, Clone)]
pub(crate) struct Flag {
    /// `--http`.
    pub(crate) flag: &'static str,
    /// `listen.http`.
    pub(crate) path: &'static str,
    /// As typed.
    pub(crate) value: String,
}

/// A value for a key that exists.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    pub(crate) origin: Origin,
    pub(crate) path: Vec<String>,
    pub(crate) value: Value,
}

impl Assignment {
    pub(crate) fn new(origin: Origin, path: &str, value: Value) -> Self {
        Assignment { origin, path: path.split('.').map(str::to_owned).collect(), value }
    }
}

/// All assignments, weakest first.
pub(crate) fn read(
    sources: &Sources,
    problems: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Vec<Assignment> {
    let mut all = Vec::new();
    if let Some(file) = &sources.file {
        match std::fs::read_to_string(file) {
            Ok(text) => from_file(file, &text, &mut all, problems, warnings),
            Err(error) => problems.push(format!(
                "{}: cannot be read: {error}. Name another file with --config, or write one with `trunkline init`",
                file.display()
            )),
        }
    }
    from_environment(&sources.environment, &mut all, problems);
    all.extend(
        sources.flags.iter().map(|flag| {
            Assignment::new(Origin::Flag(flag.flag), flag.path, Value::String(flag.value.clone()))
        }),
    );
    all
}

fn from_file(
    file: &Path,
    text: &str,
    all: &mut Vec<Assignment>,
    problems: &mut Vec<String>,
    warnings: &mut Vec<String>,
) {
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("yaml" | "yml") => seed::read(file, text, all, problems, warnings),
        Some("toml") | None => from_toml(file, text, all, problems),
        Some(other) => problems.push(format!(
            "{}: files ending in .{other} are not read. Write TOML (`trunkline init` shows how) and end its name in .toml",
            file.display()
        )),
    }
}

fn from_toml(file: &Path, text: &str, all: &mut Vec<Assignment>, problems: &mut Vec<String>) {
    let lines = DeTable::parse(text);
    let (lines, table) = match (lines, toml::from_str::<toml::Table>(text)) {
        (Ok(lines), Ok(table)) => (lines, table),
        (Err(error), _) | (_, Err(error)) => {
            let line = error.span().map(|span| format!(":{}", line_at(text, span.start))).unwrap_or_default();
            problems.push(format!("{}{line}: this is not TOML: {}", file.display(), error.message()));
            return;
        }
    };
    let walk = Walk { file, text, lines: lines.get_ref() };
    walk.table(&table, &mut Vec::new(), all, problems);
}

/// A walk over a TOML document, down to the keys.
struct Walk<'a> {
    file: &'a Path,
    text: &'a str,
    lines: &'a DeTable<'a>,
}

impl Walk<'_> {
    fn table(
        &self,
        table: &toml::Table,
        path: &mut Vec<String>,
        all: &mut Vec<Assignment>,
        problems: &mut Vec<String>,
    ) {
        for (name, value) in table {
            path.push(name.clone());
            let origin =
                Origin::File { file: self.file.to_owned(), key: path.join("."), line: self.line(path) };
            match value {
                _ if entry(path).is_some() => {
                    all.push(Assignment { origin, path: path.clone(), value: value.clone() });
                }
                // Inside a table that nobody knows, each key is named, so that each finds its right place.
                Value::Table(inner) if !inner.is_empty() || is_section(path) => {
                    self.table(inner, path, all, problems)
                }
                _ => problems.push(unknown(&origin, path)),
            }
            path.pop();
        }
    }

    /// The line of the key with this path.
    fn line(&self, path: &[String]) -> Option<usize> {
        let mut table = self.lines;
        let (last, sections) = path.split_last()?;
        for section in sections {
            match table.iter().find(|(name, _)| name.get_ref() == section)?.1.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => return None,
            }
        }
        let (name, _) = table.iter().find(|(name, _)| name.get_ref() == last)?;
        Some(line_at(self.text, name.span().start))
    }
}

fn line_at(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// Whether keys may stand below this path.
fn is_section(path: &[String]) -> bool {
    entries().iter().any(|entry| {
        entry.path.len() > path.len()
            && entry.path.iter().zip(path).all(|(known, given)| known == ANY || known == given)
    })
}

fn unknown(origin: &Origin, path: &[String]) -> String {
    match nearest::path(path) {
        Some(near) => format!("{}: did you mean {near}?", origin.unknown()),
        None => format!("{}: `trunkline init` writes a file with every key", origin.unknown()),
    }
}

/// The seed's names of variables that mean the same as ours.
const SEED_VARIABLES: [(&str, &str); 6] = [
    ("GATESVR_QUIC_ADDR", "listen.quic"),
    ("GATESVR_HTTP_ADDR", "listen.http"),
    ("GATESVR_GRPC_ADDR", "listen.grpc"),
    ("GATESVR_METRICS_ADDR", "listen.metrics"),
    ("GATESVR_CERT_FILE", "tls.certificate"),
    ("GATESVR_KEY_FILE", "tls.key"),
];

/// Our variables that are no keys: the first names the file.
const OTHER_VARIABLES: [&str; 1] = ["TRUNKLINE_CONFIG"];

fn from_environment(environment: &[(String, String)], all: &mut Vec<Assignment>, problems: &mut Vec<String>) {
    let known = entries();
    let value = |text: &str| Value::String(text.to_owned());
    for (variable, text) in environment {
        let origin = Origin::Environment(variable.clone());
        if let Some((_, path)) = SEED_VARIABLES.iter().find(|(name, _)| name == variable) {
            all.push(Assignment::new(origin, path, value(text)));
        } else if variable == "GATESVR_UPSTREAM_ADDR" {
            all.push(Assignment::new(origin, "upstreams.instances", seed::instance_for_all_zones(text)));
        }
    }
    // After the seed's, so that ours win where both are set.
    for (variable, text) in environment {
        let Some(name) = variable.strip_prefix("TRUNKLINE_") else { continue };
        if OTHER_VARIABLES.contains(&variable.as_str()) || is_service_link(name) {
            continue;
        }
        let origin = Origin::Environment(variable.clone());
        match path_of(variable, &known) {
            Some(path) => all.push(Assignment { origin, path, value: value(text) }),
            None => {
                let names: Vec<String> = known.iter().map(Entry::variable).collect();
                let hint = match nearest::name(variable, &names) {
                    Some(near) => format!("did you mean {near}?"),
                    None => "docs/configuration.md lists them all".to_owned(),
                };
                problems.push(format!("{}: {hint}", origin.unknown()));
            }
        }
    }
}

/// Kubernetes sets these for every service of the namespace. One that is called trunkline must not stop the node.
fn is_service_link(name: &str) -> bool {
    name == "PORT"
        || name.starts_with("PORT_")
        || name.starts_with("SERVICE_HOST")
        || name.starts_with("SERVICE_PORT")
}

/// The key that a variable sets. For a namespace the name stands between the section and the key, in lower case.
fn path_of(variable: &str, known: &[Entry]) -> Option<Vec<String>> {
    if let Some(entry) = known.iter().find(|entry| entry.variable() == variable) {
        // `TRUNKLINE_NAMESPACES_NAME_PREFIX` is a namespace that is called "name".
        return Some(
            entry
                .path
                .iter()
                .map(|part| if part == ANY { "name".to_owned() } else { part.clone() })
                .collect(),
        );
    }
    known.iter().find_map(|entry| {
        let [section, any, key] = entry.path.as_slice() else { return None };
        let prefix = format!("TRUNKLINE_{}_", section.to_uppercase());
        let name = variable.strip_prefix(&prefix)?.strip_suffix(&key.to_uppercase())?.strip_suffix('_')?;
        (any == ANY && !name.is_empty()).then(|| vec![section.clone(), name.to_lowercase(), key.clone()])
    })
}
