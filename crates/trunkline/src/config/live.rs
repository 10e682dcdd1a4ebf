//! Which keys change while a node runs, and how a new configuration is taken into a running one.
//!
//! A key stands in [`LIVE`] only if the node acts on its change at once; every other one needs a restart, and keeps its
//! old value until then.

use super::Config;
use super::setting::Section;

/// The keys that change at once. A name that ends in a dot stands for all keys below it.
const LIVE: &[&str] = &[
    "tls.certificate",
    "tls.key",
    "auth.login",
    "auth.devices",
    "auth.default_rights",
    "auth.jwt.",
    "namespaces.",
    "upstreams.routes",
    "upstreams.instances",
    "upstreams.idempotent",
    "upstreams.in_flight",
    "upstreams.in_flight_total",
    "limits.connections",
    "limits.connections_per_address",
    "limits.sessions",
    "limits.start_timeout",
    "limits.calls_per_second",
    "limits.call_burst",
    "limits.calls_in_flight",
    "limits.call_bytes",
    "limits.reply_queue",
    "limits.frames_per_address",
    "limits.memory",
    "limits.warn_percent",
    "limits.drain",
    "trace.",
    "log.level",
];

/// What a new configuration changed, by the paths of the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// They have their new values.
    pub(crate) taken: Vec<String>,
    /// They keep their old values until the node is started again.
    pub(crate) needs_restart: Vec<String>,
}

/// Whether this key changes while a node runs.
pub(crate) fn is_live(path: &str) -> bool {
    LIVE.iter().any(|live| *live == path || live.ends_with('.') && path.starts_with(live))
}

impl Config {
    /// Takes what can change from a newer configuration.
    pub(crate) fn take_live(&mut self, newer: &Config) -> Changes {
        let mut changes = Changes::default();
        take("", &mut self.node, &newer.node, &mut changes);
        take("listen.", &mut self.listen, &newer.listen, &mut changes);
        take("tls.", &mut self.tls, &newer.tls, &mut changes);
        take("auth.", &mut self.auth, &newer.auth, &mut changes);
        take("auth.jwt.", &mut self.jwt, &newer.jwt, &mut changes);
        take("session.", &mut self.session, &newer.session, &mut changes);
        if self.namespaces != newer.namespaces {
            // Namespaces come and go as a whole; which of their keys changed is for the person to know.
            changes.taken.push("namespaces".to_owned());
            self.namespaces = newer.namespaces.clone();
        }
        take("upstreams.", &mut self.upstreams, &newer.upstreams, &mut changes);
        take("limits.", &mut self.limits, &newer.limits, &mut changes);
        take("trace.", &mut self.trace, &newer.trace, &mut changes);
        take("log.", &mut self.log, &newer.log, &mut changes);
        changes
    }
}

fn take<S: Section>(prefix: &str, running: &mut S, newer: &S, changes: &mut Changes) {
    for key in S::KEYS {
        if (key.same)(running, newer) {
            continue;
        }
        let path = format!("{prefix}{}", key.name);
        if is_live(&path) {
            (key.copy)(running, newer);
            changes.taken.push(path);
        } else {
            changes.needs_restart.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::catalogue::entries;
    use super::*;

    #[test]
    fn every_name_in_the_list_is_a_key_or_a_section() {
        let all: Vec<String> = entries().iter().map(|entry| entry.path.join(".")).collect();
        for live in LIVE {
            let known = all.iter().any(|path| path == live || live.ends_with('.') && path.starts_with(live));
            assert!(known, "{live} is no key");
        }
    }

    #[test]
    fn live_keys_are_taken_and_the_others_named() {
        let mut running = Config::default();
        let mut newer = Config::default();
        newer.limits.drain = Duration::from_secs(5);
        newer.limits.handshakes += 1;
        newer.auth.devices = 3;
        newer.jwt.issuer = Some("me".to_owned());
        newer.node.data_dir = "elsewhere".into();
        newer.namespaces = BTreeMap::from([("room".to_owned(), Default::default())]);
        let changes = running.take_live(&newer);
        assert_eq!(changes.taken, ["auth.devices", "auth.jwt.issuer", "namespaces", "limits.drain"]);
        assert_eq!(changes.needs_restart, ["data_dir", "limits.handshakes"]);
        assert_eq!((running.limits.drain, running.auth.devices), (Duration::from_secs(5), 3));
        assert_eq!(running.limits.handshakes, Config::default().limits.handshakes);
        // A key that waits for the restart is named each time; nothing else is.
        let again = running.take_live(&newer);
        assert_eq!((again.taken.len(), again.needs_restart.len()), (0, 2));
        // What is not set any more has its default again.
        assert_eq!(running.take_live(&Config::default()).taken.len(), 4);
        assert_eq!(running, Config::default());
    }
}
