//! `trunkline bench`, in small: that it measures what it says, not how fast anything is.

use anyhow::{Context as _, Result};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::process::Command;
use tokio_tungstenite::tungstenite::handshake::server::Request;

use super::{Ran, ended, run, server};

/// What a closed loop publishes is kept until the slowest has it.
pub(super) const HISTORY: &str = "\
[session]
frames_per_second = 0

[namespaces.bench]
history_count = 100000
history_bytes = \"64MiB\"
";

/// Without a node: the bench starts its own.
pub(super) async fn alone(arguments: &[&str]) -> Result<Ran> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(super::BINARY);
    command.arg("bench").args(arguments).current_dir(folder.path()).env_clear().kill_on_drop(true);
    let ran = ended(command).await?;
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0, "a bench left something behind");
    Ok(ran)
}

pub(super) fn report(ran: &Ran) -> Result<Value> {
    assert_eq!((ran.status, ran.said.as_str()), (Some(0), ""), "{}", ran.printed);
    serde_json::from_str(&ran.printed).context("one JSON object")
}

pub(super) fn count(report: &Value, name: &str) -> u64 {
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
    for nothing in ["lost", "duplicates", "behind"] {
        assert_eq!(count(&report, nothing), 0, "{report}");
    }
    Ok(())
}

#[tokio::test]
async fn a_fanout_in_a_closed_loop_keeps_its_window_full_on_every_transport() -> Result<()> {
    let server = server().config(HISTORY).start().await?;
    for way in ["websocket", "tls", "quic"] {
        let arguments = ["bench", "fanout", "--subscribers", "3", "--rate", "0", "--seconds", "1", "--json"];
        let arguments = [&arguments[..], &["--window", "8", "--transport", way]].concat();
        let report = report(&run(&arguments, server.data_dir()).await?)?;
        let published = count(&report, "published");
        assert!(published > 8 && published.is_multiple_of(2), "rounds of a quarter of the window: {report}");
        assert_eq!(count(&report, "received"), published * 3);
        assert_eq!((count(&report, "lost"), count(&report, "behind")), (0, 0), "{report}");
        assert_eq!(report["latency_us"]["count"], 0, "a closed loop has no due times");
    }
    Ok(())
}

/// What a bench asks of a peer, by another WebSocket library: what comes to /publish goes to all of /subscribe.
pub(super) async fn room(listener: tokio::net::TcpListener) -> Result<()> {
    let (said, _) = tokio::sync::broadcast::channel(10_000);
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let said = said.clone();
        connections.spawn(async move {
            let mut path = String::new();
            #[expect(clippy::result_large_err, reason = "the library's own signature")]
            let look = |request: &Request, response| {
                request.uri().path().clone_into(&mut path);
                Ok(response)
            };
            let mut heard = said.subscribe();
            let mut socket = tokio_tungstenite::accept_hdr_async(stream, look).await?;
            if path == "/subscribe" {
                while let Ok(message) = heard.recv().await {
                    socket.send(message).await?;
                }
            }
            while let Some(message) = socket.next().await {
                said.send(message?)?;
            }
            anyhow::Ok(())
        });
    }
}

#[tokio::test]
async fn a_peer_is_measured_by_the_same_code() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("ws://{}", listener.local_addr()?);
    let mut rooms = tokio::task::JoinSet::new();
    rooms.spawn(room(listener));
    for (rate, times) in [("40", true), ("0", false)] {
        let arguments =
            ["fanout", "--subscribers", "5", "--rate", rate, "--seconds", "1", "--peer", &url, "--json"];
        let report = report(&alone(&arguments).await?)?;
        let published = count(&report, "published");
        assert!(published >= 40 && count(&report, "received") == published * 5, "{report}");
        assert_eq!(report["latency_us"]["count"], if times { published * 5 } else { 0 });
        assert_eq!((&report["own_node"], &report["transport"]), (&false.into(), &"websocket peer".into()));
        assert_eq!(report["limit"], "unknown", "the peer's process was not named");
    }
    Ok(())
}

