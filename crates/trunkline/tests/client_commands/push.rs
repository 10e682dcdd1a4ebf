//! `trunkline push`.

use anyhow::Result;
use trunkline_testkit::Way;

use super::{Ran, command, run, server};

const MAIL: [&str; 4] = ["--type", "mail", "--title", "New mail"];

fn outcome(ran: &Ran) -> (Option<i32>, &str) {
    (ran.status, ran.printed.trim_end())
}

#[tokio::test]
async fn an_outcome_is_what_became_of_it() -> Result<()> {
    let server = server().start().await?;
    let push =
        async |arguments: &[&str]| run(&[&["push"], arguments, &MAIL[..]].concat(), server.data_dir()).await;
    let offline = push(&["--to", "user:nobody"]).await?;
    assert_eq!(outcome(&offline), (Some(1), "offline"));
    assert!(offline.said.contains("nobody is there"), "{}", offline.said);
    let unknown = push(&["--to", "device:none"]).await?;
    assert_eq!(outcome(&unknown), (Some(1), "not found"), "{}", unknown.said);

    let alice = server.client("alice", Way::TCP).await?;
    let delivered = push(&["--to", "user:alice"]).await?;
    assert_eq!(outcome(&delivered), (Some(0), "delivered"), "{}", delivered.said);
    let unconfirmed = push(&["--to", "user:alice", "--wait-ack", "100ms"]).await?;
    assert_eq!(outcome(&unconfirmed), (Some(0), "delivered"));
    assert!(unconfirmed.said.contains("no client confirmed it"), "{}", unconfirmed.said);
    for whom in ["all", "zone:001"] {
        let many = push(&["--to", whom]).await?;
        assert_eq!(many.status, Some(0), "{}", many.said);
        assert!(many.printed.starts_with("handed to "), "{}", many.printed);
    }
    drop(alice);
    Ok(())
}

#[tokio::test]
async fn a_listener_confirms_what_it_gets() -> Result<()> {
    let server = server().start().await?;
    let arguments = ["listen", "--user", "alice", "--device", "d", "--count", "2", "--json"];
    let mut listener = command(&arguments, server.data_dir()).spawn()?;
    // Until the listener is there, pushes wait for it or find nobody.
    let mut acked = 0;
    for attempt in 0..100 {
        let content = format!("number {attempt}");
        let arguments =
            ["push", "--to", "user:alice", "--content", &content, "--metadata", "a=1", "--wait-ack", "5s"];
        let ran = run(&arguments, server.data_dir()).await?;
        acked += u32::from(ran.printed.trim_end() == "acked");
        if listener.try_wait()?.is_some() {
            break;
        }
    }
    assert!(acked > 0, "no push was confirmed");
    let output = listener.wait_with_output().await?;
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout)?;
    let push = printed.lines().find(|line| line.contains("\"push\"")).expect("a push");
    let push: serde_json::Value = serde_json::from_str(push)?;
    assert_eq!((&push["type"], &push["metadata"]["a"]), (&"message".into(), &"1".into()), "{push}");
    Ok(())
}

#[tokio::test]
async fn a_publication_tells_its_offset_and_a_key_publishes_once() -> Result<()> {
    let server = server().start().await?;
    let publish = ["push", "--channel", "room:1", "--data", "{}", "--idempotency-key"];
    for (key, place) in [("a", "room:1 1"), ("b", "room:1 2"), ("a", "room:1 1")] {
        let ran = run(&[&publish[..], &[key]].concat(), server.data_dir()).await?;
        assert_eq!(outcome(&ran), (Some(0), place), "{}", ran.said);
    }
    let implicit = run(&["push", "--channel", "user:alice", "--data", "x"], server.data_dir()).await?;
    assert_eq!((implicit.status, implicit.printed.as_str()), (Some(1), ""));
    assert!(implicit.said.contains("the node at 127.0.0.1:"), "{}", implicit.said);
    Ok(())
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_sent() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (arguments, status, said) in [
        (vec!["push", "--type", "mail"], 2, "--to"),
        (vec!["push", "--to", "alice"], 2, "such as user:alice"),
        (vec!["push", "--to", "user:a", "--channel", "room:1"], 2, "cannot be used with"),
        (vec!["push", "--to", "user:a", "--wait-ack", "2m"], 2, "1ms to 60s"),
        (vec!["push", "--to", "all", "--wait-ack", "5s"], 1, "no single ack"),
        (vec!["push", "--to", "user:a"], 1, "no node runs"),
    ] {
        let ran = run(&arguments, folder.path()).await?;
        assert_eq!((ran.status, ran.printed.as_str()), (Some(status), ""), "{arguments:?}: {}", ran.said);
        assert!(ran.said.contains(said), "{arguments:?} said {}", ran.said);
    }
    let server = server().surface("grpc", "off").start().await?;
    let ran = run(&["push", "--to", "user:a"], server.data_dir()).await?;
    assert_eq!(ran.status, Some(1));
    assert!(ran.said.contains("--grpc off"), "{}", ran.said);
    Ok(())
}
