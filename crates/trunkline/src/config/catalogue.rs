//! All keys in one list, and the way from a key's path to its field.

use toml::Value;

use super::Config;
use super::sections::{Auth, Jwt, Limits, Listen, Log, Namespace, Node, Session, Tls, Trace, Upstreams};
use super::setting::{Key, Section};

/// Stands in a path for a name that the person chooses.
pub(crate) const ANY: &str = "NAME";

/// A key as the sources, the documents and the suggestions see it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// `["listen", "http"]`; a namespace's name is [`ANY`].
    pub(crate) path: Vec<String>,
    pub(crate) doc: &'static [&'static str],
    pub(crate) wanted: String,
    /// As TOML; `None` for a key that is not set by default.
    pub(crate) default: Option<String>,
}

impl Entry {
    /// `TRUNKLINE_LISTEN_HTTP`.
    pub(crate) fn variable(&self) -> String {
        format!("TRUNKLINE_{}", self.path.join("_").to_uppercase())
    }
}

/// A section as the documents see it.
pub(crate) struct Described {
    /// `listen`, `namespaces.NAME`, or empty for the keys above all sections.
    pub(crate) path: Vec<String>,
    pub(crate) doc: &'static [&'static str],
    pub(crate) keys: Vec<Entry>,
}

/// Every section with every key, in the order in which people meet them.
pub(crate) fn sections() -> Vec<Described> {
    vec![
        describe::<Node>(&[]),
        describe::<Listen>(&["listen"]),
        describe::<Tls>(&["tls"]),
        describe::<Auth>(&["auth"]),
        describe::<Jwt>(&["auth", "jwt"]),
        describe::<Session>(&["session"]),
        describe::<Namespace>(&["namespaces", ANY]),
        describe::<Upstreams>(&["upstreams"]),
        describe::<Limits>(&["limits"]),
        describe::<Trace>(&["trace"]),
        describe::<Log>(&["log"]),
    ]
}

/// Every key.
pub(crate) fn entries() -> Vec<Entry> {
    sections().into_iter().flat_map(|section| section.keys).collect()
}

/// The key with this path, where any name stands for a namespace's.
pub(crate) fn entry(path: &[String]) -> Option<Entry> {
    entries().into_iter().find(|entry| {
        entry.path.len() == path.len()
            && entry.path.iter().zip(path).all(|(known, given)| known == ANY || known == given)
    })
}

fn describe<S: Section>(path: &[&str]) -> Described {
    let defaults = S::default();
    let own = |key: &'static Key<S>| Entry {
        path: path.iter().copied().chain([key.name]).map(str::to_owned).collect(),
        doc: key.doc,
        wanted: (key.wanted)(),
        default: (key.show)(&defaults),
    };
    Described {
        path: path.iter().map(|part| (*part).to_owned()).collect(),
        doc: S::DOC,
        keys: S::KEYS.iter().map(own).collect(),
    }
}

impl Config {
    /// Sets the key with this path.
    ///
    /// # Errors
    /// What is wrong with the value; sources have made sure that there is such a key.
    pub(crate) fn assign(&mut self, path: &[String], value: &Value) -> Result<(), String> {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        match parts.as_slice() {
            [name] => set(&mut self.node, name, value),
            ["listen", name] => set(&mut self.listen, name, value),
            ["tls", name] => set(&mut self.tls, name, value),
            ["auth", name] => set(&mut self.auth, name, value),
            ["auth", "jwt", name] => set(&mut self.jwt, name, value),
            ["session", name] => set(&mut self.session, name, value),
            ["namespaces", of, name] => {
                set(self.namespaces.entry((*of).to_owned()).or_default(), name, value)
            }
            ["upstreams", name] => set(&mut self.upstreams, name, value),
            ["limits", name] => set(&mut self.limits, name, value),
            ["trace", name] => set(&mut self.trace, name, value),
            ["log", name] => set(&mut self.log, name, value),
            _ => Err("there is no such key".to_owned()),
        }
    }

    /// Every key with the value in force as TOML, `None` where it is not set.
    pub(crate) fn values(&self) -> Vec<(String, Option<String>)> {
        let mut all = Vec::new();
        show(&self.node, "", &mut all);
        show(&self.listen, "listen.", &mut all);
        show(&self.tls, "tls.", &mut all);
        show(&self.auth, "auth.", &mut all);
        show(&self.jwt, "auth.jwt.", &mut all);
        show(&self.session, "session.", &mut all);
        for (name, namespace) in &self.namespaces {
            show(namespace, &format!("namespaces.{name}."), &mut all);
        }
        show(&self.upstreams, "upstreams.", &mut all);
        show(&self.limits, "limits.", &mut all);
        show(&self.trace, "trace.", &mut all);
        show(&self.log, "log.", &mut all);
        all
    }
}

fn set<S: Section>(section: &mut S, name: &str, value: &Value) -> Result<(), String> {
    let key = S::key(name).ok_or("there is no such key")?;
    (key.set)(section, value)
}

fn show<S: Section>(section: &S, prefix: &str, all: &mut Vec<(String, Option<String>)>) {
    all.extend(S::KEYS.iter().map(|key| (format!("{prefix}{}", key.name), (key.show)(section))));
}
