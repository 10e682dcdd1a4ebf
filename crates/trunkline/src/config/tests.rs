//! The configuration as a person meets it: files, variables and flags in, values, warnings and sentences out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use trunkline_transport::certificate::self_signed;

use super::catalogue::{Described, sections};
use super::*;

/// The sample file of the gateway that this one replaces, as its document has it.
const SEED_SAMPLE: &str = include_str!("seed_sample.yaml");

/// A configuration file in a folder of its own.
struct Written {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn file(name: &str, text: &str) -> Written {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    Written { _folder: folder, path }
}

fn load_all(
    file: Option<&Path>,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &'static str, &str)],
) -> Result<Loaded, Problems> {
    load(&Sources {
        file: file.map(Path::to_owned),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags: flags
            .iter()
            .map(|(flag, path, value)| Flag { flag, path, value: (*value).to_owned() })
            .collect(),
    })
}

fn toml(text: &str) -> Result<Loaded, Problems> {
    load_all(Some(&file("gateway.toml", text).path), &[], &[])
}

/// The problems, with the temporary folder taken off the file's name.
fn problems(result: Result<Loaded, Problems>) -> Vec<String> {
    let short = |problem: &String| match problem.find("gateway.") {
        Some(at) => problem[at..].to_owned(),
        None => problem.clone(),
    };
    result.expect_err("the configuration was taken").0.iter().map(short).collect()
}

fn address(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn without_any_source_the_defaults_are_on_loopback() {
    let loaded = load_all(None, &[], &[]).unwrap();
    let surfaces: Vec<_> = loaded.config.listen.surfaces().into_iter().collect();
    assert_eq!(
        surfaces,
        [
            ("http", address("127.0.0.1:8080")),
            ("tcp", address("127.0.0.1:8090")),
            ("quic", address("127.0.0.1:8453")),
            ("websocket", None),
            ("grpc", address("127.0.0.1:8092")),
            ("metrics", address("127.0.0.1:9090")),
        ]
    );
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.warnings.is_empty() && loaded.origins.is_empty());
}

#[test]
fn flags_beat_the_environment_and_the_environment_beats_the_file() {
    let file = file("gateway.toml", "[listen]\nhttp = 1001\ntcp = 1002\nquic = 1003\n");
    let environment =
        [("TRUNKLINE_LISTEN_TCP", "2002"), ("TRUNKLINE_LISTEN_QUIC", "2003"), ("HOME", "/root")];
    let loaded = load_all(Some(&file.path), &environment, &[("--quic", "listen.quic", "3003")]).unwrap();
    let listen = &loaded.config.listen;
    assert_eq!(
        (listen.http, listen.tcp, listen.quic),
        (Surface::Port(1001), Surface::Port(2002), Surface::Port(3003))
    );
    assert_eq!(loaded.origins["listen.quic"], Origin::Flag("--quic"));
    assert_eq!(loaded.origins["listen.tcp"], Origin::Environment("TRUNKLINE_LISTEN_TCP".to_owned()));
    assert!(matches!(&loaded.origins["listen.http"], Origin::File { line: Some(2), .. }));
}

#[test]
fn host_opens_three_surfaces_and_leaves_the_others_on_loopback() {
    let loaded =
        load_all(None, &[], &[("--host", "listen.host", "0.0.0.0"), ("--tcp", "listen.tcp", "off")]).unwrap();
    let open: Vec<_> = loaded.config.listen.surfaces().into_iter().filter_map(|(_, at)| at).collect();
    let open: Vec<String> = open.iter().map(ToString::to_string).collect();
    assert_eq!(open, ["0.0.0.0:8080", "0.0.0.0:8453", "127.0.0.1:8092", "127.0.0.1:9090"]);
}

#[test]
fn tls_is_optional_on_loopback_and_required_elsewhere_until_somebody_says_so() {
    let here = "[::1]:8080".parse().unwrap();
    let there = "0.0.0.0:8080".parse().unwrap();
    let default = Tls::default();
    assert_eq!((default.mode_at(here), default.mode_at(there)), (TlsMode::Optional, TlsMode::Required));
    let off = toml("[tls]\nmode = \"off\"").unwrap().config.tls;
    assert_eq!((off.mode_at(here), off.mode_at(there)), (TlsMode::Off, TlsMode::Off));
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_file_key_line_and_the_nearest_key() {
    let wrong = "data_dri = \"x\"\n\n[listen]\nhtpp = 1\ntcp = \"nowhere\"\n[sesion]\nheartbeat = \"5s\"\n\
                 [surprise]\n[namespaces.room]\nhistory_cuont = 5\n[server]\nquic = 5\n";
    assert_eq!(
        problems(toml(wrong)),
        [
            "gateway.toml: unknown key data_dri (line 1): did you mean data_dir?",
            "gateway.toml: unknown key listen.htpp (line 4): did you mean listen.http?",
            "gateway.toml: unknown key namespaces.room.history_cuont (line 10): did you mean namespaces.room.history_count?",
            "gateway.toml: unknown key server.quic (line 12): did you mean listen.quic?",
            "gateway.toml: unknown key sesion.heartbeat (line 7): did you mean session.heartbeat?",
            "gateway.toml: unknown key surprise (line 8): `trunkline init` writes a file with every key",
            "gateway.toml: listen.tcp (line 5): wanted an address such as 127.0.0.1:8080, a port, or \"off\", got \"nowhere\"",
        ]
    );
}

#[test]
fn a_file_that_is_no_toml_is_one_problem_with_its_line() {
    assert_eq!(
        problems(toml("[listen]\nhttp = = 1")),
        ["gateway.toml:2: this is not TOML: extra `=`, expected nothing"]
    );
    let twice = problems(toml("[listen]\nhttp = 1\nhttp = 2"));
    assert!(twice[0].starts_with("gateway.toml:3: this is not TOML: duplicate key"), "{twice:?}");
}

#[test]
fn a_file_that_is_missing_or_of_another_format_says_what_to_do() {
    let missing = problems(load_all(Some(Path::new("gateway.toml")), &[], &[]));
    assert!(missing[0].contains("cannot be read") && missing[0].contains("trunkline init"), "{missing:?}");
    let other = problems(load_all(Some(&file("gateway.ini", "x=1").path), &[], &[]));
    assert!(other[0].contains("files ending in .ini are not read"), "{other:?}");
}

#[test]
fn every_key_has_its_variable() {
    for entry in catalogue::entries().iter().filter(|entry| entry.path[0] != "namespaces") {
        let wrong = load_all(None, &[(&entry.variable(), "\u{1}")], &[]);
        // Texts and paths take anything; all others must refuse this value by the variable's name.
        if let Err(Problems(problems)) = wrong {
            assert!(problems[0].starts_with(&format!("environment: {}: ", entry.variable())), "{problems:?}");
        } else {
            assert!(
                ["a text", "a path"].contains(&entry.wanted.as_str()) || entry.wanted.contains("texts"),
                "{entry:?}"
            );
        }
    }
}

#[test]
fn variables_reach_namespaces_lists_and_tables() {
    let environment = [
        ("TRUNKLINE_NAMESPACES_ROOM_HISTORY_COUNT", "10"),
        ("TRUNKLINE_NAMESPACES_ROOM_HISTORY_TTL", "1h"),
        ("TRUNKLINE_NAMESPACES_ROOM_RIGHTS", "subscribe,publish"),
        ("TRUNKLINE_TLS_NAMES", "a,b"),
        ("TRUNKLINE_UPSTREAMS_ROUTES", "{ \"pay.\" = \"payments\" }"),
        ("TRUNKLINE_AUTH_DEFAULT_RIGHTS", "[{ pattern = \"room:*\", may = [\"subscribe\"] }]"),
    ];
    let config = load_all(None, &environment, &[]).unwrap().config;
    let room = &config.namespaces["room"];
    assert_eq!((room.history_count, room.history_ttl), (10, Duration::from_secs(3600)));
    assert_eq!(room.rights, [May::Subscribe, May::Publish]);
    assert_eq!(room.prefix("room"), "room:");
    assert_eq!(config.tls.names, ["a", "b"]);
    assert_eq!(config.upstreams.routes["pay."], "payments");
    assert_eq!(
        config.auth.default_rights(),
        [Right { pattern: "room:*".to_owned(), may: vec![May::Subscribe] }]
    );
}

#[test]
fn an_unknown_variable_is_an_error_but_kubernetes_service_links_are_not() {
    let typo = problems(load_all(None, &[("TRUNKLINE_LISTEN_HTPP", "1")], &[]));
    assert_eq!(
        typo,
        ["environment: unknown variable TRUNKLINE_LISTEN_HTPP: did you mean TRUNKLINE_LISTEN_HTTP?"]
    );
    let links = [
        ("TRUNKLINE_SERVICE_HOST", "10.0.0.1"),
        ("TRUNKLINE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("TRUNKLINE_PORT", "x"),
    ];
    assert_eq!(load_all(None, &links, &[]).unwrap().config, Config::default());
}

#[test]
fn the_seeds_variables_mean_the_same_as_ours_and_ours_win() {
    let environment = [
        ("TRUNKLINE_LISTEN_HTTP", "127.0.0.1:1"),
        ("GATESVR_QUIC_ADDR", ":8453"),
        ("GATESVR_HTTP_ADDR", ":2"),
        ("GATESVR_UPSTREAM_ADDR", "upstream:8082"),
    ];
    let config = load_all(None, &environment, &[]).unwrap().config;
    assert_eq!(config.listen.quic.on(config.listen.host), address("0.0.0.0:8453"));
    assert_eq!(config.listen.http.on(config.listen.host), address("127.0.0.1:1"));
    assert_eq!(config.upstreams.instances[0].address, "upstream:8082");
    assert_eq!(config.upstreams.instances[0].zone, "*");
}

#[test]
fn anonymous_comes_by_the_flag_only() {
    let in_file = problems(toml("[auth]\nmode = \"anonymous\""));
    assert!(in_file[0].contains("--anonymous only"), "{in_file:?}");
    let in_environment = problems(load_all(None, &[("TRUNKLINE_AUTH_MODE", "anonymous")], &[]));
    assert!(in_environment[0].contains("--anonymous only"), "{in_environment:?}");
    let by_flag = load_all(None, &[], &[("--anonymous", "auth.mode", AuthMode::FLAG)]).unwrap().config;
    assert_eq!(by_flag.auth.mode, AuthMode::Anonymous);
    assert_eq!(by_flag.auth.default_rights()[0].pattern, "*");
    assert!(Config::default().auth.default_rights().is_empty());
}

#[test]
fn keys_without_effect_and_contradictions_are_errors() {
    for (text, said) in [
        (
            "[listen]\nhttp = \"127.0.0.1:7000\"\ntcp = \"0.0.0.0:7000\"",
            "listen.tcp (line 3): 0.0.0.0:7000 is taken by listen.http",
        ),
        ("[listen]\nhttp = \"off\"\ntcp = \"off\"\nquic = \"off\"", "no client can connect"),
        (
            "[listen]\nhost = \"0.0.0.0\"\nhttp = \":1\"\ntcp = \"off\"\nquic = \":3\"",
            "listen.host (line 2): has no effect",
        ),
        ("[tls]\ncertificate = \"a.pem\"", "tls.certificate (line 2): needs tls.key"),
        ("[tls]\ncertificate = \"nowhere.pem\"\nkey = \"/dev/null\"", "nowhere.pem cannot be read"),
        (
            "[listen]\nquic = \"off\"\n[tls]\nmode = \"off\"\nnames = [\"a\"]",
            "tls.names (line 5): has no effect: tls.mode is \"off\"",
        ),
        ("[tls]\nupstream_authority = \"nowhere.pem\"", "nowhere.pem cannot be read"),
        (
            "[tls]\nmode = \"off\"\nupstream_authority = \"/dev/null\"",
            "tls.upstream_authority (line 3): has no effect: tls.mode is \"off\"",
        ),
        (
            "[auth]\nmode = \"upstream\"\njwt.issuer = \"me\"",
            "auth.jwt.issuer (line 3): has no effect: auth.mode is not \"jwt\"",
        ),
        ("[auth.jwt]\njwks = \"http://example.org/keys\"", "plain HTTP"),
        ("[auth.jwt]\njwks = \"https:example.org\"", "is no URL such as"),
        ("[auth.jwt]\njwks = \"nowhere.json\"", "auth.jwt.jwks (line 2): nowhere.json cannot be read"),
        ("[auth.jwt]\njwks_authority = \"a.pem\"", "jwks_authority (line 2): has no effect"),
        ("[auth.jwt]\nrequired_claims = [\"jti\"]", "\"jti\" is none of exp, nbf, aud, iss"),
        ("[session]\nmax_frame_size = \"3 MiB\"", "session.max_frame_size_down: must not be less"),
        (
            "[limits]\npublication_bytes = \"3 MiB\"",
            "limits.publication_bytes (line 2): must be at least four times",
        ),
        ("[session]\nframes_per_second = 0\nframe_burst = 5", "session.frame_burst (line 3): has no effect"),
        ("[session]\nheartbeat = \"0s\"", "every client would count as silent"),
        (
            "[namespaces.room]\nhistory_ttl = \"1h\"",
            "history_ttl (line 2): has no effect: history_count is 0",
        ),
        ("[namespaces.user]\nhistory_count = 1", "covers the gateway's own channels (user:)"),
        ("[namespaces.x]\nprefix = \"al\"", "covers the gateway's own channels (all)"),
        (
            "[namespaces.a]\nprefix = \"x:\"\n[namespaces.b]\nprefix = \"x:\"",
            "namespaces.b.prefix (line 4): \"x:\" is namespaces.a's already",
        ),
        ("[upstreams]\nzones = 0", "the zone count must be 1 to 999"),
        ("[upstreams.ranges]\n\"9-1\" = \"001\"", "zone range 9-1 ends before it begins"),
        (
            "[[upstreams.instances]]\naddress = \"nohost\"",
            "\"nohost\" is no address of an upstream: it has no port",
        ),
        (
            "[[upstreams.instances]]\nzone = \"001\"\nport = 1",
            "address is missing: wanted a text; unknown member port",
        ),
        ("[limits]\nconnections = 0", "limits.connections (line 2): 0 would let nobody in"),
        ("[limits]\ncall_burst = 5", "limits.call_burst (line 2): has no effect"),
    ] {
        let said_all = problems(toml(text)).join("\n");
        assert!(said_all.contains(said), "{text}\nsaid: {said_all}\nnot: {said}");
    }
}

#[test]
fn the_seeds_sample_file_loads_as_it_is() {
    let sample = file("gateway.yaml", SEED_SAMPLE);
    let loaded = load_all(Some(&sample.path), &[], &[]).unwrap();
    let config = &loaded.config;
    let surfaces: Vec<_> = config.listen.surfaces().into_iter().filter_map(|(_, at)| at).collect();
    let surfaces: Vec<String> = surfaces.iter().map(ToString::to_string).collect();
    assert_eq!(surfaces, ["0.0.0.0:8080", "127.0.0.1:8090", "0.0.0.0:8453", "0.0.0.0:8092", "0.0.0.0:9090"]);
    assert_eq!(config.session.resume_window, Duration::from_secs(300));
    assert_eq!(config.tls.mode, Some(TlsMode::Optional));
    assert_eq!(config.limits.connections, Some(1000));
    assert_eq!((config.limits.calls_per_second, config.limits.call_burst), (2000, Some(20_000)));
    assert_eq!(config.upstreams.in_flight_total, Some(100));
    assert_eq!(config.session.call_timeout, Duration::from_secs(30));
    for (key, reason) in [
        ("server.ack_timeout", "connections are reliable"),
        ("server.max_retries", "connections are reliable"),
        ("server.cert_file", "makes its own certificate"),
        ("server.key_file", "makes its own certificate"),
        ("backup.mode", "backup.enabled is false"),
        ("backup.heartbeat.peer_addr", "backup.enabled is false"),
        ("backup.sync.buffer_size", "backup.enabled is false"),
        ("tls.mode stays", "clients may come without TLS"),
    ] {
        let told = loaded.warnings.iter().any(|warning| warning.contains(key) && warning.contains(reason));
        assert!(told, "{key} is not warned of because {reason}: {:#?}", loaded.warnings);
    }
}

#[test]
fn the_seeds_certificate_is_used_where_it_exists() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("server.crt"), folder.path().join("server.key"));
    let made = self_signed(&[]).unwrap();
    std::fs::write(&certificate, made.certificate_pem).unwrap();
    std::fs::write(&key, made.key_pem).unwrap();
    let text = format!("server:\n  cert_file: {}\n  key_file: {}\n", certificate.display(), key.display());
    let loaded = load_all(Some(&file("gateway.yml", &text).path), &[], &[]).unwrap();
    assert_eq!((loaded.config.tls.certificate, loaded.config.tls.key), (Some(certificate), Some(key)));
}

#[test]
fn files_are_read_as_a_node_will_read_them() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (self_signed(&[]).unwrap(), self_signed(&[]).unwrap());
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let certificate = write("certificate.pem", &one.certificate_pem);
    let (key, strange) = (write("key.pem", &one.key_pem), write("strange.pem", &other.key_pem));
    let (empty, text) = (write("empty.pem", ""), write("text.pem", "my certificate\n"));
    let cut = write("cut.pem", one.certificate_pem.split_inclusive('\n').next().unwrap());
    let no_der = write("no_der.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let (keys, no_keys) = (write("keys.json", "{\"keys\": []}"), write("no_keys.json", "[1]"));
    let pair = |certificate: &Path, key: &Path| {
        problems(toml(&format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}"))).join("\n")
    };
    let says = |said: &str, key: &str, file: &Path, what: &str| {
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(&format!("{key} (line")) && said.contains(what), "{said}");
        assert!(said.contains(file.to_str().unwrap()), "{said}");
    };
    for (file, what) in [
        (&empty, "has no certificate in it"),
        (&text, "has no certificate in it"),
        (&key, "has no certificate in it"),
        (&cut, "is no PEM"),
    ] {
        says(&pair(file, &key), "tls.certificate", file, what);
        for (section, name) in [("tls", "upstream_authority"), ("auth.jwt", "jwks_authority")] {
            let jwks = if name == "jwks_authority" { "jwks = \"https://example.org/keys\"\n" } else { "" };
            let said = problems(toml(&format!("[{section}]\n{jwks}{name} = {file:?}"))).join("\n");
            says(&said, &format!("{section}.{name}"), file, what);
        }
    }
    let authority = problems(toml(&format!("[tls]\nupstream_authority = {no_der:?}"))).join("\n");
    says(&authority, "tls.upstream_authority", &no_der, "has no usable authority in it");
    says(&pair(&certificate, &empty), "tls.key", &empty, "has no private key in it");
    says(&pair(&certificate, &certificate), "tls.key", &certificate, "has no private key in it");
    let strangers = pair(&certificate, &strange);
    says(&strangers, "tls.certificate", &strange, "cannot be used together");
    assert!(strangers.contains(certificate.to_str().unwrap()), "{strangers}");
    let set = problems(toml(&format!("[auth.jwt]\njwks = {no_keys:?}"))).join("\n");
    says(&set, "auth.jwt.jwks", &no_keys, "is no JSON Web Key Set");
    let tls =
        format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}\nupstream_authority = {certificate:?}");
    toml(&format!("{tls}\n[auth.jwt]\njwks = {keys:?}")).unwrap();
}

