//! `trunkline bench transport`, in small: that it compares what it says, not how fast anything is.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::process::Command;

use super::{BINARY, Ran, ended};

async fn compared(arguments: &[&str]) -> Result<Ran> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(BINARY);
    command.args(["bench", "transport"]).args(arguments).current_dir(folder.path());
    command.env_clear().kill_on_drop(true);
    ended(command).await
}

async fn report(arguments: &[&str]) -> Result<Value> {
    let ran = compared(&[arguments, &["--json"]].concat()).await?;
    assert_eq!((ran.status, ran.said.as_str()), (Some(0), ""), "{arguments:?}: {}", ran.printed);
    serde_json::from_str(&ran.printed).context("one JSON object")
}

/// The turns of a stack.
fn turns<'a>(report: &'a Value, stack: &str) -> &'a [Value] {
    report["stacks"][stack].as_array().unwrap_or_else(|| panic!("no {stack} in {report}"))
}

#[tokio::test]
async fn requests_are_answered_by_every_stack_over_every_protocol() -> Result<()> {
    for way in ["tcp", "websocket", "quic"] {
        let arguments = ["--protocol", way, "--connections", "3", "--seconds", "1", "--rounds", "2"];
        let report = report(&arguments).await?;
        assert_eq!(
            (&report["asked"]["protocol"], &report["asked"]["pattern"]),
            (&way.into(), &"request".into())
        );
        for stack in ["ours", "bare"] {
            let turns = turns(&report, stack);
            assert_eq!(turns.len(), 2, "{report}");
            for turn in turns {
                let of = |name: &str| turn[name].as_f64().unwrap_or_default();
                assert!(of("count") > 0.0 && of("per_second") > 0.0, "{report}");
                assert!(of("p50_us") > 0.0 && of("p50_us") <= of("p99_us"), "{report}");
                assert!(of("server_us") > 0.0 && of("client_us") > 0.0, "{report}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn one_way_messages_have_all_come_when_the_clock_stops() -> Result<()> {
    for way in ["tcp", "websocket", "quic"] {
        let arguments = [
            "--protocol",
            way,
            "--pattern",
            "oneway",
            "--connections",
            "2",
            "--seconds",
            "1",
            "--rounds",
            "1",
        ];
        // The client compares what it has sent with what the server has, and fails if they differ.
        let report = report(&[&arguments[..], &["--stacks", "ours,bare,bare-batched"]].concat()).await?;
        for stack in ["ours", "bare", "bare-batched"] {
            let [turn] = turns(&report, stack) else { panic!("one turn: {report}") };
            assert!(turn["count"].as_u64() > Some(0) && turn["p50_us"].is_null(), "{report}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn idle_connections_are_weighed_and_their_tasks_counted() -> Result<()> {
    for (way, tasks) in [("tcp", 1.0), ("websocket", 1.0), ("quic", 3.0)] {
        let report =
            report(&["--protocol", way, "--pattern", "idle", "--connections", "50", "--rounds", "1"]).await?;
        for stack in ["ours", "bare"] {
            let [turn] = turns(&report, stack) else { panic!("one turn: {report}") };
            assert!(turn["bytes_per_connection"].as_f64() > Some(0.0), "{report}");
            // The server has some tasks of its own beside those of 50 connections.
            let each = turn["tasks_per_connection"].as_f64().unwrap_or_default();
            assert!((1.0..tasks + 0.2).contains(&each), "{stack}: {report}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn broadcasts_reach_all_and_handshakes_come_to_an_end() -> Result<()> {
    let arguments = ["--pattern", "broadcast", "--connections", "20", "--rate", "25", "--seconds", "1"];
    let broadcast = report(&[&arguments[..], &["--rounds", "1", "--size", "1024"]].concat()).await?;
    for stack in ["ours", "bare"] {
        assert_eq!(turns(&broadcast, stack)[0]["count"], 500, "{broadcast}");
    }
    for pattern in ["handshake", "resume"] {
        let arguments = ["--protocol", "quic", "--pattern", pattern, "--connections", "4", "--seconds", "1"];
        let handshakes = report(&[&arguments[..], &["--rounds", "1"]].concat()).await?;
        for stack in ["ours", "bare"] {
            let turn = &turns(&handshakes, stack)[0];
            assert!(turn["count"].as_u64() >= Some(4) && turn["p50_us"].as_f64() > Some(0.0), "{handshakes}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_stage_sends_what_it_says_and_tells_what_came_back() -> Result<()> {
    for (server, more) in [("ours", &[][..]), ("bare", &["--bare-server"])] {
        let ran = compared(&[&["--stage", "1", "--seconds", "1", "--json"], more].concat()).await?;
        let report: Value = serde_json::from_str(&ran.printed).context("one JSON object")?;
        let count =
            |name: &str| report["counts"][name].as_u64().unwrap_or_else(|| panic!("no {name}: {report}"));
        assert_eq!(report["asked"]["server"], server);
        assert_eq!(count("echoed") + count("lost") + count("unsent"), 5_000, "{report}");
        assert!(count("echoed") > 0, "{report}");
        assert_eq!(report["latency_us"]["count"], count("echoed"));
        // Whether it is quick enough is for ./prove to say.
        assert_eq!(ran.status, Some(i32::from(!report["failure"].is_null())), "{report}");
    }
    Ok(())
}

#[tokio::test]
async fn a_person_reads_ratios_and_useless_comparisons_are_refused() -> Result<()> {
    let ran = compared(&["--connections", "1", "--seconds", "1", "--rounds", "1"]).await?;
    assert_eq!((ran.status, ran.said.as_str()), (Some(0), ""));
    for part in ["transport: connections 1", "p99 µs", "server µs each", "ours × ", "  limit "] {
        assert!(ran.printed.contains(part), "{part} is missing:\n{}", ran.printed);
    }
    for (arguments, status, word) in [
        (&["--stage", "4"][..], 2, "4"),
        (&["--stage", "1", "--rounds", "2"], 2, "--rounds"),
        (&["--bare-server"], 2, "--stage"),
        (&["--size", "0"], 2, "0"),
        (&["--stacks", "ours,other"], 2, "other"),
        (&["--stacks", "ours,msgtrans"], 1, "--msgtrans"),
        (&["--stacks", "ours,bare-batched"], 1, "oneway"),
        (&["--pattern", "broadcast", "--protocol", "quic"], 1, "tcp"),
        (&["--pattern", "resume"], 1, "quic"),
        (&["--msgtrans", "/nowhere"], 1, "/nowhere"),
    ] {
        let ran = compared(arguments).await?;
        assert_eq!((ran.status, ran.printed.as_str()), (Some(status), ""), "{arguments:?}: {}", ran.said);
        assert!(ran.said.contains(word), "{arguments:?}: {}", ran.said);
    }
    Ok(())
}
