//! The commands as a person runs them: the built binary, in a folder of its own, with an environment of its own.
//! What it prints where, how it ends, and what it leaves on the disk. Nothing here serves.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What a command did.
struct Ran {
    status: Option<i32>,
    printed: String,
    said: String,
}

fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_trunkline"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("the binary starts");
    Ran {
        status: output.status.code(),
        printed: String::from_utf8(output.stdout).expect("UTF-8"),
        said: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The token's claims, checked with the key in this data directory.
fn claims(token: &str, data_dir: &Path) -> Value {
    let key = fs::read_to_string(data_dir.join("keys/jwt.key")).unwrap();
    let key = DecodingKey::from_secret(key.trim_end().as_bytes());
    decode::<Value>(token.trim_end(), &key, &Validation::new(Algorithm::HS256)).expect("a valid token").claims
}

#[test]
fn token_prints_one_token_and_nothing_else() {
    let folder = folder();
    let data = folder.path().join("data");
    let ran = run(
        folder.path(),
        &[
            "token",
            "--user",
            "alice",
            "--ttl",
            "15m",
            "--group",
            "blue",
            "--group",
            "red",
            "--right",
            "room:*=subscribe,publish",
            "--platform",
            "ios",
            "--data-dir",
            "data",
        ],
        &[],
    );
    // A key that did not exist is told of, but not among what is printed.
    assert_eq!(ran.status, Some(0));
    assert!(
        ran.said.contains("made a new key, data/keys/jwt.key") && ran.said.lines().count() == 1,
        "{}",
        ran.said
    );
    assert_eq!(ran.printed.lines().count(), 1);
    assert_eq!(decode_header(ran.printed.trim()).unwrap().alg, Algorithm::HS256);
    let claims = claims(&ran.printed, &data);
    assert_eq!(claims["sub"], "alice");
    let life = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
    assert!((900..=901).contains(&life), "it lives {life} s");
    let rights = json!([{ "pattern": "room:*", "may": ["subscribe", "publish"] }]);
    assert_eq!(
        claims["tl"],
        json!({ "role": "user", "groups": ["blue", "red"], "rights": rights, "platform": "ios" })
    );
    let mode = |file: &str| fs::metadata(data.join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("keys/jwt.key"), mode("keys")), (0o600, 0o700));
}

#[test]
fn tokens_of_one_data_directory_have_one_key_and_none_without_rights() {
    let folder = folder();
    let environment = [("TRUNKLINE_DATA_DIR", "there")];
    let first = run(folder.path(), &["token", "--user", "a"], &environment);
    let second = run(folder.path(), &["token", "--user", "b"], &environment);
    assert!(first.said.contains("made a new key") && second.said.is_empty(), "{}{}", first.said, second.said);
    let there = folder.path().join("there");
    assert_eq!(claims(&first.printed, &there)["sub"], "a");
    let claims = claims(&second.printed, &there);
    assert_eq!((&claims["sub"], &claims["tl"]), (&json!("b"), &json!({ "role": "user" })));
}

#[test]
fn token_refuses_what_no_client_could_use() {
    let folder = folder();
    for (arguments, said) in [
        (vec!["token"], "--user"),
        (vec!["token", "--user", ""], "--user is empty"),
        (vec!["token", "--user", &"x".repeat(129)], "at most 128"),
        (vec!["token", "--user", "a\nb"], "control character"),
        (vec!["token", "--user", "a", "--group", ""], "--group is empty"),
        (vec!["token", "--user", "a", "--ttl", "60"], "duration with its unit"),
        (vec!["token", "--user", "a", "--right", "room:*=write"], "PATTERN=MAY"),
    ] {
        let ran = run(folder.path(), &arguments, &[]);
        assert!(ran.status != Some(0) && ran.printed.is_empty(), "{arguments:?} printed {}", ran.printed);
        assert!(ran.said.contains(said), "{arguments:?} said {}", ran.said);
    }
    assert!(!folder.path().join("trunkline-data").exists(), "what was refused made a data directory");
}

#[test]
fn a_data_directory_that_cannot_be_made_says_where_and_what_next() {
    let folder = folder();
    fs::write(folder.path().join("file"), "").unwrap();
    let ran = run(folder.path(), &["token", "--user", "a", "--data-dir", "file/data"], &[]);
    assert_eq!((ran.status, ran.printed.as_str()), (Some(1), ""));
    for said in ["no data directory", "file/data/keys", "A file is in the way", "--data-dir"] {
        assert!(ran.said.contains(said), "{said} is missing: {}", ran.said);
    }
}

