//! The configuration for people: the commented file of `trunkline init` and what `trunkline check` prints, both made
//! from the declarations in [`super::sections`]. (A test makes the tables of `docs/configuration.md` from them too.)

use super::Loaded;
use super::catalogue::{ANY, Entry, sections};

/// A TOML file with every key commented out at its default, so that the file as it is changes nothing.
pub(crate) fn init_file() -> String {
    let mut file = String::from(
        "# Configuration of a Trunkline node. Every key stands here with its default, commented out.\n\
         # Stronger than this file: the environment (TRUNKLINE_LISTEN_HTTP=…), and above it the flags of `trunkline serve`.\n\
         # `trunkline check --config FILE` says what is wrong with it, and what is in force.\n",
    );
    for section in sections() {
        file.push('\n');
        for line in section.doc {
            file.push_str(&format!("#{line}\n"));
        }
        if !section.path.is_empty() {
            // A namespace is the person's to name, so its header stays a comment too.
            let own = section.path.iter().any(|part| part == ANY);
            let comment = if own { "# " } else { "" };
            file.push_str(&format!("{comment}[{}]\n", section.path.join(".").replace(ANY, "room")));
        }
        for key in &section.keys {
            file.push_str(&key_lines(key));
        }
    }
    file
}

fn key_lines(key: &Entry) -> String {
    let mut lines = String::new();
    for line in key.doc {
        lines.push_str(&format!("#{line}\n"));
    }
    let name = key.path.last().map(String::as_str).unwrap_or_default();
    match &key.default {
        Some(default) => lines.push_str(&format!("# {name} = {default}\n")),
        None => lines.push_str(&format!("# {name} =   # {}; not set by default\n", key.wanted)),
    }
    lines
}

/// Every key that somebody set with where it was set, and the surfaces, as `trunkline check` prints them.
pub(crate) fn in_force(loaded: &Loaded) -> String {
    let mut text = String::from("surfaces:\n");
    for (name, address) in loaded.config.listen.surfaces() {
        let at = address.map_or("off".to_owned(), |address| address.to_string());
        let tls = match address {
            Some(address) if ["http", "tcp", "websocket"].contains(&name) => {
                format!(", tls {}", loaded.config.tls.mode_at(address).as_str())
            }
            _ => String::new(),
        };
        text.push_str(&format!("  {name:<10} {at}{tls}\n"));
    }
    text.push_str("\nin force (what is not marked is the default):\n");
    for (path, value) in loaded.config.values() {
        let Some(value) = value else { continue };
        let mark = match loaded.origins.get(&path) {
            None => String::new(),
            Some(origin) => format!("   # {origin}"),
        };
        text.push_str(&format!("  {path} = {value}{mark}\n"));
    }
    text
}
