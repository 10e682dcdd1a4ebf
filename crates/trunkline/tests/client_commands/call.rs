//! `trunkline call`.

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use trunkline_testkit::{DEADLINE, TestServer, TestUpstream};

use super::{command, ended, run, server};

const ECHO: [&str; 4] = ["call", "--user", "alice", "trunkline.echo"];

#[tokio::test]
async fn an_echo_comes_back_over_every_way() -> Result<()> {
    let server = server().start().await?;
    for way in ["tcp", "tls", "websocket", "quic", "webtransport"] {
        let arguments = [&ECHO[..], &["--data", "hello", "--transport", way]].concat();
        let ran = run(&arguments, server.data_dir()).await?;
        assert_eq!((ran.status, ran.printed.as_str(), ran.said.as_str()), (Some(0), "hello\n", ""), "{way}");
    }
    let raced = run(&[&ECHO[..], &["--data", "a", "--count", "3"]].concat(), server.data_dir()).await?;
    assert_eq!((raced.status, raced.printed.as_str()), (Some(0), "a\na\na\n"), "{}", raced.said);
    Ok(())
}

#[tokio::test]
async fn data_comes_from_a_file_or_standard_input_and_leaves_as_it_is() -> Result<()> {
    let server = server().start().await?;
    let bytes: Vec<u8> = (0..=255).collect();
    let file = server.data_dir().join("data");
    std::fs::write(&file, &bytes)?;
    let named = format!("@{}", file.display());
    let output = command(&[&ECHO[..], &["--data", &named]].concat(), server.data_dir()).output().await?;
    assert_eq!(output.stdout.strip_suffix(b"\n"), Some(&bytes[..]));

    let mut reads = command(&[&ECHO[..], &["--data", "-"]].concat(), server.data_dir());
    let mut child = reads.stdin(std::process::Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("it has an input")?;
    input.write_all(b"{\"n\": 1}\n").await?;
    drop(input);
    assert_eq!(child.wait_with_output().await?.stdout, b"{\"n\": 1}\n");

    let missing = run(&[&ECHO[..], &["--data", "@nowhere"]].concat(), server.data_dir()).await?;
    assert_eq!(missing.status, Some(1));
    assert!(missing.said.contains("nowhere cannot be opened"), "{}", missing.said);
    Ok(())
}

/// How many calls have failed at the node so far, for want of an upstream too.
async fn calls_failed(server: &TestServer) -> Result<u64> {
    let mut stream = TcpStream::connect(server.ready().http()?).await?;
    stream.write_all(b"GET /api/status HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.context("no answer")??;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    let status: serde_json::Value = serde_json::from_str(body)?;
    fn find(value: &serde_json::Value) -> Option<u64> {
        let object = value.as_object()?;
        object
            .get("calls_failed")
            .and_then(serde_json::Value::as_u64)
            .or_else(|| object.values().find_map(find))
    }
    find(&status).context("the status does not say how many calls have failed")
}

#[tokio::test]
async fn a_reply_is_shown_whole_as_json_and_an_error_is_no_success() -> Result<()> {
    let server = server().start().await?;
    // Nobody serves it: that is said at once, not after the time for a reply, and with what to do.
    let nobody = run(&["call", "--user", "bob", "some", "--timeout", "1h"], server.data_dir()).await?;
    assert_eq!((nobody.status, nobody.printed.as_str()), (Some(1), ""));
    for told in ["some: 503 OVERLOADED: ", "no upstream", "--wait"] {
        assert!(nobody.said.contains(told), "{told:?} is not in {}", nobody.said);
    }
    let arguments = ["call", "--user", "bob", "some", "--timeout", "200ms", "--wait", "200ms"];
    let waited = run(&arguments, server.data_dir()).await?;
    assert!(waited.said.contains("no answer within") && waited.said.contains("503"), "{}", waited.said);

    // Who waits gets the reply of an upstream that comes later.
    let arguments = ["call", "--user", "bob", "echo", "--data", "late", "--wait", "1m"];
    let before = calls_failed(&server).await?;
    let waiting = ended(command(&arguments, server.data_dir()));
    let (waited, upstream) = tokio::join!(waiting, async {
        let failing = async {
            while calls_failed(&server).await? == before {
                tokio::task::yield_now().await;
            }
            anyhow::Ok(())
        };
        timeout(DEADLINE, failing).await.context("the call is not refused")??;
        TestUpstream::registered(server.ready().grpc()?).await
    });
    let (waited, _upstream) = (waited?, upstream?);
    assert_eq!((waited.status, waited.printed.as_str()), (Some(0), "late\n"), "{}", waited.said);
    let whole = run(&[&ECHO[..], &["--data", "[1]", "--json"]].concat(), server.data_dir()).await?;
    let object = &whole.objects()[0];
    assert_eq!((&object["code"], &object["data"]), (&json!(200), &json!([1])));
    let text = run(&[&ECHO[..], &["--data", "no json", "--json"]].concat(), server.data_dir()).await?;
    assert_eq!(text.objects()[0]["data_text"], "no json");

    let failed = run(&["call", "--user", "alice", "fail"], server.data_dir()).await?;
    assert_eq!((failed.status, failed.printed.as_str()), (Some(1), ""));
    assert!(failed.said.starts_with("trunkline: fail"), "{}", failed.said);
    Ok(())
}

#[tokio::test]
async fn a_url_with_a_pin_and_a_token_needs_no_data_directory() -> Result<()> {
    let server = server().start().await?;
    let token = server.token("bob", &[]).await?;
    let url = format!("tls://{}", server.ready().tcp()?);
    let pin: String = server.ready().certificate()?.iter().map(|byte| format!("{byte:02x}")).collect();
    let elsewhere = tempfile::tempdir()?;
    let call = |pin: String, token: String| {
        let mut command = tokio::process::Command::new(super::BINARY);
        command
            .args(["call", "trunkline.echo", "--data", "x", "--url", &url, "--pin", &pin, "--token", &token])
            .current_dir(elsewhere.path())
            .env_clear()
            .kill_on_drop(true);
        ended(command)
    };
    let good = call(pin.clone(), token.clone()).await?;
    assert_eq!((good.status, good.printed.as_str()), (Some(0), "x\n"), "{}", good.said);
    let wrong = call("00".repeat(32), token.clone()).await?;
    assert_eq!(wrong.status, Some(1));
    for told in
        ["no endpoint answers", "not trusted: it is not one of those that are pinned", "--pin", "--ca"]
    {
        assert!(wrong.said.contains(told), "{told:?} is not in {}", wrong.said);
    }
    // The last digits of a token are its signature.
    let forged = call(pin, format!("{}AAAA", &token[..token.len() - 4])).await?;
    assert_eq!(forged.status, Some(1));
    assert!(forged.said.contains("refused") && forged.said.contains("4302"), "{}", forged.said);
    assert_eq!(std::fs::read_dir(elsewhere.path())?.count(), 0, "a data directory was made");
    Ok(())
}

#[tokio::test]
async fn a_url_alone_is_trusted_as_far_as_the_machine_trusts_it() -> Result<()> {
    let server = server().start().await?;
    let token = server.token("bob", &[]).await?;
    let (http, tcp, quic) = (server.ready().http()?, server.ready().tcp()?, server.ready().quic()?);
    let roots = server.data_dir().join("certificate.pem");
    for url in [
        format!("wss://{http}/ws"),
        format!("tls://{tcp}"),
        format!("quic://{quic}"),
        format!("wt://{quic}/"),
    ] {
        let call = || {
            let mut command = tokio::process::Command::new(super::BINARY);
            command
                .args(["call", "trunkline.echo", "--data", "x", "--url", &url, "--token", &token])
                .current_dir(server.data_dir())
                .env_clear()
                .kill_on_drop(true);
            command
        };
        let stranger = ended(call()).await?;
        assert_eq!((stranger.status, stranger.printed.as_str()), (Some(1), ""), "{url}");
        assert!(
            stranger.said.contains("--pin") && stranger.said.contains("--ca"),
            "{url}: {}",
            stranger.said
        );
        let mut known = call();
        known.env("SSL_CERT_FILE", &roots);
        let known = ended(known).await?;
        assert_eq!((known.status, known.printed.as_str()), (Some(0), "x\n"), "{url}: {}", known.said);
    }
    Ok(())
}

#[tokio::test]
async fn who_names_a_certificate_is_never_served_in_plain() -> Result<()> {
    let server = server().start().await?;
    let pin: String = server.ready().certificate()?.iter().map(|byte| format!("{byte:02x}")).collect();
    let right = run(&[&ECHO[..], &["--data", "x", "--pin", &pin]].concat(), server.data_dir()).await?;
    assert_eq!((right.status, right.printed.as_str()), (Some(0), "x\n"), "{}", right.said);
    let wrong = run(&[&ECHO[..], &["--pin", &"00".repeat(32)]].concat(), server.data_dir()).await?;
    assert_eq!((wrong.status, wrong.printed.as_str()), (Some(1), ""), "a wrong pin was ignored");
    assert!(wrong.said.contains("not one of those that are pinned"), "{}", wrong.said);
    let plain = format!("tcp://{}", server.ready().tcp()?);
    let useless = run(&[&ECHO[..], &["--pin", &pin, "--url", &plain]].concat(), server.data_dir()).await?;
    assert_eq!(useless.status, Some(1));
    assert!(useless.said.contains("a plain connection has none"), "{}", useless.said);
    Ok(())
}

#[tokio::test]
async fn who_answers_otherwise_is_named() -> Result<()> {
    let server = server().start().await?;
    let token = server.token("bob", &[]).await?;
    let call = |url: String, token: String| async move {
        let folder = tempfile::tempdir()?;
        run(&["call", "--user", "bob", "x", "--url", &url, "--token", &token], folder.path()).await
    };
    let http = call(format!("tcp://{}", server.ready().http()?), token).await?;
    assert_eq!(http.status, Some(1));
    assert!(http.said.contains("speaks HTTP") && http.said.contains("ws://"), "{}", http.said);
    let garbage = call(format!("tcp://{}", server.ready().tcp()?), "garbage".to_owned()).await?;
    assert!(
        garbage.said.contains("it is no JWT") && !garbage.said.contains("InvalidToken"),
        "{}",
        garbage.said
    );
    Ok(())
}

#[tokio::test]
async fn what_cannot_work_is_said_with_the_next_step() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (arguments, status, said) in [
        (vec!["call", "--user", "a", "x"], 1, "no node runs with the data directory"),
        (vec!["call", "x", "--url", "tcp://127.0.0.1:1"], 1, "--user is missing"),
        (vec!["call", "--user", "a", "x", "--url", "tcp://127.0.0.1:1"], 1, "trunkline doctor"),
        (vec!["call", "--user", "a", "x", "--url", "ftp://h:1"], 2, "tcp|tls|ws|wss|quic|wt"),
        (vec!["call", "--user", "a", "x", "--pin", "12"], 2, "64 hexadecimal digits"),
        (vec!["call", "--user", "a", ""], 2, "value is required"),
        (vec!["call", "--user", "a", "x", "--param", "a"], 2, "NAME=VALUE"),
        (vec!["call", "--user", "a", "x", "--timeout", "5"], 2, "duration with its unit"),
        (vec!["call", "--user", "a", "x", "--count", "0"], 2, "1..=1000000"),
    ] {
        let ran = run(&arguments, folder.path()).await?;
        assert_eq!((ran.status, ran.printed.as_str()), (Some(status), ""), "{arguments:?}: {}", ran.said);
        assert!(ran.said.contains(said), "{arguments:?} said {}", ran.said);
    }
    Ok(())
}
