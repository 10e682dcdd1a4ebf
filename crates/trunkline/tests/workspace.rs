//! Tests of the workspace itself: which crate may depend on which, which crates may not come in at all, and that
//! every module says what it is and every page leads where it says.
//!
//! They read what cargo would build, so a forbidden dependency fails here before anybody has to find it in a review.
//! A new crate of ours must be given its row in [`LAYERS`].

#![allow(clippy::expect_used, reason = "helpers of tests: a panic is a failed test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Our crates and the ones of ours that each may use, build and normal dependencies alike.
const LAYERS: &[(&str, &[&str])] = &[
    ("trunkline-transport", &[]),
    ("trunkline-proto", &[]),
    ("trunkline-session", &["trunkline-proto"]),
    ("trunkline-broker", &["trunkline-proto"]),
    ("trunkline-service", &["trunkline-proto"]),
    (
        "trunkline-gateway",
        &[
            "trunkline-transport",
            "trunkline-proto",
            "trunkline-session",
            "trunkline-broker",
            "trunkline-service",
        ],
    ),
    ("trunkline-client", &["trunkline-transport", "trunkline-proto", "trunkline-session"]),
    (
        "trunkline-testkit",
        &[
            "trunkline-transport",
            "trunkline-proto",
            "trunkline-session",
            "trunkline-broker",
            "trunkline-service",
            "trunkline-gateway",
            "trunkline-client",
        ],
    ),
    (
        "trunkline",
        &[
            "trunkline-transport",
            "trunkline-proto",
            "trunkline-session",
            "trunkline-broker",
            "trunkline-service",
            "trunkline-gateway",
            "trunkline-client",
        ],
    ),
];

/// What only the named crates may depend on directly. Examples are programs of their own and read their flags.
const RESERVED: &[(&str, &[&str])] = &[
    ("redis", &["trunkline-broker"]),
    ("async-nats", &["trunkline-broker"]),
    ("sqlx", &["trunkline-store"]),
    ("clap", &["trunkline", "examples"]),
    ("config", &["trunkline"]),
    ("anyhow", &["trunkline", "trunkline-testkit", "examples"]),
];

/// Crates that would need more than gcc to build, or bring a second TLS provider.
const BANNED: &[&str] =
    &["aws-lc-sys", "aws-lc-rs", "openssl-sys", "native-tls", "cmake", "bindgen", "clang-sys"];

/// What the session engine must not be able to reach: a runtime, sockets, a clock or a source of randomness.
const IMPURE: &[&str] =
    &["tokio", "mio", "socket2", "rand", "getrandom", "quinn", "hyper", "tonic", "tracing"];

