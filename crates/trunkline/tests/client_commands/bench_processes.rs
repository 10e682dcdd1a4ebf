//! `trunkline bench --processes`, in small: that shares add up to the whole, and that no process is left behind.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use rustix::process::Resource;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{interval, timeout};
use trunkline_testkit::DEADLINE;

use super::bench::{HISTORY, alone, count, report, room};
use super::{BINARY, run, server};

#[tokio::test]
async fn calls_of_two_processes_are_as_many_as_were_asked_for() -> Result<()> {
    let arguments =
        ["calls", "--clients", "5", "--rate", "101", "--seconds", "1", "--processes", "2", "--json"];
    let open = report(&alone(&arguments).await?)?;
    assert_eq!((count(&open, "done"), count(&open, "failed")), (101, 0), "{open}");
    assert_eq!(
        (&open["latency_us"]["count"], &open["late_us"]["count"]),
        (&101.into(), &101.into()),
        "{open}"
    );
    let tenths = open["per_tenth"].as_array().context("tenths")?;
    assert_eq!(tenths.iter().filter_map(Value::as_u64).sum::<u64>(), 101, "{open}");
    assert_eq!((&open["asked"]["processes"], &open["asked"]["clients"]), (&2.into(), &5.into()));
    let arguments = ["calls", "--clients", "3", "--seconds", "1", "--processes", "3", "--upstream", "--json"];
    let closed = report(&alone(&arguments).await?)?;
    assert!(count(&closed, "done") > 0 && count(&closed, "failed") == 0, "{closed}");
    assert_eq!(
        (&closed["latency_us"]["count"], &closed["asked"]["action"]),
        (&count(&closed, "done").into(), &"echo".into())
    );
    for cores in ["generator_cores", "server_cores", "upstream_cores"] {
        assert!(closed[cores].as_f64() > Some(0.0), "{cores}: {closed}");
    }
    Ok(())
}

#[tokio::test]
async fn casts_and_connections_of_two_processes_are_counted_together() -> Result<()> {
    let arguments = ["cast", "--sessions", "3", "--seconds", "1", "--processes", "2", "--json"];
    let casts = report(&alone(&arguments).await?)?;
    let (taken, calls) = (count(&casts, "taken"), count(&casts, "calls"));
    assert!(calls > 0 && taken == calls * 27 && count(&casts, "refused") == 0, "{casts}");
    assert_eq!(casts["latency_us"]["count"], calls);
    let server = server().start().await?;
    for way in ["websocket", "quic"] {
        let arguments =
            ["bench", "connect", "--at-once", "3", "--rate", "20", "--seconds", "1", "--processes", "2"];
        let arguments = [&arguments[..], &["--json", "--transport", way]].concat();
        let connects = report(&run(&arguments, server.data_dir()).await?)?;
        assert_eq!((count(&connects, "started"), count(&connects, "failed")), (20, 0), "{connects}");
        assert_eq!((&connects["latency_us"]["count"], &connects["transport"]), (&20.into(), &way.into()));
    }
    Ok(())
}

