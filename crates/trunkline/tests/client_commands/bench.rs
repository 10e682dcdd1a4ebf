//! `trunkline bench`, in small: that it measures what it says, not how fast anything is.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::process::Command;

use super::{Ran, ended, run, server};

/// Without a node: the bench starts its own.
async fn alone(arguments: &[&str]) -> Result<Ran> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(super::BINARY);
    command.arg("bench").args(arguments).current_dir(folder.path()).env_clear().kill_on_drop(true);
    let ran = ended(command).await?;
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0, "a bench left something behind");
    Ok(ran)
}

fn report(ran: &Ran) -> Result<Value> {
    assert_eq!((ran.status, ran.said.as_str()), (Some(0), ""), "{}", ran.printed);
    serde_json::from_str(&ran.printed).context("one JSON object")
}

fn count(report: &Value, name: &str) -> u64 {
    report["counts"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[tokio::test]
async fn calls_in_a_closed_loop_are_all_answered_and_timed() -> Result<()> {
    let ran = alone(&["calls", "--clients", "3", "--seconds", "1", "--json"]).await?;
    let report = report(&ran)?;
    let done = count(&report, "done");
    assert!(done > 0 && count(&report, "failed") == 0, "{report}");
    assert_eq!(report["latency_us"]["count"], done);
    assert_eq!((&report["own_node"], &report["late_us"]), (&true.into(), &Value::Null));
    let of = |name: &str| report["latency_us"][name].as_u64().unwrap_or_default();
    assert!(0 < of("p50") && of("p50") <= of("p99") && of("p99") <= of("max"), "{report}");
    assert!(["generator", "server", "others", "neither"].contains(&report["limit"].as_str().unwrap_or("")));
    assert!(report["server_cores"].as_f64() > Some(0.0), "{report}");
    Ok(())
}

#[tokio::test]
async fn calls_in_an_open_loop_keep_to_their_number_on_a_node_that_is_named() -> Result<()> {
    let server = server().start().await?;
    let arguments = ["bench", "calls", "--clients", "4", "--rate", "100", "--seconds", "1", "--size", "0"];
    for way in ["tls", "websocket", "quic", "webtransport"] {
        let arguments = [&arguments[..], &["--transport", way, "--json"]].concat();
        let report = report(&run(&arguments, server.data_dir()).await?)?;
        // A schedule is a number of calls, however late they begin; rounding may add one for each client.
        let done = count(&report, "done");
        assert!((100..=104).contains(&done), "{way}: {report}");
        assert_eq!((&report["own_node"], &report["transport"]), (&false.into(), &way.into()));
        assert_eq!(report["late_us"]["count"], done);
    }
    Ok(())
}

#[tokio::test]
async fn a_fanout_reaches_every_subscriber_once() -> Result<()> {
    let arguments = ["fanout", "--subscribers", "20", "--rate", "50", "--seconds", "1", "--json"];
    let report = report(&alone(&arguments).await?)?;
    let published = count(&report, "published");
    assert!((50..=51).contains(&published), "{report}");
    assert_eq!(count(&report, "received"), published * 20);
    assert_eq!(report["latency_us"]["count"], published * 20);
    for nothing in ["lost", "duplicates", "gaps", "behind"] {
        assert_eq!(count(&report, nothing), 0, "{report}");
    }
    Ok(())
}

#[tokio::test]
async fn a_resume_brings_every_client_back_without_a_loss() -> Result<()> {
    let arguments = ["resume", "--clients", "20", "--rate", "40", "--seconds", "2", "--json"];
    let report = report(&alone(&arguments).await?)?;
    for (name, wanted) in [("returned", 20), ("resumed", 20), ("fresh", 0), ("lost", 0), ("duplicates", 0)] {
        assert_eq!(count(&report, name), wanted, "{report}");
    }
    assert_eq!(count(&report, "received"), count(&report, "published") * 20);
    assert_eq!(report["latency_us"]["count"], 20);
    Ok(())
}

#[tokio::test]
async fn a_person_reads_lines_and_bad_input_is_refused() -> Result<()> {
    let ran = alone(&["calls", "--clients", "1", "--seconds", "1"]).await?;
    assert_eq!((ran.status, ran.said.as_str()), (Some(0), ""));
    for line in ["calls over tcp: clients 1", "  counted   done ", "  latency   p50 ", "  cpu  ", "  limit  "]
    {
        assert!(ran.printed.contains(line), "{line} is missing:\n{}", ran.printed);
    }
    for arguments in [
        &["calls", "--clients", "0"][..],
        &["calls", "--clients", "20001"],
        &["calls", "--seconds", "0"],
        &["fanout", "--size", "7"],
        &["fanout", "--rate", "0"],
        &["resume", "--rate", "x"],
        &["other"],
    ] {
        let ran = alone(arguments).await?;
        assert_eq!((ran.status, ran.printed.as_str()), (Some(2), ""), "{arguments:?}: {}", ran.said);
    }
    let nobody = tempfile::tempdir()?;
    let ran = run(&["bench", "calls"], nobody.path()).await?;
    assert!(ran.status == Some(1) && ran.said.contains("no node runs"), "{}", ran.said);
    Ok(())
}

#[tokio::test]
async fn idle_sessions_stay_send_heartbeats_and_their_memory_is_read() -> Result<()> {
    let server = server().config("[session]\nheartbeat = \"1s\"\n").start().await?;
    for way in ["tcp", "websocket-tls", "webtransport"] {
        let arguments = ["bench", "idle", "--sessions", "20", "--seconds", "2", "--json", "--transport", way];
        let report = report(&run(&arguments, server.data_dir()).await?)?;
        assert_eq!((count(&report, "sessions"), count(&report, "lost")), (20, 0), "{report}");
        // The first beat comes within the first second, and the sessions that warm the node up beat too.
        assert!(count(&report, "heartbeats") >= 20, "{report}");
        assert!(report["measured"]["bytes_per_session"].is_number(), "{report}");
        assert!(report["measured"]["resident_mb"].as_f64() > Some(1.0), "{report}");
    }
    Ok(())
}
