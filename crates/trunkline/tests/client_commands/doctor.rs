//! `trunkline doctor`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use trunkline_testkit::Signal;

use super::{Ran, run, server};

/// What it found of one thing.
fn found<'a>(ran: &'a Ran, what: &str) -> &'a str {
    let line = ran.printed.lines().find(|line| line[6..].split("  ").next() == Some(what));
    line.unwrap_or_else(|| panic!("{what} was not looked at:\n{}{}", ran.printed, ran.said))
}

fn failed(ran: &Ran) -> Vec<&str> {
    ran.printed.lines().filter(|line| line.starts_with("FAIL")).collect()
}

#[tokio::test]
async fn a_healthy_node_is_reached_on_every_surface() -> Result<()> {
    let server = server().start().await?;
    let ran = run(&["doctor"], server.data_dir()).await?;
    assert_eq!((ran.status, ran.said.as_str()), (Some(0), ""), "{}", ran.printed);
    for surface in ["http", "websocket", "tcp", "tls", "quic", "webtransport", "grpc", "metrics"] {
        assert!(found(&ran, surface).starts_with("ok"), "{}", ran.printed);
    }
    assert!(found(&ran, "certificate").contains("good for 1"), "{}", ran.printed);
    assert!(found(&ran, "keys").contains("5 files"), "{}", ran.printed);
    Ok(())
}

#[tokio::test]
async fn a_node_that_stands_still_answers_nowhere() -> Result<()> {
    let server = server().surface("quic", "off").surface("tcp", "off").start().await?;
    server.signal(Signal::Freeze)?;
    let ran = run(&["doctor"], server.data_dir()).await?;
    server.signal(Signal::Thaw)?;
    assert_eq!(ran.status, Some(1));
    for surface in ["http", "websocket", "grpc", "metrics"] {
        assert!(found(&ran, surface).starts_with("FAIL"), "{}", ran.printed);
    }
    assert!(ran.said.contains("4 of "), "{}", ran.said);
    Ok(())
}

#[tokio::test]
async fn a_node_that_was_killed_and_keys_that_are_open_are_told_with_what_to_do() -> Result<()> {
    let mut server = server().start().await?;
    server.kill().await?;
    let key = server.data_dir().join("keys/jwt.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    fs::write(server.data_dir().join("keys/resume.key"), "damaged")?;
    fs::write(server.data_dir().join("certificate.pem"), "damaged")?;
    let ran = run(&["doctor"], server.data_dir()).await?;
    assert_eq!(ran.status, Some(1));
    assert!(found(&ran, "node").contains("ended without a goodbye"), "{}", ran.printed);
    let keys = found(&ran, "keys");
    assert!(keys.contains("chmod 600") && keys.contains("resume.key is damaged"), "{keys}");
    assert!(found(&ran, "certificate").starts_with("FAIL"), "{}", ran.printed);
    assert!(found(&ran, "port http").contains("127.0.0.1:8080"), "{}", ran.printed);
    Ok(())
}

#[tokio::test]
async fn before_the_first_start_the_ports_must_be_free_and_the_configuration_right() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let data_dir = folder.path().join("data");
    let config = folder.path().join("trunkline.toml");
    let text = format!(
        "[listen]\nhttp = \"127.0.0.1:0\"\ntcp = \"{}\"\nquic = \"127.0.0.1:0\"\ngrpc = \"off\"\nmetrics = \"off\"\n",
        taken.local_addr()?
    );
    fs::write(&config, &text)?;
    let config = config.to_str().expect("UTF-8");
    let ran = run(&["doctor", "--config", config], &data_dir).await?;
    assert_eq!(ran.status, Some(1));
    assert_eq!(failed(&ran).len(), 1, "{}", ran.printed);
    assert!(found(&ran, "port tcp").contains("stop what uses it"), "{}", ran.printed);
    assert!(found(&ran, "node").starts_with("note"), "{}", ran.printed);
    drop(taken);
    let ran = run(&["doctor", "--config", config], &data_dir).await?;
    assert_eq!((ran.status, ran.said.as_str()), (Some(0), ""), "{}", ran.printed);
    assert!(!data_dir.exists(), "the doctor made a data directory");

    fs::write(config, text.replace("http", "htpp"))?;
    let ran = run(&["doctor", "--config", config], &data_dir).await?;
    assert_eq!(ran.status, Some(1));
    assert!(found(&ran, "configuration").contains("did you mean"), "{}", ran.printed);
    Ok(())
}