#[test]
fn a_seed_file_is_checked_as_strictly_as_ours() {
    let yaml = |text: &str| load_all(Some(&file("gateway.yaml", text).path), &[], &[]);
    let unknown = problems(yaml("server:\n  quic_adr: \":1\"\nlisten:\n  http: 1\n"));
    assert_eq!(unknown[1], "gateway.yaml: unknown key server.quic_adr: did you mean server.quic_addr?");
    assert!(
        unknown[0].contains("unknown key listen.http: YAML files have the keys of GateSvr"),
        "{unknown:?}"
    );
    let pair = problems(yaml("backup:\n  enabled: true\n  mode: primary\n"));
    assert!(pair.len() == 1 && pair[0].contains("cluster settings"), "{pair:?}");
    let duration = problems(yaml("server:\n  session_timeout: soon\n"));
    assert!(
        duration[0].starts_with("gateway.yaml: server.session_timeout: wanted a duration"),
        "{duration:?}"
    );
    let broken = problems(yaml("server: ["));
    assert!(broken[0].contains("this is not YAML"), "{broken:?}");
    let switched_off = yaml("overload_protection:\n  enabled: false\n  max_connections: 5\n").unwrap();
    assert_eq!(switched_off.config.limits, Limits::default());
    assert_eq!(yaml("").unwrap().config.listen, Listen::default());
}