#[tokio::test]
async fn a_fanout_reaches_the_subscribers_of_every_process() -> Result<()> {
    let server = server().config(HISTORY).start().await?;
    let arguments = ["bench", "fanout", "--subscribers", "5", "--seconds", "1", "--processes", "2", "--json"];
    for (rate, times) in [("50", true), ("0", false)] {
        let arguments = [&arguments[..], &["--rate", rate, "--window", "8"]].concat();
        let fanout = report(&run(&arguments, server.data_dir()).await?)?;
        let published = count(&fanout, "published");
        assert!(published >= 50 || !times && published > 8, "{fanout}");
        assert_eq!(count(&fanout, "received"), published * 5, "{fanout}");
        assert_eq!(fanout["latency_us"]["count"], if times { published * 5 } else { 0 });
        for nothing in ["lost", "duplicates", "reordered", "behind"] {
            assert_eq!(count(&fanout, nothing), 0, "{fanout}");
        }
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let peer = format!("ws://{}", listener.local_addr()?);
    let mut rooms = tokio::task::JoinSet::new();
    rooms.spawn(room(listener));
    let arguments =
        ["fanout", "--subscribers", "4", "--rate", "0", "--seconds", "1", "--processes", "2", "--peer"];
    let fanout = report(&alone(&[&arguments[..], &[&peer, "--json"]].concat()).await?)?;
    assert!(count(&fanout, "published") > 0, "{fanout}");
    assert_eq!(count(&fanout, "received"), count(&fanout, "published") * 4, "{fanout}");
    Ok(())
}

#[tokio::test]
async fn idle_sessions_of_two_processes_stay_and_beat() -> Result<()> {
    let server = server().config("[session]\nheartbeat = \"1s\"\n").start().await?;
    let arguments = ["bench", "idle", "--sessions", "21", "--seconds", "2", "--processes", "2", "--json"];
    let idle = report(&run(&arguments, server.data_dir()).await?)?;
    assert_eq!((count(&idle, "sessions"), count(&idle, "lost")), (21, 0), "{idle}");
    // The 300 that warm the node up beat in this process, the others in theirs.
    assert!(count(&idle, "heartbeats") >= 321, "{idle}");
    assert!(idle["measured"]["bytes_per_session"].is_number(), "{idle}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_shared_out_or_served_is_refused_before_it_begins() -> Result<()> {
    for arguments in [
        &["calls", "--processes", "0"][..],
        &["calls", "--processes", "65"],
        &["calls", "--upstream", "--rate", "10", "--direct", "--processes", "2"],
        &["push", "--processes", "2"],
        &["resume", "--processes", "2"],
        &["calls", "--part", "2/2"],
    ] {
        let ran = alone(arguments).await?;
        assert_eq!((ran.status, ran.printed.as_str()), (Some(2), ""), "{arguments:?}: {}", ran.said);
    }
    let ran = alone(&["cast", "--sessions", "2", "--processes", "3"]).await?;
    assert!(ran.status == Some(1) && ran.said.contains("2 cannot be shared out among 3"), "{}", ran.said);
    let server = server().start().await?;
    server.limit(Resource::Nofile, 200)?;
    for bench in [
        &["calls", "--clients", "150"][..],
        &["fanout", "--subscribers", "150"],
        &["idle", "--sessions", "2"],
    ] {
        let arguments = [&["bench"], bench, &["--processes", "2"]].concat();
        let ran = run(&arguments, server.data_dir()).await?;
        let why = "more files than the server may open, which is one process (200)";
        assert!(ran.status == Some(1) && ran.said.contains(why), "{bench:?}: {}", ran.said);
    }
    // Over QUIC they share a socket of the node.
    let arguments =
        ["bench", "calls", "--clients", "150", "--seconds", "1", "--processes", "2", "--transport", "quic"];
    let ran = run(&[&arguments[..], &["--json"]].concat(), server.data_dir()).await?;
    assert!(count(&report(&ran)?, "done") > 0, "{}", ran.printed);
    Ok(())
}

/// A bench whose two generators run, each by its number.
async fn running() -> Result<(Child, Vec<u32>)> {
    let mut command = Command::new(BINARY);
    command
        .args(["bench", "calls", "--clients", "2", "--seconds", "60", "--processes", "2"])
        .env_clear()
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let bench = command.spawn()?;
    let pid = bench.id().context("it runs")?;
    let mut looks = interval(std::time::Duration::from_millis(10));
    loop {
        looks.tick().await;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let children = children.split_whitespace().filter_map(|child| child.parse().ok());
        let generators: Vec<u32> = children.filter(|child| command_line(*child).contains("--part")).collect();
        if generators.len() == 2 {
            return Ok((bench, generators));
        }
    }
}

/// Nothing once it has ended: a zombie has no command line.
fn command_line(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

async fn are_gone(generators: &[u32]) -> Result<()> {
    let gone = async {
        let mut looks = interval(std::time::Duration::from_millis(10));
        while generators.iter().any(|generator| command_line(*generator).contains("--part")) {
            looks.tick().await;
        }
    };
    timeout(DEADLINE, gone).await.context("a generator runs on")
}

#[tokio::test]
async fn a_bench_that_is_killed_leaves_no_generator_behind() -> Result<()> {
    let (mut bench, generators) = timeout(DEADLINE, running()).await.context("no generators")??;
    bench.kill().await?;
    are_gone(&generators).await
}

#[tokio::test]
async fn a_generator_that_dies_ends_its_bench_with_all_others() -> Result<()> {
    let (bench, generators) = timeout(DEADLINE, running()).await.context("no generators")??;
    let victim =
        i32::try_from(generators[1]).ok().and_then(rustix::process::Pid::from_raw).context("a pid")?;
    rustix::process::kill_process(victim, rustix::process::Signal::KILL)?;
    let ended = timeout(DEADLINE, bench.wait_with_output()).await.context("the bench runs on")??;
    let said = String::from_utf8(ended.stderr)?;
    let why = format!("generator 2 of 2: process {} has ended", generators[1]);
    assert!(ended.status.code() == Some(1) && said.contains(&why), "{:?}: {said}", ended.status);
    are_gone(&generators).await
}

#[tokio::test]
async fn what_a_generator_fails_of_is_told_once() -> Result<()> {
    // Nobody listens on port 1.
    let arguments =
        ["calls", "--clients", "2", "--seconds", "60", "--processes", "2", "--url", "tcp://127.0.0.1:1"];
    let ran = alone(&arguments).await?;
    assert_eq!(
        (ran.status, ran.printed.as_str(), ran.said.lines().count()),
        (Some(1), "", 1),
        "{}",
        ran.said
    );
    assert!(ran.said.contains(" of 2: not every session could start: "), "{}", ran.said);
    Ok(())
}
