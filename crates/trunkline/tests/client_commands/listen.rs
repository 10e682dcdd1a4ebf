//! `trunkline listen`.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;
use trunkline_testkit::{DEADLINE, TestServer, TestUpstream};

use super::{command, run, server};

/// A listener that prints JSON, and is listening.
struct Listening {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Listening {
    async fn start(server: &TestServer, arguments: &[&str]) -> Result<Self> {
        let arguments = [&["listen", "--user", "alice", "--json"], arguments].concat();
        let mut child = command(&arguments, server.data_dir()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("it prints")?).lines();
        let mut listening = Listening { child, lines };
        let started = listening.next().await?.context("it starts")?;
        assert_eq!(started["event"], "started", "{started}");
        Ok(listening)
    }

    async fn next(&mut self) -> Result<Option<Value>> {
        let line = timeout(DEADLINE, self.lines.next_line()).await.context("nothing is printed")??;
        Ok(line.map(|line| serde_json::from_str(&line)).transpose()?)
    }

    /// Everything it prints until it ends, which it does well.
    async fn rest(mut self) -> Result<Vec<Value>> {
        let mut printed = Vec::new();
        while let Some(object) = self.next().await? {
            printed.push(object);
        }
        let status = timeout(DEADLINE, self.child.wait()).await.context("it does not end")??;
        assert!(status.success(), "{status}: {printed:?}");
        Ok(printed)
    }
}

fn of<'a>(printed: &'a [Value], event: &str) -> Vec<&'a Value> {
    printed.iter().filter(|object| object["event"] == event).collect()
}

#[tokio::test]
async fn cuts_lose_nothing_while_pushes_run() -> Result<()> {
    let server = server().start().await?;
    let upstream = TestUpstream::start(server.ready().grpc()?).await?;
    let listening = Listening::start(&server, &["--cut-every", "150ms", "--count", "60"]).await?;
    let pushing = async {
        // Over longer than one interval of cuts.
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(20));
        for number in 0..60 {
            pace.tick().await;
            upstream.push_to_user("alice", &number.to_string()).await?;
        }
        anyhow::Ok(())
    };
    let (printed, pushed) = tokio::join!(listening.rest(), pushing);
    pushed?;
    let printed = printed?;
    let titles: Vec<_> = of(&printed, "push").iter().map(|push| push["title"].clone()).collect();
    let sent: Vec<_> = (0..60).map(|number| Value::from(number.to_string())).collect();
    assert_eq!(titles, sent);
    let summary = &of(&printed, "summary")[0]["summary"];
    assert!(summary["resumes"].as_u64() > Some(0), "no cut was seen: {summary}");
    for nothing in ["gaps", "duplicates", "lost"] {
        assert_eq!(summary[nothing], 0, "{summary}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_connected_is_not_cut() -> Result<()> {
    let mut server = server().start().await?;
    let listening = Listening::start(&server, &["--cut-every", "20ms", "--for", "2s"]).await?;
    server.kill().await?;
    let printed = listening.rest().await?;
    let summary = &of(&printed, "summary")[0]["summary"];
    // Each cut has a connection of its own; in two seconds there would be 100 of them otherwise.
    assert!(summary["cuts"].as_u64() <= summary["starts"].as_u64(), "{summary}");
    Ok(())
}

#[tokio::test]
async fn a_channel_comes_with_its_offsets_and_the_summary_adds_up() -> Result<()> {
    let server = server().start().await?;
    let mut gateway = TestUpstream::start(server.ready().grpc()?).await?.gateway();
    let mut publish = async |channel: &str, data: &str| -> Result<()> {
        let request = trunkline_proto::wire::ServicePublishRequest {
            channel: channel.into(),
            data: data.to_owned().into(),
            ..Default::default()
        };
        let answer = gateway.publish(request).await?.into_inner();
        assert_eq!(answer.error, None);
        Ok(())
    };
    publish("room:1", "before").await?;
    let arguments = ["listen", "--user", "alice", "--channel", "room:1", "--count", "2"];
    let mut child = command(&arguments, server.data_dir()).spawn()?;
    // A subscriber is a member, and that is seen from outside.
    let mut errors = BufReader::new(child.stderr.take().context("it speaks")?).lines();
    let first = timeout(DEADLINE, errors.next_line()).await??.context("it says that it listens")?;
    assert_eq!(first, "-- listening to room:1 from offset 1");
    publish("room:1", "a\u{1b}b").await?;
    publish("room:1", "{\"n\":2}").await?;
    let output = timeout(DEADLINE, child.wait_with_output()).await??;
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout)?, "room:1 2  a\\u{1b}b\nroom:1 3  {\"n\":2}\n");
    let mut last = String::new();
    while let Some(line) = errors.next_line().await? {
        last = line;
    }
    assert_eq!(
        last,
        "received 2: 0 pushes, 2 publications; 0 cuts, 0 resumes, 0 gaps told, 0 duplicates, 0 lost"
    );
    Ok(())
}

#[tokio::test]
async fn a_channel_without_a_right_is_told_and_ends_it() -> Result<()> {
    let server = server().start().await?;
    let token = server.token("alice", &[]).await?;
    let ran = run(&["listen", "--token", &token, "--channel", "room:1"], server.data_dir()).await?;
    assert_eq!((ran.status, ran.printed.as_str()), (Some(1), ""));
    assert!(ran.said.contains("cannot subscribe to room:1: 403 FORBIDDEN"), "{}", ran.said);
    assert!(!ran.said.contains("received"), "it sums up what never began: {}", ran.said);
    Ok(())
}

#[tokio::test]
async fn it_ends_by_itself_and_by_a_signal_with_a_summary() -> Result<()> {
    let server = server().start().await?;
    let timed = run(&["listen", "--user", "alice", "--for", "100ms"], server.data_dir()).await?;
    assert_eq!(timed.status, Some(0));
    assert!(timed.said.contains("received 0:"), "{}", timed.said);

    let listening = Listening::start(&server, &[]).await?;
    let pid = i32::try_from(listening.child.id().context("it runs")?)?;
    let pid = rustix::process::Pid::from_raw(pid).context("a process has an id above 0")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    assert_eq!(of(&listening.rest().await?, "summary").len(), 1);
    Ok(())
}