#[test]
fn the_file_of_init_changes_nothing_and_names_every_key() {
    let text = init_file();
    assert_eq!(toml(&text).unwrap().config, Config::default());
    for entry in catalogue::entries() {
        let name = entry.path.last().unwrap();
        assert!(text.contains(&format!("\n# {name} = ")), "{name} is missing");
    }
    // With every default uncommented it is still a configuration, and still the same one.
    let set: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("not set by default"))
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|rest| rest.contains(" = ") && !rest.contains(": ") || rest.starts_with('['))
                .unwrap_or(line)
        })
        .filter(|line| !line.starts_with('#'))
        .collect();
    let mut table: toml::Table = toml::from_str(&set.join("\n")).unwrap();
    let room = table.remove("namespaces").unwrap();
    assert!(room["room"].as_table().unwrap().contains_key("history_count"));
    // These mean nothing beside the defaults of others.
    table["limits"].as_table_mut().unwrap().remove("call_burst");
    table["log"].as_table_mut().unwrap().retain(|name, _| !name.starts_with("file"));
    assert_eq!(toml(&toml::to_string(&table).unwrap()).unwrap().config, Config::default());
}

#[test]
fn a_log_file_has_a_folder_a_size_and_others_beside_it() {
    for (log, said) in [
        ("file_size = \"1 MiB\"", "log.file_size (line 2): has no effect: log.file is not set"),
        ("file = \"/nowhere/at/all.log\"", "the folder /nowhere/at does not exist"),
        ("file = \"a.log\"\nfile_size = 10", "at least 64 KiB"),
        ("file = \"a.log\"\nfiles_kept = 0", "would lose the whole log"),
    ] {
        let problems = problems(toml(&format!("[log]\n{log}")));
        assert!(problems.len() == 1 && problems[0].contains(said), "{problems:?}");
    }
    let log = toml("[log]\nfile = \"a.log\"").unwrap().config.log;
    assert_eq!((log.file_size, log.files_kept), (ByteSize(3 << 20), 5));
}