#[test]
fn every_crate_keeps_to_its_layer() {
    let mut wrong = Vec::new();
    for package in members() {
        let name = text(&package, "name");
        let example = is_example(&package);
        let allowed = LAYERS.iter().find(|(of, _)| *of == name).map(|(_, allowed)| *allowed);
        if allowed.is_none() && !example {
            wrong.push(format!("{name} has no row in LAYERS"));
        }
        for dependency in dependencies(&package) {
            let used = text(&dependency, "name");
            let ours = used == "trunkline" || used.starts_with("trunkline-");
            let may_use = match allowed {
                Some(allowed) => allowed.contains(&used),
                // An example shows what a user of ours writes, so it sees the published surface only.
                None => ["trunkline-service", "trunkline-client", "trunkline-proto", "trunkline-transport"]
                    .contains(&used),
            };
            if ours && !may_use {
                wrong.push(format!("{name} depends on {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "the layers of ARCHITECTURE.md are broken:\n{}", wrong.join("\n"));
}

/// It is published alone: even its tests must build without the rest, and every registry asks for these words.
#[test]
fn the_transport_library_can_be_published_alone() {
    let all = members();
    let package =
        all.iter().find(|package| text(package, "name") == "trunkline-transport").expect("it is there");
    let dependencies = package["dependencies"].as_array().expect("dependencies");
    let ours: Vec<&str> = dependencies
        .iter()
        .filter(|dependency| {
            !dependency["path"].is_null() || text(dependency, "name").starts_with("trunkline")
        })
        .map(|dependency| text(dependency, "name"))
        .collect();
    assert!(ours.is_empty(), "trunkline-transport depends on {ours:?}, tests included");
    assert!(dependencies.len() > 10, "cargo metadata named only {} dependencies", dependencies.len());
    assert!(package["publish"].is_null(), "publishing is forbidden: {}", package["publish"]);
    for word in ["description", "license", "readme"] {
        assert!(package[word].as_str().is_some_and(|value| !value.is_empty()), "no {word}");
    }
    for words in ["keywords", "categories"] {
        let count = package[words].as_array().map_or(0, Vec::len);
        assert!((1..=5).contains(&count), "{count} {words}: a registry takes one to five");
    }
}

#[test]
fn reserved_crates_are_used_where_they_belong() {
    let mut wrong = Vec::new();
    for package in members() {
        let name = text(&package, "name");
        for dependency in dependencies(&package) {
            let used = text(&dependency, "name");
            let Some((_, owners)) = RESERVED.iter().find(|(reserved, _)| *reserved == used) else { continue };
            let user = if is_example(&package) { "examples" } else { name };
            if !owners.contains(&user) {
                wrong.push(format!("{name} depends on {used}, which is for {} only", owners.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_session_engine_reaches_no_runtime_socket_or_randomness() {
    let reached = tree(&["-p", "trunkline-session", "-e", "normal"]);
    assert!(reached.contains("trunkline-proto"), "cargo tree did not list what the session engine uses");
    let impure: Vec<_> = IMPURE.iter().filter(|name| reached.contains(**name)).collect();
    assert!(
        impure.is_empty(),
        "trunkline-session reaches {impure:?}: see `cargo tree -p trunkline-session -e normal`"
    );
}

#[test]
fn nothing_needs_more_than_gcc_to_build() {
    let reached = tree(&["--workspace", "-e", "normal,build,dev", "--target", "all"]);
    assert!(reached.contains("ring"), "cargo tree did not list the workspace");
    let banned: Vec<_> = BANNED.iter().filter(|name| reached.contains(**name)).collect();
    assert!(banned.is_empty(), "banned crates came in: {banned:?}: see `cargo tree --workspace -i NAME`");
}

#[test]
fn every_module_opens_with_what_it_is() {
    let silent: Vec<String> = files("*.rs")
        .into_iter()
        // A file of tests belongs to the module that it tests, which says what it is.
        .filter(|file| !file.ends_with("tests.rs"))
        .filter(|file| !std::fs::read_to_string(root().join(file)).expect(file).starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "these do not begin with //!: {silent:?}");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut broken = Vec::new();
    for page in files("*.md") {
        let text = std::fs::read_to_string(root().join(&page)).expect(&page);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let local = !target.is_empty() && !target.contains("://");
            let beside = root().join(&page).parent().map(|folder| folder.join(target));
            if local && !beside.is_some_and(|path| path.exists()) {
                broken.push(format!("{page}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere: {broken:?}");
}

/// The committed files of this kind, relative to the root.
fn files(pattern: &str) -> Vec<String> {
    let output =
        Command::new("git").args(["ls-files", pattern]).current_dir(root()).output().expect("git runs");
    let files: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    assert!(!files.is_empty(), "git knows no {pattern}");
    files.into_iter().filter(|file| root().join(file).exists()).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The workspace's packages as `cargo metadata` describes them.
fn members() -> Vec<Value> {
    let json = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: Value = serde_json::from_str(&json).expect("cargo metadata prints JSON");
    let members = metadata["packages"].as_array().expect("packages").clone();
    assert!(members.len() > 5, "cargo metadata named only {} packages", members.len());
    members
}

/// A package's normal and build dependencies. Tests may use what they like: their code is never shipped.
fn dependencies(package: &Value) -> Vec<Value> {
    let all = package["dependencies"].as_array().expect("dependencies");
    all.iter().filter(|dependency| dependency["kind"] != "dev").cloned().collect()
}

fn is_example(package: &Value) -> bool {
    text(package, "manifest_path").contains("/examples/")
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().expect("a text member")
}

/// The names of all crates in a `cargo tree`.
fn tree(arguments: &[&str]) -> BTreeSet<String> {
    let mut all = vec!["tree", "--prefix", "none", "--format", "{p}"];
    all.extend(arguments);
    cargo(&all).lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn cargo(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}
