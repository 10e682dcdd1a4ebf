//! The log: where it goes, that it is bounded, and that it never holds up the node.

use std::path::Path;

use trunkline_testkit::{DEADLINE, Signal, TestServer, TestUpstream};

use crate::common::{client, metric, server, until};

const LOST_SLOW: &str = "trunkline_log_lines_lost_total{reason=\"slow\"}";
const LOST_FAILED: &str = "trunkline_log_lines_lost_total{reason=\"failed\"}";

/// With level trace, calls to an upstream bring very many lines.
async fn upstream(server: &TestServer) -> TestUpstream {
    TestUpstream::registered(server.ready().grpc().unwrap()).await.unwrap()
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[tokio::test]
async fn a_log_file_is_json_where_asked_and_rotated_by_size() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.log");
    let log = format!(
        "[log]\nlevel = \"trace\"\nformat = \"json\"\nfile = {file:?}\nfile_size = \"64 KiB\"\nfiles_kept = 2"
    );
    let mut server = server().config(log).start().await.unwrap();
    let _upstream = upstream(&server).await;
    let mut alice = client(&server, "alice").await;
    let older = |number: usize| folder.path().join(format!("node.log.{number}"));
    until("the third rotation", async || {
        alice.call("echo", "").await.unwrap();
        size(&older(2)) > 0
    })
    .await;
    server.signal(Signal::Terminate).unwrap();
    assert!(server.exited().await.unwrap().success());

    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["node.log", "node.log.1", "node.log.2"], "one more is kept than asked for");
    for path in [file.clone(), older(1), older(2)] {
        assert!(size(&path) <= 64 * 1024, "{} has {} bytes", path.display(), size(&path));
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let line: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
        }
    }
    let last = std::fs::read_to_string(&file).unwrap();
    assert!(last.contains("every client and call came to its end"), "the last words are missing: {last}");
    assert!(!server.output().contains("\"level\""), "lines went to standard error too");
}

#[tokio::test]
async fn a_reader_that_stands_still_costs_lines_and_nothing_else() {
    let mut server = server().config("[log]\nlevel = \"trace\"").stderr_unread().start().await.unwrap();
    let _upstream = upstream(&server).await;
    let mut alice = client(&server, "alice").await;
    until("the first lost line", async || {
        for _ in 0..50 {
            alice.call("echo", "still there").await.unwrap();
        }
        metric(&server, LOST_SLOW).await > 0.0
    })
    .await;
    assert_eq!(metric(&server, LOST_FAILED).await, 0.0);
    server.signal(Signal::Terminate).unwrap();
    assert!(server.exited().await.unwrap().success());
}

#[tokio::test]
async fn h9_a_full_disk_costs_lines_and_the_log_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.log");
    // A device on which every write fails as on a full disk.
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let server = server().config(format!("[log]\nlevel = \"debug\"\nfile = {file:?}")).start().await.unwrap();
    let _upstream = upstream(&server).await;
    let mut alice = client(&server, "alice").await;
    alice.call("echo", "on a full disk").await.unwrap();
    until("a failed line", async || metric(&server, LOST_FAILED).await > 0.0).await;
    // Space is free again.
    std::fs::remove_file(&file).unwrap();
    until("a line", async || {
        alice.call("echo", "").await.unwrap();
        size(&file) > 0
    })
    .await;
}

#[tokio::test]
async fn h9_a_log_folder_that_vanishes_or_comes_back_does_not_stop_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let (logs, away) = (folder.path().join("logs"), folder.path().join("away"));
    std::fs::create_dir(&logs).unwrap();
    let file = logs.join("node.log");
    let log = format!("[log]\nlevel = \"trace\"\nfile = {file:?}\nfile_size = \"64 KiB\"");
    let server = server().config(log).start().await.unwrap();
    let _upstream = upstream(&server).await;
    let mut alice = client(&server, "alice").await;
    // From the next rotation on there is no folder to write to; root may write to any that is there.
    std::fs::rename(&logs, &away).unwrap();
    until("a failed line", async || {
        alice.call("echo", "").await.unwrap();
        metric(&server, LOST_FAILED).await > 0.0
    })
    .await;
    std::fs::create_dir(&logs).unwrap();
    until("a line", async || {
        alice.call("echo", "").await.unwrap();
        size(&file) > 0
    })
    .await;
}

#[tokio::test]
async fn h9_a_log_that_cannot_be_opened_is_told_before_a_port_is_bound() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing/node.log");
    for (file, said) in [(missing.as_path(), "missing does not exist"), (folder.path(), "cannot be opened")] {
        let start = server().config(format!("[log]\nfile = {file:?}")).start();
        let refused = tokio::time::timeout(DEADLINE, start).await.unwrap().err().expect("it started");
        let refused = format!("{refused:#}");
        assert!(refused.contains("log.file") && refused.contains(said), "{refused}");
    }
}