#[test]
fn check_prints_what_is_in_force_and_where_it_was_set() {
    let text = in_force(&toml("[limits]\ndrain = \"5s\"\n[namespaces.room]\nhistory_count = 3").unwrap());
    assert!(text.contains("http       127.0.0.1:8080, tls optional\n"), "{text}");
    assert!(text.contains("websocket  off\n"), "{text}");
    assert!(text.contains("  namespaces.room.history_count = 3   # "), "{text}");
    assert!(
        text.contains("  limits.drain = \"5s\"   # ") && text.contains("limits.drain (line 2)\n"),
        "{text}"
    );
    assert!(text.contains("  session.heartbeat = \"25s\"\n"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A mistake in a file is a sentence, never a panic.
    #[test]
    fn no_file_and_no_variable_panics(text in "\\PC{0,80}", key in any::<prop::sample::Index>(), value in scalar()) {
        let entries = catalogue::entries();
        let entry = &entries[key.index(entries.len())];
        let (name, section) = entry.path.split_last().unwrap();
        let line = format!("{name} = {value}\n");
        let own = if section.is_empty() { line } else { format!("[{}]\n{line}", section.join(".")) };
        let quoted = toml::Value::String(text.clone()).to_string();
        for document in [text.clone(), own, format!("{name} = {quoted}"), format!("server:\n  quic_addr: {quoted}\n  {text}: 1\n")] {
            for file_name in ["gateway.toml", "gateway.yaml"] {
                let result = load_all(Some(&file(file_name, &document).path), &[(&entry.variable(), &text)], &[]);
                if let Err(Problems(problems)) = result {
                    prop_assert!(!problems.is_empty() && problems.iter().all(|problem| problem.len() > 10));
                }
            }
        }
    }
}

/// Values of every kind of TOML, most of them wrong for most keys.
fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        (0.0..1e300).prop_map(|number: f64| format!("{number:?}")),
        any::<bool>().prop_map(|flag| flag.to_string()),
        "[0-9]{1,20}(ms|s|m|h|d| KiB| GiB)".prop_map(|text| format!("\"{text}\"")),
        Just("[]".to_owned()),
        Just("{ a = 1 }".to_owned()),
        Just("[[{}], 1979-05-27]".to_owned()),
    ]
}