#[tokio::test]
async fn calls_to_an_upstream_and_without_the_node_are_told_apart() -> Result<()> {
    let arguments = ["calls", "--clients", "4", "--rate", "50", "--seconds", "2", "--upstream", "--direct"];
    let ran = alone(&[&arguments[..], &["--json"]].concat()).await?;
    let report: Value = serde_json::from_str(&ran.printed).context("one JSON object")?;
    assert_eq!((count(&report, "done"), count(&report, "direct"), count(&report, "failed")), (100, 100, 0));
    assert_eq!((&report["latency_us"]["count"], &report["asked"]["action"]), (&100.into(), &"echo".into()));
    // On a machine that was slow all the time it has a reason to tell instead.
    let said = report["failure"].as_str().map(|failure| format!("trunkline: {failure}\n"));
    assert_eq!(
        (ran.status, &ran.said),
        (Some(i32::from(said.is_some())), said.as_ref().unwrap_or(&String::new()))
    );
    for name in ["hop_p50_us", "hop_p99_us", "direct_p50_us", "direct_p99_us"] {
        assert_eq!(report["measured"][name].is_number(), said.is_none(), "{name}: {report}");
    }
    assert!(report["upstream_cores"].as_f64() > Some(0.0), "{report}");
    Ok(())
}

#[tokio::test]
async fn casts_are_taken_and_the_calls_between_them_answered() -> Result<()> {
    let report = report(&alone(&["cast", "--sessions", "3", "--seconds", "1", "--json"]).await?)?;
    let (taken, refused, calls) =
        (count(&report, "taken"), count(&report, "refused"), count(&report, "calls"));
    assert!(calls > 0 && refused == 0 && taken == calls * 27, "{report}");
    assert_eq!(report["latency_us"]["count"], calls);
    Ok(())
}

#[tokio::test]
async fn pushes_reach_the_session_that_each_is_for() -> Result<()> {
    let arguments = ["push", "--sessions", "7", "--rate", "100", "--seconds", "1", "--json"];
    let report = report(&alone(&arguments).await?)?;
    for name in ["pushed", "delivered", "received"] {
        assert_eq!(count(&report, name), 100, "{report}");
    }
    assert_eq!((count(&report, "lost"), count(&report, "behind")), (0, 0), "{report}");
    assert_eq!(report["latency_us"]["count"], 100);
    Ok(())
}

#[tokio::test]
async fn connections_are_started_and_stopped_on_every_transport() -> Result<()> {
    let server = server().start().await?;
    for way in ["tcp", "websocket", "quic"] {
        let arguments =
            ["bench", "connect", "--at-once", "4", "--seconds", "1", "--json", "--transport", way];
        let report = report(&run(&arguments, server.data_dir()).await?)?;
        assert!(count(&report, "started") >= 4 && count(&report, "failed") == 0, "{report}");
        assert_eq!(report["latency_us"]["count"], count(&report, "started"));
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
    for line in [
        "calls over tcp: action \"trunkline.echo\", clients 1",
        "  counted   done ",
        "  latency   p50 ",
        "  cpu  ",
        "  limit  ",
    ] {
        assert!(ran.printed.contains(line), "{line} is missing:\n{}", ran.printed);
    }
    for arguments in [
        &["calls", "--clients", "0"][..],
        &["calls", "--clients", "200001"],
        &["calls", "--seconds", "0"],
        &["fanout", "--size", "23"],
        &["fanout", "--window", "65"],
        &["fanout", "--peer", "http://127.0.0.1:1"],
        &["fanout", "--peer-pid", "1"],
        &["calls", "--direct"],
        &["calls", "--upstream", "--action", "x"],
        &["cast", "--sessions", "0"],
        &["push", "--rate", "0"],
        &["connect", "--at-once", "1001"],
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

#[tokio::test]
async fn a_bench_that_is_killed_leaves_no_node_behind() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(super::BINARY);
    command
        .args(["bench", "calls", "--clients", "1", "--seconds", "60"])
        .current_dir(folder.path())
        .env_clear()
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true);
    let mut bench = command.spawn()?;
    let pid = bench.id().context("it runs")?;
    // Its node is its only child.
    let children = format!("/proc/{pid}/task/{pid}/children");
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(10));
    let child = loop {
        looks.tick().await;
        let found = std::fs::read_to_string(&children)?;
        if let Some(child) = found.split_whitespace().next() {
            break child.to_owned();
        }
    };
    // Once it is itself: until then it is a copy of the bench.
    let command_line = format!("/proc/{child}/cmdline");
    while !std::fs::read_to_string(&command_line)?.contains("--parent") {
        looks.tick().await;
    }
    bench.kill().await?;
    let gone = async {
        // A zombie has no command line any more.
        while std::fs::read_to_string(&command_line).is_ok_and(|line| !line.is_empty()) {
            looks.tick().await;
        }
    };
    tokio::time::timeout(trunkline_testkit::DEADLINE, gone).await.context("its node runs on")?;
    Ok(())
}