#[test]
fn init_writes_a_file_that_check_takes_and_never_overwrites_one() {
    let folder = folder();
    let written = run(folder.path(), &["init", "trunkline.toml"], &[]);
    assert_eq!((written.status, written.printed.as_str()), (Some(0), ""));
    let printed = run(folder.path(), &["init"], &[]);
    let file = fs::read_to_string(folder.path().join("trunkline.toml")).unwrap();
    assert_eq!(file, printed.printed);
    // The usual file is found without being named, and says nothing that is not the default anyway.
    let checked = run(folder.path(), &["check"], &[]);
    assert_eq!((checked.status, checked.said.as_str()), (Some(0), ""));
    fs::write(folder.path().join("trunkline.toml"), "mine").unwrap();
    let again = run(folder.path(), &["init", "trunkline.toml"], &[]);
    assert!(
        again.status == Some(1)
            && again.said.contains("trunkline.toml was not written")
            && again.said.contains("name another file"),
        "{}",
        again.said
    );
    assert_eq!(fs::read_to_string(folder.path().join("trunkline.toml")).unwrap(), "mine");
}

#[test]
fn the_slip_of_the_pen_in_the_readme_is_said_as_it_stands_there() {
    let folder = folder();
    run(folder.path(), &["init", "trunkline.toml"], &[]);
    let file = folder.path().join("trunkline.toml");
    let slip = fs::read_to_string(&file).unwrap().replace("\n# http =", "\nhtpp =");
    fs::write(&file, slip).unwrap();
    let ran = run(folder.path(), &["check", "--config", "trunkline.toml"], &[]);
    let readme = include_str!("../../../README.md");
    assert!(ran.said.lines().count() == 2 && readme.contains(&ran.said), "{}", ran.said);
}

#[test]
fn an_empty_variable_names_no_file() {
    let folder = folder();
    let ran = run(folder.path(), &["check"], &[("TRUNKLINE_CONFIG", "")]);
    assert_eq!((ran.status, ran.said.as_str()), (Some(0), ""));
}

#[test]
fn check_says_everything_that_is_wrong_and_binds_nothing() {
    let folder = folder();
    fs::write(folder.path().join("g.toml"), "[listen]\nhtpp = 1\n[session]\nheartbeat = 25\n").unwrap();
    let environment = [("TRUNKLINE_LISTEN_TPC", "1")];
    for command in
        [vec!["check", "--config", "g.toml"], vec!["serve", "--config", "g.toml"], vec!["--config", "g.toml"]]
    {
        let ran = run(folder.path(), &command, &environment);
        assert_eq!((ran.status, ran.printed.as_str()), (Some(2), ""), "{command:?}");
        assert_eq!(
            ran.said,
            "trunkline: the configuration is wrong:\n\
             g.toml: unknown key listen.htpp (line 2): did you mean listen.http?\n\
             environment: unknown variable TRUNKLINE_LISTEN_TPC: did you mean TRUNKLINE_LISTEN_TCP?\n\
             g.toml: session.heartbeat (line 4): wanted a duration with its unit, such as \"30s\", \"250ms\" or \
             \"1h30m\", got 25\n"
        );
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["g.toml"], "a wrong configuration left something behind");
}

#[test]
fn check_reads_the_files_that_serve_would_read() {
    let folder = folder();
    fs::write(folder.path().join("authority.pem"), "no certificate\n").unwrap();
    fs::write(folder.path().join("g.toml"), "[tls]\nupstream_authority = \"authority.pem\"\n").unwrap();
    for command in ["check", "serve"] {
        let ran = run(folder.path(), &[command, "--config", "g.toml"], &[]);
        assert_eq!((ran.status, ran.printed.as_str()), (Some(2), ""), "{command}");
        assert_eq!(
            ran.said,
            "trunkline: the configuration is wrong:\n\
             g.toml: tls.upstream_authority (line 2): authority.pem has no certificate in it (PEM)\n"
        );
    }
}

#[test]
fn check_prints_what_is_in_force_from_every_source() {
    let folder = folder();
    fs::write(folder.path().join("g.toml"), "[limits]\ndrain = \"5s\"\n").unwrap();
    let environment = [("TRUNKLINE_CONFIG", "g.toml"), ("GATESVR_HTTP_ADDR", ":7001")];
    let ran = run(folder.path(), &["check", "--data-dir", "d"], &environment);
    assert_eq!((ran.status, ran.said.as_str()), (Some(0), ""));
    for line in [
        "  http       0.0.0.0:7001, tls required\n",
        "  data_dir = \"d\"   # flag --data-dir\n",
        "  listen.http = \"0.0.0.0:7001\"   # environment: GATESVR_HTTP_ADDR\n",
        "  limits.drain = \"5s\"   # g.toml: limits.drain (line 2)\n",
    ] {
        assert!(ran.printed.contains(line), "{line} is missing:\n{}", ran.printed);
    }
    assert!(!folder.path().join("d").exists(), "check made a data directory");
}

#[test]
fn help_names_every_command_and_an_unknown_one_is_a_usage_error() {
    let folder = folder();
    let help = run(folder.path(), &["--help"], &[]);
    assert_eq!(help.status, Some(0));
    for word in ["serve", "token", "check", "init", "--ready-file", "--anonymous", "Examples:"] {
        assert!(help.printed.contains(word), "{word} is missing");
    }
    let unknown = run(folder.path(), &["sreve"], &[]);
    assert_eq!((unknown.status, unknown.printed.as_str()), (Some(2), ""));
    assert!(unknown.said.contains("serve"), "{}", unknown.said);
}