/// With `UPDATE_DOCS=1` the page's tables are written anew.
#[test]
fn the_documentation_lists_every_key_as_the_code_has_it() {
    const BEGIN: &str = "<!-- keys: made from the code, see the test of this page -->\n";
    const END: &str = "<!-- end of keys -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page has the mark where the tables begin");
    let (tables, after) = rest.split_once(END).expect("the page has the mark where the tables end");
    let wanted: String = sections().iter().map(section_table).collect();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
    } else {
        assert_eq!(
            tables, wanted,
            "docs/configuration.md is out of date: run UPDATE_DOCS=1 ./test documentation_lists"
        );
    }
}

fn section_table(section: &Described) -> String {
    let title = match section.path.as_slice() {
        [] => "Above all sections".to_owned(),
        path => format!("`[{}]`", path.join(".")),
    };
    let joined = |doc: &[&str]| doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    let mut table = format!(
        "### {title}\n\n{}\n\n| key | default | reload | what | variable |\n|---|---|---|---|---|\n",
        joined(section.doc)
    );
    for key in &section.keys {
        let name = key.path.last().unwrap();
        let default = key.default.as_deref().map_or("not set".to_owned(), |default| format!("`{default}`"));
        let what = joined(key.doc).replace('|', "\\|");
        let reload = if live::is_live(&key.path.join(".")) { "live" } else { "restart" };
        table.push_str(&format!("| `{name}` | {default} | {reload} | {what} | `{}` |\n", key.variable()));
    }
    table + "\n"
}
